"""Group-relative advantages and the clipped policy loss: pure functions of arrays (PeRL, section 3.2).

A permutation group is one question in O orders of its images, with G rollouts per order and up to R tokens per rollout.
`group_loss` is one group's share of an optimizer step's loss; `loss` lifts it to Q groups by `jax.vmap`. Token weights
(`response_weights`) depend only on the response lengths, so the loss is a plain sum over tokens, whatever their
packing: `update.step` computes `token_losses` over packed rows that hold several groups.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

SCALES = ("std", "none")
SCOPES = ("group", "order", "both")
CONSISTENCY = ("off", "times", "plus")
AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
KINDS = ("grpo", "gspo", "cispo", "sapo")
IMPORTANCE = ("off", "token", "sequence")
LOG_RATIO_LIMIT = 20.0  # avoids overflow in exp()
KL_LIMIT = 10.0

Array = TypeVar("Array", np.ndarray, jax.Array)


def group_advantages(rewards_OG: ArrayLike, scale: str = "std", eps: float = 1e-6) -> np.ndarray:
    """Advantages of one group, float64 [O, G]: rewards normalised over all its orders and rollouts.

    (r - mean) / (std + eps) with the unbiased std (ddof 1); `scale="none"` only subtracts the mean (Dr. GRPO). A group
    of equal rewards, or of a single one, has advantages of exactly 0. Computed in numpy, since JAX has no float64 by
    default.
    """
    if scale not in SCALES:
        raise ValueError(f"scale is 'std' or 'none', not {scale!r}")
    rewards = np.asarray(rewards_OG, np.float64)
    if np.max(rewards) == np.min(rewards):
        return np.zeros_like(rewards)
    centred = rewards - rewards.mean()
    return centred / (rewards.std(ddof=1) + eps) if scale == "std" else centred


def advantages(rewards_QOG: ArrayLike, scale: str = "std", eps: float = 1e-6, scope: str = "group") -> np.ndarray:
    """`group_advantages` of each group, float32 [..., O, G].

    `scope`: normalised over a question's whole group (PeRL), over each order on its own ("order"), or the sum of both
    ("both", as in Share-GRPO).
    """
    if scope not in SCOPES:
        raise ValueError(f"scope is one of {', '.join(SCOPES)}, not {scope!r}")
    rewards = np.asarray(rewards_QOG)
    values = np.zeros(rewards.shape)
    orders, rollouts = rewards.shape[-2:]
    for pooled in [orders] * (scope != "order") + [1] * (scope != "group"):
        groups = rewards.reshape(-1, pooled, rollouts)
        values += np.array([group_advantages(group, scale, eps) for group in groups]).reshape(rewards.shape)
    return values.astype(np.float32)


def consistent_rewards(rewards_QOG: ArrayLike, correct_QOG: ArrayLike, kind: str) -> np.ndarray:
    """Rewards, float32 [Q, O, G], that also depend on how the question fares in its other orders.

    "times" or "plus" the share of right responses (`correct_QOG`, bool) in all orders of the group but their own: in
    expectation what ConsistRoll (arXiv 2606.29812) gives a pair of responses of which both are right, and as
    PA-GRPO's consistency reward (arXiv 2603.21016). "off", or one order alone: as they are.
    """
    if kind not in CONSISTENCY:
        raise ValueError(f"the kind is one of {', '.join(CONSISTENCY)}, not {kind!r}")
    rewards, right = np.asarray(rewards_QOG, np.float32), np.asarray(correct_QOG, np.float32).mean(-1, keepdims=True)
    if kind == "off" or right.shape[-2] == 1:
        return rewards
    others = (right.sum(-2, keepdims=True) - right) / (right.shape[-2] - 1)  # [Q, O, 1]
    return rewards * others if kind == "times" else rewards + others


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
    **options: Any,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
    """One group's share of a step's loss, float32 [], and the `totals` of its token statistics.

    `weights_OG` are the token weights of each response (`response_weights`); `options` are those of `token_losses`.
    """
    losses, stats = token_losses(logp_OGR, old_logp_OGR, advantages_OG, mask_OGR, ref_logp_OGR, **options)
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
    *,
    sampler_logp: ArrayLike | None = None,
    entropy: ArrayLike | None = None,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of one optimizer step and its metrics: (float32 [], {name: float32 []}).

    logp, old_logp, ref_logp, sampler_logp, entropy, mask [Q, O, G, R], advantages [Q, O, G]; leading axes may be
    omitted, for one group or for responses alone. Tokens with mask 0 affect neither loss nor gradient, whatever their
    values; without any token the loss is 0. `options` are the other ones of `token_losses`, which says what they need.
    GSPO and SAPO are defined with `aggregate="seq-mean-token-mean"`.
    """

    def grouped(x: ArrayLike, axes: int = 4) -> jax.Array:
        x = jnp.asarray(x)
        return x.reshape(*[1] * (axes - x.ndim), *x.shape)

    weights = response_weights(jnp.sum(jnp.asarray(mask), axis=-1), aggregate, norm_length=jnp.shape(mask)[-1])
    arrays: dict[str, Any] = {
        "logp_OGR": grouped(logp),
        "old_logp_OGR": grouped(old_logp),
        "advantages_OG": grouped(advantages, 3),
        "weights_OG": grouped(weights, 3),
        "mask_OGR": grouped(mask),
    }
    options |= {"clip_low": clip_low, "clip_high": clip_high, "dual_clip": dual_clip, "kl_coef": kl_coef}
    optional = {"ref_logp_OGR": ref_logp, "sampler_logp": sampler_logp, "entropy": entropy}
    arrays |= {name: grouped(x) for name, x in optional.items() if x is not None}
    shares, (sums, maxima) = jax.vmap(lambda of_group: group_loss(**of_group, **options))(arrays)
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


def response_totals(x: jax.Array) -> jax.Array:
    """The sum over each response, [..., 1] of [..., R]: the `response_sum` of tokens not packed into rows."""
    return jnp.sum(x, axis=-1, keepdims=True)


def segment_sums(segments: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """A `response_sum` for rows of packed tokens: at each token, the sum over the tokens of its segment.

    `segments`, int32 [S, C], are numbers below C, of each row on its own; tokens of no response have -1, and sum 0. The
    callable takes and gives [S, C], or [S, C, 1] as where `token_losses` gets rows with R = 1.
    """

    def row(segments: jax.Array, x: jax.Array) -> jax.Array:
        sums = jax.ops.segment_sum(x, segments, num_segments=len(segments))
        return jnp.where(segments >= 0, sums[segments], 0)

    return lambda x: jax.vmap(row)(segments, x.reshape(segments.shape)).reshape(x.shape)


def token_losses(
    logp: ArrayLike,
    old_logp: ArrayLike,
    advantages: ArrayLike,
    mask: ArrayLike,
    ref_logp: ArrayLike | None = None,
    *,
    kind: str = "grpo",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
    kl_coef: float = 0.0,
    sampler_logp: ArrayLike | None = None,
    importance: str = "off",
    importance_cap: float = 2.0,
    entropy: ArrayLike | None = None,
    entropy_coef: float = 0.0,
    response_sum: Callable[[jax.Array], jax.Array] = response_totals,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of each token, float32 [..., R], and per-token statistics {name: [..., R]}, 0 where mask is 0.

    The policy term times its importance weight, plus `kl_coef` times the k3 estimate of the KL divergence to the
    reference policy (veRL's `low_var_kl`), minus `entropy_coef` times the entropy.

    Args:
        logp, old_logp, ref_logp, sampler_logp: log-probs [..., R] of the policy, of the policy before the step, of the
            reference and of the sampler that drew the tokens.
        advantages: [...].
        mask: [..., R], 0 where there is no token: its values do not matter.
        kind: the policy term. "grpo": `clipped`, and dual clip; "gspo": `clipped` with the ratio of the response
            (`sequence_log_ratio`); "cispo": `cispo`; "sapo": `sapo`.
        clip_low, clip_high: the ratio's bounds are 1 - clip_low and 1 + clip_high; "sapo" has none.
        dual_clip: bounds the loss of negative advantages at this ratio, for "grpo" alone, as in veRL; or None.
        tau_positive, tau_negative: temperatures of "sapo".
        kl_coef: a value above 0 needs `ref_logp`.
        importance: "token" or "sequence" weights the policy term by `importance_weights`, for a sampler whose
            log-probs differ from the trainer's, and needs `sampler_logp`; KL and entropy have no such weight.
        importance_cap: the largest weight.
        entropy: of the policy's distribution at each token, [..., R]; its gradient, if it has one, is followed.
        entropy_coef: a value other than 0 needs `entropy`.
        response_sum: the sum over each token's response, at each of its tokens, of an array of logp's shape. By
            default the last axis is a response; `segment_sums` is for packed rows.

    The statistics are "ratio", "clip_low" and "clip_high" (for "grpo" and "gspo" where the clip takes the gradient, for
    "cispo" where it limits the weight, for "sapo" nowhere), "clip_dual" with `dual_clip` (of other kinds than "grpo"
    always 0), "kl" with `ref_logp`, and with `importance` the weight by that name.
    """
    _check(kind, importance, sampler_logp, kl_coef, ref_logp, entropy_coef, entropy)
    keep = jnp.asarray(mask) > 0

    def kept(x: ArrayLike) -> jax.Array:
        return jnp.where(keep, x, 0.0).astype(jnp.float32)

    logp, old_logp = kept(logp), kept(old_logp)
    a = jnp.where(keep, jnp.asarray(advantages, jnp.float32)[..., None], 0.0)
    losses, stats = policy_losses(
        logp, old_logp, a, keep, kind, clip_low, clip_high, dual_clip, tau_positive, tau_negative, response_sum
    )
    if sampler_logp is not None and importance != "off":
        log_weight = old_logp - kept(sampler_logp)
        log_weight = response_sum(jax.lax.stop_gradient(log_weight)) if importance == "sequence" else log_weight
        stats["importance"] = importance_weights(log_weight, importance_cap)
        losses = losses * stats["importance"]
    if ref_logp is not None:
        d = jnp.clip(kept(ref_logp) - logp, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        stats["kl"] = jnp.clip(jnp.exp(d) - d - 1, -KL_LIMIT, KL_LIMIT)
        losses = losses + kl_coef * stats["kl"]
    if entropy is not None and entropy_coef:
        losses = losses - entropy_coef * kept(entropy)
    return jnp.where(keep, losses, 0.0), {name: jnp.where(keep, x, 0).astype(jnp.float32) for name, x in stats.items()}


def policy_losses(
    logp: jax.Array,
    old_logp: jax.Array,
    a: jax.Array,
    keep: jax.Array,
    kind: str,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    tau_positive: float,
    tau_negative: float,
    response_sum: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The policy term of each token and its statistics, as in `token_losses`; arrays are 0 where `keep` is false."""
    low, high = 1 - clip_low, 1 + clip_high
    log_ratio = sequence_log_ratio(logp, old_logp, keep, response_sum) if kind == "gspo" else logp - old_logp
    ratio = jnp.exp(jnp.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    if kind == "cispo":
        losses, is_low, is_high = cispo(ratio, a, logp, low, high)
    elif kind == "sapo":
        losses, is_low, is_high = sapo(ratio, a, tau_positive, tau_negative)
    else:
        losses, is_low, is_high = clipped(ratio, a, low, high)
    stats = {"ratio": ratio, "clip_low": is_low, "clip_high": is_high}
    if dual_clip is not None:
        bound = -a * dual_clip if kind == "grpo" else jnp.inf
        stats["clip_dual"] = (a < 0) & (losses > bound)
        losses = jnp.where(a < 0, jnp.minimum(losses, bound), losses)
    return losses, stats


def _check(
    kind: str,
    importance: str,
    sampler_logp: ArrayLike | None,
    kl_coef: float,
    ref_logp: ArrayLike | None,
    entropy_coef: float,
    entropy: ArrayLike | None,
) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, not {kind!r}")
    if importance not in IMPORTANCE:
        raise ValueError(f"importance is one of {', '.join(IMPORTANCE)}, not {importance!r}")
    if importance != "off" and sampler_logp is None:
        raise ValueError(f"importance {importance!r} needs the sampler's log-probs (sampler_logp)")
    if kl_coef and ref_logp is None:
        raise ValueError("kl_coef > 0 needs the reference policy's log-probs (ref_logp)")
    if entropy_coef and entropy is None:
        raise ValueError("entropy_coef other than 0 needs the entropy of each token (entropy)")


def clipped(ratio: jax.Array, a: jax.Array, low: float, high: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """PPO's clipped objective, max(-a ratio, -a clip(ratio)), and where it clips from below and from above."""
    plain, limited = -a * ratio, -a * jnp.clip(ratio, low, high)
    is_clipped = limited > plain
    return jnp.maximum(plain, limited), is_clipped & (a < 0), is_clipped & (a > 0)


def sequence_log_ratio(
    logp: jax.Array, old_logp: jax.Array, keep: jax.Array, response_sum: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """The log of a response's ratio at each of its tokens: the mean of logp - old_logp over the response.

    Its gradient at a token is that of the token's own logp (GSPO-token, arXiv 2507.18071, section 4.3). Log-probs are 0
    where `keep` is false.
    """
    total, count = response_sum(jax.lax.stop_gradient(logp - old_logp)), response_sum(keep.astype(jnp.float32))
    return total / jnp.maximum(count, 1) + (logp - jax.lax.stop_gradient(logp))


def cispo(
    ratio: jax.Array, a: jax.Array, logp: jax.Array, low: float, high: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-clip(ratio) a logp, and where it clips from below and from above (MiniMax-M1, arXiv 2506.13585, section 3.1).

    The clipped ratio is a weight without gradient, so that every token keeps a gradient, whatever its ratio.
    """
    weight = jax.lax.stop_gradient(jnp.clip(ratio, low, high))
    return -weight * a * logp, ratio < low, ratio > high


def sapo(
    ratio: jax.Array, a: jax.Array, tau_positive: float, tau_negative: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-a sigmoid(tau (ratio - 1)) 4 / tau, with tau by the sign of a (arXiv 2511.20347); it clips nowhere.

    At ratio 1 the gate's slope is 1, whatever tau: there the gradient is that of the other kinds.
    """
    tau = jnp.where(a > 0, tau_positive, tau_negative)
    nowhere = jnp.zeros(ratio.shape, bool)
    return -a * jax.nn.sigmoid(tau * (ratio - 1)) * 4 / tau, nowhere, nowhere


def importance_weights(log_weight: jax.Array, cap: float) -> jax.Array:
    """Truncated importance weights min(exp(log_weight), cap), without gradient (Yao et al. 2025).

    `log_weight` is old_logp - sampler_logp of a token, or its sum over the response: the log of the ratio of the whole
    responses' probabilities, as in veRL (`compute_rollout_correction_weights`) and in TRL (`sequence_truncate`).
    """
    weight = jnp.exp(jnp.clip(jax.lax.stop_gradient(log_weight), -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    return jnp.minimum(weight, cap)


def totals(stats: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Reduces token statistics {name: [..., R]} to (sums {name: []}, maxima {name: []}), which micro-batches add up."""
    return {name: x.sum() for name, x in stats.items()}, {"ratio_max": stats["ratio"].max()}


def metrics(sums: Mapping[str, jax.Array], maxima: Mapping[str, jax.Array], tokens: ArrayLike) -> dict[str, jax.Array]:
    """The metrics of an optimizer step from the totals over `tokens` tokens: means, and maxima."""
    return {**{name: x / jnp.maximum(tokens, 1) for name, x in sums.items()}, **maxima}
