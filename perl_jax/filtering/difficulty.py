"""How often a policy answers records right: rollouts of each in its own order, by `batched_inference`."""

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
from models.image_files import Encoded
from perl_jax import mesh, permute, rollout
from perl_jax.evaluation import batched_inference
from perl_jax.filtering import selection
from perl_jax.grading import Grader
from perl_jax.records import Split, prompt_lengths
from perl_jax.records.prompts import Prompts, opened
from perl_jax.runtime import processes
from perl_jax.training import batch as batches

NUMBER = operator.itemgetter("number")


class Setup(NamedTuple):
    """What records are asked with. The config's n_s is 0, its rollouts are those of a record."""

    config: object
    split: Split
    model: Callable[[], models.Model]  # loads it, when something is left to roll out
    prompts: Prompts
    grader: Grader
    batch: int  # records rolled out at a time, at most
    lengths: Sequence[Mapping]  # of the split's prompts, by `prompt_lengths.measured`


class Asked(NamedTuple):
    """A batch of records, as one process sees it."""

    numbers: list[int]  # of the records in their split
    questions: list[batches.Question]
    faults: list[tuple[int, str]]  # (place, why its pictures cannot be shown): of those this process has looked at


def measure(
    setup: Setup, file: Path, settings: Mapping, numbers: Sequence[int], blind: bool = False
) -> dict[int, dict]:
    """The row of each of the records `numbers` by its number in the split, from `file` and from rollouts.

    A row has `number`, `id`, `source` and `prompt` (tokens, in the order where it is longest); then `images` (how many),
    `guess` (`selection.guess`),
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
    rows = batched_inference.begin(file, settings, NUMBER)
    console = Console(stderr=True, highlight=False, quiet=not processes.first())
    with batched_inference.Writer(file, rows, NUMBER) as writer:
        begun = [_begun(setup, number) for number in numbers if number not in rows]
        skipped = [row for row in begun if "skipped" in row]
        for count, row in enumerate(skipped, start=1):
            console.print(f"skipped ({count}): {row['skipped']}", soft_wrap=True, markup=False)
        writer.add(skipped)
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


def _begun(setup: Setup, number: int) -> dict:
    """The beginning of a record's row, up to `prompt`, or all of it where training would leave the record out, too.

    Grey pictures are as large as a record's own, so its prompt is as long.
    """
    record, line = setup.split[number], setup.lengths[number]
    named = _named(number, record)
    if reason := prompt_lengths.left_out(line, setup.prompts.max_tokens):
        why = line.get("detail") or f"its prompt may have {line['tokens']} tokens, {reason}"
        return {**named, "prompt": None, "skipped": why if record["id"] in why else f"record {record['id']!r}: {why}"}
    return {**named, "prompt": line["tokens"]}


def _named(number: int, record: Mapping) -> dict:
    return {"number": number, "id": record["id"], "source": record["source"]}


def _asked(setup: Setup, blind: bool, numbers: list[int]) -> Asked:
    """A batch of records, ready to be shown."""
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
    """An opened record with a grey picture of the same size in place of each of its own."""
    return {**record, "images": [Encoded(_grey(image.width, image.height), "grey") for image in record["images"]]}


@functools.lru_cache(maxsize=256)
def _grey(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()


# Rollouts


def _rows(setup: Setup, asked: Asked, size: int, console: Console) -> list[dict]:
    """The rows of a batch; it is filled up to `size` records, so that all have the shapes of one program."""
    faults = dict(itertools.chain(*processes.exchange(asked.faults)))
    shown = [question for place, question in enumerate(asked.questions) if place not in faults]
    found = iter(_answers(setup, shown, size) if shown else ())
    rows = []
    for place, (number, question) in enumerate(zip(asked.numbers, asked.questions)):
        row = {**_named(number, question.record), "prompt": setup.lengths[number]["tokens"]}
        rows.append(row | ({"skipped": faults[place]} if place in faults else next(found)))
        if place in faults:
            console.print(f"skipped: {faults[place]}", soft_wrap=True)
    return rows


def _answers(setup: Setup, questions: list[batches.Question], size: int) -> list[dict]:
    """What a row says of each question's rollouts."""
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
