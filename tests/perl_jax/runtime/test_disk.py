"""A full disk, or one that cannot be written to, is one line, and costs the steps since the last checkpoint alone."""

import collections
import contextlib
import errno
import os
import shutil
import subprocess

import command_line
import pytest
import tiny_run

from perl_jax.runtime import disk, files, logs

Usage = collections.namedtuple("Usage", "total used free")


@pytest.mark.parametrize("number", disk.MEND)
def test_trouble_is_found_wherever_it_comes_from(number):
    error = OSError(number, os.strerror(number), "/x/metrics.jsonl")
    line = f"/x/metrics.jsonl: {os.strerror(number)}: {disk.MEND[number]}"
    assert disk.trouble(error) == line
    try:
        try:
            raise error
        except OSError:
            raise KeyError("while it was handled") from None
    except KeyError as after:
        assert disk.trouble(after) == line
    assert disk.trouble(ExceptionGroup("several", [ValueError("x"), error])) == line


def test_trouble_that_libraries_pass_on_as_text():
    text = 'RESOURCE_EXHAUSTED: Error writing local file "/x/1/d": No space left on device [OS error 28]'
    assert disk.trouble(ValueError(text)) == f"/x/1/d: No space left on device: {disk.MEND[errno.ENOSPC]}"


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(errno.ENOENT, "none"), MemoryError(), OSError()])
def test_other_errors_are_none_of_it(error, tmp_path):
    assert disk.trouble(error) == ""
    with pytest.raises(type(error)), disk.telling(tmp_path, lambda: "nothing"):
        raise error


def test_space_is_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9e9, 8e9, 1e9))
    disk.check_free(tmp_path, 10**9, "it")
    with pytest.raises(disk.DiskError, match=r"has 1\.0 GB free, where it may take 2\.5 GB: free some space"):
        disk.check_free(tmp_path, 25 * 10**8, "it")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))  # a bucket
    disk.check_free(tmp_path, 25 * 10**8, "it")


@pytest.fixture
def small(tmp_path):
    """A folder whose disk has 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, left=0):
    """Writes a file that leaves `left` bytes free."""
    with open(folder / "filler", "wb", buffering=0) as file:
        file.write(bytes(max(shutil.disk_usage(folder).free - left, 0)))


def test_a_page_that_cannot_be_written_leaves_nothing(small):
    fill(small, left=8192)
    with pytest.raises(OSError, match="No space"):
        files.write(small / "page.html", "x" * 20_000)
    assert sorted(path.name for path in small.iterdir()) == ["filler"]
    done = command_line.run("prepare", "--source=digits", "--option=train_size=9", f"--out={small}/set")
    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1 and f"error: {small}/set: No space left on device: free some" in done.err


LOGGED = {
    "metrics": lambda log: log.step("perl", 1, {"time/total": 1.0}),
    "rollouts": lambda log: log.groups([{"step": 1, "responses": "x" * 9000}]),
    "evaluations": lambda log: log.evaluation("eval", "perl", 1, {}, [{"text": "x" * 9000}]),
    "tensorboard": lambda log: (log._tensorboard.add_scalar("x", 1.0, 1), log._tensorboard.flush()),
}


@pytest.mark.parametrize("what", LOGGED)
def test_every_log_tells_that_the_disk_is_full(small, what):
    with contextlib.suppress(OSError), logs.RunLog(small, {}, 9) as log:  # closing it cannot write either
        fill(small)
        with pytest.raises(OSError, match="No space left"):
            for _ in range(9999):  # until a block is full
                LOGGED[what](log)


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_the_steps_since_the_last_checkpoint(small, monkeypatch):
    """Here in a save, after its space was looked at; with its space back the run ends as if nothing had been."""
    workdir, write = small / "run", logs.RunLog.step

    def step(log, stage, at, values):
        write(log, stage, at, values)
        if at == 3:
            fill(small, left=300_000)

    with monkeypatch.context() as patch:
        patch.setattr(logs.RunLog, "step", step)
        patch.setattr(disk, "check_free", lambda *_: None)
        with pytest.raises(disk.DiskError, match=r"No space left.*; step [123] is saved, the same command goes on"):
            tiny_run.run(workdir)
    with pytest.raises(disk.DiskError, match=r"0\.\d MB free, where \d more checkpoints may take"):  # at the start
        tiny_run.run(workdir)
    (small / "filler").unlink()
    tiny_run.run(workdir)
    [ours], [theirs] = (tiny_run.metrics(place)[-1:] for place in (workdir, tiny_run.trained()))
    assert {name: ours[name] for name in ours if not name.startswith(("time/", "compile/", "speed/"))} == {
        name: theirs[name] for name in theirs if not name.startswith(("time/", "compile/", "speed/"))
    }


def test_a_run_that_would_fill_the_disk_does_not_start(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 10**6))
    with pytest.raises(
        disk.DiskError, match=r"1\.0 MB free, where 6 more checkpoints may take .*; no step is saved yet"
    ):
        tiny_run.run(tmp_path)
