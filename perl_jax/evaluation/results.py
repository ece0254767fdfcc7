"""The files that `perl_jax.evaluate` writes, and how they are read: a model's results on any number of benchmarks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from models.errors import InputError, one_line
from perl_jax.evaluation.consistency import Row
from perl_jax.evaluation.statistics import Estimate
from perl_jax.runtime import files

PREDICTIONS, SCORES, JUDGE = "predictions.jsonl", "scores.jsonl", "judge.jsonl"
RESULTS, PAGE = "results.json", "results.md"
ROW_KEYS = {"id", "role", "order", "shown", "question", "answer", "texts", "correct", "extracted", "meaning"}

Key = tuple[str, str]  # benchmark and protocol


def folder_name(benchmark: str, protocol: str) -> str:
    """The folder of a benchmark's files in OUT."""
    return f"{benchmark}-{protocol}"


class Question(NamedTuple):
    """A model's responses to one question, in all orders asked."""

    orders: list[Row]  # original order first
    control: Row | None  # original order, sampled again

    @property
    def original(self) -> Row:
        return self.orders[0]


class Result(NamedTuple):
    """A model's result on one benchmark under one protocol."""

    facts: Mapping[str, object]  # results.json
    rows: Sequence[Row]

    @property
    def key(self) -> Key:
        return tuple(" ".join(str(self.facts[name]).split()) for name in ("benchmark", "protocol"))

    @property
    def headline(self) -> Estimate:
        """Accuracy as the benchmark reports it, over questions or as the mean over categories."""
        figures = self.facts["figures"]
        return Estimate.from_json(figures[figures["headline"]])

    @property
    def consistency(self) -> Mapping | None:
        """The figures of `evaluation.consistency`; None if questions were asked in one order only."""
        return self.facts.get("consistency")

    def questions(self) -> dict[str, Question]:
        """The questions by id, in file order; those without their original order are skipped."""
        groups: dict[str, dict[str, list[Row]]] = {}
        for row in self.rows:
            groups.setdefault(str(row["id"]), {}).setdefault(str(row["role"]), []).append(row)
        return {
            id_: Question(
                [by_role["original"][0], *sorted(by_role.get("permuted", ()), key=lambda row: row["order"])],
                by_role.get("control", [None])[0],
            )
            for id_, by_role in groups.items()
            if "original" in by_role
        }


class Model(NamedTuple):
    """A model's results."""

    name: str
    results: dict[Key, Result]


def read(name: str, directory: Path) -> Model:
    """Reads the results in `directory/<benchmark>-<protocol>/`; incomplete lines are skipped.

    Raises:
        InputError: no results there, files of another format, or the same benchmark and protocol twice.
    """
    results: dict[Key, Result] = {}
    for file in sorted(directory.glob(f"*/{RESULTS}")):
        result = _result(file)
        if result.key in results:
            raise InputError(f"{file}: {' '.join(result.key)} is in {directory} twice; move one of them away")
        results[result.key] = result
    if not results:
        raise InputError(
            f"{directory} holds no results (<benchmark>-<protocol>/results.json); "
            f"python -m perl_jax.evaluate --out={directory} writes them"
        )
    return Model(name, results)


def _result(file: Path) -> Result:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        result = Result(facts, files.rows(file.with_name(SCORES), ROW_KEYS, "the scores of an evaluation"))
        _ = result.key, result.headline
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file}: not the results of an evaluation ({one_line(error, kind=True)}); "
            "evaluate again; responses already generated are kept"
        ) from error
    return result
