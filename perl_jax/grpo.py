"""Group-relative advantages and the clipped policy loss: pure functions of arrays (PeRL, section 3.2).

A permutation group is one question in O orders of its images, with G rollouts per order and up to R tokens per rollout.
`group_loss` is one group's share of an optimizer step's loss; `loss` lifts it to Q groups by `jax.vmap`. Token weights
(`response_weights`) depend only on the response lengths, so the loss is a plain sum over tokens, whatever their
packing: `update.step` computes `token_losses` over packed rows that hold several groups.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
LOG_RATIO_LIMIT = 20.0  # avoids overflow in exp()
KL_LIMIT = 10.0

Array = TypeVar("Array", np.ndarray, jax.Array)


def group_advantages(rewards_OG: ArrayLike, scale: str = "std", eps: float = 1e-6) -> np.ndarray:
    """Advantages of one group, float64 [O, G]: rewards normalised over all its orders and rollouts.

    (r - mean) / (std + eps) with the unbiased std (ddof 1); `scale="none"` only subtracts the mean (Dr. GRPO). A group
    of equal rewards, or of a single one, has advantages of exactly 0. Computed in numpy, since JAX has no float64 by
    default.
    """
    if scale not in ("std", "none"):
        raise ValueError(f"scale is 'std' or 'none', not {scale!r}")
    rewards = np.asarray(rewards_OG, np.float64)
    if np.max(rewards) == np.min(rewards):
        return np.zeros_like(rewards)
    centred = rewards - rewards.mean()
    return centred / (rewards.std(ddof=1) + eps) if scale == "std" else centred


def advantages(rewards_QOG: ArrayLike, scale: str = "std", eps: float = 1e-6) -> np.ndarray:
    """`group_advantages` of each group, float32 [..., O, G]."""
    rewards = np.asarray(rewards_QOG)
    groups = rewards.reshape(-1, *rewards.shape[-2:])
    values = [group_advantages(group, scale, eps) for group in groups]
    return np.array(values, np.float32).reshape(rewards.shape)


def overlong_penalty(lengths: ArrayLike, max_length: int, buffer: int, factor: float = 1.0) -> np.ndarray:
    """What to add to the rewards of responses of these lengths, float32 [...] (DAPO, section 3.4).

    0 up to `max_length - buffer` tokens, from there linearly down to `-factor` at `max_length`, and `-factor` beyond.
    No penalty at all with `buffer` 0.
    """
    if not 0 <= buffer <= max_length:
        raise ValueError(f"the buffer of {buffer} tokens is not between 0 and max_length {max_length}")
    excess = np.asarray(lengths, np.float64) - (max_length - buffer)
    share = np.clip(excess / buffer, 0, 1) if buffer else np.zeros_like(excess)
    return np.asarray(-factor * share + 0.0, np.float32)  # + 0.0: no negative zeros


def group_loss(
    logp_OGR: ArrayLike,
    old_logp_OGR: ArrayLike,
    advantages_OG: ArrayLike,
    weights_OG: jax.Array,
    mask_OGR: ArrayLike,
    ref_logp_OGR: ArrayLike | None = None,
    **clipping: Any,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
    """One group's share of a step's loss, float32 [], and the `totals` of its token statistics.

    `weights_OG` are the token weights of each response (`response_weights`); `clipping` is as in `token_losses`.
    """
    losses, stats = token_losses(logp_OGR, old_logp_OGR, advantages_OG, mask_OGR, ref_logp_OGR, **clipping)
    return jnp.sum(losses * weights_OG[..., None]), totals(stats)


def loss(
    logp: ArrayLike,
    old_logp: ArrayLike,
    advantages: ArrayLike,
    mask: ArrayLike,
    ref_logp: ArrayLike | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
    kl_coef: float = 0.0,
    aggregate: str = "token-mean",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of one optimizer step and its metrics: (float32 [], {name: float32 []}).

    logp, old_logp, ref_logp, mask [Q, O, G, R], advantages [Q, O, G]; leading axes may be omitted, for one group or for
    responses alone. Tokens with mask 0 affect neither loss nor gradient, whatever their values; without any token the
    loss is 0. `kl_coef` > 0 needs `ref_logp`.
    """

    def grouped(x: ArrayLike, axes: int) -> jax.Array:
        x = jnp.asarray(x)
        return x.reshape(*[1] * (axes - x.ndim), *x.shape)

    weights = response_weights(jnp.sum(jnp.asarray(mask), axis=-1), aggregate, norm_length=jnp.shape(mask)[-1])
    logp, old_logp, mask = (grouped(x, 4) for x in (logp, old_logp, mask))
    advantages, weights = grouped(advantages, 3), grouped(weights, 3)
    one = partial(group_loss, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, kl_coef=kl_coef)
    ref_logp = None if ref_logp is None else grouped(ref_logp, 4)
    shares, (sums, maxima) = jax.vmap(one)(logp, old_logp, advantages, weights, mask, ref_logp)
    sums, maxima = {name: x.sum() for name, x in sums.items()}, {name: x.max() for name, x in maxima.items()}
    return shares.sum(), metrics(sums, maxima, jnp.sum(mask))


def response_weights(lengths: Array, aggregate: str = "token-mean", norm_length: int | None = None) -> Array:
    """The weight of each token of a response in an optimizer step, float [...], from all response lengths [...].

    `token-mean`: equal for all tokens; `seq-mean-token-mean`: equal for all responses, and for all tokens within one;
    `seq-mean-token-sum-norm` (Dr. GRPO): a response's sum divided by a constant length. Accepts numpy and JAX arrays.
    """
    non_empty = (lengths > 0).astype("float32")
    responses = non_empty.sum().clip(1)
    if aggregate == "token-mean":
        return non_empty / lengths.sum().clip(1)
    if aggregate == "seq-mean-token-mean":
        return non_empty / lengths.clip(1) / responses
    if aggregate == "seq-mean-token-sum-norm":
        if norm_length is None:
            raise ValueError(f"{aggregate} needs norm_length, the length by which it divides")
        return non_empty / norm_length / responses
    raise ValueError(f"aggregate is one of {', '.join(AGGREGATES)}, not {aggregate!r}")


def token_losses(
    logp: ArrayLike,
    old_logp: ArrayLike,
    advantages: ArrayLike,
    mask: ArrayLike,
    ref_logp: ArrayLike | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
    kl_coef: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of each token, float32 [..., R], and per-token statistics {name: [..., R]}, 0 where mask is 0.

    PPO's clipped objective with a dual clip for negative advantages, plus `kl_coef` times the k3 estimate of the KL
    divergence to the reference policy (veRL's `compute_policy_loss` and `low_var_kl`).
    """
    if kl_coef and ref_logp is None:
        raise ValueError("kl_coef > 0 needs the reference policy's log-probs (ref_logp)")
    keep = jnp.asarray(mask) > 0
    logp, old_logp = (jnp.where(keep, x, 0.0).astype(jnp.float32) for x in (logp, old_logp))
    a = jnp.where(keep, jnp.asarray(advantages, jnp.float32)[..., None], 0.0)
    ratio = jnp.exp(jnp.clip(logp - old_logp, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    plain, clipped = -a * ratio, -a * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    losses = jnp.maximum(plain, clipped)
    is_clipped = clipped > plain
    stats = {"ratio": ratio, "clip_low": is_clipped & (a < 0), "clip_high": is_clipped & (a > 0)}
    if dual_clip is not None:
        bound = -a * dual_clip
        stats["clip_dual"] = (a < 0) & (losses > bound)
        losses = jnp.where(a < 0, jnp.minimum(losses, bound), losses)
    if ref_logp is not None:
        d = jnp.where(keep, ref_logp, 0.0).astype(jnp.float32) - logp
        d = jnp.clip(d, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        stats["kl"] = jnp.clip(jnp.exp(d) - d - 1, -KL_LIMIT, KL_LIMIT)
        losses = losses + kl_coef * stats["kl"]
    return jnp.where(keep, losses, 0.0), {name: jnp.where(keep, x, 0).astype(jnp.float32) for name, x in stats.items()}


def totals(stats: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Reduces token statistics {name: [..., R]} to (sums {name: []}, maxima {name: []}), which micro-batches add up."""
    return {name: x.sum() for name, x in stats.items()}, {"ratio_max": stats["ratio"].max()}


def metrics(sums: Mapping[str, jax.Array], maxima: Mapping[str, jax.Array], tokens: ArrayLike) -> dict[str, jax.Array]:
    """The metrics of an optimizer step from the totals over `tokens` tokens: means, and maxima."""
    return {**{name: x / jnp.maximum(tokens, 1) for name, x in sums.items()}, **maxima}
