"""Advantages and loss against literal figures of the method, a plain loop in float64, and what must always hold."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perl_jax import grpo

REWARDS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5)),
    elements=st.one_of(st.sampled_from([0.0, 0.1, 0.9, 1.0]), st.floats(-2, 2, width=16)),
)
PI = np.log([[0.5, 0.4], [0.3, 0.2]])
OLD = np.log([[0.4, 0.4], [0.4, 0.25]])
REF = np.log([[0.5, 0.5], [0.3, 0.25]])
SAMPLER = np.log([[0.5, 0.25], [0.1, 0.1]])
MASK = np.array([[1, 1], [1, 0]])
A = np.array([1.0, -1.0])


# Advantages.


def test_pooled_example():
    """Both orders of a question share one mean and one std."""
    advantages = grpo.advantages(np.array([[[1, 1, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0]]]))
    assert advantages.dtype == np.float32
    right = np.array([[1, 1, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0]], bool)
    np.testing.assert_allclose(advantages[0][right], 1.13284083, rtol=1e-6)
    np.testing.assert_allclose(advantages[0][~right], -0.80917202, rtol=1e-6)


@given(rewards=REWARDS)
def test_groups_are_centred_and_scaled(rewards):
    advantages = grpo.advantages(rewards)
    assert advantages.shape == rewards.shape and np.isfinite(advantages).all()
    for group, ours in zip(rewards.astype(np.float64), advantages):
        size = group.size
        assert abs(ours.sum()) <= 1e-5 * size * max(1, np.abs(ours).max())
        if group.max() == group.min():
            assert (ours == 0).all()
            continue
        mean = sum(group.ravel()) / size
        std = math.sqrt(sum((r - mean) ** 2 for r in group.ravel()) / (size - 1))
        np.testing.assert_allclose(ours, (group - mean) / (std + 1e-6), rtol=1e-4, atol=1e-6)


@given(rewards=REWARDS)
def test_without_a_scale_only_the_mean_goes(rewards):
    means = rewards.astype(np.float64).mean((-2, -1), keepdims=True)
    np.testing.assert_allclose(grpo.advantages(rewards, scale="none"), rewards - means, atol=1e-6)


@given(
    reward=st.floats(-3, 3, width=32),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 13)),
    scale=st.sampled_from(["std", "none"]),
)
def test_equal_rewards_are_exactly_zero(reward, shape, scale):
    """0.1 thirteen times has a mean that is not 0.1 in floating point."""
    assert (grpo.advantages(np.full((1, *shape), reward, np.float32), scale=scale) == 0).all()


def test_a_group_sees_no_other_group():
    rewards = np.array([[[1, 0], [0, 0]], [[5, 3], [1, 9]]], np.float32)
    np.testing.assert_array_equal(grpo.advantages(rewards)[:1], grpo.advantages(rewards[:1]))


def test_unknown_scale():
    with pytest.raises(ValueError, match="'variance'"):
        grpo.advantages(np.zeros((1, 1, 2)), scale="variance")


@given(rewards=REWARDS, scale=st.sampled_from(grpo.SCALES))
def test_scopes_of_advantages(rewards, scale):
    pooled, each, both = (grpo.advantages(rewards, scale, scope=scope) for scope in ("group", "order", "both"))
    for order in range(rewards.shape[1]):
        alone = rewards[:, order : order + 1]
        np.testing.assert_array_equal(each[:, order : order + 1], grpo.advantages(alone, scale))
    np.testing.assert_allclose(both, pooled + each, rtol=1e-5, atol=1e-6)


def test_an_easy_order_gets_no_credit_of_its_own():
    """Pooled, all responses to an easy order are good ones; per order, they teach nothing."""
    rewards = np.array([[[1, 1, 1], [0, 0, 0]]])
    assert (grpo.advantages(rewards)[0] * [[1], [-1]] > 0.9).all()
    assert (grpo.advantages(rewards, scope="order") == 0).all()
    with pytest.raises(ValueError, match="one of group, order, both, not 'question'"):
        grpo.advantages(rewards, scope="question")


def test_consistent_rewards():
    rewards = np.array([[[1, 0, 1, 0.5], [0, 0, 0, 1]], [[1, 1, 1, 1], [1, 1, 1, 1]]])
    right = rewards >= 0.5
    times, plus = (grpo.consistent_rewards(rewards, right, kind) for kind in ("times", "plus"))
    assert times.dtype == plus.dtype == np.float32
    np.testing.assert_allclose(times[0], [[0.25, 0, 0.25, 0.125], [0, 0, 0, 0.75]])
    np.testing.assert_allclose(plus[0], [[1.25, 0.25, 1.25, 0.75], [0.75, 0.75, 0.75, 1.75]])
    assert (times[1] == 1).all() and (plus[1] == 2).all()
    np.testing.assert_array_equal(grpo.consistent_rewards(rewards, right, "off"), rewards)
    three = grpo.consistent_rewards(np.ones((1, 3, 2)), np.array([[[1, 1], [1, 0], [0, 0]]]), "times")
    np.testing.assert_allclose(three[0, :, 0], [0.25, 0.5, 0.75])
    with pytest.raises(ValueError, match="one of off, times, plus, not 'max'"):
        grpo.consistent_rewards(rewards, right, "max")


@pytest.mark.parametrize("kind", grpo.CONSISTENCY)
def test_one_order_alone_is_consistent(kind):
    rewards = np.array([[[1, 0, 1]], [[0, 0, 0]]])
    np.testing.assert_array_equal(grpo.consistent_rewards(rewards, rewards > 0, kind), rewards)


# The loss.


@pytest.mark.parametrize("aggregate, expected", [("token-mean", -0.46657715), ("seq-mean-token-mean", -0.14993286)])
def test_loss_example(aggregate, expected):
    loss, _ = grpo.loss(PI, OLD, A, MASK, REF, kl_coef=0.01, aggregate=aggregate)
    assert float(loss) == pytest.approx(expected, abs=1e-7)


def plain_policy_term(kind, logp, log_ratio, advantage, clip_low, clip_high, dual_clip):
    """One token's policy term by the formula, in float64."""
    ratio = math.exp(min(max(log_ratio, -20), 20))
    clipped = min(max(ratio, 1 - clip_low), 1 + clip_high)
    if kind == "cispo":
        return -clipped * advantage * logp
    if kind == "sapo":
        tau = 1.0 if advantage > 0 else 1.05
        return -advantage * 4 / tau / (1 + math.exp(min(-tau * (ratio - 1), 700)))
    loss = max(-advantage * ratio, -advantage * clipped)
    if kind == "grpo" and dual_clip is not None and advantage < 0:
        loss = min(loss, -advantage * dual_clip)
    return loss


def plain_response(
    logp, old, ref, sampler, entropy, advantage, *, kind, importance, importance_cap, kl_coef, entropy_coef, **clipping
):
    """The token losses of one response, [its length] of each array, in float64."""
    log_ratios, log_weights = logp - old, old - sampler
    if kind == "gspo":
        log_ratios = np.full_like(logp, log_ratios.mean())
    if importance == "sequence":
        log_weights = np.full_like(logp, log_weights.sum())
    losses = []
    for t in range(len(logp)):
        weight = 1 if importance == "off" else min(math.exp(min(max(log_weights[t], -20), 20)), importance_cap)
        loss = weight * plain_policy_term(kind, logp[t], log_ratios[t], advantage, **clipping)
        d = min(max(ref[t] - logp[t], -20), 20)
        losses.append(loss + kl_coef * min(math.exp(d) - d - 1, 10) - entropy_coef * entropy[t])
    return losses


def plain_loss(arrays, advantages, mask, aggregate, **options):
    """The loss of responses [N, R] by loops, from the arrays that `plain_response` takes."""
    lengths = mask.sum(-1)
    rows = [
        plain_response(*(x[n, : lengths[n]] for x in arrays), advantages[n], **options)
        for n in range(len(mask))
        if lengths[n]
    ]
    if not rows:
        return 0.0
    if aggregate == "token-mean":
        return sum(map(sum, rows)) / sum(map(len, rows))
    if aggregate == "seq-mean-token-mean":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    return sum(sum(row) / mask.shape[1] for row in rows) / len(rows)


@st.composite
def batches(draw, shape=(4, 3)):
    """Log-probs, advantages and a mask of four responses of up to three tokens."""
    values = hnp.arrays(np.float32, shape, elements=st.floats(-4, 0, width=16))
    lengths = draw(st.lists(st.integers(0, shape[1]), min_size=shape[0], max_size=shape[0]))
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    advantages = draw(hnp.arrays(np.float32, shape[:1], elements=st.floats(-3, 3, width=16)))
    return draw(values), draw(values), draw(values), advantages, mask


@settings(max_examples=60)
@given(
    batch=batches(),
    more=hnp.arrays(np.float32, (2, 4, 3), elements=st.floats(-4, 0, width=16)),
    aggregate=st.sampled_from(grpo.AGGREGATES),
    kind=st.sampled_from(grpo.KINDS),
    dual_clip=st.sampled_from([None, 1.5, 3.0]),
    clips=st.sampled_from([(0.2, 0.2), (0.1, 0.3)]),
    kl_coef=st.sampled_from([0.0, 0.01, 0.5]),
    importance=st.sampled_from(grpo.IMPORTANCE),
    importance_cap=st.sampled_from([1.0, 2.0, 30.0]),
    entropy_coef=st.sampled_from([0.0, 0.1]),
)
def test_loss_equals_a_plain_loop(batch, more, aggregate, clips, **options):
    logp, old, ref, advantages, mask = batch
    options |= {"clip_low": clips[0], "clip_high": clips[1]}
    tokens = {"sampler_logp": more[0], "entropy": -more[1]}
    loss, _ = grpo.loss(logp, old, advantages, mask, ref, aggregate=aggregate, **tokens, **options)
    arrays = [x.astype(np.float64) for x in (logp, old, ref, *tokens.values())]
    expected = plain_loss(arrays, advantages.astype(np.float64), mask, aggregate, **options)
    assert loss.dtype == jnp.float32 and loss.shape == ()
    assert float(loss) == pytest.approx(expected, rel=2e-5, abs=2e-5)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    batch=batches(),
    poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]),
    aggregate=st.sampled_from(grpo.AGGREGATES),
    kind=st.sampled_from(grpo.KINDS),
    importance=st.sampled_from(grpo.IMPORTANCE),
)
def test_masked_tokens_reach_neither_loss_nor_gradient(batch, poison, **options):
    *clean, advantages, mask = batch
    check_masked_tokens(clean, advantages, mask, poison, **options)


@pytest.mark.parametrize("importance", grpo.IMPORTANCE)
@pytest.mark.parametrize("kind", grpo.KINDS)
def test_masked_tokens_of_each_kind(kind, importance):
    check_masked_tokens([PI, OLD, REF], A, MASK > 0, np.nan, kind=kind, importance=importance)
    check_masked_tokens([PI, OLD, REF], A, np.array([[False, False], [True, False]]), np.inf, kind=kind)


def check_masked_tokens(clean, advantages, mask, poison, **options):
    """Compares loss and gradients to those where masked tokens of every array, and empty responses, hold `poison`."""
    clean = [np.asarray(x, np.float32) for x in (*clean, clean[1] + clean[2], -clean[0])]
    spoiled = [np.where(mask, x, poison).astype(np.float32) for x in clean]
    spoiled_advantages = np.where(mask.any(-1), advantages, poison).astype(np.float32)

    def loss(logp, old, ref, sampler, entropy, advantages):
        more = {"sampler_logp": sampler, "entropy": entropy, "entropy_coef": 0.1}
        return grpo.loss(logp, old, advantages, mask, ref, kl_coef=0.1, **more, **options)

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True)
    (expected, _), expected_gradients = gradient(*clean, advantages)
    (got, metrics), gradients = gradient(*spoiled, spoiled_advantages)
    assert float(got) == float(expected)
    assert all(np.isfinite(value) for value in metrics.values())
    for ours, theirs in zip(gradients, expected_gradients):
        np.testing.assert_array_equal(ours, theirs)
        assert np.isfinite(ours).all() and (np.asarray(ours)[~mask] == 0).all()


@pytest.mark.parametrize("aggregate", grpo.AGGREGATES)
def test_no_token_at_all_is_loss_zero(aggregate):
    nothing = np.zeros_like(MASK)
    (loss, _), gradient = jax.value_and_grad(
        lambda logp: grpo.loss(logp, OLD, A, nothing, REF, kl_coef=0.1, aggregate=aggregate), has_aux=True
    )(jnp.asarray(PI))
    assert float(loss) == 0 and (np.asarray(gradient) == 0).all()


def one_token(logp, old, advantage, **options):
    """(loss, gradient by logp, metrics) of one token."""
    (loss, metrics), gradient = jax.value_and_grad(
        lambda logp: grpo.loss(
            logp[None, None], jnp.full((1, 1), old), jnp.array([advantage]), jnp.ones((1, 1)), **options
        ),
        has_aux=True,
    )(jnp.float32(logp))
    return float(loss), float(gradient), {name: float(value) for name, value in metrics.items()}


def test_clipping_stops_the_gradient_on_its_side_only():
    up, down = math.log(1.5), math.log(0.5)
    assert one_token(up, 0.0, 1.0)[:2] == pytest.approx((-1.2, 0.0))
    assert one_token(down, 0.0, -1.0)[:2] == pytest.approx((0.8, 0.0))
    assert one_token(down, 0.0, 1.0)[:2] == pytest.approx((-0.5, -0.5))
    assert one_token(up, 0.0, -1.0)[:2] == pytest.approx((1.5, 1.5))
    assert one_token(up, 0.0, 1.0, clip_high=0.6)[:2] == pytest.approx((-1.5, -1.5))
    assert one_token(down, 0.0, -1.0, clip_low=0.6)[:2] == pytest.approx((0.5, 0.5))


def test_dual_clip_bounds_negative_advantages_alone():
    ten = math.log(10.0)
    assert one_token(ten, 0.0, -2.0)[:2] == pytest.approx((6.0, 0.0))
    assert one_token(ten, 0.0, -2.0, dual_clip=None)[:2] == pytest.approx((20.0, 20.0))
    assert one_token(ten, 0.0, 2.0)[:2] == pytest.approx((-2.4, 0.0))


def test_clip_fractions():
    up, down, ten = (math.log(x) for x in (1.5, 0.5, 10.0))
    assert one_token(up, 0.0, 1.0)[2]["clip_high"] == 1 and one_token(up, 0.0, 1.0)[2]["clip_low"] == 0
    assert one_token(down, 0.0, -1.0)[2]["clip_low"] == 1 and one_token(down, 0.0, -1.0)[2]["clip_high"] == 0
    assert one_token(ten, 0.0, -1.0)[2]["clip_dual"] == 1 and one_token(up, 0.0, -1.0)[2]["clip_dual"] == 0
    mask = np.array([[1, 1, 1, 0]])
    metrics = grpo.loss(np.log([[1.5, 2.0, 1.0, 9.0]]), np.zeros((1, 4)), np.ones(1), mask)[1]
    assert float(metrics["clip_high"]) == pytest.approx(2 / 3)
    assert float(metrics["ratio"]) == pytest.approx(4.5 / 3) and float(metrics["ratio_max"]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "d, expected", [(0.5, math.exp(0.5) - 1.5), (-3.0, math.exp(-3.0) + 2), (3.0, 10), (-15.0, 10)]
)
def test_k3_and_its_limit(d, expected):
    loss, _, metrics = one_token(-1.0, -1.0, 0.0, ref_logp=jnp.full((1, 1), -1.0 + d), kl_coef=1.0)
    assert loss == pytest.approx(expected, rel=1e-5) and metrics["kl"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("far", [1e3, -1e3])
def test_far_policies_stay_finite(far):
    """exp(1000) is infinite, and infinity times a zero gradient is NaN: the differences are limited before it."""
    loss, gradient, _ = one_token(-1.0, -1.0, 0.0, ref_logp=jnp.full((1, 1), far), kl_coef=1.0)
    assert loss == pytest.approx(10) and gradient == 0
    loss, gradient, _ = one_token(far, 0.0, 1.0)
    assert math.isfinite(loss) and gradient == 0
    loss, gradient, _ = one_token(far, 0.0, -1.0, dual_clip=None)
    assert loss == pytest.approx(math.exp(20) if far > 0 else 0.8, rel=1e-5) and math.isfinite(gradient)


def test_kl_without_a_reference():
    with pytest.raises(ValueError, match="ref_logp"):
        grpo.loss(PI, OLD, A, MASK, kl_coef=0.01)
    with_none, _ = grpo.loss(PI, OLD, A, MASK)
    with_unused, _ = grpo.loss(PI, OLD, A, MASK, REF, kl_coef=0.0)
    assert float(with_none) == float(with_unused)


def test_unknown_aggregate():
    with pytest.raises(ValueError, match="'mean'"):
        grpo.loss(PI, OLD, A, MASK, aggregate="mean")


def test_a_constant_length_must_be_given():
    with pytest.raises(ValueError, match="norm_length"):
        grpo.response_weights(np.array([1, 2]), "seq-mean-token-sum-norm")


@given(batch=batches(), aggregate=st.sampled_from(grpo.AGGREGATES), extra=st.integers(1, 4))
@settings(max_examples=30)
def test_padding_counts_nowhere(batch, aggregate, extra):
    """Responses of no token: the weights of the others stay; on JAX arrays as on numpy's."""
    lengths = batch[-1].sum(-1)
    weights = grpo.response_weights(lengths, aggregate, norm_length=3)
    padded = grpo.response_weights(np.pad(lengths, (0, extra)), aggregate, norm_length=3)
    np.testing.assert_array_equal(padded[: len(lengths)], weights)
    assert (padded[len(lengths) :] == 0).all() and (weights[lengths == 0] == 0).all()
    on_device = grpo.response_weights(jnp.asarray(lengths), aggregate, norm_length=3)
    np.testing.assert_allclose(on_device, weights, rtol=1e-6)


# Kinds of the policy term.

EXAMPLES = [  # of PI, OLD, A, MASK: computed by veRL's and TRL's own functions in float64
    ("grpo", "token-mean", -7 / 15, [[0, -1 / 3], [0, 0]]),
    ("grpo", "seq-mean-token-mean", -0.15, [[0, -0.25], [0, 0]]),
    ("gspo", "seq-mean-token-mean", -0.159016994, [[-0.279508497, -0.279508497], [0, 0]]),
    ("cispo", "token-mean", 0.261629702, [[-0.4, -1 / 3], [0.266666667, 0]]),
    ("sapo", "seq-mean-token-mean", -0.234082644, [[-0.307667603, -0.25], [0.368613510, 0]]),
]


@pytest.mark.parametrize("kind, aggregate, expected, expected_gradient", EXAMPLES)
def test_example_of_each_kind(kind, aggregate, expected, expected_gradient):
    loss, gradient = jax.value_and_grad(lambda logp: grpo.loss(logp, OLD, A, MASK, kind=kind, aggregate=aggregate)[0])(
        jnp.asarray(PI, jnp.float32)
    )
    assert float(loss) == pytest.approx(expected, abs=1e-7)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-7)


def test_token_losses_of_each_kind_by_hand():
    """Ratios 5/4 and 1 of A = 1, 3/4 of A = -1: the second response has one token alone, so its mean is of that one."""
    expected = {
        "grpo": [[-1.2, -1.0], [0.8, 0.0]],
        "gspo": [[-math.sqrt(1.25), -math.sqrt(1.25)], [0.8, 0.0]],
        "cispo": [[1.2 * math.log(2), math.log(2.5)], [0.8 * math.log(0.3), 0.0]],
        "sapo": [[-4 / (1 + math.exp(-0.25)), -2.0], [4 / 1.05 / (1 + math.exp(1.05 * 0.25)), 0.0]],
    }
    assert tuple(expected) == grpo.KINDS
    for kind, losses in expected.items():
        np.testing.assert_allclose(grpo.token_losses(PI, OLD, A, MASK, kind=kind)[0], losses, atol=1e-6)


@pytest.mark.parametrize("aggregate", grpo.AGGREGATES)
@pytest.mark.parametrize("kind", grpo.KINDS)
def test_on_policy_every_kind_has_the_policy_gradient(kind, aggregate):
    """At ratio 1, whatever the temperatures of SAPO: its gate has slope 1 there."""
    taus = {"tau_positive": 1.0, "tau_negative": 3.0}
    gradient = jax.grad(lambda logp: grpo.loss(logp, OLD, A, MASK, kind=kind, aggregate=aggregate, **taus)[0])
    weights = grpo.response_weights(MASK.sum(-1), aggregate, norm_length=2)
    expected = -A[:, None] * weights[:, None] * MASK
    np.testing.assert_allclose(gradient(jnp.asarray(OLD, jnp.float32)), expected, rtol=1e-6)


@given(batch=batches())
@settings(max_examples=20)
def test_gspo_has_the_gradient_of_the_sequence_objective(batch):
    """That of max(-A s, -A clip(s)) of each response, where s = exp(mean log-ratio) has its own gradient."""
    logp, old, _, advantages, mask = batch
    lengths = mask.sum(-1)

    def sequence_objective(logp):
        s = jnp.exp(jnp.sum(jnp.where(mask, logp - old, 0), -1) / lengths.clip(1))
        losses = jnp.maximum(-advantages * s, -advantages * jnp.clip(s, 0.8, 1.2))
        return jnp.sum(losses * (lengths > 0)) / max(1, (lengths > 0).sum())

    def ours(logp):
        return grpo.loss(logp, old, advantages, mask, kind="gspo", aggregate="seq-mean-token-mean")[0]

    (expected, expected_gradient), (loss, gradient) = (jax.value_and_grad(f)(logp) for f in (sequence_objective, ours))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_gspo_clips_responses_as_a_whole():
    """Ratios 10 and 1/10 make a response's ratio 1, ratios 3 and 1 make one that is clipped at both tokens."""
    logp, mask = np.log([[10.0, 0.1], [3.0, 1.0]]), np.ones((2, 2))
    losses, stats = grpo.token_losses(logp, np.zeros((2, 2)), np.ones(2), mask, kind="gspo")
    np.testing.assert_allclose(stats["ratio"], [[1, 1], [math.sqrt(3)] * 2], rtol=1e-6)
    np.testing.assert_allclose(losses, [[-1, -1], [-1.2, -1.2]], rtol=1e-6)
    np.testing.assert_array_equal(stats["clip_high"], [[0, 0], [1, 1]])


def test_cispo_keeps_every_tokens_gradient():
    up, down = math.log(1.5), math.log(0.5)
    for advantage in (1.0, -1.0):
        loss, gradient, metrics = one_token(up, 0.0, advantage, kind="cispo", clip_high=0.3)
        assert (loss, gradient) == pytest.approx((-1.3 * advantage * up, -1.3 * advantage))
        assert metrics["clip_high"] == 1 and metrics["clip_low"] == 0
        loss, gradient, metrics = one_token(down, 0.0, advantage, kind="cispo")
        assert (loss, gradient) == pytest.approx((-0.8 * advantage * down, -0.8 * advantage))
        assert metrics["clip_high"] == 0 and metrics["clip_low"] == 1
    assert one_token(down, 0.0, 1.0, kind="cispo", clip_low=1.0)[1] == pytest.approx(-0.5)  # TRL: no lower bound


def test_sapo_gates_softly():
    """The slope of the gate falls from 1, at ratio 1, as sech(tau / 2 (ratio - 1))^2, as the paper derives."""
    for ratio in (0.5, 1.0, 1.5, 4.0):
        for advantage, tau in ((2.0, 1.0), (-2.0, 1.05), (0.0, 1.05)):
            loss, gradient, metrics = one_token(math.log(ratio), 0.0, advantage, kind="sapo")
            assert loss == pytest.approx(-advantage * 4 / tau / (1 + math.exp(-tau * (ratio - 1))), rel=1e-5)
            weight = ratio / math.cosh(tau / 2 * (ratio - 1)) ** 2
            assert gradient == pytest.approx(-advantage * weight, rel=1e-4)
            assert metrics["clip_low"] == metrics["clip_high"] == 0
    sharp = one_token(math.log(1.5), 0.0, 1.0, kind="sapo", tau_positive=5.0)
    assert sharp[:2] == pytest.approx((-0.8 / (1 + math.exp(-2.5)), -1.5 / math.cosh(1.25) ** 2), rel=1e-5)


def test_dual_clip_is_of_grpo_alone():
    ten = math.log(10.0)
    for kind, expected in {"gspo": 20.0, "cispo": 2.4 * ten, "sapo": 8 / 1.05 / (1 + math.exp(-9.45))}.items():
        loss, gradient, metrics = one_token(ten, 0.0, -2.0, kind=kind, dual_clip=1.5)
        assert loss == pytest.approx(expected, rel=1e-5) and gradient > 0 and metrics["clip_dual"] == 0


@pytest.mark.parametrize("options", [{}, {"dual_clip": None}, {"sampler_logp": SAMPLER, "importance": "token"}])
def test_statistics_have_the_same_names_for_each_kind(options):
    names = [set(grpo.token_losses(PI, OLD, A, MASK, kind=kind, **options)[1]) for kind in grpo.KINDS]
    assert all(of_kind == names[0] for of_kind in names)
    assert names[0] >= {"ratio", "clip_low", "clip_high"} and ("clip_dual" in names[0]) == ("dual_clip" not in options)


@pytest.mark.parametrize("kind", grpo.KINDS)
def test_kl_is_the_same_for_each_kind(kind):
    without, _ = grpo.loss(PI, OLD, A, MASK, kind=kind)
    with_kl, metrics = grpo.loss(PI, OLD, A, MASK, REF, kind=kind, kl_coef=0.5)
    assert float(with_kl - without) == pytest.approx(0.5 * float(metrics["kl"]), abs=1e-6)
    assert float(metrics["kl"]) == pytest.approx((math.log(0.8) + 1.25 - 1) / 3, abs=1e-7)


@pytest.mark.parametrize("importance", grpo.IMPORTANCE)
@pytest.mark.parametrize("kind", grpo.KINDS)
def test_each_kind_stays_finite(kind, importance):
    """Also where the log-ratios of a response's tokens cancel, or where their sum is infinite in float32."""
    options = {"kind": kind, "importance": importance, "dual_clip": None, "kl_coef": 0.1}
    far = np.array([[1e3, -1e3, 1e3, -1e3], [1e3] * 4, [-1e3] * 4, [1e38] * 4, [-1e38] * 4, [15.0] * 4], np.float32)
    zero, mask = np.zeros_like(far), np.ones(far.shape)

    @jax.jit
    def results(logp, old, sampler, advantages):
        def losses(logp):
            losses, stats = grpo.token_losses(logp, old, advantages, mask, old, sampler_logp=sampler, **options)
            return losses.sum(), (losses, stats)

        return jax.grad(losses, has_aux=True)(logp)

    for sign in (1.0, -1.0):
        for logp, old, sampler in ((far, zero, zero), (zero, far, zero), (zero, zero, far)):
            found = results(logp, old, sampler, np.full(len(far), sign, np.float32))
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.parametrize("kind", grpo.KINDS)
def test_each_kind_under_jit_and_vmap(kind):
    def loss(logp, old):
        options = {"sampler_logp": SAMPLER, "importance": "sequence", "entropy": -logp, "entropy_coef": 0.1}
        return grpo.loss(logp, old, A, MASK, REF, kind=kind, kl_coef=0.1, **options)[0]

    logps, olds = (np.stack([x, x[::-1]]).astype(np.float32) for x in (PI, OLD))
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(logps, olds)
    for logp, old, value, gradient in zip(logps, olds, values, gradients):
        expected, expected_gradient = jax.value_and_grad(loss)(logp, old)
        assert float(value) == pytest.approx(float(expected), rel=1e-5)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


def test_unknown_kind():
    with pytest.raises(ValueError, match="'ppo'"):
        grpo.loss(PI, OLD, A, MASK, kind="ppo")


# Importance weights.


@pytest.mark.parametrize(
    "importance, weights, losses",
    [
        (
            "token",
            [[0.8, 1.6], [2.0, 0]],
            {"grpo": -0.32, "gspo": 0.129179607, "cispo": 0.068376659, "sapo": 0.406446514},
        ),
        (
            "sequence",
            [[1.28, 1.28], [2.0, 0]],
            {"grpo": -0.405333333, "gspo": 0.084458247, "cispo": 0.103723240, "sapo": 0.296601794},
        ),
    ],
)
def test_importance_example(importance, weights, losses):
    """Computed by veRL's `compute_rollout_correction_weights` and policy losses, and, but for CISPO's, by TRL's."""
    options = {"sampler_logp": SAMPLER, "importance": importance}
    for kind, expected in losses.items():
        aggregate = "token-mean" if kind in ("grpo", "cispo") else "seq-mean-token-mean"
        loss, metrics = grpo.loss(PI, OLD, A, MASK, kind=kind, aggregate=aggregate, **options)
        assert float(loss) == pytest.approx(expected, abs=2e-7)
        assert float(metrics["importance"]) == pytest.approx(np.sum(weights) / 3, rel=1e-6)
    np.testing.assert_allclose(grpo.token_losses(PI, OLD, A, MASK, **options)[1]["importance"], weights, rtol=1e-6)


def test_the_cap_is_the_largest_weight():
    """And there is no smallest one."""
    for cap, expected in ((1.5, 1.5), (2.0, 2.0), (5.0, 4.0)):
        _, _, metrics = one_token(0.0, 0.0, 1.0, **sampled(math.log(0.25)), importance_cap=cap)
        assert metrics["importance"] == pytest.approx(expected)
    assert one_token(0.0, 0.0, 1.0, **sampled(math.log(100)))[2]["importance"] == pytest.approx(0.01)


def sampled(logp, importance="token"):
    """The options of a single token with this log-prob of the sampler's."""
    return {"sampler_logp": jnp.full((1, 1), logp), "importance": importance}


@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("kind", grpo.KINDS)
def test_without_a_gap_the_loss_is_the_same_to_the_bit(kind, importance):
    def gradient(**options):
        return jax.value_and_grad(lambda logp: grpo.loss(logp, OLD, A, MASK, REF, kind=kind, kl_coef=0.1, **options)[0])

    logp = jnp.asarray(PI, jnp.float32)
    expected = gradient()(logp)
    got = gradient(sampler_logp=OLD, importance=importance)(logp)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert float(grpo.loss(PI, OLD, A, MASK, sampler_logp=OLD, importance=importance)[1]["importance"]) == 1


@pytest.mark.parametrize("importance", ["token", "sequence"])
def test_importance_weights_have_no_gradient(importance):
    """By the sampler's log-probs it is 0; by the old ones it is that of the ratio alone, times the weights."""

    def losses(old, sampler):
        return grpo.token_losses(old + 0.1, old, A, MASK, sampler_logp=sampler, importance=importance)[0].sum()

    for gradient in jax.grad(losses, (0, 1))(*(jnp.asarray(x, jnp.float32) for x in (OLD, SAMPLER))):
        np.testing.assert_allclose(gradient, np.zeros((2, 2)), atol=1e-6)


def test_kl_and_entropy_have_no_importance_weight():
    options = {"kl_coef": 0.5, "entropy": -PI, "entropy_coef": 0.1}
    expected, _ = grpo.loss(PI, OLD, 0 * A, MASK, REF, **options)
    for importance in ("token", "sequence"):
        loss, _ = grpo.loss(PI, OLD, 0 * A, MASK, REF, sampler_logp=SAMPLER, importance=importance, **options)
        assert float(loss) == float(expected) != 0


def test_importance_needs_the_sampler():
    for importance in ("token", "sequence"):
        with pytest.raises(ValueError, match="sampler_logp"):
            grpo.loss(PI, OLD, A, MASK, importance=importance)
    with pytest.raises(ValueError, match="'seq'"):
        grpo.loss(PI, OLD, A, MASK, sampler_logp=SAMPLER, importance="seq")
    with_unused, metrics = grpo.loss(PI, OLD, A, MASK, sampler_logp=SAMPLER)
    assert float(with_unused) == float(grpo.loss(PI, OLD, A, MASK)[0]) and "importance" not in metrics


# The entropy bonus.


@pytest.mark.parametrize("aggregate", grpo.AGGREGATES)
def test_entropy_is_subtracted_with_the_weights_of_the_tokens(aggregate):
    entropy = jnp.array([[1.0, 2.0], [4.0, np.nan]])

    def loss(entropy, coef):
        return grpo.loss(PI, OLD, A, MASK, aggregate=aggregate, entropy=entropy, entropy_coef=coef)[0]

    weights = grpo.response_weights(MASK.sum(-1), aggregate, norm_length=2)
    without = float(grpo.loss(PI, OLD, A, MASK, aggregate=aggregate)[0])
    value, gradient = jax.value_and_grad(loss)(entropy, 0.1)
    assert float(value) == pytest.approx(without - 0.1 * (3 * weights[0] + 4 * weights[1]), rel=1e-5)
    np.testing.assert_allclose(gradient, -0.1 * weights[:, None] * MASK, rtol=1e-6)
    value, gradient = jax.value_and_grad(loss)(entropy, 0.0)
    assert float(value) == without and (np.asarray(gradient) == 0).all()


def test_an_entropy_coefficient_needs_the_entropy():
    with pytest.raises(ValueError, match="entropy"):
        grpo.loss(PI, OLD, A, MASK, entropy_coef=0.1)


# Packed rows.


@pytest.mark.parametrize("kind, importance", [("gspo", "off"), ("gspo", "sequence"), ("cispo", "sequence")])
def test_packed_rows_equal_responses(kind, importance):
    """Three rows hold responses of any lengths, and their tokens in any order; the last axis is of one token each."""
    rng = np.random.default_rng(0)
    R, C, rows = 5, 12, 3
    lengths = rng.integers(1, R + 1, (rows, 2))
    mask = np.arange(R) < lengths[..., None]
    logp, old, sampler = rng.normal(-1, 0.5, (3, rows, 2, R)).astype(np.float32)
    advantages = rng.normal(size=(rows, 2)).astype(np.float32)
    losses, stats = grpo.token_losses(
        logp, old, advantages, mask, kind=kind, sampler_logp=sampler, importance=importance
    )

    slots = np.stack([rng.permutation(C) for _ in range(rows)])  # of each token, then of padding
    row, response, at = np.nonzero(mask)
    slot = np.concatenate([slots[n, : mask[n].sum()] for n in range(rows)])

    def packed(x, fill):
        out = np.full((rows, C), fill, x.dtype)
        out[row, slot] = x[row, response, at]
        return out

    numbers = np.broadcast_to(np.array([C - 1, 3])[:, None], mask.shape).astype(np.int32)
    segments = packed(numbers, -1)
    packed_losses, packed_stats = grpo.token_losses(
        packed(logp, np.nan)[..., None],
        packed(old, np.nan)[..., None],
        packed(np.broadcast_to(advantages[..., None], mask.shape), np.nan),
        segments[..., None] >= 0,
        kind=kind,
        sampler_logp=packed(sampler, np.nan)[..., None],
        importance=importance,
        response_sum=grpo.segment_sums(jnp.asarray(segments)),
    )
    for ours, theirs in zip(jax.tree.leaves((packed_losses, packed_stats)), jax.tree.leaves((losses, stats))):
        np.testing.assert_allclose(ours[..., 0], packed(np.asarray(theirs), 0), rtol=1e-5, atol=1e-6)


def test_segment_sums():
    """The largest number is the last, C - 1; tokens of -1 are not those of it."""
    segments = jnp.array([[0, 0, -1, 3], [1, -1, 1, 1]])
    x = jnp.array([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]])
    expected = np.array([[3, 3, 0, 8], [13, 0, 13, 13]])
    np.testing.assert_array_equal(grpo.segment_sums(segments)(x), expected)
    of_rows = jax.jit(lambda segments, x: grpo.segment_sums(segments)(x))(segments, x[..., None])
    np.testing.assert_array_equal(of_rows[..., 0], expected)


# The penalty of long responses.


def test_overlong_example():
    """The paper's own lengths: 16384 tokens are expected, and 4096 more are the buffer (DAPO, section 4.1)."""
    lengths = [[0, 16384, 17408], [18432, 20480, 30000]]
    penalty = grpo.overlong_penalty(lengths, 20480, 4096)
    assert penalty.dtype == np.float32
    np.testing.assert_array_equal(penalty, [[0, 0, -0.25], [-0.5, -1, -1]])
    np.testing.assert_array_equal(grpo.overlong_penalty(lengths, 20480, 4096, factor=0.5), penalty / 2)
    np.testing.assert_array_equal(grpo.overlong_penalty(np.array(lengths), 20480, 0), np.zeros((2, 3)))


@given(length=st.integers(0, 60), buffer=st.integers(1, 40), factor=st.floats(0, 3))
def test_overlong_penalty_is_verls_up_to_the_length_limit(length, buffer, factor):
    expected = min(-(min(length, 40) - (40 - buffer)) / buffer * factor, 0)
    penalty = grpo.overlong_penalty(length, 40, buffer, factor)
    assert penalty.shape == () and float(penalty) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("buffer", [-1, 41])
def test_a_buffer_beyond_the_length_limit(buffer):
    with pytest.raises(ValueError, match="buffer"):
        grpo.overlong_penalty([1], 40, buffer)
