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
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from rich.console import Console

from models.errors import InputError
from perl_jax import mesh, rollout
from perl_jax.records.prompts import Prompts
from perl_jax.runtime import files, logs, processes

CALL = 4  # most batches of one call of the sampler, in which waiting prompts take the place of ended responses
LINES = 10.0  # seconds between progress lines without a terminal

Row = dict[str, object]


def length_sorted_batches(
    numbers: Sequence[int], lengths: Mapping[int, int], batch_size: int, done: Container[int] = ()
) -> list[list[int]]:
    """Batches of at most `batch_size` questions, sorted from short to long to reduce padding.

    All are of one size but the last. Questions in `done` are then removed from their batches.

    >>> length_sorted_batches([0, 1, 2, 3, 4], {0: 9, 1: 5, 2: 7, 3: 5, 4: 8}, batch_size=4)
    [[1, 3, 2], [4, 0]]
    >>> length_sorted_batches([0, 1, 2, 3, 4], {0: 9, 1: 5, 2: 7, 3: 5, 4: 8}, batch_size=4, done={0, 3, 4})
    [[1, 2]]
    """
    ordered = sorted(numbers, key=lambda number: (lengths[number], number))
    batch_count = max(1, -(-len(ordered) // batch_size))
    size = max(1, -(-len(ordered) // batch_count))
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    remaining = [[number for number in batch if number not in done] for batch in batches]
    return [batch for batch in remaining if batch]


def sampler_id(name: str) -> int:
    """A question's number for the sampler's random draws, the same in any data set."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="replace"), digest_size=4).digest(), "little")


# The file: JSON lines, the settings first, then one row per line.


def read_or_create(file: Path, settings: Mapping, key: Callable[[Row], Hashable]) -> dict[Hashable, Row]:
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
        first, *rows = map(json.loads, lines)
        saved = dict(first["settings"])
        rows = {key(row): row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not a file of rollouts ({error}); move it away") from error
    current = json.loads(json.dumps(settings))  # as the file stores them
    if different := [
        name for name in current | saved if (name in saved, saved.get(name)) != (name in current, current.get(name))
    ]:
        differences = "; ".join(
            f"{name} {saved.get(name, 'not set')}, now {current.get(name, 'not set')}" for name in different
        )
        raise InputError(f"{file} was made with other settings ({differences}); give those, or another directory")
    processes.check_equal(sorted(map(str, rows)), f"a {file.name}")
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


def measure_lengths(numbers: Sequence[int], measure: Callable[[int], Row], console: Console) -> list[Row]:
    """`measure(number)` of each question, in rising order; processes share the work.

    A row has `number` and `prompt` (tokens), or `skipped`: why it cannot be asked, which is printed.
    """
    local_rows = []
    with logs.progress(console, "prompt", len(numbers)) as add:
        for number in numbers:
            if processes.is_mine(number):
                local_rows.append(measure(number))
            add(1)
    rows = sorted(itertools.chain(*processes.exchange(local_rows)), key=lambda row: row["number"])
    print_skipped([row for row in rows if "skipped" in row], console)
    return rows


def print_skipped(rows: Iterable[Row], console: Console) -> None:
    """Prints why each of these rows is skipped, counted from 1."""
    for count, row in enumerate(rows, start=1):
        console.print(f"skipped ({count}): {row['skipped']}", soft_wrap=True, markup=False)


def prefetch(make: Callable, items: Iterable) -> Iterator:
    """`make(item)` of each item, computing the next one in a thread while the caller works on the current one."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for item in items:
            submitted = thread.submit(mesh.in_any_thread(make), item)
            if pending:
                yield pending.result()
            pending = submitted
        if pending:
            yield pending.result()


class Questions(Protocol):
    """What is asked, by number: where a rollout filter and an evaluation differ."""

    def encode(self, number: int) -> tuple[list[int], list]:
        """(token ids, images) of a prompt; InputError where it cannot be shown."""

    def key(self, number: int) -> int:
        """The id by which the sampler draws its responses."""

    def listener(self, numbers: list[int]) -> Callable[[int, int, np.ndarray], None] | None:
        """Called with each response (prompt of the batch, response, tokens) as it ends; None: nothing is."""

    def rows(self, numbers: list[int], prompts: list[tuple], out: rollout.Rollouts) -> list[Row]:
        """The rows of these prompts, the first ones of `out`, as `encode` gave them."""

    def skipped(self, number: int, reason: str) -> Row:
        """The row of a prompt that cannot be shown."""


class Batch(NamedTuple):
    """Encoded prompts, as one process sees them."""

    numbers: list[int]
    prompts: list[tuple | None]  # (token ids, images); None: it cannot be shown
    faults: list[tuple[int, str]]  # (place, what is wrong): of those that this process has looked at


def generate(
    batches: Sequence[list[int]],
    questions: Questions,
    model: Callable,
    prompts: Prompts,
    sampling: Mapping,
    writer: Writer,
    console: Console,
    unit: str = "question",
    status: Callable[[], str] = str,
) -> None:
    """Adds a row for each question of each batch, and prints its progress. All processes make the same call.

    Args:
        batches: batches of questions by number (`length_sorted_batches`): the largest is decoded at a time.
        questions: what they are.
        model: loads the model; called only where something is left to ask.
        prompts: that they are encoded with.
        sampling: keyword arguments of `rollout.generate`; `lengths` among them gives all calls the same programs.
        writer: where the rows go.
        console: for progress, rate and remaining time.
        unit: name of one question in progress lines.
        status: text to add to a progress line.
    """
    last_printed, done, total, largest = -LINES, 0, sum(map(len, batches)), max(map(len, batches), default=0)
    with logs.progress(console, unit, total) as add:
        size = min(CALL, max(1, len(batches) // 8))
        calls = [list(itertools.chain(*batches[i : i + size])) for i in range(0, len(batches), size)]
        for batch in prefetch(partial(_encode_batch, questions, prompts), calls):
            new = _generate_batch(batch, largest, questions, model, prompts, sampling, console)
            writer.add(new)
            done += len(new)
            rate, remaining = add(len(new))
            if not console.is_terminal and (time.monotonic() - last_printed > LINES or done == total):
                last_printed = time.monotonic()
                console.print(
                    f"{unit} {done}/{total}{status()}  {rate}  {logs.minutes(remaining)} left", soft_wrap=True
                )


def _encode_batch(questions: Questions, prompts: Prompts, numbers: list[int]) -> Batch:
    """A batch with the images of this process's shards decoded."""
    encoded, faults = [], []
    for place, number in enumerate(numbers):
        try:
            encoded.append(questions.encode(number))
        except InputError as error:  # gone since the lengths were taken
            encoded.append(None)
            faults.append((place, str(error)))
    image_errors = prompts.prepare(
        [prompt[1] if prompt else [] for prompt in encoded], mesh.shards(), mesh.local_shards()
    )
    return Batch(numbers, encoded, faults + [(place, line) for place, line in enumerate(image_errors) if line])


def _generate_batch(
    batch: Batch,
    size: int,
    questions: Questions,
    model: Callable,
    prompts: Prompts,
    sampling: Mapping,
    console: Console,
) -> list[Row]:
    faults = dict(itertools.chain(*processes.exchange(batch.faults)))
    for line in faults.values():
        console.print(f"skipped: {line}", soft_wrap=True, markup=False)
    valid = [place for place in range(len(batch.numbers)) if place not in faults]
    rows = iter(())
    if valid:
        numbers, encoded = ([values[place] for place in valid] for values in (batch.numbers, batch.prompts))
        out = rollout.generate(
            model(),
            encoded,
            ids=[questions.key(number) for number in numbers],
            eos_ids=prompts.processor.eos_ids,
            finished=questions.listener(numbers),
            **{**sampling, "batch": size},
            **prompts.limits,
        )
        rows = iter(questions.rows(numbers, encoded, out))
    return [
        questions.skipped(number, faults[place]) if place in faults else next(rows)
        for place, number in enumerate(batch.numbers)
    ]
