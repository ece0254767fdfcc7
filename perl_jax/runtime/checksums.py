"""Checksums of the files that a command wrote to a directory: whether they are still what was written."""

import hashlib
import json
from pathlib import Path

from models.errors import InputError, one_line

FILE = "checksums.json"


def write(directory: str | Path, pattern: str = "*", to: Path | None = None) -> None:
    """Writes the checksums of a directory's files, those that match `pattern`, to the file `to`, else to one in it."""
    names = sorted(file.name for file in Path(directory).glob(pattern) if file.is_file() and file.name != FILE)
    sums = {name: _sum(Path(directory, name)) for name in names}
    (to or Path(directory, FILE)).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def check(directory: str | Path, mend: str, by: Path | None = None) -> None:
    """Raises InputError, which ends in `mend`, for a file that is missing or is not what `write` has seen.

    The checksums are in the file `by`, else in the directory; without any, as of an earlier version, it passes.
    """
    file = by or Path(directory, FILE)
    if not file.exists():
        return
    try:
        sums = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged ({one_line(error)}): {mend}") from error
    for name, known in sums.items():
        try:
            found = _sum(Path(directory, name))
        except (OSError, ValueError) as error:
            raise InputError(f"{Path(directory, name)} cannot be read ({one_line(error)}): {mend}") from error
        if found != known:
            raise InputError(f"{Path(directory, name)} is damaged, it is not what was written there: {mend}")


def _sum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()[:32]
