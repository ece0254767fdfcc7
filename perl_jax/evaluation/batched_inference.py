"""Resumable batched inference: length-sorted, prefetched, appended to JSONL.

An interrupted run computes only the rows that the file lacks. A response's tokens are drawn by (seed, question), so
they do not depend on the rest of the batch, up to rounding in the compute dtype; a resumed run forms the same batches
as an uninterrupted one.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from models.errors import InputError
from perl_jax.runtime import files, logs, processes

LINES = 10.0  # seconds between progress lines without a terminal

Row = dict[str, object]


def in_batches(
    numbers: Sequence[int], lengths: Mapping[int, int], most: int, done: Container[int] = ()
) -> list[list[int]]:
    """Batches of at most `most` questions, sorted from short to long to reduce padding, all of one size but the last.
    Questions in `done` are then removed from their batches.

    >>> in_batches([0, 1, 2, 3, 4], {0: 9, 1: 5, 2: 7, 3: 5, 4: 8}, most=4)
    [[1, 3, 2], [4, 0]]
    >>> in_batches([0, 1, 2, 3, 4], {0: 9, 1: 5, 2: 7, 3: 5, 4: 8}, most=4, done={0, 3, 4})
    [[1, 2]]
    """
    ordered = sorted(numbers, key=lambda number: (lengths[number], number))
    count = max(1, -(-len(ordered) // most))
    size = max(1, -(-len(ordered) // count))
    whole = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    left = [[number for number in batch if number not in done] for batch in whole]
    return [batch for batch in left if batch]


def draw_key(name: str) -> int:
    """A question's number for the sampler's random draws, the same in any data set."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="replace"), digest_size=4).digest(), "little")


# The file: JSON lines, the settings first, then one row per line.


def begin(file: Path, settings: Mapping, key: Callable[[Row], Hashable]) -> dict[Hashable, Row]:
    """The rows of a file, by key; creates the file if needed. Raises InputError: other settings, or not such a file."""
    lines = []

    def read():
        if processes.first():
            with files.appended(file) as out:
                if not out.tell():
                    out.write(json.dumps({"settings": settings}) + "\n")
        with file.open(encoding="utf-8") as content:
            lines.extend(content)

    processes.after_first(read)
    try:
        head, *rows = map(json.loads, lines)
        made = dict(head["settings"])
        rows = {key(row): row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} holds something else than rollouts ({error}); move it away") from error
    now = json.loads(json.dumps(settings))  # as the file stores them
    if other := [name for name in now | made if (name in made, made.get(name)) != (name in now, now.get(name))]:
        said = "; ".join(f"{name} {made.get(name, 'not said')}, now {now.get(name, 'not said')}" for name in other)
        raise InputError(f"{file} was made with other settings ({said}); give those, or another directory")
    processes.agree(sorted(map(str, rows)), f"a {file.name}")
    return rows


class Writer:
    """Appends rows to a file, in whole batches; only process 0 writes."""

    def __init__(self, file: Path, rows: dict[Hashable, Row], key: Callable[[Row], Hashable]):
        self.rows, self._key = rows, key
        self._file = files.appended(file) if processes.first() else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._file:
            self._file.close()

    def add(self, new: Sequence[Row]) -> None:
        self.rows.update({self._key(row): row for row in new})
        if self._file:
            self._file.write(files.lines(new))
            self._file.flush()


# Batches


def prompts(numbers: Sequence[int], begun: Callable[[int], Row], console: Console) -> list[Row]:
    """The rows `begun(number)` of all questions, in ascending order: with `number` and `prompt` (tokens), or with
    `skipped`: why it cannot be asked. Processes share the work; skipped questions are printed."""
    found = []
    with logs.progress(console, "prompt", len(numbers)) as add:
        for number in numbers:
            if processes.owns(number):
                found.append(begun(number))
            add(1)
    rows = sorted(itertools.chain(*processes.exchange(found)), key=lambda row: row["number"])
    for count, row in enumerate((row for row in rows if "skipped" in row), start=1):
        console.print(f"skipped ({count}): {row['skipped']}", soft_wrap=True, markup=False)
    return rows


def ahead(make: Callable, parts: Iterable) -> Iterator:
    """`make(part)` of each part, computing the next one in a thread while the caller works on the current one."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for part in parts:
            coming = thread.submit(make, part)
            if waiting:
                yield waiting.result()
            waiting = coming
        if waiting:
            yield waiting.result()


def work_off(
    parts: Sequence[Sequence],
    ready: Callable,
    answered: Callable[[object], list[Row]],
    writer: Writer,
    console: Console,
    unit: str = "question",
    figure: Callable[[], str] = str,
) -> None:
    """Adds the rows `answered(ready(part))` of each part, and shows progress.

    Args:
        parts: batches of questions.
        ready: prepares a batch, in a thread while the previous one is running.
        answered: runs it; returns a row for each of its questions.
        writer: receives the rows.
        console: for progress, rate and remaining time.
        unit: name of one question in progress lines.
        figure: text to add to a progress line.
    """
    said, done, total = -LINES, 0, sum(map(len, parts))
    with logs.progress(console, unit, total) as add:
        for part in ahead(ready, parts):
            new = answered(part)
            writer.add(new)
            done += len(new)
            rate, left = add(len(new))
            if not console.is_terminal and (time.monotonic() - said > LINES or done == total):
                said = time.monotonic()
                console.print(f"{unit} {done}/{total}{figure()}  {rate}  {logs.minutes(left)} left", soft_wrap=True)
