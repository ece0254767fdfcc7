"""Data sources, one module each, found by name.

A source is a module `perl_jax.data.<name>` with

- `records(input, split, seed=0, **options)`: an iterator of `Record`s, with a `Rejected` in place of each row that
  cannot be one. `input` is a path, or None for a source that brings its data along;
- `SPLITS`: the names of its splits;
- `EXAMPLE`: one record as a literal (its pictures left out), which the source's test produces again.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import NamedTuple

from models.errors import InputError


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
