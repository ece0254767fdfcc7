"""Selects records of medium difficulty, thinned by source until their mean accuracy meets a target.

A record that is always or never answered correctly gives groups of equal rewards, and so no gradient; one that is
answered without its images teaches nothing about them. Pure functions; draws are hashes of (seed, id), so that a
selection does not depend on machine or order. Method: PeRL, rollout filter (the paper states the mean, but no
thresholds).
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from perl_jax import permute

OUTCOMES = ("skipped", "below", "above", "blind", "thinned", "kept")  # the first that applies
LEAST = 0.02  # least share of records kept at each accuracy, so that no accuracy disappears
OPEN = 0.1  # chance of guessing an answer without choices: a digit, a small count
CONFIDENCE = 0.95  # of the test that blind accuracy is above chance
_UNIT = 10**9  # shares are summed as integers, which does not depend on order or machine


class Candidate(NamedTuple):
    """A record with its measured accuracy."""

    id: str
    source: str
    accuracy: float | None  # the share of correct rollouts; None: skipped
    blind: bool = False  # whether it is answered without its images


def select(candidates: Sequence[Candidate], low: float, high: float, target: float, seed: int = 0) -> dict[str, str]:
    """The outcome of each record, one of OUTCOMES by id.

    Kept are records in the band `low` to `high`, both included, that are not answered blind, thinned so that each
    source's mean accuracy is as near `target` as `shares` allows.

    >>> records = [Candidate(f"{a}-{i}", "mine", a / 10) for a in range(11) for i in range(10)]
    >>> outcomes = select(records, 0.1, 0.9, 0.4)
    >>> [list(outcomes.values()).count(outcome) for outcome in OUTCOMES]
    [0, 10, 10, 0, 26, 64]
    """
    outcomes, sources = {}, defaultdict(list)
    for candidate in candidates:
        if candidate.accuracy is None:
            outcomes[candidate.id] = "skipped"
        elif candidate.accuracy < low:
            outcomes[candidate.id] = "below"
        elif candidate.accuracy > high:
            outcomes[candidate.id] = "above"
        elif candidate.blind:
            outcomes[candidate.id] = "blind"
        else:
            outcomes[candidate.id] = "thinned"
            sources[candidate.source].append(candidate)
    for group in sources.values():
        outcomes |= dict.fromkeys(_thinned(group, target, seed), "kept")
    return {candidate.id: outcomes[candidate.id] for candidate in candidates}


def shares(accuracies: Sequence[float], target: float) -> np.ndarray:
    """The share [N] of records of each accuracy [N] to keep, so that the mean of the kept records is `target`.

    Only the side of the target with too many records is thinned, by min(1, exp(-l * distance)), with l found by
    bisection. No share is below LEAST; where that does not suffice, or no record is on the other side, the mean stays
    off the target.

    >>> shares([0.2, 0.4, 0.8], 0.4).round(3).tolist(), shares([0.8, 0.9], 0.4).round(3).tolist()
    ([1.0, 1.0, 0.5], [0.044, 0.02])
    """
    distance = np.asarray(accuracies, np.float64) - target
    distance *= np.sign(distance.sum())  # above 0: on the side with too many
    furthest = distance.max(initial=0.0)
    if furthest <= 0:
        return np.ones(len(distance))

    def kept(rate: float) -> np.ndarray:
        return np.minimum(1.0, np.exp(-rate * distance))

    least, most = 0.0, -math.log(LEAST) / furthest
    if (kept(most) * distance).sum() > 0:
        return kept(most)
    for _ in range(60):
        middle = (least + most) / 2
        least, most = (middle, most) if (kept(middle) * distance).sum() > 0 else (least, middle)
    return kept(most)


def _thinned(group: Sequence[Candidate], target: float, seed: int) -> Iterable[str]:
    """The ids of one source's kept records, by systematic sampling along their accuracies.

    This meets the mean to within about half a record; independent draws would miss it by the root of their number.
    """
    ordered = sorted(group, key=lambda candidate: (candidate.accuracy, _draw(seed, candidate.id)))
    wanted = shares([candidate.accuracy for candidate in ordered], target)
    so_far = _UNIT // 2
    for candidate, share in zip(ordered, wanted):
        before, so_far = so_far, so_far + round(float(share) * _UNIT)
        if so_far // _UNIT > before // _UNIT:
            yield candidate.id


def _draw(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}".encode()).digest()


# Without images


def guess(record: Mapping[str, object]) -> float:
    """The chance of guessing a record's answer: among its choices, its images, or yes and no; else OPEN.

    >>> guess({"choices": ["a cat", "a dog", "a cow", "none"], "answer": "A", "images": []})
    0.25
    >>> guess({"choices": [], "answer": "{image:1|number}", "images": [b"", b""]})
    0.5
    >>> guess({"choices": [], "answer": "Yes.", "images": [b""]}), guess({"choices": [], "answer": "7", "images": []})
    (0.5, 0.1)
    """
    answer = str(record["answer"]).strip(" .").casefold()
    if record["choices"]:
        return 1 / len(record["choices"])
    if permute.MENTION.fullmatch(answer):
        return 1 / len(record["images"])
    return 0.5 if answer in ("yes", "no") else OPEN


def answered_blind(accuracy: float, blind: float, rollouts: int, chance: float) -> bool:
    """Whether a record is answered as well without its images: `blind` and `accuracy` are shares of `rollouts`.

    Two conditions: blind accuracy is above `chance` by an exact binomial test (lucky guesses are no knowledge, and such
    a record can still teach); and it is at most one standard error of the difference below the accuracy with images,
    which holds for five in six records whose images do not matter.

    >>> answered_blind(0.9, 0.8, 10, chance=0.1), answered_blind(0.9, 0.5, 10, chance=0.1)
    (True, False)
    >>> answered_blind(0.5, 0.6, 10, chance=0.5), answered_blind(0.5, 0.6, 10, chance=0.25)
    (False, True)
    """
    right = round(blind * rollouts)
    by_luck = sum(
        math.comb(rollouts, k) * chance**k * (1 - chance) ** (rollouts - k) for k in range(right, rollouts + 1)
    )
    error = math.sqrt((accuracy * (1 - accuracy) + blind * (1 - blind)) / rollouts)
    return by_luck < 1 - CONFIDENCE and blind >= accuracy - error
