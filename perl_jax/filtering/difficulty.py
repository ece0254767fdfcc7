"""Measures a policy's accuracy on records: rollouts in original order, by `batched_inference`."""

import functools
import io
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console

import models
from models.errors import InputError
from models.image_files import Encoded
from perl_jax import mesh, permute, rollout
from perl_jax.evaluation import batched_inference
from perl_jax.filtering import selection
from perl_jax.grading import Grader
from perl_jax.records import Split
from perl_jax.records.prompts import Prompts, opened
from perl_jax.runtime import processes
from perl_jax.training import batch as batches

NUMBER = operator.itemgetter("number")


class Setup(NamedTuple):
    """Settings of a measurement. The config's n_s is 0, its `rollouts` are per record."""

    config: object
    split: Split
    model: Callable[[], models.Model]  # loads it, if any rollouts are missing
    prompts: Prompts
    grader: Grader
    batch: int  # most records per decoding batch


class Asked(NamedTuple):
    """A batch of records, as seen by one process."""

    numbers: list[int]  # indices of the records in their split
    questions: list[batches.Question]
    faults: list[tuple[int, str]]  # (place, why its images are invalid): of the images of this process


def measure(
    setup: Setup, file: Path, settings: Mapping, numbers: Sequence[int], blind: bool = False
) -> dict[int, dict]:
    """The row of each record by its index in the split, from `file` and from new rollouts.

    A row has `number`, `id`, `source` and `prompt` (tokens); then `images` (how many), `guess` (`selection.guess`),
    `scores` (1 for each correct response), `lengths` (tokens), `truncated` (number of truncated responses) and
    `response` (the first one), or, for an invalid record, `skipped`: why. All processes get the same rows.

    Args:
        setup: settings of the measurement.
        file: JSON lines; the first holds the settings, each other one a row.
        settings: everything that the scores depend on.
        numbers: indices of the records in their split.
        blind: replaces images by grey ones of the same size.

    Raises:
        InputError: the file was made with other settings, or is not such a file.
    """
    rows = batched_inference.begin(file, settings, NUMBER)
    console = Console(stderr=True, highlight=False, quiet=not processes.first())
    with batched_inference.Writer(file, rows, NUMBER) as writer:
        begun = prompt_lengths(setup, [number for number in numbers if number not in rows], console)
        writer.add([row for row in begun if "skipped" in row])
        lengths = {row["number"]: row["prompt"] for row in [*begun, *rows.values()]}
        parts = batched_inference.in_batches(
            [number for number in numbers if lengths[number]], lengths, setup.batch, done=rows
        )
        size, right = max(map(len, parts), default=0), []

        def answered(asked: Asked) -> list[dict]:
            new = _rows(setup, asked, size, console)
            right.extend(score for row in new for score in row.get("scores", ()))
            return new

        batched_inference.work_off(
            parts,
            functools.partial(_asked, setup, blind),
            answered,
            writer,
            console,
            unit="grey question" if blind else "question",
            figure=lambda: f"  accuracy {np.mean(right):.3f}" if right else "",
        )
    return {number: rows[number] for number in numbers}


# Questions


def prompt_lengths(setup: Setup, numbers: Sequence[int], console: Console) -> list[dict]:
    """The start of each record's row, up to `prompt`, or the whole row if `skipped`. Processes share the work.

    Grey images have the size of the original ones, and so prompts of the same length.
    """
    return batched_inference.prompts(numbers, functools.partial(_begun, setup), console)


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
    """Loads and encodes a batch of records."""
    questions = []
    for number in numbers:
        record = opened(setup.split[number])
        record = greyed(record) if blind else record
        sample = permute.render(record)
        questions.append(
            batches.Question(record, [tuple(range(len(record["images"])))], [sample], [setup.prompts.encode(sample)])
        )
    pictures = [question.record["images"] for question in questions]
    found = setup.prompts.prepare(pictures, mesh.shards(), mesh.own())
    return Asked(numbers, questions, [(place, line) for place, line in enumerate(found) if line])


def greyed(record):
    """An opened record with each image replaced by a grey one of the same size."""
    return {**record, "images": [Encoded(_grey(image.width, image.height), "grey") for image in record["images"]]}


@functools.lru_cache(maxsize=256)
def _grey(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()


# Rollouts


def _rows(setup: Setup, asked: Asked, size: int, console: Console) -> list[dict]:
    """The rows of a batch, which is padded to `size` records so that all batches use one compiled program."""
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
    """The rollout fields of each question's row."""
    config, prompts = setup.config, setup.prompts
    filled = questions + questions[-1:] * (size - len(questions))
    grading = batches.Grading(batches.Source(config, None, prompts, setup.grader), filled)
    out = rollout.generate(
        setup.model(),
        [question.prompts[0] for question in filled],
        samples=config.rollouts,
        ids=[batched_inference.draw_key(question.record["id"]) for question in filled],
        eos_ids=prompts.processor.eos_ids,
        seed=config.seed,
        finished=grading,
        **config.sampling,
        **prompts.limits,
    )
    scores = grading.scores()
    return [
        {
            "images": len(question.record["images"]),
            "guess": selection.guess(question.record),
            "scores": scores.correct[n, 0].astype(int).tolist(),
            "lengths": out.lengths[n].tolist(),
            "truncated": int(np.sum(~scores.ended[n])),
            "response": scores.texts[n][0][0],
        }
        for n, question in enumerate(questions)
    ]
