"""Prompt lengths, measured once before the first step, so that no prompt is truncated or skipped during training.

The length of a record's longest prompt depends on the records, the tokenizer and chat template, the image size limits
and the texts around the question, but not on the token limit. Lengths are cached in a file beside the records (in the
workdir if that directory is read-only), shared by all runs with the same settings.
"""

import collections
import hashlib
import itertools
import json
import logging
import math
import os
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from models.errors import InputError
from perl_jax import permute, records, symbols
from perl_jax.records.prompts import Prompts, with_lazy_images
from perl_jax.runtime import files, processes

logger = logging.getLogger(__name__)

EXCLUDED = "excluded.jsonl"  # in the workdir: the excluded records and the reasons
WORDINGS = 120  # most wordings tried for one record
LETTERS = 10  # upper bound on the tokens of one image mention, such as "Image 12" or "seventh"


def select(splits: Mapping[str, Sequence[str]], prompts: Prompts, workdir: Path) -> tuple[dict, dict]:
    """Selects the records whose prompts have at most `prompts.max_tokens` tokens in every order of their images.

    For {split: directories} returns {split: {directory: ascending indices of kept records}} and {split: {directory:
    {reason: number excluded}}}. Excluded records are also counted in a warning and listed in WORKDIR/excluded.jsonl.

    Raises:
        InputError: no record of a split of a directory can be used.
    """
    kept, counts, excluded = {split: {} for split in splits}, {split: {} for split in splits}, []
    for split, directory in [(split, directory) for split, directories in splits.items() for directory in directories]:
        lengths = load_or_measure(directory, split, prompts, workdir)
        reasons = [exclusion_reason(length, prompts.max_tokens) for length in lengths]
        indices = np.array([place for place, reason in enumerate(reasons) if not reason], np.int64)
        exclusions = dict(collections.Counter(reason for reason in reasons if reason).most_common())
        kept[split][directory], counts[split][directory] = indices, exclusions
        excluded += [
            {"directory": directory, "split": split, **length, "reason": reason}
            for length, reason in zip(lengths, reasons)
            if reason
        ]
        summary = ", ".join(f"{count:,} {reason}" for reason, count in exclusions.items())
        if not len(indices):
            raise InputError(
                f"no record of split {split!r} of {directory} can be used: {summary}; the last: {excluded[-1]}"
            )
        if summary and processes.first():
            logger.warning(
                "%s of the %s records in split %r of %s are left out: %s; %s lists them",
                f"{len(lengths) - len(indices):,}",
                f"{len(lengths):,}",
                split,
                directory,
                summary,
                workdir / EXCLUDED,
            )
    if processes.first():
        _write(workdir / EXCLUDED, excluded)
    return kept, counts


def kept_lengths(kept: Mapping[str, np.ndarray], split: str, prompts: Prompts, workdir: Path) -> list[int]:
    """Tokens of the longest prompt of each kept record {directory: indices} of a split (`select`)."""
    lengths = {directory: load_or_measure(directory, split, prompts, workdir) for directory in kept}
    return [lengths[directory][index]["tokens"] for directory, indices in kept.items() for index in indices]


def load_or_measure(directory: str, split: str, prompts: Prompts, workdir: Path) -> list[dict]:
    """The `measure` result of each record of a split, from the cache file, which process 0 writes if missing."""
    cache_key = _cache_key(directory, split, prompts)
    name = hashlib.sha256(json.dumps(cache_key, sort_keys=True).encode()).hexdigest()[:16]
    file = Path(directory if os.access(directory, os.W_OK) else workdir) / f"lengths-{name}.jsonl"
    lengths = []

    def read_or_make():
        lengths[:] = _read(file, cache_key)
        if not lengths:
            lengths[:] = _measure_split(directory, split, prompts)
            _write(file, [{**cache_key, "crc": _crc(lengths)}, *lengths])

    processes.after_first(read_or_make)
    return lengths


def measure(record: records.Record, prompts: Prompts) -> dict:
    """{"id", "tokens"} of a record: the length of its longest prompt over all image orders, without a token limit;
    {"id", "reason", "detail"} of a record that cannot be used.

    Pixels are not decoded. If the image mentions can be worded in more than `WORDINGS` ways, returns an upper bound:
    the tokens of the original order plus `LETTERS` for each mention.
    """
    reason = "with an image that cannot be read"
    try:
        record = with_lazy_images(record)
        reason = "whose references to images do not fit"
        permute.render(record)
        orders, more = wordings(record)
        samples = [permute.render(permute.apply(record, order)) for order in orders]
        reason = "whose prompt cannot be made"
        tokens = more + max(token_count(prompts.messages(sample), sample["images"], prompts) for sample in samples)
    except InputError as error:
        return {"id": record["id"], "reason": reason, "detail": str(error)}
    return {"id": record["id"], "tokens": tokens}


def token_count(messages: Sequence[Mapping], images: Sequence, prompts: Prompts) -> int:
    """The tokens of one prompt, without a limit: what training, filter, inspection and evaluation go by."""
    return len(prompts.encode_messages(messages, images)[0])


def wordings(record: records.Record) -> tuple[list[permute.Order], int]:
    """Image orders that cover every wording of a record's prompt, the original order first, and 0.

    If there are too many: the original order alone, and an upper bound on the tokens of all mentions.
    """
    original, places = permute.original_order(len(record["images"])), permute.movable_places(record)
    mentions = [image for text in (record["question"], *record["choices"]) for image in symbols.mentioned(text)]
    moved_images = sorted(set(mentions) & set(places))
    if record["order_effect"] != "rewrite" or not moved_images:
        return [original], 0
    if math.perm(len(places), len(moved_images)) > WORDINGS:
        return [original], LETTERS * len(mentions)
    return list(dict.fromkeys([original, *_orders(original, places, moved_images)])), 0


def _orders(original: permute.Order, places: Sequence[int], moved_images: Sequence[int]) -> Iterator[permute.Order]:
    """One order for each placement of `moved_images` on `places`; the other images fill the remaining places."""
    others = [image for image in places if image not in moved_images]
    for new_places in itertools.permutations(places, len(moved_images)):
        other_places = [place for place in places if place not in new_places]
        order = list(original)
        for image, place in zip([*moved_images, *others], [*new_places, *other_places]):
            order[place] = image
        yield tuple(order)


def exclusion_reason(length: Mapping, max_tokens: int) -> str:
    """Why a record is left out, by what `measure` says of it; "" if it is not."""
    if "reason" in length:
        return length["reason"]
    return f"longer than config.prompt.max_tokens = {max_tokens}" if length["tokens"] > max_tokens else ""


def _cache_key(directory: str, split: str, prompts: Prompts) -> dict:
    """Everything that prompt lengths depend on, JSON-able."""
    processor = prompts.processor
    texts = json.loads(prompts.to_json())
    del texts["max_tokens"]
    tokenizer = processor.tokenizer.backend_tokenizer.to_str()
    return {
        "records": records.fingerprint(directory),
        "split": split,
        **texts,
        "tokenizer_sha256": hashlib.sha256(tokenizer.encode()).hexdigest(),
        "patches": [processor.vision.patch_size, processor.vision.spatial_merge_size],
    }


def _measure_split(directory: str, split: str, prompts: Prompts) -> list[dict]:
    stored, start, console = records.open_split(directory, split), time.monotonic(), Console(stderr=True)
    logger.info("measuring the prompts of %s records of %s", f"{len(stored):,}", directory)
    indices = track(range(len(stored)), "records", console=console, disable=not console.is_terminal)
    lengths = [measure(stored[index], prompts) for index in indices]
    logger.info("measured in %.0f s", time.monotonic() - start)
    return lengths


def _read(file: Path, cache_key: Mapping) -> list[dict]:
    """Results cached under `cache_key`; empty if the file is missing, damaged or has another key."""
    try:
        with file.open(encoding="utf-8") as lines:
            first, *lengths = map(json.loads, lines)
    except (OSError, ValueError):
        return []
    return lengths if first == {**cache_key, "crc": _crc(lengths)} else []


def _crc(lengths: Sequence[Mapping]) -> int:
    return zlib.crc32(files.lines(lengths).encode())


def _write(file: Path, lines: Sequence[Mapping]) -> None:
    """Writes JSON lines atomically."""
    partial = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    try:
        partial.write_text(files.lines(lines), encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
