"""Statistics for comparing runs: measures by question, chance level, confidence intervals, differences, tables.

A row, from `held_out.predictions`, is one question in one order. The orders of a question are not independent, so
everything here counts questions: a measure is a dict from question to its value in [0, 1], and two runs are compared on
the questions that both were asked. All functions are pure.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Row = Mapping[str, object]
Question = tuple  # (id, ((order, reference answer), ...)): equal in two runs exactly if both were asked the same

Z_95 = 1.959963984540054  # standard normal quantile at 0.975
COLUMNS = {
    "accuracy": "accuracy",
    "permuted": "permuted accuracy",
    "consistent": "consistent accuracy",
    "flip": "flip rate",
    "single": "single-image accuracy",
}
COMPARED = ("accuracy", "permuted", "flip")


class Estimate(NamedTuple):
    """A mean over `questions` questions with its 95% confidence interval."""

    mean: float
    low: float
    high: float
    questions: int

    @property
    def separated(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high

    def to_json(self) -> dict[str, float | None]:
        """As a dict for JSON, with NaN as None."""
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}

    @classmethod
    def from_json(cls, values: Mapping[str, float | None]) -> "Estimate":
        """The inverse of `to_json`."""
        return cls(*(math.nan if values[name] is None else values[name] for name in cls._fields))


class McNemar(NamedTuple):
    """Counts of questions that only one of two runs answers correctly, and the test's p value."""

    first: int  # correct in the first run only
    second: int  # correct in the second run only
    p: float  # two-sided


def by_question(rows: Sequence[Row]) -> dict[Question, list[Row]]:
    """The rows of each question, its original order first."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["id"], []).append(row)

    def place(row: Row) -> tuple:
        return not row["original"], row["order"], row["answer"]

    ordered = [sorted(group, key=place) for group in groups.values()]
    return {(group[0]["id"], tuple((tuple(row["order"]), row["answer"]) for row in group)): group for group in ordered}


def measures(rows: Sequence[Row], right: Sequence[float] | None = None) -> dict[str, dict[Question, float]]:
    """The value of each question in each measure; a question is only in the measures that apply to it.

    `accuracy`: correct in its original order; `permuted`: share of its drawn orders that are correct; `consistent`:
    correct in all orders; `flip`: the answers, mapped to the original order, are not all the same; `single`: correct,
    for a question with at most one image. `held_out.summary` has their means.

    Args:
        rows: prediction rows.
        right: probability that each row is correct, independently, in place of the predictions; then there is no
            `flip`.
    """
    out: dict[str, dict[Question, float]] = {
        name: {} for name in ("accuracy", "permuted", "consistent", "flip", "single")
    }
    score = {id(row): float(p) for row, p in zip(rows, [row["correct"] for row in rows] if right is None else right)}
    for question, group in by_question(rows).items():
        permuted = [score[id(row)] for row in group if not row["original"]]
        if group[0]["original"]:
            out["accuracy" if group[0]["images"] > 1 else "single"][question] = score[id(group[0])]
        if permuted:
            out["permuted"][question] = sum(permuted) / len(permuted)
        if len(group) > 1:
            out["consistent"][question] = math.prod(score[id(row)] for row in group)
            if right is None:
                out["flip"][question] = float(len({row["meaning"] for row in group}) > 1)
    return out


def chance(rows: Sequence[Row]) -> dict[str, dict[Question, float]]:
    """Expected `measures` of a guesser that knows the distribution of reference answers but sees no question.

    It draws each answer, independently, from the reference answers of the rows with the same source, number of images
    and kind of order (original or drawn): what the format and the bias of the questions give away.
    """
    strata = [(row["source"], row["images"], row["original"]) for row in rows]
    size = Counter(strata)
    same = Counter((stratum, row["answer"]) for stratum, row in zip(strata, rows))
    right = [same[stratum, row["answer"]] / size[stratum] for stratum, row in zip(strata, rows)]
    return measures(rows, right)


def wilson(mean: float, questions: int) -> tuple[float, float]:
    """Wilson's 95% score interval for a proportion (Wilson 1927, JASA 22, 209-212).

    `mean` may be a mean of proportions, one per question: a value in [0, 1] has at most the variance of a coin with the
    same mean, so the interval is then conservative.
    """
    n, z2 = questions, Z_95**2
    if not n:
        return math.nan, math.nan
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(max(mean * (1 - mean), 0.0) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def proportion(values: Mapping[Question, float]) -> Estimate:
    """The mean of a measure with Wilson's interval on the number of questions."""
    mean = float(np.mean(list(values.values()))) if values else math.nan
    return Estimate(mean, *wilson(mean, len(values)), len(values))


def paired_bootstrap(differences: Sequence[float], resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean of paired differences (Efron and Tibshirani 1993, sections 8 and 13).

    Questions are resampled with replacement, each with both runs' values.
    """
    return stratified_bootstrap([differences], resamples, seed)


def stratified_bootstrap(
    groups: Sequence[Sequence[float]], resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean of the groups' means, resampling with replacement within each group.

    Values are few distinct numbers, so each resample is one multinomial draw of their counts, which has the same
    distribution as drawing one by one. A group of one value, or of equal ones, does not vary, and adds no width.
    """
    rng = np.random.default_rng(seed)
    means = [_resampled_means(group, resamples, rng) for group in groups if len(group)]
    if not means:
        return math.nan, math.nan
    low, high = np.quantile(np.mean(means, axis=0), (0.025, 0.975))
    return float(low), float(high)


def _resampled_means(values: Sequence[float], resamples: int, rng: np.random.Generator) -> np.ndarray:
    values, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    return drawn @ values / counts.sum()


def bootstrapped(values: Mapping[Question, float]) -> Estimate:
    """The mean of a measure, or of a difference, with its bootstrap interval by question."""
    mean = float(np.mean(list(values.values()))) if values else math.nan
    return Estimate(mean, *paired_bootstrap(list(values.values())), len(values))


def difference(last: Mapping[Question, float], other: Mapping[Question, float]) -> Estimate:
    """`last` minus `other` over the questions in both, with the paired bootstrap interval."""
    return bootstrapped({question: last[question] - other[question] for question in last if question in other})


def mcnemar(first: Mapping[Question, bool], second: Mapping[Question, bool]) -> McNemar:
    """McNemar's exact test (1947, Psychometrika 12, 153-157) on the questions that both runs were asked.

    Under the null hypothesis of equally good runs, each question that only one answers correctly is either's with
    probability 1/2. `p` is the two-sided binomial probability of a split at least as uneven; 1 if there is no such
    question.
    """
    from scipy.stats import binomtest  # slow to import, and few commands need it

    shared = [(bool(first[question]), bool(second[question])) for question in first if question in second]
    one, other = shared.count((True, False)), shared.count((False, True))
    return McNemar(one, other, float(binomtest(one, one + other).pvalue) if one + other else 1.0)


class Changed(NamedTuple):
    """Questions whose correctness differs: (other's rows, last's rows) of each, order by order."""

    gained: list[tuple[list[Row], list[Row]]]  # correct in more orders
    lost: list[tuple[list[Row], list[Row]]]  # correct in fewer orders
    mixed: list[tuple[list[Row], list[Row]]]  # correct in as many, but different orders


def changed(last: Sequence[Row], other: Sequence[Row]) -> Changed:
    """The questions asked of both runs whose correctness differs between `last` and `other`."""
    before, out = by_question(other), Changed([], [], [])
    for question, rows in by_question(last).items():
        pair = before.get(question, rows), rows
        steps = [bool(new["correct"]) - bool(old["correct"]) for old, new in zip(*pair)]
        if any(steps):
            (out.gained if sum(steps) > 0 else out.lost if sum(steps) < 0 else out.mixed).append(pair)
    return out


# Text output


class Table(NamedTuple):
    """A table of strings, for Markdown and HTML."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


class Result(NamedTuple):
    """A run's result on one held-out set."""

    name: str
    step: int
    rows: Sequence[Row]  # empty: not evaluated yet
    seconds: float  # NaN: unknown


class Section(NamedTuple):
    """The figures of one held-out set, as tables and notes."""

    title: str
    figures: Table
    differences: Table
    notes: list[str]


def section(title: str, results: Sequence[Result]) -> Section:
    """The figures of all runs on one held-out set, and the differences of the last run to each other one."""
    measured = [measures(result.rows) for result in results]
    key = next((result.rows for result in reversed(results) if result.rows), [])
    figures = [_figures("chance", chance(key), math.nan, interval=False)]
    figures += [_figures(result.name, values, result.seconds) for result, values in zip(results, measured)]
    differences = [
        _differences(f"{results[-1].name} minus {result.name}", measured[-1], values)
        for result, values in zip(results[:-1], measured)
    ]
    steps = ", ".join(f"{result.name} {result.step}" for result in results if result.rows)
    notes = [
        f"Set {title}, each run's last evaluation (step: {steps}); seconds are those of its training steps.",
        "Permuted accuracy: mean over questions of the share of drawn orders answered right, with Wilson's 95% "
        "interval on the number of questions, not of answers, since the orders of a question are not independent. "
        "Consistent accuracy: right in all orders asked. Flip rate: the answer changes with the order (lower is "
        "better).",
        "Chance: a guesser that draws from the true answers of the same source, number of images and kind of order.",
    ]
    if differences:
        notes.append(
            "Differences are in points, with a 95% bootstrap interval over the questions that both runs were "
            "asked (10,000 paired resamples); not separated: the interval holds 0."
        )
    if len({frozenset(by_question(result.rows)) for result in results if result.rows}) > 1:
        notes.append("The runs were not all asked the same questions: the first table's rows differ in that, too.")
    header = [f"{COLUMNS[key]}, points" for key in COMPARED]
    return Section(
        title, Table(["", *COLUMNS.values(), "seconds"], figures), Table(["", "questions", *header], differences), notes
    )


def _figures(name: str, values: Mapping, seconds: float, interval: bool = True) -> list[str]:
    estimates = {key: proportion(values[key]) for key in COLUMNS}
    cells = {key: f"{100 * each.mean:.1f}%" if each.questions else "–" for key, each in estimates.items()}
    permuted = estimates["permuted"]
    if interval and permuted.questions:
        cells["permuted"] += f" [{100 * permuted.low:.1f}, {100 * permuted.high:.1f}] of {permuted.questions}"
    return [name, *cells.values(), "–" if math.isnan(seconds) else f"{seconds:,.0f}"]


def _differences(name: str, last: Mapping, other: Mapping) -> list[str]:
    estimates = [difference(last[key], other[key]) for key in COMPARED]
    counts = dict.fromkeys(str(estimate.questions) for estimate in estimates)
    return [name, " / ".join(counts), *map(points, estimates)]


def points(estimate: Estimate) -> str:
    """A difference in percentage points with its interval, and whether that contains 0."""
    if not estimate.questions:
        return "–"
    mean, low, high = (100 * x for x in estimate[:3])
    return f"{mean:+z.1f} [{low:+z.1f}, {high:+z.1f}]" + ("" if estimate.separated else ", not separated")


def p_value(p: float) -> str:
    """A formatted p value."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def percent(estimate: Estimate) -> str:
    """A share in percent with its interval."""
    mean, low, high = (100 * x for x in estimate[:3])
    return f"{mean:.1f}% [{low:.1f}, {high:.1f}]" if estimate.questions else "–"


def counted(counts: Mapping[str, int], shown: int = 8) -> str:
    """Counts as text, most frequent first, at most `shown` of them by name.

    >>> counted({"one image": 2, "no\\nanswer": 1200})
    'no answer (1,200), one image (2)'
    """
    items = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{' '.join(name.split())} ({count:,})" for name, count in items[:shown]]
    rest = sum(count for _, count in items[shown:])
    return ", ".join([*words, *([f"{len(items) - shown:,} other reasons ({rest:,})"] if rest else [])])


def markdown(sections: Sequence[Section]) -> str:
    """The sections as Markdown: tables, then notes."""
    parts = []
    for part in sections:
        parts += [f"## {part.title}"] if len(sections) > 1 else []
        parts += [part.figures.markdown()] + ([part.differences.markdown()] if part.differences.rows else [])
        parts += part.notes
    return "\n\n".join(parts) + "\n"
