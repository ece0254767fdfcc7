"""Evaluation benchmarks, one module each, looked up by name.

A benchmark is a module `perl_jax.benchmarks.<name>` with

- `load(directory, allow_partial=False)`: an iterator of `Item`s from the Hugging Face files in a local directory, with
  a `data.Rejected` in place of each unusable row. InputError, after the last row, if the number of rows differs from
  the published one (unless `allow_partial`);
- `prompt(item, protocol)`: chat messages; the content is text with `<image>` where the item's next image is shown. For
  "boxed" it is the question alone: the caller adds the policy's system text and instruction;
- `score(item, text, protocol)`: a `Score` of a model's whole response;
- `PROTOCOLS`: the supported protocols, of "boxed" (ours: reason, then box) and "official" (its own prompt and rules);
- `MACRO`: whether its headline accuracy is the mean over categories; else over items;
- `REPOSITORY`, `PATTERNS`: its Hugging Face data set and files, for download;
- `EXAMPLE`: one row as published, and the expected results for it, which serves as the benchmark's test.

`benchmarks._common` has shared helpers. A score may hang on a hostile response (see `answers.compare`).
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

    row: Row  # in plain text, with the reference answer; order_effect is given if the benchmark fixes it
    category: str  # by which the benchmark reports accuracy
    columns: Mapping[str, object]  # additional columns that its prompt and rules need


class Score(NamedTuple):
    """The score of one response."""

    correct: float  # 1 or 0; fractional if a benchmark scores the parts of a question
    extracted: str | None  # the extracted answer; None if there is none


def names() -> list[str]:
    """Names of the known benchmarks."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> ModuleType:
    """Returns the benchmark of that name; InputError, listing the known names, if there is none."""
    if name not in names():
        raise InputError(f"unknown benchmark {name!r}; known are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
