"""A row of a source before it is a record: a question in plain words, and a row that can be none."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

Picture = Callable[[], bytes]  # reads one encoded picture, as the source has it; InputError where it cannot be read


class Row(NamedTuple):
    """A question in plain words, as a source has it."""

    id: str  # unique in its source
    images: Sequence[Picture]  # [K]
    question: str  # `<image>` is where the next image is shown, here or in a choice; without any they stand in front
    answer: str  # of a choice: its letter, its text, or both
    source: str
    choices: Sequence[str] = ()  # without letters; a question may also hold its choices as lines "A. ..."
    kind: str | None = None  # as in a Record; None: told by rules
    order_effect: str | None = None  # as in a Record; None: told by rules, or by a language model
    movable: Sequence[int] | None = None
    reason: str = ""  # for a given order_effect, what the source knows: "frames of a film"
    turn: int = 0  # which question of a conversation this is


class Rejected(NamedTuple):
    """A row that a source could not turn into a record."""

    id: str  # where to find the row
    reason: str  # one of few, to be counted
    detail: str = ""  # what exactly, for a person
