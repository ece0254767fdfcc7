"""Installed elsewhere, the commands run in any folder, one with `models` and `configs` of its own included."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from environment import REPOSITORY
from packaging.requirements import Requirement
from PIL import Image

import perl_jax
from perl_jax import __main__ as command
from perl_jax.runtime import logs

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALLED = ("configs", "models", "perl_jax")
WHERE = "import perl_jax.data, models.errors, configs.base; print(*(m.__file__ for m in (perl_jax, models, configs)))"


def called(*words, cwd: Path, code: int | None = 0) -> subprocess.CompletedProcess:
    """What a program said, that ended with `code` (None: any); it sees nothing of this repository."""
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=variables, capture_output=True, text=True, timeout=120)
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done


# Requirements


def requirements(name: str) -> tuple[list[Requirement], list[str]]:
    """What a requirements file lists itself, and the options among its lines."""
    lines = [line.partition(" #")[0].strip() for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    options = [line for line in lines if line.startswith("-")]
    return [Requirement(line) for line in lines if line not in options], options


def test_pyproject_lists_what_the_requirements_files_list():
    listed = {"": PROJECT["dependencies"], **{f"-{name}": of for name, of in PROJECT["optional-dependencies"].items()}}
    assert {f"requirements{name}.txt" for name in listed} == {f.name for f in REPOSITORY.glob("requirements*.txt")}
    for name, of in listed.items():
        in_file, options = requirements(f"requirements{name}.txt")
        assert list(map(str, in_file)) == [str(Requirement(line)) for line in of], f"requirements{name}.txt"
        assert options == (["-r requirements.txt"] if name in ("-gpu", "-tpu") else [])


# The installed package


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository: building writes beside the sources."""
    pytest.importorskip("pip")
    path = tmp_path_factory.mktemp("above") / "perl_jax"
    for room in (*INSTALLED, "tests", "benchmarks", "launch"):
        shutil.copytree(REPOSITORY / room, path / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, path)
    return path


def pip(*words, cwd: Path, python: Path | str = sys.executable) -> None:
    alone = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    called(sys.executable, "-m", "pip", "--python", python, *words, *alone, cwd=cwd)


def environment_with(path: Path, *what) -> Path:
    """The programs of a new virtual environment with `what` pip installs, and the libraries of this one."""
    called(sys.executable, "-m", "venv", "--without-pip", path, cwd=path.parent)
    [packages] = path.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    pip("install", "--ignore-installed", *what, cwd=path.parent, python=path / "bin" / "python")
    return path / "bin"


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    path = tmp_path_factory.mktemp("wheel")
    pip("wheel", checkout, "--wheel-dir", path, cwd=path)
    [file] = path.iterdir()
    return file


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    return environment_with(tmp_path_factory.mktemp("installed") / "venv", wheel)


@pytest.fixture(params=["packages", "folders", "files"])
def elsewhere(request, tmp_path):
    """A folder with `models` and `configs` of its own, in which nothing may be imported."""
    for name in ("models", "configs"):
        if request.param == "files":
            (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from elsewhere')")
            continue
        (tmp_path / name).mkdir()
        for file in ("errors.py", "base.py", *(["__init__.py"] if request.param == "packages" else [])):
            (tmp_path / name / file).write_text("raise SystemExit('imported from elsewhere')")
    return tmp_path


@pytest.mark.slow
def test_the_wheel_holds_the_three_packages_and_no_more(checkout, wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [file for room in INSTALLED for file in (REPOSITORY / room).rglob("*") if file.suffix in (".py", ".md")]
    assert held == {str(file.relative_to(REPOSITORY)) for file in files}


def test_ours_are_imported_wherever_it_runs(programs, elsewhere):
    for file in called(programs / "python", "-c", WHERE, cwd=elsewhere).stdout.split():
        assert Path(file).is_relative_to(programs.parent)


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", ["packages"], indirect=True)
def test_commands_run_elsewhere(programs, elsewhere):
    """Grading workers, which import anew, included."""
    Image.new("RGB", (40, 30)).save(elsewhere / "a.png")
    row = {"images": ["a.png", "a.png"], "question": "Which image shows a cat?", "answer": "Image 2"}
    (elsewhere / "mine.jsonl").write_text(json.dumps(row))
    done = called(programs / "perl_jax", "prepare", "--source=jsonl", "--input=mine.jsonl", "--out=set", cwd=elsewhere)
    assert "wrote" in done.stdout and (elsewhere / "set" / "decisions.jsonl").read_text()
    for start in ([programs / "perl_jax", "sample"], [programs / "python", "-m", "perl_jax.sample"]):
        assert "--model" in called(*start, "--help", cwd=elsewhere, code=None).stdout


@pytest.mark.slow
def test_an_editable_install_is_found_from_the_folder_above(checkout, tmp_path):
    """Where the repository's own folder has the name of the package in it."""
    there = environment_with(tmp_path / "venv", "--editable", checkout)
    for start in ([there / "perl_jax"], [there / "python", "-m", "perl_jax"]):
        assert called(*start, "--version", cwd=checkout.parent).stdout.split() == ["perl_jax", perl_jax.__version__]
    for file in called(there / "python", "-c", WHERE, cwd=checkout.parent).stdout.split():
        assert Path(file).is_relative_to(checkout)


@pytest.mark.parametrize("elsewhere", ["packages", "files"], indirect=True)
def test_what_was_imported_before_is_named(programs, elsewhere):
    for file in elsewhere.rglob("*.py"):
        file.write_text("")
    done = called(programs / "python", "-c", "import models, perl_jax", cwd=elsewhere, code=1)
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: ") and str(elsewhere / "models") in message and "rename" in message


# The command


def outcome(capsys, monkeypatch, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["perl_jax", *arguments])
    code = 0
    try:
        command.main()
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_help_lists_the_commands_without_jax(programs, tmp_path):
    text = called(programs / "perl_jax", "--help", cwd=tmp_path).stdout
    assert all(f"  {name} " in text for name in command.COMMANDS) and "Asks a model about images\n" in text
    for more in ([], ["-h"]):
        assert called(programs / "perl_jax", *more, cwd=tmp_path).stdout == text
    light = (
        "import sys; from perl_jax import __main__ as m; m.usage(); print({'jax', 'numpy', 'absl'} & {*sys.modules})"
    )
    assert called(programs / "python", "-c", light, cwd=tmp_path).stdout == "set()\n"


def test_every_module_that_is_a_command_is_listed():
    files = Path(command.__file__).parent.glob("[!_]*.py")
    assert {file.stem for file in files if "cli.run(main" in file.read_text()} == set(command.COMMANDS)


def test_version(capsys, monkeypatch, wheel):
    assert outcome(capsys, monkeypatch, "--version") == (0, f"perl_jax {perl_jax.__version__}\n", "")
    assert wheel.name.startswith(f"perl_jax-{perl_jax.__version__}-py3")


def test_an_unknown_command_is_one_line(capsys, monkeypatch):
    code, out, err = outcome(capsys, monkeypatch, "trian", "--config=a")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: unknown command 'trian'; did you mean train? Known are prepare, ")
    assert outcome(capsys, monkeypatch, "--config=a")[2].startswith("error: unknown command '--config=a'; known are ")


def test_a_command_runs_as_with_python_m(capsys, monkeypatch, tmp_path):
    """Its arguments are the command's, and the working directory is on the path."""
    calls = []
    monkeypatch.setattr(runpy, "run_module", lambda *args, **options: calls.append((args, options, sys.argv[1:])))
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    assert outcome(capsys, monkeypatch, "train", "--config=a", "--help") == (0, "", "")
    assert calls == [(("perl_jax.train",), {"run_name": "__main__", "alter_sys": True}, ["--config=a", "--help"])]
    assert sys.path[0] == str(tmp_path)


# What a run notes


def test_the_commit_is_that_of_this_code_alone(tmp_path, monkeypatch):
    """Not that of a repository that an environment lies in."""
    file = tmp_path / "venv" / "logs.py"
    file.parent.mkdir()
    file.touch()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a"]):
        called(*git, *words, cwd=tmp_path)
    monkeypatch.setattr(logs, "__file__", str(file))
    start = logs.environment()
    assert start["commit"] is start["clean"] is None and start["versions"]["perl_jax"] == perl_jax.__version__
    called(*git, "add", ".", cwd=tmp_path)
    called(*git, "commit", "-q", "-m", "b", cwd=tmp_path)
    start = logs.environment()
    assert len(start["commit"]) == 40 and start["clean"]
    monkeypatch.setenv("PATH", "")
    assert logs.environment()["commit"] is None
