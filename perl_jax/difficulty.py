"""How often a policy answers records right: rollouts of each in its own order, in a file that grows batch by batch.

A run that was cut goes on with what the file lacks, and rolls nothing out twice. A response's tokens are drawn by
(seed, record's id), so they do not depend on what else is in a batch, up to the rounding of the compute dtype; a run
that goes on forms the same batches as one that was not cut.
"""

import functools
import hashlib
import io
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console

from models import qwen2_5_vl as qwen
from models.errors import InputError
from models.qwen2_5_vl.images import Encoded
from perl_jax import batch as batches
from perl_jax import files, logs, mesh, permute, processes, rollout, selection
from perl_jax.grading import Grader
from perl_jax.prompts import Prompts, opened
from perl_jax.records import Split

LINES = 10.0  # seconds between two lines of progress where there is no terminal


class Setup(NamedTuple):
    """What records are asked with. The config's n_s is 0, its rollouts are those of a record."""

    config: object
    split: Split
    model: Callable[[], qwen.Qwen2_5_VL]  # loads it, when something is left to roll out
    prompts: Prompts
    grader: Grader
    batch: int  # records rolled out at a time, at most


class Asked(NamedTuple):
    """A batch of records, as one process sees it."""

    numbers: list[int]  # of the records in their split
    questions: list[batches.Question]
    faults: list[tuple[int, str]]  # (place, why its pictures cannot be shown): of those this process has looked at


def measure(setup: Setup, file: Path, settings: Mapping, numbers: Sequence[int],
            blind: bool = False) -> dict[int, dict]:  # fmt: skip
    """The row of each of the records `numbers` by its number in the split, from `file` and from rollouts.

    A row has `number`, `id`, `source` and `prompt` (tokens); then `images` (how many), `guess` (`selection.guess`),
    `scores` (1 for each right response), `lengths` (tokens), `truncated` (how many responses were cut) and `response`
    (the first one), or, where the record cannot be shown, `skipped`: why. All processes get the same.

    Args:
        setup: what to ask with.
        file: JSON lines; the first holds the settings, each other one a row.
        settings: all that the scores depend on.
        numbers: of the records in their split.
        blind: shows grey pictures of the same size instead of the records' own.

    Raises:
        InputError: the file was made with other settings, or is not such a file.
    """
    rows = begin(file, settings)
    console = Console(stderr=True, highlight=False, quiet=not processes.first())
    with Writer(file, rows) as writer:
        begun = prompt_lengths(setup, [number for number in numbers if number not in rows], console)
        writer.add([row for row in begun if "skipped" in row])
        lengths = {row["number"]: row["prompt"] for row in [*begun, *rows.values()]}
        whole = in_batches([number for number in numbers if lengths[number]], lengths, setup.batch)
        parts = [[number for number in part if number not in rows] for part in whole]
        _roll_out(setup, [part for part in parts if part], blind, writer, console)
    return {number: rows[number] for number in numbers}


def in_batches(numbers: Sequence[int], lengths: Mapping[int, int], most: int) -> list[list[int]]:
    """Records in batches of at most `most`, all of one size but the last: from short to long, so that little is padded.

    >>> in_batches([0, 1, 2, 3, 4], {0: 9, 1: 5, 2: 7, 3: 5, 4: 8}, most=4)
    [[1, 3, 2], [4, 0]]
    """
    ordered = sorted(numbers, key=lambda number: (lengths[number], number))
    count = max(1, -(-len(ordered) // most))
    size = max(1, -(-len(ordered) // count))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


# The file


def begin(file: Path, settings: Mapping) -> dict[int, dict]:
    """The rows of a file, by number; begins a new one. Raises InputError: other settings, or no such file."""
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
        rows = {row["number"]: row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} holds something else than rollouts ({error}); move it away") from error
    if other := [key for key in settings if made.get(key) != settings[key]]:
        said = "; ".join(f"{key} {made.get(key)}, now {settings[key]}" for key in other)
        raise InputError(f"{file} was made with other settings ({said}); give those, or a new --workdir")
    processes.agree(sorted(rows), f"a {file.name}")
    return rows


class Writer:
    """Adds rows to those of a file, which process 0 alone writes, whole batches at a time."""

    def __init__(self, file: Path, rows: dict[int, dict]):
        self.rows = rows
        self._file = files.appended(file) if processes.first() else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._file:
            self._file.close()

    def add(self, new: Sequence[dict]) -> None:
        self.rows.update({row["number"]: row for row in new})
        if self._file:
            self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new))
            self._file.flush()


# Questions


def prompt_lengths(setup: Setup, numbers: Sequence[int], console: Console) -> list[dict]:
    """The beginning of each record's row, up to `prompt`, or all of it where it is `skipped`. Processes share the work.

    Grey pictures are as large as a record's own, so its prompt is as long.
    """
    found = []
    with logs.progress(console, "prompt", len(numbers)) as add:
        for number in numbers:
            if processes.owns(number):
                found.append(_begun(setup, number))
            add(1)
    rows = sorted(itertools.chain(*processes.exchange(found)), key=lambda row: row["number"])
    for count, row in enumerate((row for row in rows if "skipped" in row), start=1):
        console.print(f"skipped ({count}): {row['skipped']}", soft_wrap=True)
    return rows


def _begun(setup: Setup, number: int) -> dict:
    record = setup.split[number]
    try:
        ids, _ = setup.prompts.encode(permute.render(opened(record)))
        return {**_named(number, record), "prompt": len(ids)}
    except InputError as error:
        return {**_named(number, record), "prompt": None, "skipped": str(error)}


def _named(number: int, record: Mapping) -> dict:
    return {"number": number, "id": record["id"], "source": record["source"]}


def _asked(setup: Setup, blind: bool, numbers: list[int]) -> Asked:
    """A batch of records, ready to be shown."""
    questions = []
    for number in numbers:
        record = opened(setup.split[number])
        record = greyed(record) if blind else record
        sample = permute.render(record)
        questions.append(batches.Question(record, [tuple(range(len(record["images"])))], [sample],
                                          [setup.prompts.encode(sample)]))  # fmt: skip
    pictures = [question.record["images"] for question in questions]
    found = setup.prompts.prepare(pictures, mesh.shards(), mesh.own())
    return Asked(numbers, questions, [(place, line) for place, line in enumerate(found) if line])


def greyed(record):
    """An opened record with a grey picture of the same size in place of each of its own."""
    return {**record, "images": [Encoded(_grey(image.width, image.height), "grey") for image in record["images"]]}


@functools.lru_cache(maxsize=256)
def _grey(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()


def ahead(make: Callable, parts: Iterable) -> Iterator:
    """`make(part)` of each part, the next one made in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for part in parts:
            coming = thread.submit(make, part)
            if waiting:
                yield waiting.result()
            waiting = coming
        if waiting:
            yield waiting.result()


# Rollouts


def _roll_out(setup: Setup, parts: Sequence[list[int]], blind: bool, writer: Writer, console: Console) -> None:
    """Adds the rows of all records in `parts`, batch by batch, and says how far it is."""
    size, right, said = max(map(len, parts), default=0), [], -LINES
    unit = "grey question" if blind else "question"
    done, total = 0, sum(map(len, parts))
    with logs.progress(console, unit, total) as add:
        for asked in ahead(functools.partial(_asked, setup, blind), parts):
            new = _rows(setup, asked, size, console)
            writer.add(new)
            done += len(new)
            rate, left = add(len(new))
            right += [score for row in new for score in row.get("scores", ())]
            if not console.is_terminal and (time.monotonic() - said > LINES or done == total):
                said = time.monotonic()
                mean = f"  accuracy {np.mean(right):.3f}" if right else ""
                console.print(f"{unit} {done}/{total}{mean}  {rate}  {logs.minutes(left)} left", soft_wrap=True)


def _rows(setup: Setup, asked: Asked, size: int, console: Console) -> list[dict]:
    """The rows of a batch; it is filled up to `size` records, so that all have the shapes of one program."""
    faults = dict(itertools.chain(*processes.exchange(asked.faults)))
    shown = [question for place, question in enumerate(asked.questions) if place not in faults]
    found = iter(_answers(setup, shown, size) if shown else ())
    rows = []
    for place, (number, question) in enumerate(zip(asked.numbers, asked.questions)):
        [(ids, _)] = question.prompts
        row = {**_named(number, question.record), "prompt": len(ids)}
        rows.append(row | ({"skipped": faults[place]} if place in faults else next(found)))
        if place in faults:
            console.print(f"skipped: {faults[place]}", soft_wrap=True)
    return rows


def _answers(setup: Setup, questions: list[batches.Question], size: int) -> list[dict]:
    """What a row says of each question's rollouts."""
    config, prompts = setup.config, setup.prompts
    filled = questions + questions[-1:] * (size - len(questions))
    early = batches.Early(batches.Source(config, None, prompts, setup.grader), filled)
    out = rollout.generate(
        setup.model(), [question.prompts[0] for question in filled], samples=config.rollouts,
        eos_ids=prompts.processor.eos_ids, seed=config.seed, ids=[_key(question.record["id"]) for question in filled],
        finished=early, **config.sampling, **prompts.limits,
    )  # fmt: skip
    found = [[early.found[n, g] for g in range(config.rollouts)] for n in range(len(questions))]
    scores = iter(setup.grader.grade([pair for group in found for pair, _ in group]))
    rows = []
    for question, lengths, group in zip(questions, out.lengths, found):
        marks = itertools.islice(scores, len(group))
        rows.append({
            "images": len(question.record["images"]),
            "guess": selection.guess(question.record),
            "scores": [int(mark.get("accuracy", mark["reward"]) >= 0.5) for mark in marks],
            "lengths": lengths.tolist(),
            "truncated": sum(not ended for _, ended in group),
            "response": group[0][0][1],
        })  # fmt: skip
    return rows


def _key(name: str) -> int:
    """A record's number for the sampler's draws, the same in any set that it is in."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
