"""Token sampling from logits: top-k and top-p filters, the draw, and log-probs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

BLOCK = 512  # entries per block of the two-level draw: 152k logits are 297 blocks
NUCLEUS = 256  # tokens that top-p examines before it sorts the whole vocabulary


class Sampling(NamedTuple):
    """Sampling options; the static part of a compiled program."""

    temperature: float  # 0.0: greedy
    top_p: float  # 1.0: off
    top_k: int  # 0: off
    eos_ids: tuple[int, ...]  # tokens that end a stream


def sample(keys, logits, suppress, options: Sampling):
    """Draws from logits [..., V] with keys [...]: (token int32, raw log-prob, sampling log-prob), each [...].

    The ids `suppress` are never drawn. The raw log-prob is of softmax(logits), before suppression and filters.
    """
    allowed = jnp.where(jnp.isin(jnp.arange(logits.shape[-1]), suppress), -jnp.inf, logits)
    if options.temperature == 0.0:
        token = jnp.argmax(allowed, axis=-1)
        return token.astype(jnp.int32), log_softmax_at(logits, token), jnp.zeros(token.shape)
    unfiltered = options.temperature == 1.0 and options.top_k == 0 and options.top_p == 1.0
    if not unfiltered:
        allowed = keep_top(allowed / options.temperature, options.top_k, options.top_p)
    token, total = jnp.vectorize(draw_categorical, signature="(),(v)->(),()")(keys, allowed)
    picked = _at(allowed, token)
    if not unfiltered:
        return token.astype(jnp.int32), log_softmax_at(logits, token), picked - total
    raw_total = jax.nn.logsumexp(jnp.concatenate([total[..., None], logits[..., suppress]], axis=-1), axis=-1)
    return token.astype(jnp.int32), picked - raw_total, picked - total


def log_softmax_at(logits, index):
    """log-softmax(logits)[index] for logits [..., V] and index [...], without a second array of size V."""
    return _at(logits, index) - jax.nn.logsumexp(logits, axis=-1)


def _at(values, index):
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def keep_top(logits, top_k: int, top_p: float):
    """Logits [..., V] with all but the `top_k` largest, then all but the `top_p` nucleus, at -inf (ties are kept).

    The nucleus is the smallest set of most probable tokens whose probability reaches `top_p`. It is searched among the
    `NUCLEUS` most probable tokens, and in the whole vocabulary only if it is larger.
    """
    if top_k == 0 and top_p == 1.0:
        return logits
    size = logits.shape[-1]
    if top_k:
        largest = jax.lax.top_k(logits, top_k)[0]
        least = _nucleus(largest, jax.nn.logsumexp(largest, axis=-1), top_p)[0] if top_p < 1.0 else largest[..., -1:]
    else:
        total = jax.nn.logsumexp(logits, axis=-1)
        least, complete = _nucleus(jax.lax.top_k(logits, min(NUCLEUS, size))[0], total, top_p)
        if size > NUCLEUS:
            least = jax.lax.cond(
                complete.all(), lambda: least, lambda: _nucleus(jax.lax.top_k(logits, size)[0], total, top_p)[0]
            )
    return jnp.where(logits < least, -jnp.inf, logits)


def _nucleus(largest, total, top_p: float):
    """The smallest logit [..., 1] of the nucleus, from descending logits [..., k]; and whether it ends among them."""
    probs = jnp.exp(largest - total[..., None])
    reached = jnp.cumsum(probs, axis=-1)
    size = jnp.maximum(jnp.sum(reached - probs < top_p, axis=-1, keepdims=True), 1)
    return jnp.take_along_axis(largest, size - 1, axis=-1), reached[..., -1] >= top_p


def draw_categorical(key, logits):
    """One index from softmax(logits [V]), int32 [], and logsumexp(logits), float32 [].

    Draws a block by the blocks' sums, then an index in the block: one cumulative sum over 152k float32 probabilities
    loses most of the tail to rounding, two short ones do not.
    """
    largest = jnp.max(logits)
    probs = jnp.exp(logits - largest)
    blocks = jnp.pad(probs, (0, -len(probs) % BLOCK)).reshape(-1, BLOCK)
    sums = blocks.sum(-1)
    u_block, u_place = jax.random.uniform(key, (2,))
    block = invert(sums, u_block)
    return block * BLOCK + invert(blocks[block], u_place), largest + jnp.log(jnp.cumsum(sums)[-1])


def invert(masses, u):
    """The first index of positive mass whose cumulative sum exceeds u, in [0, 1), of the total; else the last such.

    A cumulative sum in float32 need not be monotone, so an index is never found by counting the sums below.
    """
    cumulative, places = jnp.cumsum(masses), jnp.arange(len(masses))
    beyond = (masses > 0) & (cumulative > u * cumulative[-1])
    first = jnp.min(jnp.where(beyond, places, len(masses)))
    last = jnp.max(jnp.where(masses > 0, places, 0))
    return jnp.where(beyond.any(), first, last)
