"""Comparison of several models' benchmark results, with published figures: tables, and a section of the HTML report.

`perl_jax.report` writes both. Nothing is recomputed: accuracies and consistency come from each results.json. The last
named model is compared with each other one by `figures.compare_with`, on the answers themselves.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.errors import InputError
from perl_jax.evaluation import examples, plots, published
from perl_jax.evaluation.consistency import COMPARED, by_question
from perl_jax.evaluation.figures import compare_with
from perl_jax.evaluation.results import Key, Model, Result
from perl_jax.evaluation.statistics import Estimate, Table, difference, p_value, percent, points
from perl_jax.runtime import html
from perl_jax.runtime.html import Html, element, folded, note, table, text_cell

PARTIAL = "†"
_UNBROKEN = re.compile(rf"(?<=\d,) (?=[-+\d])| (?=\[\d+\]|{PARTIAL})")  # spaces in "[1.0, 2.0]", "70.80 [1]", "20 †"
STYLE = (
    """
.compact td:not(:first-child) { white-space: normal; min-width: 5.2rem; }
"""
    + examples.STYLE
)


class Section(NamedTuple):
    """A table with explanatory notes."""

    title: str
    table: Table
    notes: list[str]


def keys(models: Sequence[Model]) -> list[Key]:
    """All (benchmark, protocol) pairs that any model has: the paper's benchmarks in its order, then others."""
    place = {name: i for i, name in enumerate(published.BENCHMARKS)}
    result_keys = {key for model in models for key in model.results}
    return sorted(result_keys, key=lambda key: (key[1], place.get(key[0], len(place)), key))


def sections(models: Sequence[Model]) -> list[Section]:
    """The tables that have rows."""
    all_sections = [_accuracy(models), _printed(models), _consistency(models), *_differences(models)]
    return [section for section in all_sections if section.table.rows]


def markdown(models: Sequence[Model]) -> str:
    """All tables, with their notes."""
    parts = [[f"## {part.title}", part.table.markdown(), *part.notes] for part in sections(models)]
    return "\n\n".join(text for part in parts for text in part) + "\n"


def body(models: Sequence[Model]) -> list[Html]:
    """The section of the HTML report: tables, plots and example questions."""
    out = []
    for part in sections(models):
        rows = [[_UNBROKEN.sub("\N{NO-BREAK SPACE}", cell) for cell in row] for row in part.table.rows]
        out += [element("h2", part.title), table(part.table.header, rows, "figures compact"), *map(note, part.notes)]
    out += [
        element("h2", "Plots"),
        html.legend([model.name for model in models]),
        element("div", *plots.figures(models, keys(models)), class_="plots"),
    ]
    cards = {key: examples.cards(models, key) for key in keys(models) if key in models[-1].results}
    if any(cards.values()):
        out.append(element("h2", "Example questions"))
    for key, questions in cards.items():
        out += [element("h3", ", ".join(key)), *questions] if questions else []
    return [*out, element("h2", "How the results were made"), *map(_provenance, models)]


# Accuracy


def _accuracy(models: Sequence[Model]) -> Section:
    columns = keys(models)
    means = _means(models, columns)
    rows = []
    for model in models:
        results = {key: model.results.get(key) for key in columns}
        average = [_mean([results[key] for key in mean]) for mean in means.values()]
        rows.append([model.name, *map(_cell, results.values()), *average])
    for other in published.MODELS:
        cells = [_figures(other, key[0]) for key in columns]
        average = [f"{other.computed([name for name, _ in mean]):.2f}" for mean in means.values()]
        if any(cell != "–" for cell in cells):
            rows.append([f"{other.name}, as printed", *cells, *average])
    header = ["", *(", ".join(key) for key in columns), *(f"mean, {protocol}" for protocol in means)]
    notes = [
        "Accuracy as each benchmark reports it, over questions or as the mean over its categories, with a 95% "
        "interval. boxed: reason, then box, as in training; official: the benchmark's own prompt and rules."
    ]
    if any(model.results[key].facts.get("partial") for model in models for key in model.results):
        notes.append(f"{PARTIAL} part of the benchmark: not comparable with published figures.")
    notes += [
        f"Mean, {protocol}: over {', '.join(name for name, _ in mean)}, which all rows of ours have, each "
        "benchmark counting the same."
        for protocol, mean in means.items()
    ]
    if len(rows) > len(models):
        notes.append(
            "As printed: the same figures appear under each protocol, since neither prompt nor judge is stated; of "
            "a cell's figures the first counts in the mean. The numbers are those of the sources below."
        )
    return Section("Accuracy", Table(header, rows), [*notes, *_differing_settings(models, columns)])


def _means(models: Sequence[Model], columns: Sequence[Key]) -> dict[str, list[Key]]:
    """By protocol, the paper's benchmarks that all models have, if there are at least two."""
    groups: dict[str, list[Key]] = {}
    for key in columns:
        if key[0] in published.BENCHMARKS and all(key in model.results for model in models):
            groups.setdefault(key[1], []).append(key)
    return {protocol: group for protocol, group in groups.items() if len(group) > 1}


def _cell(result: Result | None) -> str:
    if result is None or not result.headline.questions:
        return "–"
    mark = f" {PARTIAL}" * bool(result.facts.get("partial"))
    return f"{percent(result.headline)} of {result.headline.questions:,}{mark}"


def _mean(results: Sequence[Result]) -> str:
    mark = f" {PARTIAL}" * any(result.facts.get("partial") for result in results)
    return f"{100 * float(np.mean([result.headline.mean for result in results])):.1f}%{mark}"


def _figures(model: published.Model, benchmark: str) -> str:
    return " or ".join(map(_sourced, model.cells.get(benchmark, ()))) or "–"


def _sourced(figure: published.Figure) -> str:
    """The figure with the number of its source."""
    return f"{figure} [{1 + list(published.SOURCES).index(figure.source)}]"


def _printed(models: Sequence[Model]) -> Section:
    """The full published table, with its means as printed and recomputed; no rows if it has none of our benchmarks."""
    shown = published.MODELS if any(name in published.BENCHMARKS for name, _ in keys(models)) else ()
    rows = [
        [
            model.name,
            *(_figures(model, name) for name in published.BENCHMARKS),
            _sourced(model.mean),
            f"{model.computed():.2f}",
        ]
        for model in shown
    ]
    header = ["", *published.BENCHMARKS.values(), "mean, printed", "mean of the cells"]
    notes = [
        "Mean of the cells: of the first figure of each. A row trained by GRPO alone is not printed there.",
        *(f"[{number}] {source}." for number, source in enumerate(published.SOURCES.values(), start=1)),
    ]
    return Section("As printed elsewhere", Table(header, rows), notes)


def _differing_settings(models: Sequence[Model], columns: Sequence[Key]) -> list[str]:
    """The settings that differ between models, one line per benchmark and protocol."""
    lines = []
    for key in columns:
        facts = {model.name: _settings(model.results[key].facts) for model in models if key in model.results}
        names = dict.fromkeys(name for settings in facts.values() for name in settings)
        differing = {
            name: [f"{model} {html.clipped(settings.get(name, 'not set'))}" for model, settings in facts.items()]
            for name in names
            if len({json.dumps(settings.get(name, "not set")) for settings in facts.values()}) > 1
        }
        if differing:
            text = "; ".join(f"{name} ({', '.join(values)})" for name, values in differing.items())
            lines.append(" ".join(f"Not the same for all in {', '.join(key)}: {text}.".split()))
    return lines


def _settings(facts: Mapping) -> dict[str, object]:
    """Everything but the model that affects a figure, by name, with the parts of the prompt listed separately."""
    settings = dict(facts["settings"]) if isinstance(facts.get("settings"), dict) else {}
    settings.pop("model", None)
    prompt = settings.pop("prompt", {})
    parts = {f"prompt's {name}": value for name, value in prompt.items()} if isinstance(prompt, dict) else {}
    judge = facts["judge"].get("model") if isinstance(facts.get("judge"), dict) else "none"
    return {**settings, **parts, "questions": facts["figures"].get("questions"), "judge": judge}


# Consistency and differences


def _consistency(models: Sequence[Model]) -> Section:
    rows, greedy = [], False
    for key in keys(models):
        for model in models:
            figures = model.results[key].consistency if key in model.results else None
            if figures:
                greedy |= not figures["control"]["drawn"]
                rows.append([model.name, ", ".join(key), *_orders(figures)])
    header = [
        "",
        "benchmark",
        "questions",
        "accuracy",
        "permuted accuracy",
        "consistent accuracy",
        "flip rate",
        "flip rate, original order again",
        "flips by the order, points",
        "best place, points",
        "worst place, points",
    ]
    notes = [
        "Questions asked in several orders of their images. Flip rate: the answers, brought back to the "
        "question's original order, are not all the same (lower is better); original order again: as often as there "
        "are orders, but without moving anything, so that the difference is what the order does.",
        "Place: of the one image that decides the answer; accuracy there minus the same questions' mean over "
        "their orders. The best of several places lies above 0 by chance alone: see the interval.",
    ]
    if greedy:
        notes.append("Where answers are greedy, asking again would change nothing: the flip rate is 0 by construction.")
    return Section("Consistency under permutation", Table(header, rows), notes)


def _orders(figures: Mapping) -> list[str]:
    measures = [figures[name] for name in ("accuracy", "permuted", "consistent", "flip")] + [figures["control"]["flip"]]
    return [
        f"{figures['questions']:,}",
        *(percent(Estimate.from_json(measure)) for measure in measures),
        points(Estimate.from_json(figures["difference"]["flip"])),
        *_ends(figures["places"]),
    ]


def _ends(places: Sequence[Mapping]) -> list[str]:
    """The positions at which the decisive image helps most and least."""
    estimates = {place["place"] + 1: Estimate.from_json(place["difference"]) for place in places}
    estimates = {place: estimate for place, estimate in estimates.items() if estimate.questions}
    if len(estimates) < 2:
        return ["–", "–"]
    ends = [pick(estimates, key=lambda place: estimates[place].mean) for pick in (max, min)]
    return [f"image {place}: {points(estimates[place])}" for place in ends]


def _differences(models: Sequence[Model]) -> list[Section]:
    """The last model compared with each other one, in accuracy and in consistency."""
    *others, last = models
    accuracy, orders = [], []
    for other in others:
        name = f"{last.name} minus {other.name}"
        for key in (key for key in keys(models) if key in last.results and key in other.results):
            ours, theirs = last.results[key], other.results[key]
            accuracy.append([name, ", ".join(key), *_compared(ours.rows, theirs.rows)])
            if ours.consistency and theirs.consistency:
                orders.append([name, ", ".join(key), *_in_orders(ours, theirs)])
    header = [
        "",
        "benchmark",
        "questions of both",
        "only the first is right",
        "only the second",
        "McNemar's p",
        "difference, points",
    ]
    notes = [
        "Questions that both were asked in their original order. McNemar's exact two-sided test on the first response "
        "of each, each comparison for itself. The difference in accuracy is over questions, also where the "
        "accuracy above is a mean over categories, with a 95% paired bootstrap interval; not separated: it holds "
        "0."
    ]
    compared = ["", "benchmark", "questions of both", *(f"{words}, points" for words in COMPARED.values())]
    words = [
        "Questions that both were asked in the same orders, with 95% paired bootstrap intervals. Of the flip rate "
        "less is better."
    ]
    return [
        Section("Differences", Table(header, accuracy), notes),
        Section("Differences in consistency", Table(compared, orders), words),
    ]


def _in_orders(ours: Result, theirs: Result) -> list[str]:
    first, second = (by_question(result.rows, result.facts["figures"]["samples"]) for result in (ours, theirs))
    differences = [difference(first[measure], second[measure]) for measure in COMPARED]
    return [f"{differences[0].questions:,}", *map(points, differences)]


def _compared(rows: Sequence, other_rows: Sequence) -> list[str]:
    try:
        figures = compare_with(rows, other_rows)
    except InputError:  # no shared question
        return ["0", "–", "–", "–", "–"]
    return [
        *(f"{figures[name]:,}" for name in ("questions", "first_only", "second_only")),
        p_value(figures["p"]),
        points(Estimate.from_json(figures["difference"])),
    ]


def _provenance(model: Model) -> Html:
    """The recorded settings of each of a model's results."""
    rows = [
        [
            ", ".join(key),
            *(text_cell(_as_text(result.facts.get(name))) for name in ("model", "data", "settings", "time")),
        ]
        for key, result in sorted(model.results.items())
    ]
    return folded(model.name, table(["", "model", "data", "settings", "time"], rows, "words"))


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
