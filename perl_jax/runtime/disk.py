"""Disks that are full or cannot be written to, in one line; and how much space there is."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from models.errors import InputError

_FREE = "free some space, or give a folder on another disk"
_WRITABLE = "make it writable, or give another folder"
MEND = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: "allow larger files (ulimit -f), or give a folder on another disk",
    errno.EROFS: _WRITABLE,
    errno.EIO: "look at the disk, or give a folder on another one",
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
}
_IN_TEXTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # as libraries pass them on


class DiskError(InputError):
    """A disk that is full or cannot be written to."""


def trouble(error: BaseException) -> str:
    """What is wrong with a disk and how to mend it, by an exception or one that it came from; "" where nothing is."""
    for cause in _causes(error):
        if isinstance(cause, DiskError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno in MEND:
            where = f"{cause.filename}: " if cause.filename else ""
            return f"{where}{os.strerror(cause.errno)}: {MEND[cause.errno]}"
        for number in _IN_TEXTS:
            if os.strerror(number) in str(cause):
                where = re.search(r'file "(/[^"]+)"', str(cause))  # TensorStore
                return f"{where[1] + ': ' if where else ''}{os.strerror(number)}: {MEND[number]}"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, and all that it came from."""
    seen, waiting = set(), [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__, *getattr(cause, "exceptions", ())]


@contextlib.contextmanager
def telling(folder: Path, what_remains: Callable[[], str]) -> Iterator[None]:
    """Turns `trouble` in its context into a DiskError, which names a path, else `folder`, and `what_remains()`."""
    try:
        yield
    except Exception as error:
        told = isinstance(error, InputError) and not isinstance(error, DiskError)
        if told or not (line := trouble(error)):
            raise
        where = "" if line.startswith("/") else f"{folder}: "
        raise DiskError(f"{where}{line}; {what_remains()}") from error


def check_free(folder: Path, needed: int, what: str) -> None:
    """Raises DiskError where a folder's disk has fewer than `needed` bytes for `what`."""
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < needed:  # a mounted bucket may say 0
        raise DiskError(f"{folder} has {_size(usage.free)} free, where {what} may take {_size(needed)}: {_FREE}")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
