"""Evaluation benchmarks, one module each, found by name.

A benchmark is a module `perl_jax.benchmarks.<name>` with

- `load(directory, allow_partial=False)`: an iterator of `Item`s from the hub's files in a local directory, with a
  `data.Rejected` in place of each row that cannot be asked. InputError, after the last row, where the number of rows is
  not the published one (unless `allow_partial`);
- `prompt(item, protocol)`: chat messages; content is text with `<image>` where the item's next picture is shown. Those
  of "boxed" are the question alone: a policy's own system text and instruction are its caller's to add;
- `score(item, text, protocol)`: a `Score` of a model's whole response;
- `PROTOCOLS`: those it knows, of "boxed" (ours: reason, then box) and "official" (its own prompt and rules);
- `MACRO`: whether its headline figure is the mean over categories; else over items;
- `REPOSITORY`, `PATTERNS`: where the hub has it, for a download;
- `EXAMPLE`: one row as published, and what becomes of it, which is the benchmark's test.

`benchmarks._common` has what several of them need. A score may hang on a hostile response (see `answers.compare`).
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

from models.errors import InputError
from perl_jax.data import Row


class Item(NamedTuple):
    """One question of a benchmark."""

    row: Row  # in plain words; its answer is the true one; order_effect is given where the benchmark fixes it
    category: str  # by which the benchmark's tables are split
    columns: Mapping[str, object]  # what its own prompt and rules need beside


class Score(NamedTuple):
    """What a response earns."""

    correct: float  # 1 or 0; between, where a benchmark scores the parts of a question
    extracted: str | None  # the answer that was found in it; None: none was


def names() -> list[str]:
    """The known benchmarks."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> ModuleType:
    """The benchmark of that name; InputError, with the known names, if there is none."""
    if name not in names():
        raise InputError(f"unknown benchmark {name!r}; known are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
