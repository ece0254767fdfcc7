"""Atomic directory writes."""

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_directory(directory: str | os.PathLike) -> Iterator[str]:
    """A hidden directory to fill, renamed to `directory` (absent or empty) on success, and removed on failure.

    Leftovers of killed runs are removed; a directory that another process still writes is left alone.
    """
    directory = os.path.abspath(directory)
    parent, prefix = os.path.dirname(directory), f".{os.path.basename(directory)}.partial-"
    os.makedirs(parent, exist_ok=True)
    for left in glob.glob(os.path.join(glob.escape(parent), f"{glob.escape(prefix)}*")):
        with _locked(left) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)
    partial = tempfile.mkdtemp(prefix=prefix, dir=parent)
    try:
        os.chmod(partial, 0o755)  # mkdtemp's 0700 would not be readable by others
        with _locked(partial):
            yield partial
        os.rename(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[bool]:
    """Locks a directory as long as its process lives; False where another process holds the lock."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(handle)
