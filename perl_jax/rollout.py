"""Batched group sampling: images encoded once, prompts prefilled once, their pages read by all of their streams.

A stream draws token t with the key fold_in(seed, id, rollout, t), so its tokens do not depend on the rest of the batch.
Each token comes with its log-prob under the raw distribution.

The device decodes in segments, between which the host checks which streams have ended. Then waiting prompts are
prefilled and take their slots (`DecodeBatch`); at the end, the live streams move to fewer slots. Keys and values lie in
pages (`engine/pages.py`); those of the newest tokens lie in one place for all streams, the recent tokens, which become
a page of each stream when full. The possible shapes are few and compiled ahead.

On a mesh each shard decodes its own streams, which never move between shards; a waiting prompt may go to any.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

import models
from models import lora
from models.attention import Spans, merged, partial_attention
from models.errors import InputError
from models.layers import unstacked
from models.packing import check_ids
from perl_jax import mesh
from perl_jax.engine import decode_batch, embeddings
from perl_jax.engine.decode_batch import (
    DecodeBatch,
    Finished,
    Moves,
    Rollouts,
    Rung,
    Segment,
    Shapes,
    Slots,
    followers,
    no_slots,
)
from perl_jax.engine.pages import Cache, all_arranged, arranged, attend, empty, page
from perl_jax.engine.prefill import PackedPrompts, prefill, row_lengths
from perl_jax.engine.sampling import Sampling, sample

Split = tuple[nnx.GraphDef, nnx.State]  # a model by `nnx.split`

_NUMBERS = np.uint32(0), np.int32(0), np.int32(0), np.int32(0), np.int32(0)  # those of `_decode`, to compile it ahead
_compiled: set[tuple] = set()  # signatures that `compile_ahead` has compiled


class Caches(flax.struct.PyTreeNode):
    """KV caches by layer, of all shards."""

    prompts: list[Cache]  # pages of T tokens of prompts: keys [K, J, d, T], values [K, J, T, d]
    recent: Any  # likewise the streams' newest tokens: keys [S, J, d, T], values [S, J, T, d]; None where apart
    pages: list[Cache]  # pages of streams


def generate(
    model: models.Model,
    prompts: Sequence[tuple[Sequence[int], Sequence]],
    samples: int = 8,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    eos_ids: Sequence[int] = (),
    seed: int = 0,
    ids: Sequence[int] | np.ndarray | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    finished: Finished | None = None,
    batch: int = 0,
    lengths: Sequence[int] = (),
    tensor: int = 0,
) -> Rollouts:
    """Samples `samples` responses to each prompt [(input_ids, images), ...] (as `models.pack` takes them).

    `temperature=0.0` is greedy; `top_k=0` and `top_p=1.0` are off; `eos_ids=()` never stops early. `ids` [N] (default
    0..N-1) seed the draws: the same id and prompt give the same tokens in any batch (in float32, up to rounding). Image
    and video tokens are never sampled. `finished(n, g, tokens)` is called once per response as soon as the host sees
    its end; others may still be decoding. `batch` limits the prompts decoded at a time, and so the KV caches in memory;
    0 is all. The others wait, and take the place of streams that have ended. `lengths` are those of all prompts of a
    run: its calls then have the same programs (with the same `batch`), which are all compiled by the first. `tensor`
    devices together hold each copy of the weights, as in `mesh.with_tensor`.

    Raises ValueError for options out of range, no prompts, or ids that are not one per prompt, and InputError for a
    prompt that ends with an image.
    """
    ids = np.arange(len(prompts)) if ids is None else np.asarray(ids)
    _check(model.config, prompts, ids)
    if temperature < 0 or not 0 < top_p <= 1 or min(top_k, batch) < 0 or samples < 1 or max_new_tokens < 1:
        raise ValueError(
            "needs temperature >= 0, 0 < top_p <= 1, top_k >= 0, samples >= 1, max_new_tokens >= 1 and batch >= 0"
        )
    options = Sampling(
        float(temperature),
        float(top_p),
        min(int(top_k), model.config.text.vocab_size),
        tuple(sorted({int(e) for e in eos_ids})),
    )
    of_call = [len(prompt) for prompt, _ in prompts]
    made_for = of_call if not lengths else [*lengths, max(*lengths, *of_call)]  # the longest in any case
    at_once = batch if lengths and batch else min(batch or len(prompts), len(prompts))
    refills = bool(batch) if lengths else len(prompts) > at_once
    rows = row_lengths(max(made_for))
    with mesh.with_tensor(tensor) as is_other:
        if is_other:
            graph, weights = nnx.split(model)
            model = nnx.merge(graph, mesh.from_other(weights))
        shards = mesh.shards()
        shapes = decode_batch.shapes(made_for, at_once, samples, max_new_tokens, shards, refills, not lengths)
        parts, decoder = nnx.split(model), nnx.split(for_decoding(model))
        packed = PackedPrompts(parts, prompts, at_once, min_pixels, max_pixels)
        streams = DecodeBatch([ids for ids, _ in prompts], samples, max_new_tokens, shards, shapes, finished)
        caches = no_caches(model, shapes)
        if lengths or len(shapes.rungs) > 1:
            compile_ahead(parts, decoder, options, caches, shapes, rows)
        constants = np.uint32(seed % 2**32), np.int32(max_new_tokens)
        while streams.waiting or any(streams.live):
            while moves := streams.fit():
                caches = _moved(caches, moves)
            admitted = streams.admit()
            if admitted and (moves := streams.fit(admitted)):
                caches = _moved(caches, moves)
            streams.allocate(admitted)
            caches = caches.replace(prompts=packed.prefilled(caches.prompts, admitted, rows))
            slots = mesh.place(streams.slots(packed.starts, ids.astype(np.uint32)))
            numbers = np.int32(streams.at), *map(np.int32, streams.limits())
            others = caches.replace(recent=None)
            recent, end, segment = _decode(*decoder, options, others, caches.recent, slots, *constants, *numbers)
            caches = caches.replace(recent=recent)
            streams.add(jax.device_get(segment), int(end))
    return streams.result(model.source.pad_id if model.source else 0)


def _check(config: models.Config, prompts: Sequence[tuple[Sequence[int], Sequence]], ids: np.ndarray) -> None:
    if not prompts:
        raise ValueError("generate needs at least one prompt")
    for number, (prompt, _) in enumerate(prompts):
        if check_ids(config, prompt, f"prompt {number}")[-1] == config.image_token_id:
            raise InputError(f"prompt {number} ends with an image; end it with text, which a response can follow")
    if ids.shape != (len(prompts),):
        raise ValueError(f"ids must hold one id per prompt: {ids.shape} for {len(prompts)} prompts")


def no_caches(model: models.Model, shapes: Shapes) -> Caches:
    """The caches of a batch, without a token."""
    text, dtype = model.config.text, str(jnp.dtype(model.compute_dtype))
    return Caches(
        *(empty(text.num_hidden_layers, layer, dtype) for layer in _layer_shapes(text, shapes, shapes.rungs[0]))
    )


def _layer_shapes(text: Any, shapes: Shapes, rung: Rung) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of keys and values of a layer, of all shards: for prompts, recent tokens and pages."""
    J, d, shards = text.num_key_value_heads, text.head_dim, mesh.shards()
    sizes = (rung.prompt_pages, page()), (rung.slots, shapes.recent), (rung.pages, page())
    return [((count * shards, J, d, tokens), (count * shards, J, tokens, d)) for count, tokens in sizes]


def _moved(caches: Caches, moves: Moves) -> Caches:
    """The caches in their new shape."""
    pages = all_arranged(caches.pages, moves.pages, list(caches.recent) if moves.full else None)
    prompts, recent = caches.prompts, caches.recent
    if moves.prompt_pages is not None:
        prompts = all_arranged(prompts, moves.prompt_pages)
    if moves.slots is not None:
        recent = all_arranged(recent, moves.slots)
    return Caches(prompts, recent, pages)


def compile_ahead(
    parts: Split, decoder: Split, options: Sampling, caches: Caches, shapes: Shapes, lengths: Sequence[int]
) -> None:
    """Compiles all programs that a batch of these shapes may need, once; no later step waits for compilation.

    Only those that encode images, whose sizes no one knows ahead, are left.
    """
    signature = decoder[0], options, *shapes.rungs, *lengths, caches.recent[0][0].shape, jax.sharding.get_mesh()
    if signature in _compiled:
        return
    programs = itertools.chain(
        _decoding_programs(decoder, options, caches, shapes),
        _moving_programs(caches, shapes, lengths),
        _prefill_programs(parts, lengths, caches.recent[0][0].dtype),
    )
    with ThreadPoolExecutor() as pool:
        list(pool.map(mesh.in_any_thread(lambda program: program[0].lower(*program[1:]).compile()), programs))
    _compiled.add(signature)


def _prefill_programs(parts: Split, lengths: Sequence[int], dtype: DTypeLike) -> Iterator[tuple]:
    """(`prefill`, its arguments) of all lengths of a row."""
    shards, width = mesh.shards(), nnx.merge(*parts).config.embedding_size

    for length in lengths:
        h = mesh.abstract((shards, length, width), dtype, mesh.ROWS)
        positions = mesh.abstract((3, shards, length), jnp.int32, None, mesh.ROWS)
        spans: list[Any] = [mesh.abstract((shards, length), jnp.int32, mesh.ROWS)] * 3
        yield prefill, *parts, h, positions, Spans(*spans)


def _of(cache: Cache, count: int) -> Any:
    """The shapes of a layer's cache with as many pages, or slots, a shard."""
    return tuple(mesh.like(x, (count * mesh.shards(), *x.shape[1:])) for x in cache)


def _decoding_programs(decoder: Split, options: Sampling, caches: Caches, shapes: Shapes) -> Iterator[tuple]:
    """(`_decode`, its arguments) of all shapes."""
    for rung in shapes.rungs:
        pages = [_of(layer, rung.pages) for layer in caches.pages]
        others = Caches([_of(layer, rung.prompt_pages) for layer in caches.prompts], None, pages)
        recent = [_of(layer, rung.slots) for layer in caches.recent]
        slots = mesh.place(no_slots(rung, mesh.shards()))
        yield _decode, *decoder, options, others, recent, slots, *_NUMBERS


def _moving_programs(caches: Caches, shapes: Shapes, lengths: Sequence[int]) -> Iterator[tuple]:
    """(`arranged`, its arguments) of all ways from one shape to another, and of prefilled rows into each."""
    prompts, recent, pages = caches.prompts[0], caches.recent[0], caches.pages[0]
    wide = {rung.prompt_pages for rung in shapes.rungs if rung.slots == shapes.rungs[0].slots}
    moves: dict[tuple, tuple[Cache, Cache | None]] = {}
    for count, length in itertools.product(wide, lengths):
        moves["prompts", count, length // page(), count] = prompts, prompts
    for old, full in itertools.product(shapes.rungs, (True, False, None)):
        for new in followers(shapes.rungs, old, full):
            more = [old.slots] if full else []
            moves["pages", old.pages, *more, new.pages] = pages, recent if full else None
            if new.prompt_pages != old.prompt_pages or new.slots != old.slots:
                moves["prompts", old.prompt_pages, new.prompt_pages] = prompts, None
            if new.slots != old.slots:
                moves["recent", old.slots, new.slots] = recent, None
    for (_, count, *of_others, result), (cache, others) in moves.items():
        index = mesh.place(np.zeros(result * mesh.shards(), np.int32))
        yield arranged, _of(cache, count), others and _of(others, *of_others), index


def abstract_programs(
    sizes: models.Config,
    model: Split,
    decoder: Split,
    options: Sampling,
    pack: Any,
    *,
    shapes: Shapes,
    prompt_tokens: int,
    dtype: DTypeLike,
) -> tuple[dict[str, Callable], Caches]:
    """({name: what lowers it} of the largest programs of a call, its caches at their largest), without an array.

    Args:
        sizes: of the model.
        model, decoder: the abstract model, and what `for_decoding` makes of it, by `nnx.split`.
        options: of the sampler.
        pack: an abstract vision pack of all images.
        shapes: of the batches.
        prompt_tokens: of the longest prompt.
        dtype: of activations and caches.
    """
    rung, heads = max(shapes.rungs, key=lambda rung: (rung.slots, rung.pages)), sizes.text.num_key_value_heads
    layers: list[Any] = [
        [tuple(mesh.abstract(shape, dtype, mesh.ROWS, mesh.head_axis(heads)) for shape in layer)]
        * sizes.text.num_hidden_layers
        for layer in _layer_shapes(sizes.text, shapes, rung)
    ]
    caches = Caches(*layers)
    slots = jax.tree.map(lambda x: mesh.abstract(x.shape, x.dtype, mesh.ROWS), no_slots(rung, mesh.shards()))
    [*_, of_longest] = _prefill_programs(model, row_lengths(prompt_tokens), dtype)
    return {
        "prefill images": partial(embeddings.image_tokens.lower, *model, pack),
        "prefill": partial(of_longest[0].lower, *of_longest[1:]),
        "decode": partial(
            _decode.lower, *decoder, options, caches.replace(recent=None), caches.recent, slots, *_NUMBERS
        ),
    }, caches


# On the device.


@partial(jax.jit, static_argnums=(0, 2), donate_argnums=4)
def _decode(
    graph: nnx.GraphDef,
    weights: nnx.State,
    options: Sampling,
    caches: Caches,
    recent: list[Cache],
    slots: Slots,
    seed: jax.Array,
    longest: jax.Array,
    at: jax.Array,
    most: jax.Array,
    total: jax.Array,
) -> tuple[list[Cache], jax.Array, Segment]:
    """Draws a token for each place of the recent ones from `at` on: (recent, end, segment).

    Stops before the last place where at most `most` streams of each shard, or `total` of all, are live. Streams end
    with an EOS or `longest` tokens. `caches` are all but the recent tokens.
    """
    model = nnx.merge(graph, weights)
    S, T = len(slots.last), recent[0][0].shape[-1]
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(slots.ids)
    keys = jax.vmap(jax.random.fold_in)(keys, slots.rollouts)

    def continues(carry: tuple) -> jax.Array:
        place, _, _, segment = carry
        live = jnp.sum(~segment.done.reshape(mesh.shards(), -1), axis=1)
        return (place < T) & (jnp.max(live) > most) & (jnp.sum(live) > total)

    def body(carry: tuple) -> tuple:
        place, recent, last, segment = carry
        drawn = slots.drawn + place - at
        hidden, recent = decode(model, caches.replace(recent=recent), slots, last, drawn, place)
        sampled = sample_token(model, options, keys, hidden, drawn)
        tokens, *logprobs = (x.at[:, place - at].set(new) for x, new in zip(segment, sampled))
        done = segment.done | is_eos(sampled[0], options) | (drawn + 1 >= longest)
        segment = Segment(tokens, logprobs[0], logprobs[1], segment.lengths + ~segment.done, done)
        return place + 1, mesh.rows(recent, heads=1), *mesh.rows((sampled[0], segment))

    values = jnp.zeros((S, T), jnp.int32), jnp.zeros((S, T)), jnp.zeros((S, T))
    start = mesh.rows((slots.last, Segment(*values, jnp.zeros(S, jnp.int32), slots.done)))
    end, recent, _, segment = jax.lax.while_loop(continues, body, (at, recent, *start))
    return mesh.rows(recent, heads=1), *mesh.replicated((end, segment))


def for_decoding(model: models.Model) -> models.Model:
    """The text tower for decoding: in its compute dtype, layers unstacked, adapters merged."""
    decoder = nnx.merge(*nnx.split(model))  # the same arrays
    del decoder.visual, decoder.model.layers
    graph, others = nnx.split(decoder)
    decoder = nnx.merge(graph, jax.tree.map(lambda w: w.astype(model.compute_dtype), others))
    decoder.model.layers = lora.merge(unstacked(model.model.layers, model.compute_dtype))
    graph, weights = nnx.split(decoder)
    return nnx.merge(graph, mesh.reshard(weights, "decode"))


def decode(
    model: models.Model, caches: Caches, slots: Slots, last: jax.Array, drawn: jax.Array, place: jax.Array
) -> tuple[jax.Array, list[Cache]]:
    """One decode step: hidden states [S, D] that predict the next tokens, and the recent tokens' caches with `last`.

    `last` [S] are the newest tokens, after `drawn` [S] others that were drawn. A prompt's pages are read once for all
    of its streams; the partial softmaxes are merged.
    """

    def attend_own(q: jax.Array, k: jax.Array, v: jax.Array, cache: Any) -> tuple[jax.Array, Cache]:
        k, v = mesh.rows((k, v), heads=1)  # sharded like the caches, which would otherwise be moved
        return mesh.by_shard(attention, shared=1)(place, slots, q, k, v, cache)

    positions = jnp.broadcast_to(slots.starts - 1 + drawn, (3, len(last)))
    by_layer = list(zip(caches.prompts, caches.recent, caches.pages))
    return model.model(model.embed(last), positions, attend_own, by_layer)


def attention(
    place: jax.Array, slots: Slots, q: jax.Array, k: jax.Array, v: jax.Array, cache: tuple[Cache, Cache, Cache]
) -> tuple[jax.Array, Cache]:
    """A layer's attention on a shard, of q [S, H, d] and of k and v [S, J, d], which go to `place` of the recent ones.

    Returns (out [S, H, d], the recent tokens' keys and values).
    """
    (S, H, d), J = q.shape, k.shape[1]
    prompts, (recent_k, recent_v), pages = cache
    recent_k, recent_v = recent_k.at[..., place].set(k), recent_v.at[..., place, :].set(v)
    q = q.reshape(S, J, H // J, d)

    N, G = slots.streams.shape
    rows = q[slots.streams].swapaxes(1, 2).reshape(N, J, G * (H // J), d)

    def by_slot(x: jax.Array) -> jax.Array:
        return x.reshape(N, J, G, H // J, -1).swapaxes(1, 2).reshape(N * G, J, H // J, -1)[slots.places]

    largest, total, out = map(by_slot, attend(rows, prompts, slots.prompt_pages))
    places = jnp.arange(recent_k.shape[-1])
    visible = (places >= slots.begin[:, None]) & (places <= place)
    parts = [(largest, total, out), partial_attention(q, recent_k, recent_v, visible[:, None, None])]
    if len(pages[0]):
        parts.append(attend(q, pages, slots.pages))
    return merged(*parts).reshape(S, H, d).astype(q.dtype), (recent_k, recent_v)


def sample_token(
    model: models.Model, options: Sampling, keys: jax.Array, hidden: jax.Array, drawn: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The next token of each stream and its two log-probs, each [S], from hidden states [S, D] and tokens `drawn`."""
    keys = jax.vmap(jax.random.fold_in)(keys, drawn)
    suppress = jnp.array([model.config.image_token_id, model.config.video_token_id])
    return sample(keys, mesh.rows(mesh.rows(model.logits(hidden), heads=1)), suppress, options)


def is_eos(token: jax.Array, options: Sampling) -> jax.Array:
    """Whether each token is an EOS, bool of the same shape."""
    return jnp.isin(token, jnp.array(options.eos_ids, jnp.int32)) if options.eos_ids else jnp.zeros(token.shape, bool)
