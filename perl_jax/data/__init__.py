"""Data sources, one module each, looked up by name.

A source is a module `perl_jax.data.<name>` with

- `records(input, split, seed=0, **options)`: an iterator of `Row`s, questions in plain text that `perl_jax.prepare`
  filters and turns into records; or of `Record`s, from a source that makes them itself; with a `Rejected` in place of
  each unusable row. `input` is a path, or None for a source that includes its data;
- `SPLITS`: the names of its splits;
- `EXAMPLE`: one record as a literal (without its images), which the source's test reproduces.
"""

import importlib
import pkgutil
from types import ModuleType

from models.errors import InputError
from perl_jax.records.rows import ImageReader, Rejected, Row

__all__ = ["ImageReader", "Rejected", "Row", "find", "names"]


def names() -> list[str]:
    """Names of the known sources."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> ModuleType:
    """Returns the source of that name; InputError, listing the known names, if there is none."""
    if name not in names():
        raise InputError(f"unknown data source {name!r}; known are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
