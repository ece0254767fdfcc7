"""What commands leave on disk: whole or not at all, and lines that a restart goes on with."""

import contextlib
import fcntl
import glob
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from models.errors import InputError

logger = logging.getLogger(__name__)


def write(file: Path, text: str) -> None:
    """Writes a file whole or not at all. Half a surrogate pair, which a model may say, becomes "?"."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(file)


def lines(rows: Iterable) -> str:
    """Rows as JSON, a line each, as `json_lines` reads them."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def json_lines(file: Path) -> Iterator[dict]:
    """The objects of a JSON-lines file, none where there is no file; lines that a killed program left half-written are
    skipped and counted."""
    if not file.exists():
        return
    skipped = 0
    with open(file, encoding="utf-8", errors="replace") as content:
        for line in content:
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if isinstance(value, dict):
                yield value
            else:
                skipped += bool(line.strip())
    if skipped:
        logger.warning("%s: skipped %d unreadable lines", file, skipped)


def rows(file: Path, keys: Set[str], what: str) -> list[dict]:
    """The objects of a JSON-lines file that holds `what`, as `json_lines` reads them.

    Raises InputError where one lacks one of `keys`.
    """
    found = list(json_lines(file))
    if missing := [key for row in found for key in sorted(keys - row.keys())]:
        raise InputError(f"{file}: not {what}, a row has no {missing[0]!r}")
    return found


def appended(file: Path):
    """The file, open for more lines; a last line that a killed run left unfinished is cut."""
    if file.exists() and not (content := file.read_bytes()).endswith(b"\n"):
        os.truncate(file, content.rfind(b"\n") + 1)
    return file.open("a", encoding="utf-8")


@contextlib.contextmanager
def whole_directory(directory: str | os.PathLike) -> Iterator[str]:
    """A hidden directory to fill, which becomes `directory` (absent or empty) when all went well, and else goes.

    What a killed run has left of such a one is removed; another that still writes is left alone.
    """
    directory = os.path.abspath(directory)
    parent, prefix = os.path.dirname(directory), f".{os.path.basename(directory)}.partial-"
    os.makedirs(parent, exist_ok=True)
    for left in glob.glob(os.path.join(glob.escape(parent), f"{glob.escape(prefix)}*")):
        with _held(left) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)
    partial = tempfile.mkdtemp(prefix=prefix, dir=parent)
    try:
        os.chmod(partial, 0o755)  # mkdtemp's 0700 would keep others from reading it
        with _held(partial):
            yield partial
        os.rename(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _held(directory: str) -> Iterator[bool]:
    """Holds a directory as long as its process lives; False where another process holds it."""
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
