"""The record type, and its validation."""

from typing import NotRequired, TypedDict

from models.errors import InputError
from perl_jax import permute, symbols
from perl_jax.records.images import to_stored_format

KINDS = ("choice", "number", "text", "order")
ORDER_EFFECTS = ("invariant", "rewrite", "fixed")


class Record(TypedDict):
    """One question over K images. Its text holds symbols, i counted from 0: `<image:i>` is the slot that shows image i,
    once for each image over question and choices; `{image:i}` mentions it, with a style after `|` (see `symbols`)."""

    id: str  # unique in its data set
    images: list[bytes]  # [K] encoded PNG or JPEG, RGB; K may be 0
    question: str
    choices: list[str]  # may be empty
    answer: str  # for a choice: its letter or its text
    kind: str  # one of KINDS
    order_effect: str  # one of ORDER_EFFECTS: how permuting the images affects wording and answer
    source: str  # metrics are reported per source
    accuracy: float | None  # mean accuracy of the base model, 0 to 1, from the rollout filter
    movable: list[int] | None  # image places that may be permuted; None: all
    captions: NotRequired[list[str]]  # [K] a note on each image, permuted with it; used only in warm-up responses
    epoch: NotRequired[int]  # added by stream.Stream: number of earlier passes over its data set
    position: NotRequired[int]  # added by stream.Stream: global draw number
    fault: NotRequired[str]  # of stream.Stream: why it cannot be read; then it has only the last two and an id


def validate(record: Record) -> None:
    """Raises InputError, naming the record, unless it is valid: known labels, non-empty question and answer, one slot
    per image, mentions of existing images only, images that decode."""
    validated(record)


def validated(record) -> Record:
    """Validates the record and returns it with its images in stored format; raises InputError."""
    name = record.get("id") if isinstance(record, dict) else None
    if not isinstance(name, str) or not name:
        raise InputError(f"a record has the id {name!r}; each needs a non-empty text as id")
    where = f"record {name!r}"
    if missing := [key for key in Record.__required_keys__ if key not in record]:
        raise InputError(f"{where} lacks {', '.join(sorted(missing))}")
    _check_labels(record, where)
    _check_texts(record, where)
    _check_symbols(record)
    images = [to_stored_format(data, f"{where}, image {i}") for i, data in enumerate(record["images"])]
    return {**record, "images": images}


def _check_labels(record, where):
    for key, known in (("kind", KINDS), ("order_effect", ORDER_EFFECTS)):
        if record[key] not in known:
            raise InputError(f"{where}: {key} {record[key]!r} is none of {', '.join(known)}")
    accuracy = record["accuracy"]
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise InputError(f"{where}: accuracy {accuracy!r} is not between 0 and 1; give None if it is unknown")


def _check_texts(record, where):
    for key in ("question", "answer", "source"):
        _check_text(record[key], f"{where}: {key}")
        if not symbols.SLOT.sub("", record[key]).strip():
            raise InputError(f"{where}: {key} is empty")
    for i, choice in enumerate(record["choices"]):
        _check_text(choice, f"{where}: choice {i}")
    captions = record.get("captions") or []
    if captions and len(captions) != len(record["images"]):
        raise InputError(f"{where}: {len(captions)} captions for {len(record['images'])} images; give one for each")
    for i, caption in enumerate(captions):
        _check_text(caption, f"{where}: caption {i}")
    choices, answer = record["choices"], record["answer"]
    known = [*choices, *symbols.LETTERS[: len(choices)]]
    if record["kind"] == "choice" and choices and answer not in known and not symbols.mentioned(answer):
        raise InputError(f"{where}: answer {answer!r} is none of its {len(choices)} choices, nor one of their letters")


def _check_text(text, where):
    if not isinstance(text, str):
        raise InputError(f"{where} is a {type(text).__name__}, not text")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{where} contains a NUL or a lone surrogate; remove it")


def _check_symbols(record):
    """Renders the record in original and in reversed order: permute detects invalid symbols there."""
    order, places = list(range(len(record["images"]))), permute.movable_places(record)
    for place, image in zip(places, reversed(places)):
        order[place] = image
    permute.render(record)
    permute.render(permute.apply(record, order))
