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
from types import ModuleType

from models.errors import InputError
from perl_jax.records.rows import Picture, Rejected, Row

__all__ = ["Picture", "Rejected", "Row", "find", "names"]


def names() -> list[str]:
    """The known sources."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> ModuleType:
    """The source of that name; InputError, with the known names, if there is none."""
    if name not in names():
        raise InputError(f"unknown data source {name!r}; known are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
