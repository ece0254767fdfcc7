"""Report of the rollout filter: a table by source, missed targets with reasons, and a histogram."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from perl_jax.evaluation.statistics import Table
from perl_jax.filtering.selection import LEAST, OUTCOMES, Candidate, shares

NEAR = 0.02  # largest distance of a kept mean from the target that is not reported
PANELS = 9  # of the histogram: all records, the largest sources, and all others together
BINS = 20  # most bars per panel
BEFORE, AFTER, BAND, TARGET = "#b6bec8", "#0b5fb3", "#e3f4e8", "#d55e00"


def by_source(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """The records of each source, largest first."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.source, []).append(candidate)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def mean(candidates: Sequence[Candidate]) -> float | None:
    """The mean accuracy of the measured records; None if there are none."""
    accuracies = [candidate.accuracy for candidate in candidates if candidate.accuracy is not None]
    return float(np.mean(accuracies)) if accuracies else None


def kept(candidates: Sequence[Candidate], outcomes: Mapping[str, str]) -> list[Candidate]:
    """The records with outcome "kept"."""
    return [candidate for candidate in candidates if outcomes[candidate.id] == "kept"]


def table(candidates: Sequence[Candidate], outcomes: Mapping[str, str]) -> Table:
    """A row per source, and one for all: records by outcome, and the mean accuracy before and after."""
    groups = by_source(candidates)
    rows = []
    for name, group in [*groups.items(), *([("all", candidates)] if len(groups) != 1 else [])]:
        results = [outcomes[candidate.id] for candidate in group]
        means = ["–" if value is None else f"{value:.3f}" for value in (mean(group), mean(kept(group, outcomes)))]
        rows.append([name, f"{len(group):,}", *(f"{results.count(outcome):,}" for outcome in OUTCOMES), *means])
    return Table(["source", "records", *OUTCOMES, "mean before", "mean after"], rows)


def shortfalls(candidates: Sequence[Candidate], outcomes: Mapping[str, str], target: float) -> list[str]:
    """A line for each source whose kept mean misses the target, with the reason, and one for empty sources."""
    lines, empty = [], []
    for name, group in by_source(candidates).items():
        kept_records = kept(group, outcomes)
        if not kept_records:
            empty.append(name)
        elif abs(mean(kept_records) - target) > NEAR:
            band = [candidate.accuracy for candidate in group if outcomes[candidate.id] in ("kept", "thinned")]
            lines.append(f"{name}: the mean is {mean(kept_records):.3f}, not {target:g}: {_why(band, target)}")
    return lines + ([f"{', '.join(empty)}: no record is kept"] if empty else [])


def _why(band: Sequence[float], target: float) -> str:
    share = shares(band, target)
    off = float(np.average(band, weights=share)) - target
    easy = off > 0
    if min(band) > target or max(band) < target:
        return f"no record of the band is {'harder' if easy else 'easier'}"
    if abs(off) < 1e-6:
        return "the records are too few to come nearer"
    return f"too many are {'easy' if easy else 'hard'}, and the furthest are already thinned to {LEAST:.0%}"


def histogram(
    candidates: Sequence[Candidate],
    outcomes: Mapping[str, str],
    file: Path,
    *,
    low: float,
    high: float,
    target: float,
    rollouts: int,
) -> None:
    """Plots histograms of accuracy before and after, for all records and by source, to a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panels = _panels(candidates)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1 + 4 * columns, 1 + 2.9 * rows), layout="constrained", dpi=130)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, group) in zip(grid, panels):
        _panel(axes, name, group, outcomes, low, high, target, rollouts)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    handles = [
        Patch(color=BEFORE, label="before"),
        Patch(color=AFTER, label="kept"),
        Patch(color=BAND, label=f"band {low:g} to {high:g}"),
        Line2D([], [], color=TARGET, linestyle="--", label=f"target mean {target:g}"),
        Line2D([], [], color="#1b1f24", marker="v", linestyle="", label="mean of what is kept"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, 2 * columns), frameon=False)
    figure.supxlabel(f"accuracy of a record over {rollouts} rollouts", fontsize=11)
    figure.supylabel("records", fontsize=11)
    figure.savefig(file)


def _panels(candidates: Sequence[Candidate]) -> list[tuple[str, Sequence[Candidate]]]:
    groups = list(by_source(candidates).items())
    if len(groups) == 1:
        return groups
    shown = groups if len(groups) < PANELS else groups[: PANELS - 2]
    rest = [candidate for _, group in groups[len(shown) :] for candidate in group]
    return [("all", candidates), *shown, *([(f"{len(groups) - len(shown)} other sources", rest)] if rest else [])]


def _panel(
    axes,
    name: str,
    group: Sequence[Candidate],
    outcomes: Mapping[str, str],
    low: float,
    high: float,
    target: float,
    rollouts: int,
) -> None:
    steps = min(rollouts, BINS)
    centres = np.arange(steps + 1) / steps
    kept_records = kept(group, outcomes)

    def counts(records: Sequence[Candidate]) -> np.ndarray:
        bins = [round(candidate.accuracy * steps) for candidate in records if candidate.accuracy is not None]
        return np.bincount(bins, minlength=steps + 1)

    axes.axvspan(low - 0.5 / steps, high + 0.5 / steps, color=BAND, zorder=0)
    axes.bar(centres, counts(group), width=0.86 / steps, color=BEFORE, zorder=2)
    axes.bar(centres, counts(kept_records), width=0.5 / steps, color=AFTER, zorder=3)
    axes.axvline(target, color=TARGET, linestyle="--", linewidth=1.4, zorder=4)
    if kept_records:
        axes.plot(
            mean(kept_records),
            1.0,
            marker="v",
            markersize=8,
            color="#1b1f24",
            zorder=5,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
        )
    measured = sum(candidate.accuracy is not None for candidate in group)
    means = " → ".join("–" if value is None else f"{value:.2f}" for value in (mean(group), mean(kept_records)))
    axes.set_title(f"{name}: {measured:,} → {len(kept_records):,}, mean {means}", fontsize=10, parse_math=False)
    axes.set_xlim(-0.7 / steps, 1 + 0.7 / steps)
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25, zorder=1)
    axes.tick_params(labelsize=9)
