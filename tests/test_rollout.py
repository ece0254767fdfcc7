"""Sampling: the model's own distribution, keyed by prompt and stream and by nothing else, to the end of its tail."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models import qwen2_5_vl as qwen
from perl_jax import rollout, update

R = 8


@pytest.fixture(scope="module")
def model(models):
    return models["tied"]


@pytest.fixture(scope="module")
def prompts(model):
    return tiny.prompts(model.config)


def generate(model, prompts, samples=3, max_new_tokens=R, **options):
    options = {"max_pixels": tiny.MAX_PIXELS} | options
    return rollout.generate(model, prompts, samples=samples, max_new_tokens=max_new_tokens, **options)


@pytest.fixture(scope="module")
def sampled(model, prompts):
    """The plain call that others are compared with: temperature 1, no filter, no EOS."""
    return generate(model, prompts)


def teacher_forced(model, prompts, tokens):
    """The raw logits [N, G, R, V] that predict the given tokens [N, G, R], by the plain model, a row a rollout."""
    rows = [([*ids, *map(int, stream)], pictures) for (ids, pictures), streams in zip(prompts, tokens)
            for stream in streams]  # fmt: skip
    logits = np.asarray(model(qwen.pack(model.config, rows, max_pixels=tiny.MAX_PIXELS)))
    count = tokens.shape[2]
    picked = [row[len(ids) - 1 - count : len(ids) - 1] for row, (ids, _) in zip(logits, rows)]
    return np.stack(picked).reshape(*tokens.shape, -1)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def at(values, tokens):
    return np.take_along_axis(values, tokens[..., None], axis=-1)[..., 0]


def suppressed(logits, config):
    logits = logits.copy()
    logits[..., [config.image_token_id, config.video_token_id]] = -np.inf
    return logits


# Greedy.


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_greedy_is_the_argmax_and_transformers(models, theirs, name):
    import reference

    model, prompts = models[name], tiny.prompts(models[name].config)
    out = generate(model, prompts, samples=2, temperature=0.0)
    for b, prompt in enumerate(prompts):
        expected = reference.greedy(theirs[name], prompt, R, tiny.MAX_PIXELS)
        np.testing.assert_array_equal(out.tokens[b], [expected, expected])


def test_greedy_equals_teacher_forcing(model, prompts):
    out = generate(model, prompts, samples=2, temperature=0.0)
    logits = teacher_forced(model, prompts, out.tokens)
    np.testing.assert_array_equal(out.tokens, suppressed(logits, model.config).argmax(-1))
    np.testing.assert_allclose(out.logprobs, at(log_softmax(logits), out.tokens), atol=1e-4)
    assert (out.sample_logprobs == 0).all()
    assert len(np.unique(out.tokens)) > 4


# Keys: what a stream draws depends on its id, its number and its prompt.


@pytest.mark.parametrize("chosen", [[2, 0, 1, 3], [3], [1, 2]])
def test_same_id_and_prompt_same_tokens_in_any_batch(model, prompts, sampled, chosen):
    ids = [0, 1, 2, 3]
    out = generate(model, [prompts[n] for n in chosen], ids=[ids[n] for n in chosen])
    np.testing.assert_array_equal(out.tokens, sampled.tokens[chosen])
    np.testing.assert_allclose(out.logprobs, sampled.logprobs[chosen], atol=1e-5)
    np.testing.assert_array_equal(out.lengths, sampled.lengths[chosen])


def test_other_prompts_change_nothing(model, prompts, sampled):
    others = [tiny.prompt(model.config, [11], seed=9), prompts[1], tiny.prompt(model.config, [(60, 60), 2], seed=8),
              prompts[3]]  # fmt: skip
    out = generate(model, others, ids=[7, 1, 2, 3])
    np.testing.assert_array_equal(out.tokens[[1, 3]], sampled.tokens[[1, 3]])
    assert (out.tokens[2] != sampled.tokens[2]).any()


def test_more_samples_and_longer_responses_go_on_from_the_same(model, prompts, sampled):
    out = generate(model, prompts, samples=2, max_new_tokens=5)
    np.testing.assert_array_equal(out.tokens, sampled.tokens[:, :2, :5])


def test_a_response_may_be_one_token(model, prompts, sampled):
    out = generate(model, prompts, samples=2, max_new_tokens=1)
    np.testing.assert_array_equal(out.tokens, sampled.tokens[:, :2, :1])
    np.testing.assert_allclose(out.logprobs, sampled.logprobs[:, :2, :1], atol=1e-5)
    assert (out.lengths == 1).all()


def test_streams_ids_and_seeds_differ(model, prompts, sampled):
    equal = generate(model, [prompts[1]] * 4, ids=[5, 6, 7, 2**31])
    streams = equal.tokens.reshape(-1, R).tolist()
    assert len({tuple(stream) for stream in streams}) == len(streams) == 12
    seeded = generate(model, prompts, seed=1)
    assert (seeded.tokens != sampled.tokens).any(-1).all()
    again = generate(model, prompts, seed=0, ids=np.arange(4))
    np.testing.assert_array_equal(again.tokens, sampled.tokens)


def test_first_tokens_follow_the_distribution(model, prompts):
    """Over many streams of one prompt, which differ in the rollout's number alone."""
    count = 4000
    out = generate(model, prompts[1:2], samples=count, max_new_tokens=2)
    logits = suppressed(teacher_forced(model, prompts[1:2], out.tokens[:, :1])[0, 0, 0], model.config)
    probs = np.exp(log_softmax(logits))
    common = np.argsort(-probs)[:12]
    counts = np.bincount(out.tokens[0, :, 0], minlength=len(probs))[common]
    sigma = np.sqrt(count * probs[common] * (1 - probs[common]))
    assert (np.abs(counts - count * probs[common]) < 5 * sigma).all()


# Ends.


def with_pad(model, pad_id):
    """The model as if loaded from a directory that names a padding token."""
    copy = nnx.merge(*nnx.split(model))
    copy.source = qwen.Source(b'{"pad_token_id": %d}' % pad_id, (), ())
    return copy


@pytest.mark.parametrize("pad_id", [0, 7])
def test_ends(model, prompts, sampled, pad_id):
    """Several EOS ids: each stream is the endless one's up to its first EOS, that included; R is the longest."""
    eos_ids = sorted({int(token) for token in sampled.tokens[:, :, 4].ravel()} | {int(sampled.tokens[0, 0, 1])})
    out = generate(with_pad(model, pad_id), prompts, eos_ids=eos_ids)
    is_eos = np.isin(sampled.tokens, eos_ids)
    lengths = is_eos.argmax(-1) + 1
    assert is_eos.any(-1).all() and len(np.unique(lengths)) > 1
    np.testing.assert_array_equal(out.lengths, lengths)
    assert out.tokens.shape == (*lengths.shape, lengths.max()) and lengths.max() < R
    alive = np.arange(lengths.max()) < lengths[..., None]
    np.testing.assert_array_equal(out.tokens, np.where(alive, sampled.tokens[..., : lengths.max()], pad_id))
    np.testing.assert_allclose(
        out.logprobs, np.where(alive, sampled.logprobs[..., : lengths.max()], 0), atol=1e-5, rtol=0
    )
    assert (out.logprobs[~alive] == 0).all() and (out.sample_logprobs[~alive] == 0).all()
    assert (out.logprobs[alive] < 0).all()


def test_no_eos_never_stops(sampled):
    assert (sampled.lengths == R).all() and sampled.tokens.shape[-1] == R


# Distributions.


@pytest.mark.parametrize("temperature, top_p, top_k", [(1.0, 1.0, 0), (0.7, 0.8, 20), (1.5, 1.0, 3), (1.0, 0.5, 0)])
def test_both_log_probs(model, prompts, sampled, temperature, top_p, top_k):
    """The raw one is the model's; the other is that of the filtered and renormalised distribution."""
    plain = (temperature, top_p, top_k) == (1.0, 1.0, 0)
    out = sampled if plain else generate(model, prompts, temperature=temperature, top_p=top_p, top_k=top_k)
    logits = teacher_forced(model, prompts, out.tokens)
    raw = at(log_softmax(logits), out.tokens)
    np.testing.assert_allclose(out.logprobs, raw, atol=1e-4)
    expected = np.empty_like(raw)
    for place in np.ndindex(raw.shape):
        probs = plain_filter(suppressed(logits[place], model.config) / temperature, top_k, top_p)
        expected[place] = np.log(probs[out.tokens[place]])
    assert np.isfinite(expected).all()  # nothing outside the nucleus was drawn
    np.testing.assert_allclose(out.sample_logprobs, expected, atol=1e-4)


def plain_filter(logits, top_k: int, top_p: float):
    """Probabilities after top-k, then top-p, then renormalising, by sorting; for logits without ties."""
    order = np.argsort(-logits)
    order = order[: top_k or len(order)]
    probs = np.exp(log_softmax(logits[order]))
    kept = [i for i in range(len(probs)) if probs[:i].sum() < top_p] if top_p < 1 else range(len(probs))
    out = np.zeros(len(logits))
    out[order[kept]] = probs[kept] / probs[kept].sum()
    return out


def test_the_updates_log_probs_are_the_samplers(model, prompts):
    out = generate(model, prompts, temperature=0.7, top_p=0.8, top_k=20)
    groups = [update.Group(pictures, [range(len(pictures))], [ids], [tokens], np.zeros((1, 3)))
              for (ids, pictures), tokens in zip(prompts, out.tokens)]  # fmt: skip
    logprobs = update.logprobs(model, groups, max_pixels=tiny.MAX_PIXELS)
    np.testing.assert_allclose(logprobs[:, 0], out.logprobs, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_image_and_video_tokens_are_never_sampled(models, temperature):
    """With a head that always prefers one of the two."""
    model = models["untied"]
    graph, state = nnx.split(model)
    biased = nnx.merge(graph, jax.tree.map(jnp.copy, state))
    config = model.config
    kernel, direction = biased.lm_head.kernel[...], 100 * model.lm_head.kernel[...][:, 0]
    kernel = kernel.at[:, config.image_token_id].set(direction).at[:, config.video_token_id].set(-direction)
    biased.lm_head.kernel[...] = kernel
    out = generate(biased, [tiny.prompt(config, [9], seed=1)] * 2, samples=8, temperature=temperature)
    assert not np.isin(out.tokens, [config.image_token_id, config.video_token_id]).any()
    assert np.median(out.logprobs) < -10  # the raw distribution has nearly all its mass on them
    assert (out.sample_logprobs > out.logprobs).all()


LOGITS = hnp.arrays(np.float32, 9, elements=st.integers(-3, 3))  # so that there are ties


@given(logits=LOGITS, top_k=st.sampled_from([0, 1, 4, 9]), top_p=st.sampled_from([0.113, 0.377, 0.613, 0.907, 1.0]))
@settings(max_examples=80)
def test_keep_top_with_ties(logits, top_k, top_p):
    """Without ties the kept set is unique; a tie with the last of it is kept too."""
    kept = np.isfinite(np.asarray(rollout.keep_top(jnp.asarray(logits), top_k, top_p)))
    ordered = np.sort(logits)[::-1][: top_k or None]
    probs = np.exp(log_softmax(ordered))
    totals = np.cumsum(probs)
    assume(top_p == 1 or np.abs(totals - top_p).min() > 1e-5)
    least = ordered[-1] if top_p == 1 else ordered[np.flatnonzero(totals >= top_p)[0]]
    np.testing.assert_array_equal(kept, logits >= least)


@given(logits=LOGITS)
@settings(max_examples=20)
def test_keep_top_leaves_what_it_keeps(logits):
    out = np.asarray(rollout.keep_top(jnp.asarray(logits), 2, 0.9))
    assert out[logits.argmax()] == logits.max()
    np.testing.assert_array_equal(out[np.isfinite(out)], logits[np.isfinite(out)])


# The draw itself.


def draws(logits, count: int, seed: int = 0) -> np.ndarray:
    """`count` draws from one distribution, in batches that fit in memory."""
    keys = jax.random.split(jax.random.key(seed), (count // 10000, 10000))
    draw = jax.vmap(partial(rollout.draw_categorical, logits=jnp.asarray(logits, jnp.float32)))
    return np.asarray(jax.jit(lambda keys: jax.lax.map(draw, keys))(keys)).ravel()


def assert_fits(counts, expected):
    """Chi-square of counts, within five standard deviations of its mean; as many counts below as above five."""
    assert expected.min() > 5
    chi2, freedom = ((counts - expected) ** 2 / expected).sum(), len(counts) - 1
    assert abs(chi2 - freedom) < 5 * math.sqrt(2 * freedom), (chi2, freedom)


@pytest.mark.parametrize("head", [0, 100_000, 152_063])
def test_draws_reach_the_tail_of_a_large_vocabulary(head):
    """Half the mass on one token, the rest shared by 130k: every region comes up as often as it should."""
    size, count = 152_064, 200_000
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
    for region in (np.arange(size) // 1024, np.arange(size) % rollout.BLOCK):  # far apart, and within a block
        counts = np.bincount(region[tail], minlength=region.max() + 1)
        assert_fits(counts, len(tail) * np.bincount(region, tail_probs))


def test_draws_from_few_tokens():
    probs = np.array([0.5, 0.2, 0.0, 0.2, 0.1, 0.0])
    with np.errstate(divide="ignore"):
        counts = np.bincount(draws(np.log(probs), 100_000), minlength=6)
    assert counts[2] == counts[5] == 0
    assert_fits(counts[probs > 0], 100_000 * probs[probs > 0])


def test_draws_with_one_choice_and_with_far_logits():
    certain = np.full(1300, -np.inf)
    certain[777] = -50.0
    assert (draws(certain, 10_000) == 777).all()
    assert set(draws(np.array([3e4, -3e4, 3e4]), 10_000)) == {0, 2}  # exp() of neither over- nor underflows to NaN


# Shared work.


def test_a_prompts_cache_is_not_repeated_for_its_streams(model):
    """No array has both the streams and the prompt's tokens beside a head's width: the scores alone have both."""
    text = model.config.text
    streams, heads = 11, (text.num_key_value_heads, text.head_dim)
    inputs = qwen.pack(model.config, [tiny.prompt(model.config, [100], seed=1)] * 2)
    tokens = inputs.ids.shape[1]
    assert len({streams, tokens, *heads, text.num_attention_heads}) == 5
    graph, weights = nnx.split(model)
    options = rollout.Sampling(streams, 6, 1.0, 1.0, 0, (), 0)
    program = jax.make_jaxpr(rollout._generate, static_argnums=(0, 1))(
        graph, options, weights, inputs, 0, np.arange(2, dtype=np.uint32)
    )
    shapes = set(tiny.array_shapes(program.jaxpr))
    assert any(shape[-3:] == (tokens, *heads) for shape in shapes)
    assert any({streams, tokens} <= set(shape) for shape in shapes)
    assert not [shape for shape in shapes if {streams, tokens, text.head_dim} <= set(shape)]


def test_an_image_given_twice_is_encoded_once(model, monkeypatch):
    """Prompts that show the same two pictures in both orders, as copies: one pack of two images."""
    packed = []
    pack = qwen.pack
    monkeypatch.setattr(qwen, "pack", lambda *args, **kwargs: packed.append(pack(*args, **kwargs)) or packed[-1])
    pictures = [tiny.picture(84, 84, seed) for seed in (1, 2)]
    both = [(sum((tiny.image_tokens(model.config, pictures[i]) for i in order), [20]),
             [pictures[i].copy() for i in order]) for order in ([0, 1], [1, 0])]  # fmt: skip
    out = generate(model, both, ids=[4, 4], temperature=1.0)
    [inputs] = packed
    assert sum(len(set(row.tolist()) - {-1}) for row in inputs.vision.images) == 2
    assert (out.logprobs[0] != out.logprobs[1]).all()  # and still the order matters


def test_nothing_compiles_anew(model, prompts, sampled):
    """Other prompts, ids and seeds in the same buckets run the program that is there."""
    compiled = rollout._generate._cache_size()
    out = generate(model, prompts[::-1], ids=[9, 8, 7, 6], seed=5)
    assert (out.tokens[::-1] != sampled.tokens).any(-1).all()
    assert rollout._generate._cache_size() == compiled


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"samples": 0}, {"max_new_tokens": 0},
     {"ids": [1]}, {"prompts": []}],
)  # fmt: skip
def test_bad_calls(model, prompts, options):
    with pytest.raises(ValueError):
        generate(**{"model": model, "prompts": prompts} | options)
