"""Comparison of training runs for the report: reads their workdirs, and renders a section of the page.

It shows held-out figures with intervals, learning curves, the questions whose answers changed from the first run to the
last, some rollouts, and how each run was started. Files that a run has not written yet are skipped.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from models.errors import InputError
from perl_jax.evaluation import statistics, verdict
from perl_jax.runtime import files, html, logs
from perl_jax.runtime.html import COLOURS, Html, clipped, concat, dim, element, folded, note, table, text_cell

EVALUATION = re.compile(r"(.+)-(\d{8,})\.jsonl")
ROW_KEYS = {"id", "source", "order", "original", "images", "text", "answer", "meaning", "correct"}
GROUP_KEYS = ("orders", "questions", "responses", "rewards", "advantages")
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
    ("log-prob of the answers in the warm-up", "warmup", "update/logprob"),
)
CHANGED_SHOWN, GROUPS_SHOWN = 8, 3  # questions per kind of change, groups per run
STYLE = """
.runs-last tr:last-child td { font-weight: 600; }
.legend + p.note { margin-bottom: 1rem; }
p.verdict { font-size: 1.15rem; max-width: 50rem; }
"""


class Run(NamedTuple):
    """Contents of a training run's workdir; empty where not written yet."""

    name: str
    starts: list[dict]  # run.json
    metrics: dict[tuple[str, int], dict[str, float]]  # (stage, step): all metrics logged for it, later values win
    evaluations: dict[str, dict[int, list[dict]]]  # set: step: prediction rows
    groups: list[dict]  # a sample of rollouts.jsonl

    def result(self, name: str) -> statistics.Result:
        """A set's last evaluation, without rows if there is none; seconds are the sum over all steps, or NaN."""
        step, rows = max(self.evaluations.get(name, {}).items(), default=(0, []))
        return statistics.Result(self.name, step, rows, sum(self.values("time/total").values()) or math.nan)

    def values(self, metric: str, stage: str | None = None) -> dict[tuple[str, int], float]:
        """The finite values of a metric by (stage, step), in step order."""
        values = {
            key: logged.get(metric)
            for key, logged in sorted(self.metrics.items(), key=lambda item: item[0][1])
            if stage in (None, key[0])
        }
        return {key: value for key, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}


def read(name: str, path: Path) -> Run:
    """Reads a run's workdir. Raises InputError for prediction rows of another format."""
    metrics: dict[tuple[str, int], dict[str, float]] = {}
    for line in files.json_lines(path / "metrics.jsonl"):
        if isinstance(line.get("step"), int):
            metrics.setdefault((str(line.get("stage")), line["step"]), {}).update(line)
    evaluations: dict[str, dict[int, list[dict]]] = {}
    for file in sorted((path / "evaluations").glob("*.jsonl")):
        if (match := EVALUATION.fullmatch(file.name)) and (rows := predictions(file)):
            evaluations.setdefault(match[1], {})[int(match[2])] = rows
    groups = [group for group in files.json_lines(path / "rollouts.jsonl") if all(key in group for key in GROUP_KEYS)]
    spread = sorted({round(i) for i in np.linspace(0, len(groups) - 1, GROUPS_SHOWN)}) if groups else []
    return Run(name, _starts(path), metrics, evaluations, [groups[i] for i in spread])


def predictions(file: Path) -> list[dict]:
    """The rows of an evaluation. Raises InputError for rows of another format."""
    return files.rows(file, ROW_KEYS, "an evaluation")


def _starts(path: Path) -> list[dict]:
    try:
        return logs.starts(path)
    except InputError as error:
        logging.warning("skipped: %s", error)
        return []


def sections(runs: Sequence[Run]) -> list[statistics.Section]:
    """The held-out figures, one section per set."""
    return [statistics.section(name, [run.result(name) for run in runs]) for name in _sets(runs)]


def markdown(runs: Sequence[Run]) -> str:
    """The verdict and the held-out figures as Markdown."""
    all_sections = sections(runs)
    if not all_sections:
        return "No evaluation yet.\n"
    return "\n\n".join([*(f"**{text}**" for text in _verdicts(runs)), statistics.markdown(all_sections)])


def opening(runs: Sequence[Run]) -> list[Html]:
    """What the page begins with: the verdict, and accuracy in the original order against that in others."""
    drawn = [plot for name in _sets(runs) if (plot := verdict.plot([run.result(name) for run in runs]))]
    if not drawn:
        return []
    figures = [element("figure", element("figcaption", "accuracy in one order and in others, 95% intervals"), *drawn)]
    told = [element("p", text, class_="verdict") for text in _verdicts(runs)]
    return [*told, html.legend([run.name for run in runs]), element("div", *figures, class_="plots")]


def _verdicts(runs: Sequence[Run]) -> list[str]:
    texts = {name: verdict.sentence([run.result(name) for run in runs]) for name in _sets(runs)}
    several = len(texts) > 1
    return [f"{name}: {text}" if several else text for name, text in texts.items() if text]


def _sets(runs: Sequence[Run]) -> list[str]:
    return sorted({name for run in runs for name in run.evaluations})


def body(runs: Sequence[Run]) -> list[Html]:
    """The section of the HTML report."""
    held_out, out = sections(runs), []
    for part in held_out:
        out += [element("h2", "Held-out figures" + f": {part.title}" * (len(held_out) > 1))]
        out += [table(*part.figures, "figures runs-last"), table(*part.differences, "figures")]
        out += map(note, part.notes)
    if plots := _curves(runs):
        out += [
            element("h2", "Learning curves"),
            html.legend([run.name for run in runs]),
            note("Training curves are running means over a twentieth of the run, around each step; faint: every step."),
            element("div", *plots, class_="plots"),
        ]
    for part in held_out if len(runs) > 1 else ():
        out += _changes(runs[0], runs[-1], part.title)
    if any(run.groups for run in runs):
        out.append(element("h2", "Rollouts"))
    for run in reversed(runs):
        out += [_group(run.name, group) for group in run.groups]
    return [*out, element("h2", "How the runs were started"), *(_provenance(run) for run in runs)]


def _curves(runs: Sequence[Run]) -> list[Html]:
    """A plot of each held-out measure and of each metric that any run has."""
    panels = []
    names = _sets(runs)
    for name in names:
        at = [
            {step: statistics.measures(rows) for step, rows in sorted(run.evaluations.get(name, {}).items())}
            for run in runs
        ]
        for key in ("permuted", "accuracy", "flip"):
            lines = [
                {step: statistics.proportion(measures[key]).mean for step, measures in by_step.items() if measures[key]}
                for by_step in at
            ]
            panels.append((f"{statistics.COLUMNS[key]}, held out" + f" ({name})" * (len(names) > 1), lines, "o"))
    for title, stage, metric in CURVES:
        lines = [{step: y for (_, step), y in run.values(metric, stage).items()} for run in runs]
        panels.append((title, lines, ""))
    return [
        element("figure", element("figcaption", title), _plot(lines, marker))
        for title, lines, marker in panels
        if any(lines)
    ]


def _plot(lines: Sequence[Mapping[int, float]], marker: str) -> Html:
    """One line per run over steps: with a marker as it is; else a running mean over a faint line."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(4.2, 2.6), layout="constrained")
    axes = figure.subplots()
    for i, line in enumerate(lines):
        steps, values = list(line), np.array(list(line.values()))
        style = {"color": COLOURS[i % len(COLOURS)], "linewidth": 2.2 if i == len(lines) - 1 else 1.5}
        half = 0 if marker else len(values) // 40
        if half:
            axes.plot(steps, values, color=style["color"], alpha=0.2, linewidth=0.8)
            window = 2 * half + 1
            steps, values = steps[half:-half], np.convolve(values, np.full(window, 1 / window), "valid")
        axes.plot(steps, values, marker=marker or "." * (len(values) < 10), markersize=4, **style)
    axes.ticklabel_format(useOffset=False)
    if marker:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=9)
    return html.plot(figure)


def _changes(first: Run, last: Run, name: str) -> list[Html]:
    """The questions whose correctness changed from `first` to `last`, at most `CHANGED_SHOWN` of each kind."""
    changed = statistics.changed(last.result(name).rows, first.result(name).rows)
    if not any(changed):
        return []
    kinds = {
        "right in more orders": changed.gained,
        "right in fewer orders": changed.lost,
        "right in as many orders, but in others": changed.mixed,
    }
    out = [element("h2", f"Questions that changed from {first.name} to {last.name}", dim(f" {name}"))]
    for kind, pairs in kinds.items():
        shown = f", the first {CHANGED_SHOWN}" if len(pairs) > CHANGED_SHOWN else ""
        parts = []
        for old, new in pairs[:CHANGED_SHOWN]:
            rows = [
                [
                    _order(b["order"]),
                    text_cell(b["answer"]),
                    *(text_cell(row["text"], row["correct"]) for row in (a, b)),
                ]
                for a, b in zip(old, new)
            ]
            header = ["order", "true answer", first.name, last.name]
            parts += [element("h3", f"{new[0]['id']} ", dim(new[0]["source"])), table(header, rows, "words")]
        if pairs:
            out.append(folded(f"{last.name} is {kind}: {len(pairs)}{shown}", *parts))
    return out


def _group(name: str, group: Mapping) -> Html:
    """One group of rollouts, one row each; colour and opacity show the sign and size of the advantage."""
    rows = []
    try:
        strongest = max(abs(a) for row in group["advantages"] for a in row) or 1.0
        for order, question, *parts in zip(*(group[key] for key in GROUP_KEYS)):
            heading = f"order {_order(order)}\n{clipped(question)}"
            rows.append([element("td", heading, colspan="3", class_="text dim")])
            for text, reward, advantage in zip(*parts):
                colour = "26,152,80" if advantage > 0 else "215,48,39"
                style = f"background:rgba({colour},{0.45 * abs(advantage) / strongest:.2f})"
                numbers = (element("td", f"{x:.2f}", class_="number", style=style) for x in (reward, advantage))
                rows.append([element("td", clipped(text), class_="text", style=style), *numbers])
    except (TypeError, ValueError):
        rows = [["this group could not be read"]]
    title = f"{name}, step {group.get('step', '–')}: {group.get('id', '')}"
    return folded(title, table(["response", "reward", "advantage"], rows, "words"))


def _provenance(run: Run) -> Html:
    """The details of each start of a run: command, commit, versions, device, and its config."""
    parts = []
    for start in run.starts:
        command = start.get("command", "–")
        tree = {True: "", False: ", with uncommitted changes"}.get(start.get("clean"), ", unknown whether clean")
        facts = {
            "command": " ".join(map(str, command)) if isinstance(command, list) else command,
            "commit": f"{start.get('commit') or 'unknown'}{tree}",
        }
        facts |= {key: value for key, value in start.items() if key not in {*facts, "config", "clean"}}
        if isinstance(facts.get("versions"), dict):
            facts["versions"] = ", ".join(f"{key} {value}" for key, value in facts["versions"].items())
        rows = [
            [key, text_cell(value if isinstance(value, str) else json.dumps(value))] for key, value in facts.items()
        ]
        config = element("pre", json.dumps(start.get("config"), indent=1))
        parts += [table(["", ""], rows, "words"), folded("config", config)]
    starts = f"{len(run.starts)} start" + "s" * (len(run.starts) != 1) if run.starts else "no run.json"
    return folded(concat(f"{run.name} ", dim(starts)), *parts)


def _order(order: Sequence[int]) -> str:
    """Indices of the original images, from 1, as in the questions."""
    return " ".join(str(i + 1) for i in order)
