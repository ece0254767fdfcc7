"""Atomic file writes, and JSON-lines files that a restarted command appends to."""

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

from models.atomic_directory import atomic_directory
from models.errors import InputError

__all__ = ["appended", "atomic_directory", "cut_back", "json_lines", "lines", "rows", "without_nan", "write"]

logger = logging.getLogger(__name__)


def write(file: Path, text: str) -> None:
    """Writes a file atomically. A lone surrogate, which a model may generate, becomes "?"."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="replace")
        partial.replace(file)
    finally:  # a full disk gets its space back
        partial.unlink(missing_ok=True)


def lines(rows: Iterable) -> str:
    """Rows as JSON, one per line, as `json_lines` reads them."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def without_nan(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity: None in their place, also within lists and dicts."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_lines(file: Path) -> Iterator[dict]:
    """The objects of a JSON-lines file; none if there is no file.

    Lines that a killed program left half-written are skipped and counted.
    """
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
    objects = list(json_lines(file))
    if missing := [key for row in objects for key in sorted(keys - row.keys())]:
        raise InputError(f"{file}: not {what}, a row has no {missing[0]!r}")
    return objects


def cut_back(file: Path, step: int) -> None:
    """Cuts a JSON-lines file of a run at its first line of a later step."""
    if not file.exists():
        return
    with file.open("rb") as content:
        end = 0
        for line in content:
            try:
                later = json.loads(line)["step"] > step
            except (ValueError, KeyError, TypeError):  # no line of a step
                later = False
            if later:
                break
            end += len(line)
    if end < file.stat().st_size:
        os.truncate(file, end)


def appended(file: Path):
    """The file, opened for appending; an unfinished last line of a killed run is removed."""
    if file.exists() and not (content := file.read_bytes()).endswith(b"\n"):
        os.truncate(file, content.rfind(b"\n") + 1)
    return file.open("a", encoding="utf-8")
