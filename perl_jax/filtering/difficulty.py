"""Measures a policy's accuracy on records: rollouts in original order, by `batched_inference`."""

import functools
import io
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console

import models
from models.image_files import Encoded
from perl_jax import permute, rollout
from perl_jax.evaluation import batched_inference
from perl_jax.filtering import selection
from perl_jax.grading import Grader
from perl_jax.records import Split, prompt_lengths
from perl_jax.records.prompts import Prompts, with_lazy_images
from perl_jax.records.question import in_orders
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
    batch: int  # records rolled out at a time, at most
    lengths: Sequence[Mapping]  # of the split's prompts, by `prompt_lengths.load_or_measure`


def measure(
    setup: Setup, file: Path, settings: Mapping, numbers: Sequence[int], blind: bool = False
) -> dict[int, dict]:
    """The row of each record by its index in the split, from `file` and from new rollouts.

    A row has `number`, `id`, `source` and `prompt` (tokens, in the order where it is longest); then `images` (how
    many), `guess` (`selection.guess`), `scores` (1 for each right response), `lengths` (tokens), `truncated` (how many
    responses were cut) and `response` (the first one), or, where the record cannot be shown, `skipped`: why. All
    processes get the same.

    Args:
        setup: settings of the measurement.
        file: JSON lines; the first holds the settings, each other one a row.
        settings: everything that the scores depend on.
        numbers: indices of the records in their split.
        blind: replaces images by grey ones of the same size.

    Raises:
        InputError: the file was made with other settings, or is not such a file.
    """
    rows = batched_inference.read_or_create(file, settings, NUMBER)
    console = Console(stderr=True, highlight=False, quiet=not processes.first())
    with batched_inference.Writer(file, rows, NUMBER) as writer:
        excluded = {number: reason for number in numbers if (reason := _excluded(setup, number))}
        skipped = [
            {**_row(setup, number, setup.split[number]), "prompt": None, "skipped": reason}
            for number, reason in excluded.items()
            if number not in rows
        ]
        batched_inference.print_skipped(skipped, console)
        writer.add(skipped)
        lengths = {number: setup.lengths[number]["tokens"] for number in numbers if number not in excluded}
        batches = batched_inference.length_sorted_batches(list(lengths), lengths, setup.batch, done=rows)
        questions = _Questions(setup, blind)
        batched_inference.generate(
            batches,
            questions,
            setup.model,
            setup.prompts,
            {
                "samples": setup.config.rollouts,
                "seed": setup.config.seed,
                "lengths": list(lengths.values()),
                **setup.config.sampling,
            },
            writer,
            console,
            unit="grey question" if blind else "question",
            status=lambda: f"  accuracy {np.mean(questions.right):.3f}" if questions.right else "",
        )
    return {number: rows[number] for number in numbers}


# Questions


def _excluded(setup: Setup, number: int) -> str:
    """Why training would leave a record out, too; "" if it would not. Reads no record."""
    measured = setup.lengths[number]
    if not (reason := prompt_lengths.exclusion_reason(measured, setup.prompts.max_tokens)):
        return ""
    detail = measured.get("detail") or f"its prompt may have {measured['tokens']} tokens, {reason}"
    return detail if measured["id"] in detail else f"record {measured['id']!r}: {detail}"


def _row(setup: Setup, number: int, record: Mapping) -> dict:
    """The start of a record's row. Grey images are as large as the original ones, so their prompts are as long."""
    tokens = setup.lengths[number].get("tokens")
    return {"number": number, "id": record["id"], "source": record["source"], "prompt": tokens}


class _Questions:
    """Records in their original order, as `batched_inference.generate` takes them; graded while others are decoded."""

    def __init__(self, setup: Setup, blind: bool):
        self._setup, self._blind = setup, blind
        self._encoded, self._grading = {}, None  # questions by number until their batch is asked; of this batch
        self.right: list[int] = []  # 1 for each right response so far

    def encode(self, number: int) -> tuple[list[int], list]:
        record = with_lazy_images(self._setup.split[number])
        record = with_grey_images(record) if self._blind else record
        question = in_orders(record, [permute.original_order(len(record["images"]))], self._setup.prompts)
        self._encoded[number] = question
        return question.prompts[0]

    def key(self, number: int) -> int:
        return batched_inference.sampler_id(self._encoded[number].record["id"])

    def listener(self, numbers: list[int]) -> batches.Grading:
        source = batches.Source(self._setup.config, None, self._setup.prompts, self._setup.grader)
        self._grading = batches.Grading(source, [self._encoded[number] for number in numbers])
        return self._grading

    def skipped(self, number: int, reason: str) -> dict:
        question = self._encoded.pop(number, None)
        record = question.record if question else self._setup.split[number]
        return {**_row(self._setup, number, record), "skipped": reason}

    def rows(self, numbers: list[int], prompts: list[tuple], out: rollout.Rollouts) -> list[dict]:
        scores, rows = self._grading.scores(), []
        for n, number in enumerate(numbers):
            record = self._encoded.pop(number).record
            correct = scores.correct[n, 0].astype(int).tolist()
            self.right += correct
            rows.append(
                {
                    **_row(self._setup, number, record),
                    "images": len(record["images"]),
                    "guess": selection.guess(record),
                    "scores": correct,
                    "lengths": out.lengths[n].tolist(),
                    "truncated": int(np.sum(~scores.ended[n])),
                    "response": scores.texts[n][0][0],
                }
            )
        return rows


def with_grey_images(record):
    """An opened record with each image replaced by a grey one of the same size."""
    return {**record, "images": [Encoded(_grey(image.width, image.height), "grey") for image in record["images"]]}


@functools.lru_cache(maxsize=256)
def _grey(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()
