"""A workdir belongs to one run: a second one is refused, and what a dead one left behind is taken over.

Locks of the operating system do not work on every file system that hosts share. So the lock is a file, or an object of
a bucket, that says which process holds it, and whose time of modification that process renews.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from models.errors import InputError
from perl_jax.runtime import bucket, disk, processes

logger = logging.getLogger(__name__)

FILE = "lock"  # in the workdir
BEAT = 10.0  # seconds between two renewals
DEAD = 180.0  # seconds without one after which a process on another host counts as dead


class Lock:
    """Holds a workdir for this run in its context; of a run's processes the first does it for all.

    Raises InputError, in all processes, where another run holds the workdir: at once for a living process on this
    host, after its next renewal for one on another host. A run whose lock was taken over, as after the sleep of a
    machine, ends at once with exit code 1.
    """

    def __init__(self, workdir: Path):
        self._workdir, place = bucket.shared(workdir), bucket.shared(workdir / FILE)
        self._file = bucket.Object(place) if bucket.is_url(place) else File(place)
        self._mine = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": _machine(),
            "born": _born(os.getpid()),
            "run": uuid.uuid4().hex,
        }
        self._released = threading.Event()

    def __enter__(self) -> "Lock":
        refused = ""
        if processes.first():
            try:
                self._take()
            except (InputError, OSError) as error:
                refused = disk.trouble(error) or str(error)
        if refused := processes.any_text(refused):
            self.__exit__()
            raise InputError(refused)
        if processes.first():
            threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if processes.first() and self._holder() == self._mine:
            self._file.remove()

    def _take(self) -> None:
        try:
            return self._file.create(json.dumps(self._mine))
        except FileExistsError:
            if self._holder() == self._mine:  # a bucket's answer was lost, and it was asked again
                return
            self._wait_for_death()
        held = self._holder()
        logger.info("%s is taken over from process %s on %s", self._workdir, held.get("process"), held.get("host"))
        self._file.replace(json.dumps(self._mine))
        time.sleep(1)  # another run may do the same now: the last one has it
        if self._holder() != self._mine:
            raise self._refusal()

    def _wait_for_death(self) -> None:
        """Returns once the holder is known to be dead. Raises InputError where it lives."""
        holder, renewed = self._holder(), self._file.renewed()
        if holder.get("machine") == self._mine["machine"]:
            if holder.get("born") == _born(holder.get("process", 0)) != "":
                raise self._refusal()
            return
        wait = DEAD - (self._file.now() - renewed)
        if wait > BEAT:
            logger.info("waiting for up to %.0f s whether %s", wait, self._refusal())
        while (wait := DEAD - (self._file.now() - renewed)) > 0:
            time.sleep(min(BEAT / 4, wait))
            if self._file.renewed() != renewed:
                raise self._refusal()

    def _refusal(self) -> InputError:
        holder = self._holder()
        return InputError(
            f"{self._workdir} is in use by process {holder.get('process', '?')} on {holder.get('host', '?')}, since "
            f"{holder.get('since', '?')}: wait for it, stop it, or give another --workdir (remove "
            f"{self._workdir / FILE} if no such process is a run)"
        )

    def _renew(self) -> None:
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError, InputError):
                holder = self._holder()
                if holder and holder != self._mine:
                    print(f"error: {self._refusal()}; this run ends", file=sys.stderr, flush=True)
                    os._exit(1)
                self._file.renew(json.dumps(self._mine))

    def _holder(self) -> dict:
        """What the lock says; {} where it is gone, or was left half-written."""
        try:
            held = json.loads(self._file.read())
        except (OSError, ValueError):
            return {}
        return held if isinstance(held, dict) else {}


class File:
    """A lock in a folder that hosts may share."""

    def __init__(self, path: Path):
        self._path = path

    def create(self, text: str) -> None:
        """Makes it. Raises FileExistsError where it is there."""
        with self._path.open("x", encoding="utf-8") as file:
            file.write(text)

    def read(self) -> str:
        return self._path.read_text(encoding="utf-8")

    def replace(self, text: str) -> None:
        """Gives it another text, at once."""
        partial = self._path.with_name(f".{FILE}-{uuid.uuid4().hex}")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._path)

    def renew(self, text: str) -> None:
        """Renews its time of modification; `text` is what it says."""
        del text
        os.utime(self._path)

    def renewed(self) -> float:
        """Its time of modification, 0 where it is gone."""
        with contextlib.suppress(FileNotFoundError):
            return self._path.stat().st_mtime
        return 0.0

    def now(self) -> float:
        """The time by the clock that also gives `renewed`, that of the file system."""
        with tempfile.TemporaryFile(dir=self._path.parent) as file:
            file.write(b".")
            file.flush()
            return os.fstat(file.fileno()).st_mtime

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _machine() -> str:
    """Tells apart all within which a process number means one process: hosts, starts of a host, containers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # Linux has them
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(process: int) -> str:
    """When a process of this machine was started, in its own terms; "" where it does not live."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except (OSError, TypeError, OverflowError):  # of another user; no process number
        pass
    try:  # a number is given again to later processes
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return "alive"
    return "" if fields[0] in "ZX" else fields[19]
