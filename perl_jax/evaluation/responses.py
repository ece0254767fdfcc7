"""A model's responses to the questions of a benchmark, as rows of predictions.jsonl, asked by `batched_inference`.

A prompt is prefilled once for all its responses. Where these are drawn (a temperature above 0), a question that is
asked in several orders is also drawn again in its own, as often as in the others: the control that tells the noise of
sampling from an effect of the order.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from rich.console import Console

import models
from models.errors import InputError
from models.image_files import Encoded
from perl_jax import rollout
from perl_jax.evaluation import batched_inference
from perl_jax.evaluation.orders import Asked
from perl_jax.records.prompts import Prompts
from perl_jax.runtime import processes

TOO_LONG = "its prompt is too long"

Key = tuple[str, tuple[int, ...]]  # (id, order)


class Sampling(NamedTuple):
    """How responses are drawn."""

    samples: int = 1  # of each question in each order
    temperature: float = 0.0  # 0: greedy
    max_new_tokens: int = 2048
    seed: int = 0


class Setup(NamedTuple):
    """What questions are asked with."""

    benchmark: ModuleType
    protocol: str
    model: Callable[[], models.Model]  # loads it, when something is left to ask
    prompts: Prompts
    sampling: Sampling
    batch: int  # prompts at a time, at most


class Answered(NamedTuple):
    """What a model answered to a question in one order."""

    asked: Asked
    role: str  # own; permuted; control: its own order, drawn again
    texts: Sequence[str]
    lengths: Sequence[int]  # tokens, the end included
    truncated: Sequence[bool]
    fault: str | None  # why it could not be asked; then the texts are empty


def collect(setup: Setup, asked: Sequence[Asked], file: Path, settings: Mapping) -> list[Answered]:
    """The responses to each question in each order, from `file` and from the model. All processes get the same.

    A row of the file has `id`, `order`, `asked` (a hash of the words), `prompt` (tokens), and one of each response:
    `texts`, `lengths` and `truncated`; first those of the question (`Sampling.samples`), then those of its control. Or
    it has `fault` and `detail`: why it could not be asked; a later run tries that again.

    Raises:
        InputError: the file was made with other settings, or with other questions of these ids; or it is no such file.
    """
    rows = {key: row for key, row in batched_inference.begin(file, settings, key_of).items() if "fault" not in row}
    console = Console(stderr=True, highlight=False, quiet=not processes.first())
    keys, hashes = [(each.item.row.id, each.order) for each in asked], [words(setup, each) for each in asked]
    _check(rows, keys, hashes, file)
    with batched_inference.Writer(file, rows, key_of) as writer:
        done = {n for n, key in enumerate(keys) if key in rows}
        missing = [n for n in range(len(keys)) if n not in done]
        found = batched_inference.lengths(missing, functools.partial(_begun, setup, asked), console)
        lengths = {n: rows[keys[n]]["prompt"] for n in done}
        lengths |= {row["number"]: row["prompt"] for row in found if "skipped" not in row}
        writer.add(
            [
                _row(asked[row["number"]], hashes[row["number"]], **_fault(row["skipped"]))
                for row in found
                if "skipped" in row
            ]
        )
        for count, numbers in grouped(responses_of(setup.sampling, asked), lengths).items():
            parts = batched_inference.in_batches(numbers, lengths, setup.batch, done)
            sampling = setup.sampling._asdict() | {"samples": count}
            questions = _Questions(setup, asked, hashes)
            batched_inference.answer(parts, questions, setup.model, setup.prompts, sampling, writer, console, "prompt")
    return [part for each, key in zip(asked, keys) for part in parted(each, rows[key], setup.sampling.samples)]


def parted(asked: Asked, row: Mapping, samples: int) -> list[Answered]:
    """A row's responses by their role."""
    if "fault" in row:
        row = {"texts": [""] * samples, "lengths": [0] * samples, "truncated": [False] * samples, **row}
    roles = {"own" if asked.own else "permuted": slice(samples), "control": slice(samples, None)}
    return [
        Answered(asked, role, row["texts"][part], row["lengths"][part], row["truncated"][part], row.get("fault"))
        for role, part in roles.items()
        if row["texts"][part]
    ]


def key_of(row: Mapping) -> Key:
    return row["id"], tuple(row["order"])


def responses_of(sampling: Sampling, asked: Sequence[Asked]) -> list[int]:
    """How many responses each prompt gets: in a question's own order also those of its control."""
    orders = {}
    for each in asked:
        orders[each.item.row.id] = orders.get(each.item.row.id, 0) + 1
    drawn = sampling.temperature > 0
    return [sampling.samples * (orders[each.item.row.id] if each.own and drawn else 1) for each in asked]


def grouped(draws: Sequence[int], numbers: Iterable[int]) -> dict[int, list[int]]:
    """The `numbers` by how many responses each gets, few first: a batch's prompts get equally many."""
    return {count: [n for n in numbers if draws[n] == count] for count in sorted({draws[n] for n in numbers})}


def messages(setup: Setup, asked: Asked) -> list[dict]:
    """The chat messages of a question: the benchmark's own, or by `boxed` with the policy's system text and
    instruction around them."""
    found = setup.benchmark.prompt(asked.item, setup.protocol)
    if setup.protocol != "boxed":
        return found
    *head, last = found
    system = [{"role": "system", "content": setup.prompts.system}] if setup.prompts.system else []
    content = "\n".join(part for part in (last["content"], setup.prompts.instruction) if part)
    return [*system, *head, {**last, "content": content}]


def words(setup: Setup, asked: Asked) -> str:
    """A hash of what a question says in its order, and of the true answer."""
    said = json.dumps([messages(setup, asked), asked.shown, asked.item.row.answer])
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _check(rows: Mapping[Key, Mapping], keys: Sequence[Key], hashes: Sequence[str], file: Path) -> None:
    for key, said in zip(keys, hashes):
        if key in rows and rows[key].get("asked") != said:  # what does not say it may have had any words
            raise InputError(
                f"{file}: question {key[0]!r} had other words or another answer when it was asked; give "
                "the data of that time, or another --out"
            )


def _row(asked: Asked, said: str, **more) -> dict:
    return {"id": asked.item.row.id, "order": list(asked.order), "asked": said, **more}


def _fault(detail: str) -> dict:
    return {"fault": TOO_LONG if TOO_LONG in detail else "it cannot be shown", "detail": detail}


def _encoded(setup: Setup, asked: Asked) -> tuple[list[int], list[Encoded]]:
    """(token ids, pictures) of a question; InputError where it cannot be asked."""
    row, prompts = asked.item.row, setup.prompts
    try:
        pictures = [Encoded(read(), f"picture {place + 1}") for place, read in zip(asked.shown, row.images)]
        ids, pictures = prompts.processor(messages(setup, asked), pictures, **prompts.limits)
    except InputError as error:
        raise InputError(f"question {row.id!r}: {error}") from error
    if len(ids) > prompts.max_tokens:
        raise InputError(
            f"question {row.id!r}: {TOO_LONG}: {len(ids):,} tokens, more than {prompts.max_tokens:,}; "
            "raise --max_prompt_tokens, or show smaller pictures with --max_pixels"
        )
    return ids, pictures


def _begun(setup: Setup, asked: Sequence[Asked], number: int) -> dict:
    try:
        return {"number": number, "prompt": len(_encoded(setup, asked[number])[0])}
    except InputError as error:
        return {"number": number, "skipped": str(error)}


class _Questions(NamedTuple):
    """As `batched_inference.answer` takes them."""

    setup: Setup
    asked: Sequence[Asked]
    hashes: Sequence[str]  # of their words

    def encode(self, number: int) -> tuple[list[int], list[Encoded]]:
        return _encoded(self.setup, self.asked[number])

    def key(self, number: int) -> int:
        return batched_inference.draw_key(f"{self.asked[number].item.row.id} {self.asked[number].order}")

    def begin(self, numbers: list[int]) -> None:
        return None  # answers are scored when all of them are there

    def skipped(self, number: int, why: str) -> dict:
        return _row(self.asked[number], self.hashes[number], **_fault(why))

    def rows(self, numbers: list[int], prompts: list[tuple], out: rollout.Rollouts) -> list[dict]:
        processor, found = self.setup.prompts.processor, []
        for number, (ids, _), drawn, lengths in zip(numbers, prompts, out.tokens, out.lengths):
            tokens = [each[:length].tolist() for each, length in zip(drawn, lengths)]
            said = {
                "prompt": len(ids),
                "texts": [processor.decode(each) for each in tokens],
                "lengths": lengths.tolist(),
                "truncated": [each[-1] not in processor.eos_ids for each in tokens],
            }
            found.append(_row(self.asked[number], self.hashes[number], **said))
        return found
