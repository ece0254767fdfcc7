"""EVIDENCE.md and its plots, from the lines of evidence.jsonl: pure functions but for `write`.

An interval is of a mean over seeds. Each seed has data, warm-up and held-out questions of its own, and all arms of a
seed share them: so the spread between seeds holds that of the questions too, and differences between arms are paired by
seed. Few seeds tell little of a spread: it is pooled over all arms and sizes (as in an analysis of variance), with
Student's t for the degrees of freedom that it then has.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perl_jax.evaluation.statistics import Estimate, Table, points
from perl_jax.runtime.html import COLOURS

Cell = tuple[str, int]  # an arm, and how many questions it trained on
BySeed = Mapping[int, float]

NAMES = {
    "warm-up": "warm-up",
    "grpo": "GRPO",
    "shuffle-once": "GRPO, data shuffled once",
    "shuffle-fresh": "GRPO, a new order at each draw",
    "shuffle-half": "GRPO, a new order at half of the draws",
    "perl": "PeRL, linear decay (the paper's)",
    "perl-cosine": "PeRL, cosine decay",
    "perl-rising": "PeRL, rising",
    "perl-adaptive": "PeRL, linear decay, adaptive",
    "perl-constant": "PeRL, constant p = 1",
    "perl-constant-order": "PeRL, constant, advantages per order",
    "perl-constant-both": "PeRL, constant, advantages pooled plus per order",
    "perl-constant-times": "PeRL, constant, reward times the other order's",
    "perl-constant-plus": "PeRL, constant, reward plus the other order's",
    "perl-constant-drawn": "PeRL, constant, no original order",
    "perl-constant-3": "PeRL, constant, n_s = 3",
    "perl-constant-gspo": "PeRL, constant, GSPO",
    "perl-constant-cispo": "PeRL, constant, CISPO",
    "perl-constant-sapo": "PeRL, constant, SAPO",
    "perl-constant-refill": "PeRL, constant, silent groups drawn again",
}
COLUMNS = {
    "accuracy": "accuracy",
    "permuted": "permuted accuracy",
    "consistent": "right in all orders",
    "drawn_flip": "flips",
    "drawn_control_flip": "flips, same order",
    "single": "single-image",
    "silent": "advantages that are 0",
}
BASE = "perl-constant"  # what the options of a group are compared with
COMPARED = (
    ("perl-constant", "grpo"),
    ("perl-constant", "shuffle-once"),
    ("perl-constant", "shuffle-fresh"),
    ("perl-constant", "perl"),
    ("perl", "grpo"),
)
LOG = "## Tried and dropped"  # written by hand; kept


class Spread(NamedTuple):
    """A standard deviation between seeds, pooled over cells."""

    deviation: float
    freedom: int


def by_cell(lines: Sequence[Mapping], measure: str) -> dict[Cell, dict[int, float]]:
    """{(arm, questions): {seed: value}}; a measure of drawn answers is `drawn_NAME`."""
    cells: dict[Cell, dict[int, float]] = {}
    for line in lines:
        flat = {**line, **{f"drawn_{name}": x for name, x in line["drawn"].items()}}
        flat["silent"] = float(np.mean(line["curves"]["silent"] or [math.nan]))
        cells.setdefault((line["arm"], line["questions"]), {})[line["seed"]] = flat[measure]
    return cells


def minus(values: BySeed, others: BySeed) -> dict[int, float]:
    """Differences of the seeds that both have."""
    return {seed: value - others[seed] for seed, value in values.items() if seed in others}


def spread(cells: Sequence[BySeed]) -> Spread:
    """The standard deviation within cells; NaN where no cell has two seeds."""
    freedom = sum(max(0, len(values) - 1) for values in cells)
    squares = sum(float(np.var(list(values.values()))) * len(values) for values in cells if values)
    return Spread(math.sqrt(squares / freedom) if freedom else math.nan, freedom)


def estimate(values: BySeed, of: Spread) -> Estimate:
    """The mean over seeds with its 95% interval, which is NaN where the spread is; `questions` counts seeds."""
    from scipy.stats import t

    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = float(np.mean(list(values.values())))
    half = float(t.ppf(0.975, of.freedom)) * of.deviation / math.sqrt(len(values)) if of.freedom else math.nan
    return Estimate(mean, mean - half, mean + half, len(values))


def differences(lines: Sequence[Mapping], measure: str, base: str, arms: Sequence[str]) -> dict[Cell, Estimate]:
    """The difference of each arm to the arm `base` on as many questions, paired by seed."""
    cells = by_cell(lines, measure)
    pairs = {
        cell: minus(values, cells.get((base, cell[1]), {}))
        for cell, values in cells.items()
        if cell[0] in arms and cell[0] != base
    }
    of = spread(list(pairs.values()))
    return {cell: estimate(values, of) for cell, values in pairs.items()}


def share(value: Estimate) -> str:
    """In percent with half of its interval."""
    if not value.questions:
        return "–"
    half = 100 * (value.high - value.mean)
    return "–" if math.isnan(value.mean) else f"{100 * value.mean:.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}")


def difference(value: Estimate) -> str:
    """In points with its interval; of one seed without."""
    return f"{100 * value.mean:+z.1f}, one seed" if math.isnan(value.low) else points(value)


def figures_table(lines: Sequence[Mapping], questions: int, arms: Sequence[str]) -> str:
    """All measures of the arms that trained on so many questions, and of the warm-up."""
    columns = {name: by_cell(lines, name) for name in COLUMNS}
    spreads = {name: spread(list(cells.values())) for name, cells in columns.items()}
    seconds = by_cell(lines, "step_seconds")
    rows = []
    for arm in ("warm-up", *arms):
        keys = [cell for cell in columns["accuracy"] if cell[0] == arm and (arm == "warm-up" or cell[1] == questions)]
        for cell in keys:
            values = [share(estimate(columns[name][cell], spreads[name])) for name in COLUMNS]
            rows.append([NAMES[arm], str(len(seconds[cell])), *values, f"{np.mean(list(seconds[cell].values())):.2f}"])
    return Table(["", "seeds", *COLUMNS.values(), "s a step"], rows).markdown()


def differences_table(lines: Sequence[Mapping], base: str, arms: Sequence[str]) -> str:
    """The arms minus `base` in both accuracies, by how many questions they trained on."""
    by_measure = {name: differences(lines, name, base, arms) for name in ("accuracy", "permuted", "consistent")}
    rows = [
        [NAMES[arm], f"{questions:,}", *(difference(values[arm, questions]) for values in by_measure.values())]
        for questions in sorted({cell[1] for cell in by_measure["accuracy"]})
        for arm in arms
        if (arm, questions) in by_measure["accuracy"]
    ]
    header = [f"minus {NAMES[base]}", "questions", *(f"{COLUMNS[name]}, points" for name in by_measure)]
    return Table(header, rows).markdown()


def verdict(lines: Sequence[Mapping], arm: str, base: str) -> list[str]:
    """One line a size: how an arm does against another one, in both accuracies."""
    by_measure = {name: differences(lines, name, base, [arm]) for name in ("accuracy", "permuted")}
    return [
        f"- {NAMES[arm]} minus {NAMES[base]}, {questions:,} questions: accuracy {difference(accuracy)}; permuted "
        f"accuracy {difference(by_measure['permuted'][arm, questions])}"
        for (_, questions), accuracy in sorted(by_measure["accuracy"].items())
    ]


def frontier(lines: Sequence[Mapping], arms: Sequence[str], file: Path) -> None:
    """Plots permuted accuracy against accuracy in the original order: a panel for each number of questions."""
    from matplotlib.figure import Figure

    cells = {name: by_cell(lines, name) for name in ("accuracy", "permuted")}
    spreads = {name: spread(list(values.values())) for name, values in cells.items()}
    sizes = sorted({questions for arm, questions in cells["accuracy"] if arm in arms})
    figure = Figure(figsize=(max(9.0, 3.1 * len(sizes)), 4.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(sizes), sharex=True, sharey=True))
    for panel, questions in zip(panels, sizes):
        shown = [("warm-up", cell) for cell in cells["accuracy"] if cell[0] == "warm-up"]
        shown += [(arm, (arm, questions)) for arm in arms if (arm, questions) in cells["accuracy"]]
        for arm, cell in shown:
            x, y = (estimate(cells[name][cell], spreads[name]) for name in ("accuracy", "permuted"))
            colour = "#8c959f" if arm == "warm-up" else COLOURS[arms.index(arm) % len(COLOURS)]
            bars = {
                f"{axis}err": None if math.isnan(value.low) else 100 * (value.high - value.mean)
                for axis, value in (("x", x), ("y", y))
            }
            marker = "s" if arm == "warm-up" else "o" if arm.startswith("perl") else "^"
            panel.errorbar(100 * x.mean, 100 * y.mean, fmt=marker, color=colour, label=NAMES[arm], lw=0.8, **bars)
        panel.set_title(f"{questions:,} questions", fontsize=10)
        panel.set_xlabel("accuracy, original order, %")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("permuted accuracy, %")
    labels = dict(zip(*reversed(panels[0].get_legend_handles_labels())))
    figure.legend(labels.values(), labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    _save(figure, file)


def curves(lines: Sequence[Mapping], arms: Sequence[str], questions: int, block: int, file: Path) -> None:
    """Plots the means over seeds of what was logged while the arms trained."""
    from matplotlib.figure import Figure

    titles = {
        "reward": "reward",
        "between": "variance of rewards between orders",
        "within": "variance of rewards within an order",
        "silent": "advantages that are 0",
    }
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, len(titles))
    for panel, (name, title) in zip(panels, titles.items()):
        cells = by_curve(lines, name)
        for arm in arms:
            if (values := cells.get((arm, questions))) is not None:
                steps = block * (np.arange(values.shape[1]) + 0.5)
                panel.plot(steps, values.mean(0), color=COLOURS[arms.index(arm) % len(COLOURS)], label=NAMES[arm])
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    _save(figure, file)


def by_curve(lines: Sequence[Mapping], name: str) -> dict[Cell, np.ndarray]:
    """{(arm, questions): values [seeds, blocks]}"""
    cells: dict[Cell, list] = {}
    for line in lines:
        cells.setdefault((line["arm"], line["questions"]), []).append(line["curves"][name])
    return {cell: np.array(values) for cell, values in cells.items()}


def _save(figure, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def write(lines: Sequence[Mapping], parts: Mapping[str, Sequence[Cell]], missing: int, file: Path, block: int) -> None:
    """Writes the page, with its plots in a folder beside it; the log that was written by hand stays.

    `parts` are the experiments by name, `missing` how many of their runs have no line, `block` the steps that a point
    of a curve is a mean of.
    """
    plots = file.parent / "evidence"
    core = list(dict.fromkeys(arm for arm, _ in parts["core"] if arm != "warm-up"))
    sizes = sorted({questions for arm, questions in parts["core"] if arm != "warm-up"})
    done = [size for size in sizes if any(line["questions"] == size and line["arm"] in core for line in lines)]
    of_core = [line for line in lines if line["arm"] in (*core, "warm-up")]
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    text = [
        "# What permuting teaches, and when it pays",
        told(lines, missing),
        "## Permuting to the end, beside shuffling and the paper's schedule",
        "In points, 95% intervals over seeds:",
        "\n".join(line for pair in COMPARED for line in verdict(of_core, *pair)),
        "![accuracy in the original order against permuted accuracy](evidence/frontier.png)",
        "Triangles: groups of one order; circles: groups of two. Bars: 95% intervals over seeds. `python -m "
        "benchmarks.evidence core`",
    ]
    for size in done:
        text += [f"### {size:,} questions", figures_table(of_core, size, core)]
    text += [
        "Greedy answers, in %; flips: drawn at temperature 1, the answer changes in two other orders, beside the "
        "original order asked as often.",
        "### Differences",
        differences_table(of_core, "grpo", core),
        differences_table(of_core, "shuffle-once", core),
    ]
    if done:
        frontier(of_core, core, plots / "frontier.png")
        middle = done[len(done) // 2]
        curves(of_core, core, middle, block, plots / "curves.png")
        text += [
            "### In training",
            f"![reward, variance between and within orders, silent advantages](evidence/curves.png)\n\nOn {middle:,} "
            "questions; means over seeds.",
        ]
    for name, cells in parts.items():
        arms = [arm for arm, _ in cells]
        if name != "core" and any(line["arm"] in arms for line in lines):
            text += [
                f"## {name}",
                f"`python -m benchmarks.evidence {name}`",
                differences_table([line for line in lines if line["arm"] in (*arms, BASE)], BASE, arms),
            ]
    log = before.partition(LOG)[2].strip() or "Nothing yet."
    file.write_text("\n\n".join([*text, LOG, log]) + "\n", encoding="utf-8")


def told(lines: Sequence[Mapping], missing: int) -> str:
    """Where the lines come from, and how many are missing."""
    machines = ", ".join(sorted({line["machine"] for line in lines}))
    commits = ", ".join(sorted({line["commit"] for line in lines}))
    dates = sorted({line["date"] for line in lines})
    seeds = len({line["seed"] for line in lines})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""
    still = f" {missing} more are not run yet." if missing else ""
    return (
        f"`python -m benchmarks.evidence` wrote this from {len(lines)} runs of {seeds} seed{'s' * (seeds != 1)} on "
        f"{machines}, one core each, {when} (commits {commits}).{still} A run is an arm of `configs/evidence.py`: "
        "the demo's small Qwen2.5-VL, 120 steps of 32 questions x 8 rollouts from its seed's warm-up, and 800 held-out "
        "questions on digits, 600 of them on several images, whose answer lies in the first image in 80%."
        if lines
        else "No run yet: `python -m benchmarks.evidence`."
    )
