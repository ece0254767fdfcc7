"""Training runs as processes that can be killed and watched, shared by `benchmarks.kills` and `benchmarks.soak`."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from benchmarks.readme import REPOSITORY, machine
from perl_jax.runtime import logs

FILE = Path(__file__).with_name("FAULTS.md")
MARK = "PERL_JAX_RUN"  # a variable in the environment of all processes of a run
PATIENCE = 15.0  # seconds
MEASURED = ("time/", "speed/", "compile/", "memory/")  # metrics of a machine, not of the training


class Run:
    """`python -m perl_jax.train` on one workdir, as often as it takes."""

    def __init__(self, workdir: Path, flags: list[str]):
        self.workdir, self.log = workdir, workdir.with_name(workdir.name + ".log")
        self._command = [sys.executable, "-m", "perl_jax.train", f"--workdir={workdir}", *flags]
        self._mark = uuid.uuid4().hex
        self.last: subprocess.Popen | None = None  # process

    def start(self) -> subprocess.Popen:
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, MARK: self._mark}
        with self.log.open("a") as log:
            self.last = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment, cwd=REPOSITORY)
        return self.last

    def processes(self) -> list[int]:
        """All living processes of the run, wherever their parent went."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                marked = f"{MARK}={self._mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
                if marked and (folder / "stat").read_text().rpartition(") ")[2][0] not in "ZX":
                    found.append(int(folder.name))
        return found

    def kill(self) -> list[int]:
        """Ends the run as by `kill -9`; what is left of it."""
        assert self.last is not None
        self.last.send_signal(signal.SIGKILL)
        self.last.wait()
        return self.left()

    def left(self) -> list[int]:
        """Processes of the run that still live after `PATIENCE`."""
        end = time.monotonic() + PATIENCE
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def last_lines(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text().splitlines()[-20:])

    def steps(self) -> list[dict]:
        """What metrics.jsonl has of the training's steps."""
        return [row for row in rows(self.workdir / "metrics.jsonl") if "update/loss" in row]

    def results(self) -> dict[str, object]:
        """All that a run leaves and that does not depend on the machine's speed: {what: value}."""
        found: dict[str, object] = {}
        for file in sorted(self.workdir.glob("*.jsonl")) + sorted(self.workdir.glob("evaluations/*")):
            kept = [{key: row[key] for key in row if not key.startswith(MEASURED)} for row in rows(file)]
            found[str(file.relative_to(self.workdir))] = kept
        for folder in sorted((self.workdir / "checkpoints").glob("[0-9]*")):
            for item in ("weights", "optimizer"):
                arrays = ocp.PyTreeCheckpointer().restore(folder / item)
                for name, array in arrays.items():
                    found[f"{folder.name}/{item}/{name}"] = np.asarray(array).tobytes()
        return found


def rows(file: Path) -> list[dict]:
    """The whole lines of a JSON-lines file; none where there is no file."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def differing(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """The names of what differs between the results of two runs."""
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def memory(process: int) -> int:
    """Bytes of a process that it shares with no other, 0 where it is gone."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        return 1024 * sum(int(size) for size in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))
    return 0


def open_files(process: int) -> int:
    """Files, pipes and sockets that a process has open, 0 where it is gone."""
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{process}/fd"))
    return 0


@contextlib.contextmanager
def told(name: str) -> Iterator[list[str]]:
    """Lines of a section of FAULTS.md, which is written at the end, in place of the former one."""
    lines: list[str] = []
    yield lines
    commit = (logs.environment()["commit"] or "")[:7]
    where = f"`python -m benchmarks.{name}` on {machine()}, {date.today()}" + f", commit {commit}" * bool(commit)
    old = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    sections = dict(re.findall(r"^## ([^\n]+)\n\n(.*?)\s*(?=^## |\Z)", old, re.MULTILINE | re.DOTALL))
    sections[name] = "\n".join([f"{where}.", "", *lines])
    text = "# What runs survive\n\n" + "\n\n".join(f"## {key}\n\n{sections[key]}" for key in sorted(sections))
    FILE.write_text(text + "\n", encoding="utf-8")
    print("\n" + sections[name])
