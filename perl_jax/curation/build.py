"""Builds a record set from a source: curates, grades, holds out, and logs what became of each row."""

import collections
import contextlib
import hashlib
import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator

from models.errors import InputError
from perl_jax import data, grading, permute, records
from perl_jax.curation import image_rules
from perl_jax.curation.curate import Curated, curate
from perl_jax.records import data_files, hub_files
from perl_jax.runtime import files

REJECTED, DECISIONS = "rejected.jsonl", "decisions.jsonl"
HELD_OUT = "eval"
GRADED = 256  # records graded per batch
LOOKED_AT = 20  # rows of a file that are searched for images
_BASE64_HEADS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")  # of JPEG, PNG, GIF and WebP


def build(
    source: str,
    out: str,
    input: str | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    holdout: float = 0.0,
    decontaminate: Iterable[str] = (),
    annotate: Callable | None = None,
    show: Callable[[int, int], None] | None = None,
    **options,
) -> dict:
    """Writes the splits of a source to `out`, and returns the summary of `records.write` with `"rejected": {split:
    {reason: rows}}` added.

    Args:
        source: a module name in `perl_jax.data`.
        out: a directory that does not exist yet, or is empty.
        input: path of the source's files; None for a source that includes its data.
        limit: most records per split.
        seed: for random choices of the source.
        holdout: share of the records, assigned by their images, that goes to a separate split "eval".
        decontaminate: evaluation sets; records that share an image or question with them are rejected.
        annotate: maps an iterator of rows to one of (row, language model annotation), in the same order.
        show: called after each row with (kept, rejected) counts so far.
        options: keyword arguments of the source's `records`.

    Raises:
        InputError: an unknown source or option, bad input, a split without records, or no images in any row although
            some column of the file looks like images.
    """
    module = data.find(source)
    _check_options(source, module, options)
    if holdout and (not 0 < holdout < 1 or HELD_OUT in module.SPLITS):
        raise InputError(f"--holdout={holdout}: give a share below 1, of a source without a split {HELD_OUT!r}")
    filters, ledger = image_rules.Filters(decontaminate), Ledger(holdout, show)
    any_images = False

    def rows_of(split: str) -> Iterator:
        nonlocal any_images
        for row in module.records(input, split, seed=seed, **options):
            any_images = any_images or bool(row["images"] if isinstance(row, dict) else getattr(row, "images", ()))
            yield row

    def kept_records(split: str) -> Iterator[records.Record]:
        rows = rows_of(split)
        return itertools.islice(ledger.entered(split, _graded(_curated(rows, annotate, filters))), limit)

    splits = {split: kept_records(split) for split in module.SPLITS}
    if holdout:
        splits[HELD_OUT] = ledger.held_out()  # read after all other splits, when it is complete

    def finish(directory: str) -> None:
        if unread := not any_images and image_column(input):
            raise InputError(_UNREAD.format(input=input, column=unread))
        ledger.write(directory)

    try:
        summary = records.write(splits, out, name=source, reject=ledger.reject, finish=finish)
    except InputError as error:
        if ledger.rejected and not any_images and (unread := image_column(input)):
            raise InputError(_UNREAD.format(input=input, column=unread)) from error
        if ledger.rejected:
            raise InputError(
                f"{error}; {len(ledger.rejected)} rows were rejected, the last: {ledger.rejected[-1]}"
            ) from error
        raise
    return {**summary, "rejected": {split: ledger.reasons(split) for split in splits}}


_UNREAD = (
    "no row of {input} has images, though its column {column!r} looks like images: name it by --map=images={column}"
)


def image_column(input: str | None) -> str | None:
    """The first column of an input's files that holds images or paths of images; None if none does."""
    try:
        paths = data_files.find(input).paths if input is not None else []
    except InputError:  # a folder in a source's own form
        return None
    for path in paths:
        for _, row in itertools.islice(hub_files.rows(path), LOOKED_AT):
            for column, value in row.items() if isinstance(row, dict) else ():
                if _looks_like_image(value):
                    return column
    return None


def _looks_like_image(value: object) -> bool:
    """Whether a value, or one in its list or struct, is encoded bytes, their base64, or the path of an image file."""
    if isinstance(value, list | dict):
        return any(map(_looks_like_image, value.values() if isinstance(value, dict) else value))
    if isinstance(value, bytes):
        return len(value) > 100
    if not isinstance(value, str):
        return False
    path = not re.search(r"\s", value) and value.lower().endswith(image_rules.IMAGE_SUFFIXES)
    return path or value.startswith(("data:image/", *_BASE64_HEADS))


Item = records.Record | Curated | data.Rejected


class Ledger:
    """Records each row's outcome (held out, rejected, or accepted with a decision) and reports the counts to `show`."""

    def __init__(self, holdout: float, show: Callable[[int, int], None] | None):
        self.rejected, self._decisions, self._held_out = [], [], []
        self._holdout, self._show, self._seen = holdout, show, 0

    def entered(self, split: str, items: Iterable[Item]) -> Iterator[records.Record]:
        """Yields the accepted records of a split; logs the other items. InputError where all are held out."""
        accepted, held_out = 0, len(self._held_out)
        for item in items:
            self._seen += 1
            if isinstance(item, data.Rejected):
                self.rejected.append({"split": split, **item._asdict()})
            elif isinstance(item, Curated) and self._holdout and _share(item.record) < self._holdout:
                self._held_out.append(item)
            else:
                accepted += 1
                yield self._accepted(split, item)
            if self._show:
                self._show(self._seen - len(self.rejected), len(self.rejected))
        if not accepted and (count := len(self._held_out) - held_out):
            raise InputError(
                f"--holdout={self._holdout:g}: all {count} records of {split!r} would go to {HELD_OUT!r}, each with "
                "all questions on its images; give a smaller share, or more records"
            )

    def held_out(self) -> Iterator[records.Record]:
        """Yields the held-out records. InputError where there are none, though others are kept."""
        if not self._held_out and self._decisions:
            raise InputError(
                f"--holdout={self._holdout:g}: none of the {len(self._decisions)} records would go to {HELD_OUT!r}, "
                "each with all questions on its images; give a larger share, or more records"
            )
        for item in self._held_out:
            yield self._accepted(HELD_OUT, item)

    def _accepted(self, split: str, item: records.Record | Curated) -> records.Record:
        if not isinstance(item, Curated):
            return item
        self._decisions.append({"split": split, **item.decision._asdict()})
        return item.record

    def reject(self, split: str, record: records.Record, error: InputError) -> None:
        """Logs a record that cannot be written."""
        row = {"split": split, "id": record.get("id"), "reason": "not a valid record", "detail": str(error)}
        self.rejected.append(row)

    def reasons(self, split: str) -> dict[str, int]:
        """The number of rejected rows of a split by reason, most frequent first."""
        return dict(collections.Counter(row["reason"] for row in self.rejected if row["split"] == split).most_common())

    def write(self, directory: str) -> None:
        """Writes rejected.jsonl and decisions.jsonl."""
        for name, rows in ((REJECTED, self.rejected), (DECISIONS, self._decisions)):
            with open(os.path.join(directory, name), "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(files.lines(rows))


def _curated(rows: Iterable, annotate, filters: image_rules.Filters) -> Iterator[Item]:
    """Curates the rows and loads their images, or rejects them; a source's finished records pass unchanged."""
    for row, annotation in annotate(rows) if annotate else ((row, None) for row in rows):
        item = curate(row, annotation) if isinstance(row, data.Row) else row
        yield filters(item, row.images) if isinstance(item, Curated) else item


def _graded(items: Iterable[Item]) -> Iterator[Item]:
    """Rejects unlearnable records: those whose own reference answer the paper's reward does not accept."""
    items = iter(items)
    with contextlib.ExitStack() as stack:
        grader = None
        while chunk := list(itertools.islice(items, GRADED)):
            curated = [item for item in chunk if isinstance(item, Curated)]
            if curated and grader is None:  # it starts processes, which only curated rows need
                grader = stack.enter_context(grading.Grader("boxed"))
            samples = [permute.render(item.record) for item in curated]
            pairs = [(sample, f"<think></think>\\boxed{{{sample['answer']}}}") for sample in samples]
            scores = grader.grade(pairs) if curated else []
            unlearnable = {
                id(item): sample for item, sample, score in zip(curated, samples, scores) if score["reward"] < 1
            }
            for item in chunk:
                if sample := unlearnable.get(id(item)):
                    item = data.Rejected(sample["id"], "the reward does not accept the answer", sample["answer"])
                yield item


def _share(record: records.Record) -> float:
    """A hash of a record's images to [0, 1), independent of other records: equal for questions on the same images."""
    parts = sorted(hashlib.blake2b(data).digest() for data in record["images"]) or [record["question"].encode()]
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "big") / 2**64


def _check_options(source, module, options):
    parameters = inspect.signature(module.records).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"the source {source} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
