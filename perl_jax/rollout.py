"""Batched group sampling: images encoded once, prompts prefilled once, G streams decoded per prompt KV cache.

A stream draws token t with the key fold_in(seed, id, rollout, t), so its tokens do not depend on the rest of the batch.
Each token comes with its log-prob under the raw distribution.

The device decodes in segments, between which the host checks which streams have ended. So that the longest response
does not set the cost of the whole batch, per-stream KV caches start small and double when full, and live streams move
to a smaller batch as soon as they fit. The possible shapes (`capacities` x `batch_sizes`) are few and compiled ahead.

On a mesh each shard decodes all streams of its share of the prompts; streams never move between shards.
"""

from collections.abc import Callable, Sequence
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
from models.attention import causal, merged, partial_attention, platform
from models.layers import unstacked
from models.packing import Inputs
from perl_jax import mesh
from perl_jax.engine.decode_batch import Decoded, Rollouts, Segment, batch_sizes, capacities, regroup, rollouts
from perl_jax.engine.embeddings import embeddings
from perl_jax.engine.sampling import Sampling, sample

SEGMENT = 64  # tokens decoded between two host checks

Cache = tuple[jax.Array, jax.Array]  # of one layer: keys and values
Split = tuple[nnx.GraphDef, nnx.State]  # a model by `nnx.split`
Finished = Callable[[int, int, np.ndarray], None]

_compiled: set[tuple] = set()  # signatures that `compile_ahead` has compiled


class Streams(flax.struct.PyTreeNode):
    """Decoding state of N prompts with G streams each. Prompts are padded to P tokens, per-stream KV caches hold C."""

    prompt_kv_cache: list[Cache]  # prompt KV cache by layer: keys [N, J, d, P], values [N, J, P, d]
    kv_cache: list[Cache]  # per-stream KV cache by layer: keys [N * G, J, d, C], values [N * G, J, C, d]
    lengths: jax.Array  # int32 [N]: prompt lengths
    starts: jax.Array  # int32 [N]: the position of the first token after each prompt
    keys: jax.Array  # [N, G]
    last: jax.Array  # int32 [N, G]: the newest token, not yet in the KV cache
    done: jax.Array  # bool [N, G]


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
) -> Rollouts:
    """Samples `samples` responses to each prompt [(input_ids, images), ...] (as `models.pack` takes them).

    `temperature=0.0` is greedy; `top_k=0` and `top_p=1.0` are off; `eos_ids=()` never stops early. `ids` [N] (default
    0..N-1) seed the draws: the same id and prompt give the same tokens in any batch (in float32, up to rounding). Image
    and video tokens are never sampled. `finished(n, g, tokens)` is called once per response as soon as the host sees
    its end; others may still be decoding. `batch` limits the prompts decoded at a time, and so the KV caches in memory;
    0 is all.

    Raises ValueError for options out of range, no prompts, or ids that are not one per prompt.
    """
    if temperature < 0 or not 0 < top_p <= 1 or min(top_k, batch) < 0 or samples < 1 or max_new_tokens < 1:
        raise ValueError(
            "needs temperature >= 0, 0 < top_p <= 1, top_k >= 0, samples >= 1, max_new_tokens >= 1 and batch >= 0"
        )
    if not prompts:
        raise ValueError("generate needs at least one prompt")
    ids = np.arange(len(prompts)) if ids is None else np.asarray(ids)
    if ids.shape != (len(prompts),):
        raise ValueError(f"ids must hold one id per prompt: {ids.shape} for {len(prompts)} prompts")
    options = Sampling(
        float(temperature),
        float(top_p),
        min(int(top_k), model.config.text.vocab_size),
        tuple(sorted({int(e) for e in eos_ids})),
    )
    batch, shards = min(batch or len(prompts), len(prompts)), mesh.shards()
    N = -(-batch // shards) * shards  # equal shares for all shards
    parts = nnx.split(model), nnx.split(for_decoding(model))
    batches = []
    for first in range(0, len(prompts), batch):
        count = min(batch, len(prompts) - first)
        indices = first + np.arange(N).clip(max=count - 1)  # padded, so that all batches have the same shapes
        inputs = models.pack(
            model.config, [prompts[n] for n in indices], min_pixels, max_pixels, shards, mesh.local_shards()
        )
        batches.append(Decoded(count, N, samples, max_new_tokens, shards, _counted_from(first, finished)))
        _generate(*parts, options, inputs, ids[indices], seed, batches[-1])
    return rollouts(batches, model.source.pad_id if model.source else 0)


def _counted_from(first: int, finished: Finished | None) -> Finished | None:
    """`finished` for a batch whose prompts start at number `first`."""
    return finished and (lambda n, g, tokens: finished(first + n, g, tokens))


def _generate(
    parts: Split, decoder: Split, options: Sampling, inputs: Inputs, ids: np.ndarray, seed: int, decoded: Decoded
) -> None:
    """Decodes one batch into `decoded`. `parts` is the split model, `decoder` the split `for_decoding(model)`."""
    (count, G, R), shards = decoded.shape, mesh.shards()
    cache_sizes, sizes = capacities(R), batch_sizes(len(ids), G, R, shards)
    h = embeddings(*parts, *mesh.place((inputs.ids, inputs.image_index, inputs.vision)))
    streams, segment = _start(
        *parts,
        options,
        G,
        cache_sizes[0],
        h,
        mesh.place(inputs.position_ids, axis=1),
        *mesh.place((inputs.lengths, inputs.starts, ids.astype(np.uint32))),
        np.uint32(seed % 2**32),
        np.int32(count),
    )
    if len(cache_sizes) > 1:
        compile_ahead(*decoder, options, streams, cache_sizes, sizes)

    decoded.add(segment, 0, 1)
    t, cache_index, size_index = 1, 0, 0
    while t < R and decoded.alive.any():
        while size_index + 1 < len(sizes) and (moves := regroup(decoded.alive, *sizes[size_index + 1], shards)):
            streams, size_index = _shrink(streams, *mesh.place(moves)), size_index + 1
            decoded.move(moves)
        if t > cache_sizes[cache_index]:
            cache_index += 1
            streams = streams.replace(
                kv_cache=[_grow(streams.kv_cache.pop(0), cache_sizes[cache_index]) for _ in list(streams.kv_cache)]
            )
        stop = min(t + SEGMENT, cache_sizes[cache_index] + 1, R)
        smaller = sizes[size_index + 1] if size_index + 1 < len(sizes) else (0, 1)
        streams, end, segment = _decode(*decoder, options, smaller, streams, np.int32(t), np.int32(stop))
        decoded.add(segment, t, int(end))
        t = int(end)


def compile_ahead(
    graph: nnx.GraphDef,
    weights: nnx.State,
    options: Sampling,
    streams: Streams,
    cache_sizes: Sequence[int],
    sizes: Sequence[tuple[int, int]],
) -> None:
    """Compiles all programs that a call may need, once, so that no later step waits for compilation."""
    signature = (graph, options, *cache_sizes, *sizes, streams.prompt_kv_cache[0][0].shape)
    if signature in _compiled:
        return
    programs: list[tuple] = []
    shapes = mesh.shapes(streams, streams)
    for smaller in [*sizes[1:], None]:
        moves = mesh.place((np.zeros(smaller[0], np.int32), np.zeros(smaller, np.int32))) if smaller else ()
        grown = shapes
        for larger in [*cache_sizes[1:], None]:
            programs.append((_decode, graph, weights, options, smaller or (0, 1), grown, np.int32(0), np.int32(0)))
            if smaller:
                programs.append((_shrink, grown, *moves))
            if larger:
                programs.append((_grow, grown.kv_cache[0], larger))
                kv_cache = [jax.eval_shape(partial(_grow, capacity=larger), layer) for layer in grown.kv_cache]
                grown = grown.replace(kv_cache=mesh.shapes(kv_cache, streams.kv_cache))
        if smaller:
            shapes = mesh.shapes(jax.eval_shape(_shrink, shapes, *moves), streams)
    with ThreadPoolExecutor() as pool:
        list(pool.map(mesh.in_any_thread(lambda program: program[0].lower(*program[1:]).compile()), programs))
    _compiled.add(signature)


def abstract_programs(
    sizes: models.Config,
    model: Split,
    decoder: Split,
    options: Sampling,
    pack: Any,
    *,
    prompts: int,
    samples: int,
    prompt_tokens: int,
    max_new_tokens: int,
    dtype: DTypeLike,
) -> tuple[dict[str, Callable], Streams]:
    """({name: what lowers it} of the programs of one call, its largest decoding state), without an array.

    Args:
        sizes: of the model.
        model, decoder: the abstract model, and what `for_decoding` makes of it, by `nnx.split`.
        options: of the sampler.
        pack: an abstract vision pack of all images.
        prompts, samples: N and G; N is a multiple of the mesh's shards.
        prompt_tokens: P, of every prompt.
        max_new_tokens: R, whose last capacity the per-stream KV caches have.
        dtype: of activations and caches.
    """
    N, G, P, cache_sizes = prompts, samples, prompt_tokens, capacities(max_new_tokens)
    J, d, heads = sizes.text.num_key_value_heads, sizes.text.head_dim, mesh.head_axis(sizes.text.num_key_value_heads)

    def rows(*shape: int, dtype: DTypeLike = jnp.int32) -> Any:  # in place of an array
        return mesh.abstract(shape, dtype, mesh.ROWS)

    def caches(n: int, tokens: int) -> list:
        shapes = (n, J, d, tokens), (n, J, tokens, d)
        cache = tuple(mesh.abstract(shape, dtype, mesh.ROWS, heads) for shape in shapes)
        return [cache] * sizes.text.num_hidden_layers

    key = jax.eval_shape(lambda: jax.random.key(0)).dtype
    state = rows(N), rows(N), rows(N, G, dtype=key), rows(N, G), rows(N, G, dtype=bool)
    streams = Streams(caches(N, P), caches(N * G, cache_sizes[-1]), *state)
    h = rows(N, P, sizes.embedding_size, dtype=dtype)
    positions = mesh.abstract((3, N, P), jnp.int32, None, mesh.ROWS)
    ids = rows(N, dtype=jnp.uint32)
    prefilled = h, positions, rows(N), rows(N), ids, np.uint32(0), np.int32(N)
    return {
        "prefill images": partial(embeddings.lower, *model, rows(N, P), rows(N, P, 2), pack),
        "prefill": partial(_start.lower, *model, options, G, cache_sizes[0], *prefilled),
        "decode": partial(_decode.lower, *decoder, options, (0, 1), streams, np.int32(1), np.int32(2)),
    }, streams


# On the device.


@partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _start(
    graph: nnx.GraphDef,
    weights: nnx.State,
    options: Sampling,
    G: int,
    capacity: int,
    h: jax.Array,
    position_ids: jax.Array,
    lengths: jax.Array,
    starts: jax.Array,
    ids: jax.Array,
    seed: jax.Array,
    prompts: jax.Array,
) -> tuple[Streams, Segment]:
    """Prefills the prompts, of which the first `prompts` are real, and draws a token each: (streams, segment)."""
    model = nnx.merge(graph, weights)
    hidden, prompt_kv_cache = prefill(model, h, position_ids, lengths)
    prompt_keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(ids)
    keys = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(G)))(prompt_keys)
    hidden = jnp.broadcast_to(hidden[:, None], (*keys.shape, hidden.shape[-1]))
    token, logprob, sample_logprob = sample_token(model, options, keys, hidden, 0)
    done = is_eos(token, options) | (jnp.arange(len(token)) >= prompts)[:, None]
    J, d = prompt_kv_cache[0][0].shape[1:3]
    kv_cache = [
        (jnp.zeros((keys.size, J, d, capacity), k.dtype), jnp.zeros((keys.size, J, capacity, d), v.dtype))
        for k, v in prompt_kv_cache
    ]
    streams = Streams(prompt_kv_cache, kv_cache, lengths, starts, keys, token, done)
    first = token[..., None], logprob[..., None], sample_logprob[..., None]
    return placed(streams), mesh.replicated(Segment(*first, jnp.ones(keys.shape, jnp.int32), done))


def placed(streams: Streams) -> Streams:
    """Shards the streams over the mesh, and KV heads over its `tensor` axis."""
    sharded = mesh.rows(streams.replace(prompt_kv_cache=None, kv_cache=None))
    return sharded.replace(
        prompt_kv_cache=mesh.rows(streams.prompt_kv_cache, heads=1), kv_cache=mesh.rows(streams.kv_cache, heads=1)
    )


def prefill(
    model: models.Model, h: jax.Array, position_ids: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, list[Cache]]:
    """Hidden states [N, D] of each prompt's last token, and the prompt KV caches: a list of (keys, values) by layer."""

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, cache: None) -> tuple[jax.Array, Cache]:
        return mesh.by_heads(lambda q, k, v: causal(q, k, v, cache)[0])(q, k, v), (k, v)

    h, (keys, values) = mesh.by_row(
        lambda h, positions: model.model(h, positions, attend), in_axes=(0, 1), out_axes=(0, 1)
    )(h, position_ids)
    cache = zip(jnp.einsum("lnpjd->lnjdp", keys), jnp.einsum("lnpjd->lnjpd", values))
    return h[jnp.arange(len(h)), lengths - 1], list(cache)


@partial(jax.jit, static_argnums=(0, 2, 3), donate_argnums=4)
def _decode(
    graph: nnx.GraphDef,
    weights: nnx.State,
    options: Sampling,
    smaller: tuple[int, int],
    streams: Streams,
    t: jax.Array,
    stop: jax.Array,
) -> tuple[Streams, jax.Array, Segment]:
    """Draws tokens t, t + 1, ... below `stop`, until the live streams fit `smaller`: (streams, end, segment)."""
    model = nnx.merge(graph, weights)
    rows, width = smaller
    past, recent, start = split_cache(streams.kv_cache, t - 1)

    def continues(carry: tuple[jax.Array, Streams, Segment]) -> jax.Array:
        t, streams, _ = carry
        needed = -(-jnp.sum(~streams.done, axis=1) // width)
        shards = mesh.shards()
        return (t < stop) & (jnp.max(jnp.sum(needed.reshape(shards, -1), axis=1)) > rows // shards)

    def body(carry: tuple[jax.Array, Streams, Segment]) -> tuple[jax.Array, Streams, Segment]:
        at, streams, segment = carry
        hidden, kv_cache = decode(model, streams, past, at - 1, start)
        sampled = sample_token(model, options, streams.keys, hidden, at)
        tokens, logprobs, sample_logprobs = (x.at[:, :, at - t].set(new) for x, new in zip(segment, sampled))
        done = streams.done | is_eos(sampled[0], options)
        segment = Segment(tokens, logprobs, sample_logprobs, segment.lengths + ~streams.done, done)
        return at + 1, placed(streams.replace(kv_cache=kv_cache, last=sampled[0], done=done)), segment

    shape = streams.done.shape
    empty = Segment(
        jnp.zeros((*shape, SEGMENT), jnp.int32),
        jnp.zeros((*shape, SEGMENT)),
        jnp.zeros((*shape, SEGMENT)),
        jnp.zeros(shape, jnp.int32),
        streams.done,
    )
    carry = t, streams.replace(kv_cache=recent), mesh.rows(empty)
    end, streams, segment = jax.lax.while_loop(continues, body, carry)
    streams = placed(streams.replace(kv_cache=merge_cache(past, streams.kv_cache, start)))
    return streams, *mesh.replicated((end, segment))


def split_cache(cache: list[Cache], used: jax.Array) -> tuple[Sequence[Cache | None], list[Cache], jax.Array | int]:
    """Splits the per-stream KV cache into a read-only past, a write buffer and the token offset of the buffer.

    `used` is the number of tokens in the cache. On a TPU, a cache longer than a segment is read-only during the loop,
    which would otherwise hold a second copy in another layout. The segment writes to a short buffer, which
    `merge_cache` copies back.
    """
    if cache[0][0].shape[-1] <= SEGMENT or platform() != "tpu":
        return [None] * len(cache), cache, 0
    recent = jax.tree.map(jnp.zeros_like, [(k[..., :SEGMENT], v[..., :SEGMENT, :]) for k, v in cache])
    return cache, mesh.rows(recent, heads=1), used


def merge_cache(past: Sequence[Cache | None], recent: list[Cache], start: jax.Array | int) -> list[Cache]:
    """Copies a segment's write buffer, from token `start` on, into the per-stream KV caches [..., C]."""
    if past[0] is None:
        return recent

    def join(cache: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        at = jnp.minimum(start, cache.shape[axis] - SEGMENT)  # a buffer at the end overlaps older tokens
        there = jnp.arange(SEGMENT) >= start - at
        there = there.reshape(*[-1 if i == axis else 1 for i in range(cache.ndim)])
        old = jax.lax.dynamic_slice_in_dim(cache, at, SEGMENT, axis)
        new = jnp.where(there, jnp.roll(new, start - at, axis), old)
        return jax.lax.dynamic_update_slice_in_dim(cache, new, at, axis)

    return [(join(k, new_k, 3), join(v, new_v, 2)) for (k, v), (new_k, new_v) in zip(filter(None, past), recent)]


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
    model: models.Model, streams: Streams, past: Sequence[Cache | None], used: jax.Array, start: jax.Array | int
) -> tuple[jax.Array, list[Cache]]:
    """One decode step: hidden states [N, G, D] that predict the next tokens, and the updated per-stream KV caches.

    `streams.kv_cache` holds tokens `start` to `used`, to which the newest is added; `past` those before `start`
    (`split_cache`). A prompt's keys and values are read once for all of its streams; the partial softmaxes are merged.
    """
    N, G = streams.last.shape
    P, C = streams.prompt_kv_cache[0][0].shape[-1], streams.kv_cache[0][0].shape[-1]
    in_prompt = (jnp.arange(P) < streams.lengths[:, None])[:, None, None]  # [N, 1, 1, P]
    in_cache = jnp.arange(C) <= used - start

    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array, cache: tuple[Cache, Cache, Cache | None]
    ) -> tuple[jax.Array, Cache]:
        (prompt_k, prompt_v), (cache_k, cache_v), past = cache
        k, v = mesh.rows((k, v), heads=1)  # sharded like the caches, which would otherwise be moved
        cache_k, cache_v = cache_k.at[..., used - start].set(k), cache_v.at[..., used - start, :].set(v)
        J, heads, d = k.shape[1], q.shape[1] // k.shape[1], k.shape[2]
        rows = q.reshape(N, G, J, heads, d).swapaxes(1, 2).reshape(N, J, G * heads, d)
        of_prompt = partial_attention(rows, prompt_k, prompt_v, in_prompt)
        of_prompt = [x.reshape(N, J, G, heads, -1).swapaxes(1, 2).reshape(N * G, J, heads, -1) for x in of_prompt]
        q = q.reshape(N * G, J, heads, d)
        parts = [of_prompt, partial_attention(q, cache_k, cache_v, in_cache)]
        if past is not None:
            past_k, past_v = past
            parts.append(partial_attention(q, past_k, past_v, jnp.arange(past_k.shape[-1]) < start))
        return merged(*parts).reshape(N * G, -1, d).astype(q.dtype), (cache_k, cache_v)

    positions = jnp.broadcast_to((streams.starts + used)[:, None], (3, N, G)).reshape(3, N * G)
    caches = list(zip(streams.prompt_kv_cache, streams.kv_cache, past))
    h, kv_cache = model.model(model.embed(streams.last.ravel()), positions, attend, caches)
    return h.reshape(N, G, -1), kv_cache


def sample_token(
    model: models.Model, options: Sampling, keys: jax.Array, hidden: jax.Array, t: jax.Array | int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Token t of each stream and its two log-probs, each [N, G], from hidden states [N, G, D]."""
    keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, t)))(keys)
    suppress = jnp.array([model.config.image_token_id, model.config.video_token_id])
    return sample(keys, mesh.rows(mesh.rows(model.logits(hidden), heads=2)), suppress, options)


def is_eos(token: jax.Array, options: Sampling) -> jax.Array:
    """Whether each token is an EOS, bool of the same shape."""
    return jnp.isin(token, jnp.array(options.eos_ids, jnp.int32)) if options.eos_ids else jnp.zeros(token.shape, bool)


@jax.jit
def _shrink(streams: Streams, prompts: jax.Array, slots: jax.Array) -> Streams:
    """The streams of the smaller batch that `regroup` chose."""

    def of_shard(streams: Streams, prompts: jax.Array, slots: jax.Array) -> Streams:
        kv_cache = jax.tree.map(lambda x: x[slots.ravel()], streams.kv_cache)
        keys, last = streams.keys.ravel()[slots], streams.last.ravel()[slots]
        prompt_kv_cache, lengths, starts = jax.tree.map(
            lambda x: x[prompts], (streams.prompt_kv_cache, streams.lengths, streams.starts)
        )
        return Streams(prompt_kv_cache, kv_cache, lengths, starts, keys, last, slots < 0)

    return placed(mesh.by_shard(of_shard)(streams, prompts, slots))


@partial(jax.jit, static_argnames="capacity")
def _grow(cache: Cache, capacity: int) -> Cache:
    """One layer's per-stream KV cache, padded to `capacity` tokens."""
    k, v = cache
    more = capacity - k.shape[-1]
    k, v = jnp.pad(k, [(0, 0)] * 3 + [(0, more)]), jnp.pad(v, [(0, 0)] * 2 + [(0, more), (0, 0)])
    return mesh.rows((k, v), heads=1)
