"""Rollouts: the model's own distribution, keyed by prompt and stream and by nothing else, in batches of any shape."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from models import qwen2_5_vl as qwen
from models.attention import Spans
from models.errors import InputError
from perl_jax import mesh, rollout, update
from perl_jax.engine import decode_batch, pages, prefill
from perl_jax.engine.sampling import Sampling
from perl_jax.runtime.compilations import Compilations

R = 8


@pytest.fixture(scope="module")
def model(models):
    return models["untied"]


@pytest.fixture(scope="module")
def prompts(model):
    return tiny.prompts(model.config)


def generate(model, prompts, samples=3, max_new_tokens=R, **options):
    options = {"min_pixels": tiny.MIN_PIXELS, "max_pixels": tiny.MAX_PIXELS} | options
    return rollout.generate(model, prompts, samples=samples, max_new_tokens=max_new_tokens, **options)


@pytest.fixture(scope="module")
def sampled(model, prompts):
    """The plain call that others are compared with: temperature 1, no filter, no EOS."""
    return generate(model, prompts)


def teacher_forced(model, prompts, tokens):
    """The raw logits [N, G, R, V] that predict the given tokens [N, G, R], by the plain model, a row a rollout."""
    rows = [
        ([*ids, *map(int, stream)], images) for (ids, images), streams in zip(prompts, tokens) for stream in streams
    ]
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


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.ALL)
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


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [[2, 0, 1, 3], [3], [1, 2]])
def test_same_id_and_prompt_same_tokens_in_any_batch(model, prompts, sampled, chosen):
    ids = [0, 1, 2, 3]
    out = generate(model, [prompts[n] for n in chosen], ids=[ids[n] for n in chosen])
    np.testing.assert_array_equal(out.tokens, sampled.tokens[chosen])
    np.testing.assert_allclose(out.logprobs, sampled.logprobs[chosen], atol=1e-5)
    np.testing.assert_array_equal(out.lengths, sampled.lengths[chosen])


@pytest.mark.slow
def test_other_prompts_change_nothing(model, prompts, sampled):
    others = [
        tiny.prompt(model.config, [11], seed=9),
        prompts[1],
        tiny.prompt(model.config, [(60, 60), 2], seed=8),
        prompts[3],
    ]
    out = generate(model, others, ids=[7, 1, 2, 3])
    np.testing.assert_array_equal(out.tokens[[1, 3]], sampled.tokens[[1, 3]])
    assert (out.tokens[2] != sampled.tokens[2]).any()


@pytest.mark.slow
def test_more_samples_and_longer_responses_go_on_from_the_same(model, prompts, sampled):
    out = generate(model, prompts, samples=2, max_new_tokens=5)
    np.testing.assert_array_equal(out.tokens, sampled.tokens[:, :2, :5])


def test_a_response_may_be_one_token(model, prompts, sampled):
    out = generate(model, prompts, samples=2, max_new_tokens=1)
    np.testing.assert_array_equal(out.tokens, sampled.tokens[:, :2, :1])
    np.testing.assert_allclose(out.logprobs, sampled.logprobs[:, :2, :1], atol=1e-5)
    assert (out.lengths == 1).all()


@pytest.mark.slow
def test_streams_ids_and_seeds_differ(model, prompts, sampled):
    equal = generate(model, [prompts[1]] * 4, ids=[5, 6, 7, 2**31])
    streams = equal.tokens.reshape(-1, R).tolist()
    assert len({tuple(stream) for stream in streams}) == len(streams) == 12
    seeded = generate(model, prompts, seed=1)
    assert (seeded.tokens != sampled.tokens).any(-1).all()
    again = generate(model, prompts, seed=0, ids=np.arange(4))
    np.testing.assert_array_equal(again.tokens, sampled.tokens)


@pytest.mark.slow
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


@pytest.mark.slow
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
    indices = [i for i in range(len(probs)) if probs[:i].sum() < top_p] if top_p < 1 else range(len(probs))
    out = np.zeros(len(logits))
    out[order[indices]] = probs[indices] / probs[indices].sum()
    return out


@pytest.mark.slow
def test_the_updates_log_probs_are_the_samplers(model, prompts):
    out = generate(model, prompts, temperature=0.7, top_p=0.8, top_k=20)
    groups = [
        update.Group(images, [range(len(images))], [ids], [tokens], np.zeros((1, 3)))
        for (ids, images), tokens in zip(prompts, out.tokens)
    ]
    logprobs = update.logprobs(model, groups, max_pixels=tiny.MAX_PIXELS)
    np.testing.assert_allclose(logprobs[:, 0], out.logprobs, atol=1e-4)


@pytest.mark.slow
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


# Prompts and responses of all lengths: pages, refilled slots, fewer slots.


@pytest.fixture
def small_pages(monkeypatch):
    """Every way that a long call can take, in a short one."""
    monkeypatch.setitem(pages.TOKENS, "cpu", 4)
    monkeypatch.setattr(decode_batch, "UNPAGED", 2)
    monkeypatch.setattr(decode_batch, "FEWEST", 1)
    monkeypatch.setattr(prefill, "SHORTEST", 4)
    monkeypatch.setitem(prefill.FULL, "cpu", 32)
    jax.clear_caches()  # the tokens of a page are a constant of compiled programs
    rollout._compiled.clear()
    yield
    jax.clear_caches()
    rollout._compiled.clear()


def some_ends(sampled):
    """(EOS ids, lengths of the responses) of which some are early."""
    eos_ids = sorted({int(token) for token in sampled.tokens[:, :, 3].ravel()})[:5]
    ended = np.isin(sampled.tokens, eos_ids)
    lengths = np.where(ended.any(-1), ended.argmax(-1) + 1, R)
    assert len(np.unique(lengths)) > 2
    return eos_ids, lengths


@pytest.mark.slow
@pytest.mark.parametrize("batch", [0, 1, 2, 3])
def test_pages_and_slots_change_nothing(model, prompts, sampled, small_pages, batch):
    """Each stream is the one of the plain call, up to its end, whatever it was batched with and whenever it began.

    What a call may need is compiled by the first, whatever it comes to; after it streams may end as they like.
    """
    eos_ids, expected = some_ends(sampled)
    told = []
    call = {"eos_ids": eos_ids, "batch": batch, "lengths": [len(ids) for ids, _ in prompts]}
    out = generate(model, prompts, **call, finished=lambda n, g, tokens: told.append((n, g, tokens.copy())))
    np.testing.assert_array_equal(out.lengths, expected)
    past = np.arange(R) >= expected[..., None]
    np.testing.assert_array_equal(out.tokens, np.where(past, 0, sampled.tokens))
    np.testing.assert_allclose(out.logprobs, np.where(past, 0, sampled.logprobs), atol=1e-5)
    np.testing.assert_allclose(out.sample_logprobs, np.where(past, 0, sampled.sample_logprobs), atol=1e-5)
    assert sorted((n, g) for n, g, _ in told) == list(np.ndindex(out.lengths.shape))
    for n, g, tokens in told:
        np.testing.assert_array_equal(tokens, out.tokens[n, g, : out.lengths[n, g]])

    lengths = {out.lengths.tobytes()}
    with Compilations() as compilations:
        for seed in range(1, 5):
            lengths.add(generate(model, prompts, **call, seed=seed).lengths.tobytes())
    assert compilations.count == 0 and len(lengths) > 3


@pytest.mark.slow
def test_what_is_compiled_ahead_is_what_runs_on_a_mesh(model, prompts, sampled, small_pages, monkeypatch):
    """Threads start without a mesh: compiled in theirs, no program would be the one that decodes."""
    eos_ids, _ = some_ends(sampled)
    ahead, after = rollout.compile_ahead, Compilations()

    def compile_ahead(*arguments):
        ahead(*arguments)
        after.__enter__()

    with jax.set_mesh(mesh.make()):
        generate(model, prompts, batch=2, samples=2)  # images are encoded by programs of their own
        monkeypatch.setattr(rollout, "compile_ahead", compile_ahead)
        out = generate(model, prompts, batch=2, eos_ids=eos_ids)
    after.__exit__()
    assert after.count == 0 and len(set(out.lengths.ravel().tolist())) > 2


@pytest.mark.slow
def test_the_tail_is_decoded_in_few_slots(model, prompts, sampled, small_pages, monkeypatch):
    """Tokens that the device computes: with one stream that goes on alone, few more than there are."""
    goes_on = {*sampled.tokens[0, 0].tolist(), *sampled.tokens[:, :, 0].ravel().tolist()}
    eos_ids = sorted(set(sampled.tokens.ravel().tolist()) - goes_on)
    sizes, decode = [], rollout._decode
    monkeypatch.setattr(rollout, "compile_ahead", lambda *_: None)
    monkeypatch.setattr(rollout, "_decode", lambda *args: sizes.append(len(args[5].last)) or decode(*args))
    out = generate(model, prompts, eos_ids=eos_ids)
    assert out.lengths[0, 0] == R and np.sort(out.lengths.ravel())[-3] < R - 1
    assert sizes[0] == 12 and sizes[-1] == 1


@pytest.mark.slow
def test_prompts_of_all_lengths(model, small_pages):
    """Of one token, of one more than a page, of many pages, in one call as apart: with pages of 4 tokens."""
    rng = np.random.default_rng(0)
    prompts = [(tiny.text_tokens(model.config, rng, count), []) for count in (1, 2, 4, 5, 6, 9, 70, 3)]
    together = generate(model, prompts, ids=range(8))
    for n, prompt in enumerate(prompts):
        alone = generate(model, [prompt], ids=[n])
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[n])
        np.testing.assert_allclose(alone.logprobs[0], together.logprobs[n], atol=1e-5)
    logits = teacher_forced(model, prompts, together.tokens)
    np.testing.assert_allclose(together.logprobs, at(log_softmax(logits), together.tokens), atol=1e-4)


def test_a_prompt_that_ends_with_an_image_is_refused(model, prompts):
    ids, images = tiny.prompt(model.config, [(28, 28)], seed=0)
    cut = ids[: ids.index(model.config.image_token_id) + 1]
    with pytest.raises(InputError, match="prompt 1 ends with an image"):
        generate(model, [prompts[0], (cut, images)])


# Shared work.


def test_a_prompts_cache_is_not_repeated_for_its_streams(models):
    """No array has both the streams and the prompt's tokens beside a head's width: the scores alone have both.

    And so in bytes: a prompt's keys and values are there once, whatever the number of its streams.
    """
    model = models["tied"]
    text = model.config.text
    streams, heads = 11, (text.num_key_value_heads, text.head_dim)
    inputs = qwen.pack(model.config, [tiny.prompt(model.config, [100], seed=1)] * 2)
    tokens = 96
    assert inputs.ids.shape[1] > tokens and len({streams, tokens, *heads, text.num_attention_heads}) == 5
    options, shapes = Sampling(1.0, 1.0, 0, ()), decode_batch.shapes([tokens] * 2, 2, streams, 5, 1, False, True)
    h = np.zeros((1, tokens, text.hidden_size), np.float32)
    spans = Spans(*np.zeros((3, 1, tokens), np.int32))
    caches, slots = rollout.no_caches(model, shapes), decode_batch.no_slots(shapes.rungs[0], 1)
    positions, numbers = np.zeros((3, 1, tokens), np.int32), [np.int32(0)] * 4
    decoder, others = nnx.split(rollout.for_decoding(model)), caches.replace(recent=None)
    programs = [
        jax.make_jaxpr(partial(prefill.prefill, *nnx.split(model)))(h, positions, spans),
        jax.make_jaxpr(partial(rollout._decode, *decoder, options))(
            others, caches.recent, slots, np.uint32(0), *numbers
        ),
    ]
    found = [set(tiny.array_shapes(program.jaxpr)) for program in programs]
    size = pages.page()
    assert any(set(shape[-3:]) == {tokens, *heads} for shape in found[0])
    assert any(
        {streams, size} <= set(shape) or {streams * text.num_attention_heads // heads[0], size} <= set(shape)
        for shape in found[1]
    )
    assert not [shape for shape in found[0] | found[1] if {streams, size, text.head_dim} <= set(shape)]
    count = shapes.rungs[0].prompt_pages
    assert 2 * pages.pages_of(tokens) <= count < 4 * pages.pages_of(tokens), "whatever the number of streams"
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(caches.prompts))
    assert total == text.num_hidden_layers * 2 * count * size * heads[0] * heads[1] * 4


@pytest.mark.slow
def test_an_image_given_twice_is_encoded_once(model, monkeypatch):
    """Prompts that show the same two images in both orders, as copies: one pack of two images."""
    packed = []
    pack = qwen.pack
    monkeypatch.setattr("models.pack", lambda *args, **kwargs: packed.append(pack(*args, **kwargs)) or packed[-1])
    images = [tiny.noise_image(84, 84, seed) for seed in (1, 2)]
    both = [
        (sum((tiny.image_tokens(model.config, images[i]) for i in order), [20]), [images[i].copy() for i in order])
        for order in ([0, 1], [1, 0])
    ]
    out = generate(model, both, ids=[4, 4], temperature=1.0)
    [inputs] = packed
    assert sum(len(set(row.tolist()) - {-1}) for row in inputs.vision.images) == 2
    assert (out.logprobs[0] != out.logprobs[1]).all()  # and still the order matters


def test_nothing_compiles_anew(model, prompts, sampled):
    """Other prompts, ids and seeds in the same buckets run the program that is there."""
    generate(model, prompts)
    with Compilations() as compilations:
        out = generate(model, prompts[::-1], ids=[9, 8, 7, 6], seed=5)
    assert (out.tokens[::-1] != sampled.tokens).any(-1).all()
    assert compilations.count == 0


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"samples": 0},
        {"max_new_tokens": 0},
        {"ids": [1]},
        {"prompts": []},
    ],
)
def test_bad_calls(model, prompts, options):
    with pytest.raises(ValueError):
        generate(**{"model": model, "prompts": prompts} | options)


@pytest.mark.slow
def test_a_batch_at_a_time_gives_the_same(model):
    """Whatever memory allows: 5 prompts by 2, the last batch filled up; each response is told of once."""
    prompts = [*tiny.prompts(model.config), *tiny.prompts(model.config)][:5]
    finished = []
    options = {"samples": 2, "max_new_tokens": 40, "eos_ids": range(10, 20)}
    at_once = generate(model, prompts, **options)
    parts = generate(
        model, prompts, **options, batch=2, finished=lambda n, g, tokens: finished.append((n, g, len(tokens)))
    )
    np.testing.assert_array_equal(parts.tokens, at_once.tokens)
    np.testing.assert_array_equal(parts.lengths, at_once.lengths)
    np.testing.assert_allclose(parts.logprobs, at_once.logprobs, atol=1e-5)
    assert sorted(finished) == [(n, g, at_once.lengths[n, g]) for n in range(5) for g in range(2)]
