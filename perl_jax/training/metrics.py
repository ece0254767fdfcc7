"""Metrics of a step, by fixed names: pure functions of a batch's arrays [Q, O, G]."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import models
from perl_jax import permute
from perl_jax.engine import flops
from perl_jax.runtime.logs import Clock


def of_rewards(scores: Sequence[dict], records: Sequence[Mapping], shape: tuple[int, int, int]) -> dict[str, float]:
    """Means of each part of the reward: overall, by source and by kind; scores [Q * O * G], records [Q]."""
    out = {}
    for name in scores[0]:
        values = np.array([score[name] for score in scores]).reshape(shape)
        out[f"reward/{'mean' if name == 'reward' else name}"] = values.mean()
        if name == "reward":
            for key in ("source", "kind"):
                for label in sorted({record[key] for record in records}):
                    selected = [record[key] == label for record in records]
                    out[f"reward/{key}/{label}"] = values[selected].mean()
    return out


def of_groups(rewards: np.ndarray, correct: np.ndarray, advantages: np.ndarray) -> dict[str, float]:
    """Statistics of the groups' learning signal; rewards, correct (bool) and advantages [Q, O, G]."""
    flat = correct.reshape(len(correct), -1)
    return {
        "group/all_right": flat.all(1).mean(),
        "group/all_wrong": (~flat).all(1).mean(),
        "advantage/std": advantages.std(),
        "advantage/zero_share": (advantages == 0).mean(),
        "reward/between_order_variance": rewards.mean(2).var(1).mean(),
        "reward/within_order_variance": rewards.var(2).mean(),
    }


def of_responses(lengths: np.ndarray, truncated: np.ndarray, logprobs: np.ndarray) -> dict[str, float]:
    """Lengths in tokens and the share cut at the limit, both [Q, O, G]; entropy as the mean of -logprobs."""
    return {
        "response/length_mean": lengths.mean(),
        "response/length_max": lengths.max(),
        "response/truncated": truncated.mean(),
        "response/entropy": -float(logprobs.sum()) / int(lengths.sum()),
    }


def of_orders(orders: Sequence[Sequence[Sequence[int]]], p: float) -> dict[str, float]:
    """The permutation probability and the share of permuted orders among those that may be; orders [Q][O] tuples."""
    permuted = [order != permute.original_order(len(order)) for question in orders for order in question]
    return {"permute/probability": p, "permute/share": float(np.mean(permuted)) if permuted else 0.0}


def of_update(steps: Sequence[dict]) -> dict[str, float]:
    """Means over a batch's optimizer steps; maxima stay maxima, and those that were skipped are counted."""

    def merged(name: str) -> float:
        return float(
            (max if name.endswith("max") else sum if name == "skipped" else np.mean)([float(s[name]) for s in steps])
        )

    return {f"update/{name}": merged(name) for name in steps[0]}


def of_speed(config: models.Config, batch: Any, clock: Clock, all_computed: bool) -> dict[str, float]:
    """Tokens per second of rollout and update, and MFU (`flops`; omitted where the device's peak is unknown).

    A rollout counts response tokens, an update also prompt tokens, of groups with a gradient or, if `all_computed`, of
    all.
    """
    tokens, work = {"rollout": 0, "update": 0}, {"rollout": 0, "update": 0}
    for question, responses, advantages in zip(batch.questions, batch.responses, batch.advantages):
        prompts = [len(ids) for ids, _ in question.prompts]
        lengths = [[len(response) for response in row] for row in responses]
        patches = flops.image_patches(config, question.prompts[0][0])
        forward, sampled = flops.group(config, patches, prompts, lengths), sum(map(sum, lengths))
        work["rollout"] += forward
        tokens["rollout"] += sampled
        if all_computed or advantages.any():
            work["update"] += 3 * forward
            tokens["update"] += sampled + sum(prompts)
    out = {}
    for part in tokens:
        seconds = clock.seconds(part)
        out[f"speed/{part}_tokens_per_second"] = tokens[part] / max(seconds, 1e-9)
        out |= {f"speed/{part}_{name}": value for name, value in flops.utilisation(work[part], seconds).items()}
    return out
