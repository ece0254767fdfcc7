"""Log-probs and entropies of tokens from hidden states, without all logits in memory.

The vocabulary's logits are computed in chunks of tokens, forward and again backward. The head's gradient is summed over
chunks and shards in the head's dtype. On a mesh the head is gathered in the dtype of the activations, and its gradient
reduced, once instead of once a chunk.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

import models
from models.layers import logits
from perl_jax import mesh
from perl_jax.engine.tree_packing import Array

CHUNK = 1 << 26  # logits of a shard in memory at a time: 256 MiB in float32
PIECES = 8  # least number of chunks of a row, so that chunks of only padding can be skipped


class _Options(NamedTuple):
    temperature: float
    entropy_gradient: bool


def chunked_logprobs(
    model: models.Model,
    hidden: jax.Array,
    targets: Array,
    scored: Array,
    temperature: float,
    entropy_gradient: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Log-probs of targets [S, C] under hidden [S, C, D], and entropies, both float32 [S, C]; 0 where not `scored`.

    At most `CHUNK` logits of a shard are in memory at a time, forward or backward; chunks after a shard's last scored
    token are skipped. The entropy has a gradient only with `entropy_gradient`.
    """
    return _chunked(_Options(temperature, entropy_gradient), model.head(), hidden, targets, scored)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(options: _Options, head: jax.Array, hidden: jax.Array, targets: Array, scored: Array):
    return _forward(options, head, hidden, targets, scored)[0]


def _forward(options: _Options, head: jax.Array, hidden: jax.Array, targets: Array, scored: Array):
    copy = mesh.gathered(head.astype(hidden.dtype), "embed", "vocab")
    like = jnp.zeros(0, head.dtype)
    out = mesh.by_shard(partial(_of_shard, options), shared=1)(copy, hidden, targets, scored)
    return out, (like, copy, hidden, targets, scored)


def _backward(options: _Options, residuals: tuple, gradients: tuple):
    like, *inputs = residuals
    of_shard = partial(_gradients_of_shard, options, like.dtype)
    of_head, of_hidden = mesh.by_shard(of_shard, shared=1)(*inputs, *gradients)
    return of_head.sum(0), of_hidden, None, None


_chunked.defvjp(_forward, _backward)


def _of_shard(
    options: _Options, copy: jax.Array, hidden: jax.Array, targets: jax.Array, scored: jax.Array
) -> tuple[jax.Array, ...]:
    """(log-probs, entropies) of a shard's rows [S, C]; `copy` is the head in the dtype of `hidden`."""
    size, count = _chunks(copy, scored)
    hidden, targets = _padded(size, hidden, targets)

    def chunk(i: jax.Array, outs: tuple) -> tuple:
        h, target = _cut(size, i, hidden, targets)
        return _put(size, i, outs, _token_logprobs(options, h, copy, copy, target))

    empty = jnp.zeros(targets.shape), jnp.zeros(targets.shape)
    outs = jax.lax.fori_loop(0, count, chunk, empty)
    return tuple(jnp.where(scored, x[:, : scored.shape[1]], 0.0) for x in outs)


def _gradients_of_shard(
    options: _Options,
    dtype: jnp.dtype,
    copy: jax.Array,
    hidden: jax.Array,
    targets: jax.Array,
    scored: jax.Array,
    of_logprobs: jax.Array,
    of_entropies: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of the head, in `dtype` [1, D, V], and of `hidden`."""
    (size, count), width = _chunks(copy, scored), scored.shape[1]
    gradients = [jnp.where(scored, g, 0.0) for g in (of_logprobs, of_entropies)]
    hidden, targets, *gradients = _padded(size, hidden, targets, *gradients)

    def chunk(i: jax.Array, carry: tuple) -> tuple:
        of_head, of_hidden = carry
        h, target, *g = _cut(size, i, hidden, targets, *gradients)
        head = jnp.zeros_like(of_head)  # stands for the whole head, whose values are only in `copy`
        _, pull = jax.vjp(lambda h, head: _token_logprobs(options, h, head, copy, target), h, head)
        h_gradient, head_gradient = pull(tuple(g))
        [of_hidden] = _put(size, i, (of_hidden,), (h_gradient,))
        return of_head + head_gradient, of_hidden

    start = jnp.zeros(copy.shape, dtype), jnp.zeros_like(hidden)
    of_head, of_hidden = jax.lax.fori_loop(0, count, chunk, start)
    return of_head[None], of_hidden[:, :width]


def _token_logprobs(
    options: _Options, h: jax.Array, head: jax.Array, copy: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
    logp = jax.nn.log_softmax(logits(h, head, copy) / options.temperature, axis=-1)
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    at_target = jnp.take_along_axis(logp, target[..., None], axis=-1)[..., 0]
    return at_target, entropy if options.entropy_gradient else jax.lax.stop_gradient(entropy)


def _chunks(copy: jax.Array, scored: jax.Array) -> tuple[int, jax.Array]:
    """(tokens of a chunk, number of chunks up to the last scored token)."""
    width = scored.shape[1]
    size = max(1, min(-(-width // PIECES), CHUNK // copy.shape[1]))
    end = jnp.max(jnp.where(scored, jnp.arange(1, width + 1), 0), initial=0)
    return size, -(-end // size)


def _padded(size: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays [S, C, ...], with C padded to a multiple of `size`."""
    return tuple(jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2)) for x in arrays)


def _cut(size: int, i: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
    """Chunk i of arrays [S, C, ...]."""
    return [jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=1) for x in arrays]


def _put(size: int, i: jax.Array, arrays: tuple, chunks: tuple) -> tuple:
    """The arrays with chunk i replaced."""
    return tuple(jax.lax.dynamic_update_slice_in_dim(x, new, i * size, 1) for x, new in zip(arrays, chunks))
