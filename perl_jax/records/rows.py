"""A row of a data source before it becomes a record, and a rejected row."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

ImageReader = Callable[
    [], bytes
]  # reads one encoded image in the source's format; raises InputError if it cannot be read


class Row(NamedTuple):
    """A question in plain text, as the source has it."""

    id: str  # unique in its source
    images: Sequence[ImageReader]  # [K]
    question: str  # `<image>` marks where the next image is shown, here or in a choice; without any, images come first
    answer: str  # for a choice: its letter, its text, or both
    source: str
    choices: Sequence[str] = ()  # without letters; a question may also contain its choices as lines "A. ..."
    kind: str | None = None  # as in a Record; None: inferred by rules
    order_effect: str | None = None  # as in a Record; None: inferred by rules, or by a language model
    movable: Sequence[int] | None = None
    reason: str = ""  # why the source is sure of the given order_effect: "frames of a film"
    turn: int = 0  # index of this question in its conversation


class Rejected(NamedTuple):
    """A row that a source could not turn into a record."""

    id: str  # identifies the row
    reason: str  # one of a few categories, for counting
    detail: str = ""  # details for the reader
