"""Data sources, one module each, found by name.

A source is a module `perl_jax.data.<name>` with

- `records(input, split, seed=0, **options)`: an iterator of `Row`s, questions in plain words that `perl_jax.prepare`
  filters and turns into records; or of `Record`s, from a source that makes its own; with a `Rejected` in place of each
  row that can be neither. `input` is a path, or None for a source that brings its data along;
- `SPLITS`: the names of its splits;
- `EXAMPLE`: one record as a literal (its pictures left out), which the source's test produces again.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

from models.errors import InputError

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


def names() -> list[str]:
    """The known sources."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> ModuleType:
    """The source of that name; InputError, with the known names, if there is none."""
    if name not in names():
        raise InputError(f"unknown data source {name!r}; known are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
