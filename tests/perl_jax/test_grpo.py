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


# The loss.


@pytest.mark.parametrize("aggregate, expected", [("token-mean", -0.46657715), ("seq-mean-token-mean", -0.14993286)])
def test_loss_example(aggregate, expected):
    loss, _ = grpo.loss(PI, OLD, A, MASK, REF, kl_coef=0.01, aggregate=aggregate)
    assert float(loss) == pytest.approx(expected, abs=1e-7)


def plain_token_loss(logp, old, ref, advantage, *, clip_low, clip_high, dual_clip, kl_coef):
    """One token's loss by the formula, in float64."""
    ratio = math.exp(min(max(logp - old, -20), 20))
    clipped = min(max(ratio, 1 - clip_low), 1 + clip_high)
    loss = max(-advantage * ratio, -advantage * clipped)
    if dual_clip is not None and advantage < 0:
        loss = min(loss, -advantage * dual_clip)
    d = min(max(ref - logp, -20), 20)
    return loss + kl_coef * min(math.exp(d) - d - 1, 10)


def plain_loss(logp, old, ref, advantages, mask, aggregate, **options):
    """The loss of responses [N, R] by loops."""
    rows = [
        [plain_token_loss(logp[n, t], old[n, t], ref[n, t], advantages[n], **options) for t in np.flatnonzero(mask[n])]
        for n in range(len(mask))
    ]
    rows = [row for row in rows if row]
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
    aggregate=st.sampled_from(grpo.AGGREGATES),
    dual_clip=st.sampled_from([None, 1.5, 3.0]),
    clips=st.sampled_from([(0.2, 0.2), (0.1, 0.3)]),
    kl_coef=st.sampled_from([0.0, 0.01, 0.5]),
)
def test_loss_equals_a_plain_loop(batch, aggregate, dual_clip, clips, kl_coef):
    logp, old, ref, advantages, mask = batch
    options = {"clip_low": clips[0], "clip_high": clips[1], "dual_clip": dual_clip, "kl_coef": kl_coef}
    loss, _ = grpo.loss(logp, old, advantages, mask, ref, aggregate=aggregate, **options)
    expected = plain_loss(*(x.astype(np.float64) for x in (logp, old, ref, advantages)), mask, aggregate, **options)
    assert loss.dtype == jnp.float32 and loss.shape == ()
    assert float(loss) == pytest.approx(expected, rel=2e-5, abs=2e-5)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    batch=batches(), poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]), aggregate=st.sampled_from(grpo.AGGREGATES)
)
def test_masked_tokens_reach_neither_loss_nor_gradient(batch, poison, aggregate):
    *clean, advantages, mask = batch
    spoiled = [np.where(mask, x, poison).astype(np.float32) for x in clean]
    spoiled_advantages = np.where(mask.any(-1), advantages, poison).astype(np.float32)

    def loss(logp, old, ref, advantages):
        return grpo.loss(logp, old, advantages, mask, ref, kl_coef=0.1, aggregate=aggregate)

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (expected, _), expected_gradients = gradient(*clean, advantages)
    (got, metrics), gradients = gradient(*spoiled, spoiled_advantages)
    assert float(got) == float(expected)
    assert all(np.isfinite(value) for value in metrics.values())
    for ours, theirs in zip(gradients, expected_gradients):
        np.testing.assert_array_equal(ours, theirs)
        assert (np.asarray(ours)[~mask] == 0).all()


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
