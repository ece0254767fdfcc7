"""Training runs side by side: `python -m perl_jax.report --workdir GRPO=DIR --workdir PeRL=DIR --out report.html`.

Prints one Markdown table of held-out figures with intervals, and the last named run against each other one; writes it
as report.md beside one self-contained HTML page with learning curves, the questions whose answers changed, some
rollouts, and what each run was started with. What a run has not written yet is left out.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags, logging

from models.errors import InputError
from perl_jax import statistics

FLAGS = flags.FLAGS
EVALUATION = re.compile(r"(.+)-(\d{8,})\.jsonl")
ROW_KEYS = {"id", "source", "order", "canonical", "images", "text", "answer", "meaning", "correct"}
GROUP_KEYS = ("orders", "questions", "responses", "rewards", "advantages")
COLUMNS = {"canonical": "canonical accuracy", "permuted": "permuted accuracy", "worst": "worst order",
           "flip": "flip rate", "single": "single-image accuracy"}  # fmt: skip
COMPARED = ("canonical", "permuted", "flip")
CURVES = (  # (title, stage, metric)
    ("reward in training", "perl", "reward/mean"),
    ("accuracy in training", "perl", "reward/accuracy"),
    ("probability of a permuted order", "perl", "permute/probability"),
    ("entropy, nats a token", "perl", "update/entropy"),
    ("response length, tokens", "perl", "response/length_mean"),
    ("truncated responses", "perl", "response/truncated"),
    ("advantages that are 0", "perl", "advantage/zero_share"),
    ("KL to the reference, nats a token", "perl", "update/kl"),
    ("gradient norm", "perl", "update/grad_norm"),
    ("loss of the warm-up", "warmup", "update/loss"),
)
COLOURS = ("#0b5fb3", "#d55e00", "#009e73", "#a4508b", "#8a6d00", "#4a4a4a", "#56b4e9")
CHANGED_SHOWN, GROUPS_SHOWN, WORDS_SHOWN = 8, 3, 500  # questions a kind of change, groups a run, characters a text


class Run(NamedTuple):
    """What a training run left in its directory; empty where it has not written that yet."""

    name: str
    starts: list[dict]  # run.json
    metrics: dict[tuple[str, int], dict[str, float]]  # (stage, step): all that was said of it, the later word wins
    evaluations: dict[str, dict[int, list[dict]]]  # set: step: prediction rows
    groups: list[dict]  # some of rollouts.jsonl

    def last(self, name: str) -> tuple[int, list[dict]]:
        """Step and prediction rows of a set's last evaluation; (0, []) without any."""
        return max(self.evaluations.get(name, {}).items(), default=(0, []))

    @property
    def seconds(self) -> float:
        """Time of all steps, evaluations and starts not counted; NaN without any."""
        return sum(self.values("time/total").values()) or math.nan

    def values(self, metric: str, stage: str | None = None) -> dict[tuple[str, int], float]:
        """The finite values of a metric by (stage, step), in the order of steps."""
        found = {key: said.get(metric) for key, said in sorted(self.metrics.items(), key=lambda item: item[0][1])
                 if stage in (None, key[0])}  # fmt: skip
        return {key: value for key, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}


class Table(NamedTuple):
    """A table of texts, for Markdown and for HTML."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


class Section(NamedTuple):
    """The figures of one held-out set."""

    title: str
    figures: Table
    differences: Table
    notes: list[str]


# Reading


def parse_workdirs(items: Sequence[str]) -> dict[str, Path]:
    """`["PeRL=runs/a", "runs/b"]` as {"PeRL": runs/a, "b": runs/b}. Raises InputError: no directory, a name twice."""
    out = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals or os.path.isdir(item):
            name, path = os.path.basename(os.path.abspath(item)), item
        name = " ".join(name.split())
        if not name or not path:
            raise InputError(f"--workdir={item}: give it as NAME=DIRECTORY or DIRECTORY")
        if not os.path.isdir(path):
            raise InputError(f"--workdir={item}: {path} is not a directory")
        if name in out:
            raise InputError(f"--workdir={item}: the name {name!r} is taken by {out[name]}; give another one, NAME={path}")
        out[name] = Path(path)
    return out


def read_run(name: str, path: Path) -> Run:
    """What lies in a run's directory. Raises InputError for prediction rows of another form."""
    metrics: dict[tuple[str, int], dict[str, float]] = {}
    for line in _lines(path / "metrics.jsonl"):
        if isinstance(line.get("step"), int):
            metrics.setdefault((str(line.get("stage")), line["step"]), {}).update(line)
    evaluations: dict[str, dict[int, list[dict]]] = {}
    for file in sorted((path / "evaluations").glob("*.jsonl")):
        if match := EVALUATION.fullmatch(file.name):
            rows = list(_lines(file))
            if missing := [key for row in rows for key in sorted(ROW_KEYS - row.keys())]:
                raise InputError(f"{file}: not an evaluation, a row has no {missing[0]!r}")
            if rows:
                evaluations.setdefault(match[1], {})[int(match[2])] = rows
    groups = [group for group in _lines(path / "rollouts.jsonl") if all(key in group for key in GROUP_KEYS)]
    spread = sorted({round(i) for i in np.linspace(0, len(groups) - 1, GROUPS_SHOWN)}) if groups else []
    return Run(name, _starts(path / "run.json"), metrics, evaluations, [groups[i] for i in spread])


def _lines(file: Path) -> Iterator[dict]:
    """The objects of a JSON-lines file; lines that a killed run left half-written are skipped and counted."""
    if not file.exists():
        return
    skipped = 0
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if isinstance(value, dict):
                yield value
            else:
                skipped += bool(line.strip())
    if skipped:
        logging.warning("%s: skipped %d unreadable lines", file, skipped)


def _starts(file: Path) -> list[dict]:
    try:
        found = json.loads(file.read_text(encoding="utf-8", errors="replace")) if file.exists() else []
    except ValueError:
        logging.warning("%s: skipped, it is not JSON", file)
        found = []
    return [start for start in found if isinstance(start, dict)] if isinstance(found, list) else []


# Figures


def section(runs: Sequence[Run], name: str) -> Section:
    """The last evaluations of all runs on one held-out set, and the last run against each other one."""
    rows = {run.name: run.last(name)[1] for run in runs}
    found = {run_name: statistics.measures(mine) for run_name, mine in rows.items()}
    key = next((rows[run.name] for run in reversed(runs) if rows[run.name]), [])
    figures = [_figures("chance", statistics.chance(key), math.nan)]
    figures += [_figures(run.name, found[run.name], run.seconds) for run in runs]
    last, others = runs[-1].name, [run.name for run in runs[:-1]]
    differences = [_differences(f"{last} minus {other}", found[last], found[other]) for other in others]
    steps = ", ".join(f"{run.name} {run.last(name)[0]}" for run in runs if rows[run.name])
    asked = {frozenset(statistics.by_question(mine)) for mine in rows.values() if mine}
    notes = [
        f"Set `{name}`, each run's last evaluation (step: {steps}); seconds are those of its training steps.",
        "Permuted accuracy: mean over questions of the share of drawn orders answered right, with Wilson's 95% "
        "interval on the number of questions, not of answers, since the orders of a question are not independent. "
        "Worst order: right in all orders asked. Flip rate: the answer changes with the order (lower is better).",
        "Chance: a guesser that draws from the true answers of the same source, number of images and kind of order.",
    ]
    if others:
        notes.append("Differences are in points, with a 95% bootstrap interval over the questions that both runs were "
                     "asked (10,000 paired resamples); not separated: the interval holds 0.")  # fmt: skip
    if len(asked) > 1:
        notes.append("The runs were not all asked the same questions: rows of the first table differ in questions, too.")
    header = [f"{COLUMNS[key]}, points" for key in COMPARED]
    return Section(name, Table(["", *COLUMNS.values(), "seconds"], figures),
                   Table(["", "questions", *header], differences), notes)  # fmt: skip


def _figures(name: str, measures: Mapping, seconds: float) -> list[str]:
    cells = {key: _percent(statistics.proportion(values).mean) for key, values in measures.items()}
    permuted = statistics.proportion(measures["permuted"])
    if permuted.questions and measures["flip"]:  # chance is a figure without an interval
        cells["permuted"] += f" [{100 * permuted.low:.1f}, {100 * permuted.high:.1f}] of {permuted.questions}"
    return [name, *(cells[key] for key in COLUMNS), "–" if math.isnan(seconds) else f"{seconds:,.0f}"]


def _differences(name: str, last: Mapping, other: Mapping) -> list[str]:
    found = [statistics.difference(last[key], other[key]) for key in COMPARED]
    return [name, str(max(estimate.questions for estimate in found)), *map(_points, found)]


def _points(estimate: statistics.Estimate) -> str:
    if not estimate.questions:
        return "–"
    mean, low, high = (100 * x + 0.0 for x in estimate[:3])
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" + ("" if estimate.separated else ", not separated")


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}%"


def markdown(sections: Sequence[Section]) -> str:
    """The sections as Markdown: tables, then what their words mean."""
    parts = []
    for part in sections:
        parts += [f"## {part.title}"] if len(sections) > 1 else []
        parts += [part.figures.markdown()] + ([part.differences.markdown()] if part.differences.rows else [])
        parts += part.notes
    return "\n\n".join(parts) + "\n"
