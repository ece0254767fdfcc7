"""What a comparison of runs may claim: measures by question, chance, intervals, paired differences. Pure functions.

A row is what `evaluation.predictions` returns: one question in one order. The orders of a question are not independent
of each other, so everything here counts questions: a measure is a dict from question to its value in [0, 1], and two
runs are compared on the questions that both were asked.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Row = Mapping[str, object]
Question = tuple  # (id, ((order, true answer), ...)): equal in two runs exactly if both were asked the same

Z_95 = 1.959963984540054  # standard normal quantile at 0.975


class Estimate(NamedTuple):
    """A mean over `questions` questions with its 95% interval."""

    mean: float
    low: float
    high: float
    questions: int

    @property
    def separated(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high


def by_question(rows: Sequence[Row]) -> dict[Question, list[Row]]:
    """The rows of each question, its own order first."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["id"], []).append(row)
    ordered = [sorted(group, key=lambda row: (not row["canonical"], row["order"])) for group in groups.values()]
    return {(group[0]["id"], tuple((tuple(row["order"]), row["answer"]) for row in group)): group for group in ordered}


def measures(rows: Sequence[Row], right: Sequence[float] | None = None) -> dict[str, dict[Question, float]]:
    """The value of each question in each measure; a question stands only in the measures that it can inform.

    `canonical`: right in its own order; `permuted`: share of its drawn orders that are right; `worst`: right in all
    orders; `flip`: the answer, in the original frame, is not the same in all of them; `single`: right, of a question
    with one image. Their means are those of `evaluation.summary` (which draws equally many orders of each question).

    Args:
        rows: prediction rows.
        right: the probability that each row is right, independently, in place of what was predicted; then no `flip`.
    """
    out: dict[str, dict[Question, float]] = {name: {} for name in ("canonical", "permuted", "worst", "flip", "single")}
    score = {id(row): float(p) for row, p in zip(rows, [row["correct"] for row in rows] if right is None else right)}
    for question, group in by_question(rows).items():
        drawn = [score[id(row)] for row in group if not row["canonical"]]
        if group[0]["canonical"]:
            out["canonical" if group[0]["images"] > 1 else "single"][question] = score[id(group[0])]
        if drawn:
            out["permuted"][question] = sum(drawn) / len(drawn)
        if len(group) > 1:
            out["worst"][question] = math.prod(score[id(row)] for row in group)
            if right is None:
                out["flip"][question] = float(len({row["meaning"] for row in group}) > 1)
    return out


def chance(rows: Sequence[Row]) -> dict[str, dict[Question, float]]:
    """Expected `measures` of a guesser who has read the answer key but sees no question.

    It draws each answer, independently, from the true answers of the rows with the same source, number of images and
    kind of order (own or drawn): what the form and the bias of the questions give away.
    """
    strata = [(row["source"], row["images"], row["canonical"]) for row in rows]
    size = Counter(strata)
    same = Counter((stratum, row["answer"]) for stratum, row in zip(strata, rows))
    right = [same[stratum, row["answer"]] / size[stratum] for stratum, row in zip(strata, rows)]
    return measures(rows, right)


def wilson(mean: float, questions: int) -> tuple[float, float]:
    """Wilson's score interval at 95% for a share (Wilson 1927, JASA 22, 209-212).

    `mean` may be a mean of shares, one a question: a value in [0, 1] varies no more than a coin of the same mean, so
    the interval is then at least as wide as it must be.
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

    Questions are drawn with replacement, each with both runs' values. Differences take few distinct values, so how
    often each value is drawn is one multinomial draw a resample: the same law as drawing questions one by one.
    """
    if not len(differences):
        return math.nan, math.nan
    values, counts = np.unique(np.asarray(differences, dtype=np.float64), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    low, high = np.quantile(drawn @ values / counts.sum(), (0.025, 0.975))
    return float(low), float(high)


def difference(last: Mapping[Question, float], other: Mapping[Question, float], seed: int = 0) -> Estimate:
    """`last` minus `other` over the questions that stand in both, with the paired bootstrap interval."""
    paired = [value - other[question] for question, value in last.items() if question in other]
    mean = float(np.mean(paired)) if paired else math.nan
    return Estimate(mean, *paired_bootstrap(paired, seed=seed), len(paired))


class Changed(NamedTuple):
    """The questions that came out otherwise: (other's rows, last's rows) of each, order by order."""

    gained: list[tuple[list[Row], list[Row]]]  # right in more orders
    lost: list[tuple[list[Row], list[Row]]]  # right in fewer
    mixed: list[tuple[list[Row], list[Row]]]  # right in as many, but in other orders


def changed(last: Sequence[Row], other: Sequence[Row]) -> Changed:
    """Which of the questions that both runs were asked came out otherwise in `last` than in `other`."""
    before, out = by_question(other), Changed([], [], [])
    for question, rows in by_question(last).items():
        pair = before.get(question, rows), rows
        steps = [bool(new["correct"]) - bool(old["correct"]) for old, new in zip(*pair)]
        if any(steps):
            (out.gained if sum(steps) > 0 else out.lost if sum(steps) < 0 else out.mixed).append(pair)
    return out
