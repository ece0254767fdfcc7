"""Filters and draws: the right distribution to the end of its tail, and its log-probs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perl_jax.engine import sampling


def log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# Filters.

LOGITS = hnp.arrays(np.float32, 9, elements=st.integers(-3, 3))  # so that there are ties


@given(logits=LOGITS, top_k=st.sampled_from([0, 1, 4, 9]), top_p=st.sampled_from([0.113, 0.377, 0.613, 0.907, 1.0]))
@settings(max_examples=80)
def test_keep_top_with_ties(logits, top_k, top_p):
    """Without ties the kept set is unique; a tie with the last of it is kept too."""
    kept = np.isfinite(np.asarray(sampling.keep_top(jnp.asarray(logits), top_k, top_p)))
    ordered = np.sort(logits)[::-1][: top_k or None]
    probs = np.exp(log_softmax(ordered))
    totals = np.cumsum(probs)
    assume(top_p == 1 or np.abs(totals - top_p).min() > 1e-5)
    least = ordered[-1] if top_p == 1 else ordered[np.flatnonzero(totals >= top_p)[0]]
    np.testing.assert_array_equal(kept, logits >= least)


@given(logits=LOGITS)
@settings(max_examples=20)
def test_keep_top_leaves_what_it_keeps(logits):
    out = np.asarray(sampling.keep_top(jnp.asarray(logits), 2, 0.9))
    assert out[logits.argmax()] == logits.max()
    np.testing.assert_array_equal(out[np.isfinite(out)], logits[np.isfinite(out)])


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_a_nucleus_larger_than_what_is_looked_at_first(monkeypatch, top_p):
    """Rows that need few tokens and rows that need nearly all, together and apart, as by sorting all."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 40)) * np.array([[8.0], [0.1]])
    expected = np.zeros(logits.shape, bool)
    for row, kept in zip(logits, expected):
        order = np.argsort(-row)
        reached = np.cumsum(np.exp(log_softmax(row[order])))
        kept[order[: np.flatnonzero(reached >= top_p)[0] + 1]] = True
    assert expected[1].sum() > 10
    monkeypatch.setattr(sampling, "NUCLEUS", 10)
    for rows in ([0], [1], [0, 1]):
        kept = np.isfinite(np.asarray(sampling.keep_top(jnp.asarray(logits[rows], jnp.float32), 0, top_p)))
        np.testing.assert_array_equal(kept, expected[rows])


# The draw itself.


def draws(logits, count: int, seed: int = 0) -> np.ndarray:
    """`count` draws from one distribution, in batches that fit in memory."""
    keys = jax.random.split(jax.random.key(seed), (count // 10000, 10000))
    draw = jax.vmap(lambda key: sampling.draw_categorical(key, jnp.asarray(logits, jnp.float32))[0])
    return np.asarray(jax.jit(lambda keys: jax.lax.map(draw, keys))(keys)).ravel()


def assert_fits(counts, expected):
    """Chi-square of counts, within five standard deviations of its mean; as many counts below as above five."""
    assert expected.min() > 5
    chi2, freedom = ((counts - expected) ** 2 / expected).sum(), len(counts) - 1
    assert abs(chi2 - freedom) < 5 * math.sqrt(2 * freedom), (chi2, freedom)


@pytest.mark.slow
@pytest.mark.parametrize("head", [0, 100_000, 152_063])
def test_draws_reach_the_tail_of_a_large_vocabulary(head):
    """Half the mass on one token, the rest shared by 130k: every region comes up as often as it should."""
    size, count = 152_064, 40_000
    possible = np.arange(size) % 7 != 3
    possible[head] = True
    probs = np.where(possible, 0.5 / (possible.sum() - 1), 0)
    probs[head] = 0.5
    with np.errstate(divide="ignore"):
        got = draws(np.log(probs) + 3.0, count, seed=head)
    assert got.min() >= 0 and got.max() < size and possible[got].all()
    assert abs((got == head).sum() - count / 2) < 5 * math.sqrt(count / 4)
    tail = got[got != head]
    tail_probs = np.where(np.arange(size) == head, 0, probs)
    tail_probs /= tail_probs.sum()
    for region in (np.arange(size) // 1024, np.arange(size) % sampling.BLOCK):  # far apart, and within a block
        counts = np.bincount(region[tail], minlength=region.max() + 1)
        assert_fits(counts, len(tail) * np.bincount(region, tail_probs))


def test_draws_from_few_tokens():
    probs = np.array([0.5, 0.2, 0.0, 0.2, 0.1, 0.0])
    with np.errstate(divide="ignore"):
        counts = np.bincount(draws(np.log(probs), 100_000), minlength=6)
    assert counts[2] == counts[5] == 0
    assert_fits(counts[probs > 0], 100_000 * probs[probs > 0])


def test_no_uniform_draws_what_has_no_mass():
    """About every step of the cumulative sum, which in float32 falls here and there, and at both ends of the range."""
    rng = np.random.default_rng(199)
    masses = np.where(rng.random(512) < 0.5, rng.exponential(size=512), 0).astype(np.float32)
    masses[[0, -1]] = 0
    cumulative = np.asarray(jnp.cumsum(masses))
    assert (np.diff(cumulative) < 0).any() or (np.diff(cumulative)[masses[1:] == 0] != 0).any(), "not the hard case"
    steps = (cumulative / cumulative[-1]).astype(np.float32)
    near = [np.nextafter(steps, np.float32(side)) for side in (0, 1)]
    uniforms = np.concatenate([[0, np.nextafter(np.float32(1), np.float32(0))], steps, *near]).clip(0, 1 - 2**-24)
    drawn = np.asarray(jax.vmap(lambda u: sampling.invert(jnp.asarray(masses), u))(uniforms.astype(np.float32)))
    assert (masses[drawn] > 0).all() and len(set(drawn.tolist())) == (masses > 0).sum()
    assert (np.abs(cumulative[drawn] - uniforms * cumulative[-1]) <= masses[drawn] + 1e-5 * cumulative[-1]).all()


@pytest.mark.parametrize("size", [1, 511, 513, 1300])
def test_the_largest_uniform_stays_in_the_vocabulary(monkeypatch, size):
    """Also where the last block is mostly padding, and where only its first token has mass."""
    for value in (0.0, 1 - 2**-24):
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape, value=value: jnp.full(shape, value, jnp.float32))
        for logits in (np.zeros(size), np.where(np.arange(size) == size - 1, 0.0, -np.inf)):
            index, _ = sampling.draw_categorical(jax.random.key(0), jnp.asarray(logits, jnp.float32))
            assert 0 <= int(index) < size and np.isfinite(logits[int(index)])


def test_draws_with_one_choice_and_with_far_logits():
    certain = np.full(1300, -np.inf)
    certain[777] = -50.0
    assert (draws(certain, 10_000) == 777).all()
    assert set(draws(np.array([3e4, -3e4, 3e4]), 10_000)) == {0, 2}  # exp() of neither over- nor underflows to NaN


def test_the_draw_knows_the_logsumexp():
    logits = np.random.default_rng(0).normal(size=(3, 1300)).astype(np.float32) * 5 + np.array([[0], [300], [-300]])
    keys = jax.random.split(jax.random.key(0), 3)
    got = jax.vmap(sampling.draw_categorical)(keys, jnp.asarray(logits, jnp.float32))[1]
    np.testing.assert_allclose(got, jax.nn.logsumexp(jnp.asarray(logits, jnp.float32), axis=-1), rtol=1e-6)
