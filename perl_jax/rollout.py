"""Group sampling: each distinct image encoded once, each prompt prefilled once, G streams decoded against its cache.

A stream draws token t with the key fold_in(seed, id, rollout, t), so its tokens do not depend on what else is in the
batch. Log-probs of the raw distribution come with each token, from the logits at hand.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models import qwen2_5_vl as qwen
from models.qwen2_5_vl.attention import attention, causal

BLOCK = 512  # entries per block of the two-level draw: 152k logits are 297 blocks


class Rollouts(NamedTuple):
    """N prompts x G rollouts; R is the longest response. Past a response's length: the pad id and log-prob 0."""

    tokens: np.ndarray  # int32 [N, G, R], the EOS included
    logprobs: np.ndarray  # float32 [N, G, R]: log-softmax of the raw logits
    sample_logprobs: np.ndarray  # float32 [N, G, R]: of the distribution sampled from
    lengths: np.ndarray  # int32 [N, G]


class Sampling(NamedTuple):
    """The static part of a call."""

    samples: int
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    eos_ids: tuple[int, ...]
    pad_id: int


def generate(model: qwen.Qwen2_5_VL, prompts: Sequence, samples: int = 8, max_new_tokens: int = 64,
             temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, eos_ids: Sequence[int] = (), seed: int = 0,
             ids: Sequence[int] | None = None, min_pixels: int | None = None,
             max_pixels: int | None = None) -> Rollouts:  # fmt: skip
    """Samples `samples` responses to each prompt [(input_ids, images), ...] (as `qwen.pack` takes them).

    `temperature=0.0` is greedy; `top_k=0` and `top_p=1.0` are off; `eos_ids=()` never stops early. `ids` [N] (by
    default 0..N-1) key the draws: the same id and prompt give the same tokens in any batch (in float32, up to
    rounding). Image and video tokens are never sampled.
    """
    if temperature < 0 or not 0 < top_p <= 1 or top_k < 0 or samples < 1 or max_new_tokens < 1:
        raise ValueError("needs temperature >= 0, 0 < top_p <= 1, top_k >= 0, samples >= 1 and max_new_tokens >= 1")
    if not prompts:
        raise ValueError("generate needs at least one prompt")
    inputs = qwen.pack(model.config, prompts, min_pixels, max_pixels)
    ids = np.arange(len(prompts)) if ids is None else np.asarray(ids)
    if ids.shape != (len(prompts),):
        raise ValueError(f"ids must hold one id per prompt: {ids.shape} for {len(prompts)} prompts")
    options = Sampling(samples, max_new_tokens, float(temperature), float(top_p),
                       min(int(top_k), model.config.text.vocab_size), tuple(sorted({int(e) for e in eos_ids})),
                       model.source.pad_id if model.source else 0)  # fmt: skip
    graph, weights = nnx.split(model)
    seed, ids = np.uint32(seed % 2**32), ids.astype(np.uint32)
    *streams, lengths = jax.device_get(_generate(graph, options, weights, inputs, seed, ids))
    longest = max(int(lengths.max()), 1)
    return Rollouts(*(stream[..., :longest] for stream in streams), lengths)


@partial(jax.jit, static_argnums=(0, 1))
def _generate(graph, options: Sampling, weights, inputs, seed, ids):
    dtype = nnx.merge(graph, weights).compute_dtype
    model = nnx.merge(graph, jax.tree.map(lambda w: w.astype(dtype), weights))  # cast once, not once a token
    N, G, R = len(ids), options.samples, options.max_new_tokens
    hidden, prompt_cache = prefill(model, inputs)
    seeds = jax.vmap(lambda n: jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(jax.random.key(seed), n)))(
        jnp.arange(G)))(ids)  # fmt: skip
    suppress = jnp.array([model.config.image_token_id, model.config.video_token_id])

    def draw(hidden, t):
        """Tokens and both log-probs, each [N, G], from the hidden states [N, G, D] that predict token t."""
        keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, t)))(seeds)
        return sample(keys, model.logits(hidden), suppress, options)

    def write(streams, t, drawn, done):
        """Appends what was drawn to the streams [N, G, R] that are still alive; returns which are done now."""
        alive = ~done
        pads = (options.pad_id, 0.0, 0.0)
        streams = tuple(s.at[:, :, t].set(jnp.where(alive, x, pad)) for s, x, pad in zip(streams, drawn, pads))
        ended = jnp.isin(drawn[0], jnp.array(options.eos_ids, jnp.int32)) if options.eos_ids else jnp.zeros_like(done)
        return streams, done | ended

    def body(carry):
        t, streams, done, lengths_so_far, cache = carry
        token = jax.lax.dynamic_index_in_dim(streams[0], t - 1, axis=2, keepdims=False)
        hidden, new = decode(model, inputs, prompt_cache, token, cache, t - 1)
        cache = jax.tree.map(lambda c, x: c.at[:, :, :, t - 1].set(x), cache, new)
        lengths_so_far = lengths_so_far + ~done
        streams, done = write(streams, t, draw(hidden, t), done)
        return t + 1, streams, done, lengths_so_far, cache

    streams = (jnp.full((N, G, R), options.pad_id, jnp.int32), jnp.zeros((N, G, R)), jnp.zeros((N, G, R)))
    first = draw(jnp.broadcast_to(hidden[:, None], (N, G, hidden.shape[-1])), 0)
    streams, done = write(streams, 0, first, jnp.zeros((N, G), bool))
    cache = jax.tree.map(lambda c: jnp.zeros((c.shape[0], N, G, max(R - 1, 1), *c.shape[3:]), c.dtype), prompt_cache)
    carry = (jnp.int32(1), streams, done, jnp.ones((N, G), jnp.int32), cache)
    _, streams, _, stream_lengths, _ = jax.lax.while_loop(lambda c: (c[0] < R) & ~c[2].all(), body, carry)
    return *streams, stream_lengths


def prefill(model, inputs):
    """Hidden states [N, D] of each prompt's last token, and keys and values, each [L, N, P, J, d], of all of them."""
    h = model.embed(inputs.ids, inputs.image_index, model.encode(inputs.vision))
    h, cache = jax.vmap(lambda h, positions: model.model(h, positions, causal), in_axes=(0, 1), out_axes=(0, 1))(
        h, inputs.position_ids)  # fmt: skip
    return h[jnp.arange(len(h)), inputs.lengths - 1], cache


def decode(model, inputs, prompt_cache, tokens, cache, used):
    """The next token of each stream: tokens [N, G] -> hidden states [N, G, D] and their keys and values.

    `prompt_cache` [L, N, P, J, d] is shared by a prompt's streams, `cache` [L, N, G, R - 1, J, d] holds `used` tokens
    of each. The new keys and values come back as [L, N, G, J, d]: writing them is one update for all layers.
    """

    def row(tokens, position, length, prompt_cache, cache):
        def attend(q, k, v, layer):
            (prompt_k, prompt_v), (own_k, own_v) = layer
            q, newest_k, newest_v = (x[:, None] for x in (q, k, v))  # each stream has one token
            in_prompt = jnp.arange(prompt_k.shape[0])[None] < length
            in_own = jnp.arange(own_k.shape[1])[None] < used
            parts = (prompt_k, prompt_v, in_prompt), (own_k, own_v, in_own), (newest_k, newest_v, True)
            return attention(q, *parts)[:, 0], (k, v)

        positions = jnp.broadcast_to(position, (3, len(tokens)))
        return model.model(model.embed(tokens), positions, attend, (prompt_cache, cache))

    return jax.vmap(row, in_axes=(0, 0, 0, 1, 1), out_axes=(0, 1))(
        tokens, inputs.starts + used, inputs.lengths, prompt_cache, cache
    )


def sample(keys, logits, suppress, options: Sampling):
    """Draws from logits [..., V] with keys [...]: (token int32, raw log-prob, log-prob as sampled), each [...]."""
    allowed = logits.at[..., suppress].set(-jnp.inf)
    if options.temperature == 0.0:
        token = jnp.argmax(allowed, axis=-1)
        sample_logprob = jnp.zeros(token.shape)
    else:
        allowed = keep_top(allowed / options.temperature, options.top_k, options.top_p)
        token = jnp.vectorize(draw_categorical, signature="(),(v)->()")(keys, allowed)
        sample_logprob = log_softmax_at(allowed, token)
    return token.astype(jnp.int32), log_softmax_at(logits, token), sample_logprob


def log_softmax_at(logits, index):
    """log-softmax(logits)[index] for logits [..., V] and index [...], with no second array of size V."""
    picked = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)


def keep_top(logits, top_k: int, top_p: float):
    """Logits [..., V] with all but the `top_k` largest, then all but the `top_p` nucleus, at -inf (ties are kept).

    The nucleus is the smallest set of most probable tokens whose probability reaches `top_p`. Sorts only when asked.
    """
    if top_k == 0 and top_p == 1.0:
        return logits
    largest = jax.lax.top_k(logits, top_k or logits.shape[-1])[0]  # [..., k], descending
    least = largest[..., -1:]
    if top_p < 1.0:
        probs = jax.nn.softmax(largest, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs
        kept = jnp.maximum(jnp.sum(before < top_p, axis=-1, keepdims=True), 1)
        least = jnp.take_along_axis(largest, kept - 1, axis=-1)
    return jnp.where(logits < least, -jnp.inf, logits)


def draw_categorical(key, logits):
    """One index from softmax(logits [V]), int32 []: first its block by the blocks' sums, then its place in the block.

    One cumulative sum over 152k float32 probabilities loses most of the tail to rounding; two short ones do not.
    """
    probs = jnp.exp(logits - jnp.max(logits))
    blocks = jnp.pad(probs, (0, -len(probs) % BLOCK)).reshape(-1, BLOCK)
    u_block, u_place = jax.random.uniform(key, (2,))
    block = _invert(jnp.cumsum(blocks.sum(-1)), u_block)
    return block * BLOCK + _invert(jnp.cumsum(blocks[block]), u_place)


def _invert(cumulative, u):
    """The first index whose cumulative sum exceeds u of the total; never one of no mass."""
    target = jnp.minimum(u * cumulative[-1], jnp.nextafter(cumulative[-1], 0.0))
    return jnp.sum(cumulative <= target)
