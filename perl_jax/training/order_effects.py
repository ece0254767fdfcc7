"""Adaptive permutation: questions whose rewards depend on the order of the images are permuted more often.

The paper leaves open which samples to permute. Here the chance of a question follows a running estimate of how much
its rewards differ between orders, beside how much they differ within one; the mean chance is that of the schedule.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from perl_jax.records.question import Question

MEMORY = 0.5  # weight of what was known of a question when it is seen again
LEAST = 0.05  # added to each estimate, so that none is never permuted


class OrderEffects:
    """Running estimates {question id: share of its rewards' variance that lies between orders}, from 0 to 1."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def note(self, questions: Sequence[Question], rewards: np.ndarray) -> None:
        """Takes in the rewards [Q, O, G] of a step; questions that were shown in one order alone tell nothing."""
        for question, of_question in zip(questions, rewards):
            if len(set(question.orders)) > 1:
                name, found = question.record["id"], order_effect(of_question)
                self._known[name] = MEMORY * self._known.get(name, found) + (1 - MEMORY) * found

    def probabilities(self, ids: Sequence[str], p: float) -> list[float]:
        """The chance of each question to be permuted, in proportion to its estimate, at most 1, and `p` in the mean.

        A question that is not known yet counts as the mean of those that are.
        """
        if not self._known or not 0 < p < 1:
            return [p] * len(ids)
        usual = float(np.mean(list(self._known.values())))
        weights = LEAST + np.array([self._known.get(name, usual) for name in ids])
        low, high = 0.0, 1 / weights.min()  # factors of the weights: at the second all chances are 1
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if np.minimum(1, middle * weights).mean() < p else (low, middle)
        return np.minimum(1, high * weights).tolist()

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return dict(self._known)

    def restore(self, state: Mapping[str, float]) -> None:
        self._known = dict(state)


def order_effect(rewards: np.ndarray) -> float:
    """The share of the variance of rewards [O, G] that lies between orders, without what chance puts there; 0 to 1."""
    within = float(rewards.var(axis=1).mean())
    between = max(0.0, float(rewards.mean(axis=1).var()) - within / rewards.shape[1])
    return between / (between + within) if between else 0.0
