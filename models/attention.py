"""Attention for one row of tokens: softmax in float32, grouped queries without repeated keys.

`spanned` is used in prefill and training: blocks in plain XLA, or the platform's kernels (kernels.py). Decode and the
vision tower use dense attention on any platform.

An `attend(q, k, v, cache) -> (out, cache)` is one layer's attention for the text tower: q [T, H, d] and k, v [T, J, d]
of the current tokens, with rotary positions applied; out [T, H, d]. The caller chooses the visible tokens, so that
prefill, decode and training share one network. Batches are formed by `jax.vmap`.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models import kernels
from models.errors import InputError
from models.layers import precision

LEAST_BLOCK = 128  # least queries per block of a packed row
STORED = 2048  # longer packed rows recompute attention weights in the backward pass instead of storing them

CHOICES = ("auto", "xla", "kernel")  # kernels where there are any, never, or an error where there are none

# Softmax attention over some keys: maximum score, sum of exponentials, weighted values; float32 [..., T, 1 or d].
Partial = tuple[jax.Array, jax.Array, jax.Array]


def attention(q, k, v, mask):
    """Masked attention: q [T, H, d], k and v [S, J, d], mask broadcastable to [T, S] -> [T, H, d].

    Each token must see at least one key. Heads come first, so that all products are of whole matrices.
    """
    (T, H, d), J = q.shape, k.shape[1]
    rows = q.reshape(T, J, H // J, d).transpose(1, 2, 0, 3).reshape(J, -1, d)
    mask = jnp.broadcast_to(jnp.asarray(mask), (T, len(k)))
    mask = jnp.tile(mask, (H // J, 1))  # for the rows of one KV head
    _, total, out = partial_attention(rows, k.transpose(1, 2, 0), v.swapaxes(0, 1), mask)
    return (out / total).astype(v.dtype).reshape(J, H // J, T, d).transpose(2, 0, 1, 3).reshape(T, H, d)


def partial_attention(q, k, v, mask) -> Partial:
    """Softmax attention over one block of keys, for `merged`: q [..., T, d], k [..., d, S], v [..., S, d].

    `mask` broadcasts to [..., T, S]; each token must see a key.
    """
    exact = precision(q.dtype)
    scores = jnp.matmul(q, k, precision=exact, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    scores = jnp.where(mask, scores, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))  # the result does not depend on it
    weights = jnp.exp(scores - largest)
    out = jnp.matmul(weights.astype(v.dtype), v, precision=exact, preferred_element_type=jnp.float32)
    return largest, jnp.sum(weights, axis=-1, keepdims=True), out


def merged(*parts: Partial):
    """Attention over all keys, float32 [..., T, d], from its parts; in some of them a token may see no key."""
    largest = reduce(jnp.maximum, [part[0] for part in parts])
    scales = [jnp.exp(part[0] - largest) for part in parts]
    total = sum(part[1] * scale for part, scale in zip(parts, scales))
    return sum(part[2] * scale for part, scale in zip(parts, scales)) / total


class Spans(NamedTuple):
    """Visible tokens of each token in a packed row [C]: its tree's prompt and its response, up to itself.

    Trees are prompts with responses, `[prompt | r_1 | ... | r_G]` each; a row holds the prompts of all its trees first,
    then the responses. A padding token is a separate tree.
    """

    start: jax.Array  # int32 [..., C]: where its tree's prompt starts
    fork: jax.Array  # int32 [..., C]: where its tree's prompt ends
    branch: jax.Array  # int32 [..., C]: where its response starts; for a prompt token, its prompt

    def visible(self, queries: slice, keys):
        """Whether the tokens `queries` see the places `keys` [S], bool [T, S]."""
        places = np.arange(queries.start, queries.stop)[:, None]
        return kernels.visible(places, keys, *(x[queries, None] for x in self))


def platform() -> str:
    """The platform: cpu, gpu or tpu. That of the current mesh, whose devices may be for compilation only."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


_chosen = "auto"


def choose(name: str) -> None:
    """Sets, for the whole process, what `spanned` uses: one of `CHOICES`. Programs compiled for another are dropped."""
    global _chosen
    if name not in CHOICES:
        raise InputError(f"attention is one of {', '.join(CHOICES)}, not {name!r}")
    if name != _chosen:
        _chosen = name
        jax.clear_caches()


def kernel_platform(head_dim: int) -> str | None:
    """The platform whose kernels `spanned` uses for this head size; None: blocks in XLA.

    Raises InputError where `choose` asked for kernels and there are none.
    """
    there = platform() in ("tpu", "gpu") and head_dim == kernels.HEAD
    if _chosen == "kernel" and not there:
        raise InputError(
            f"attention = 'kernel', but there is no kernel for heads of {head_dim} on a {platform()}: they are for "
            f"heads of {kernels.HEAD} on a gpu or tpu; set it to 'auto' or 'xla'"
        )
    return platform() if there and _chosen != "xla" else None


def spanned(q, k, v, spans: Spans, prompts: int, window: int):
    """Attention of one packed row: q [T, H, d], k and v [T, J, d], spans of [T] each -> [T, H, d].

    Prompts are in the first `prompts` places, and a response has at most `window` tokens; kernels use only the spans.
    """
    if platform := kernel_platform(q.shape[-1]):
        return kernels.attention(q, k, v, spans, platform)
    size, out = max(LEAST_BLOCK, -(-len(q) // 16)), []
    block = jax.checkpoint(attention) if len(q) > STORED else attention
    for start in range(0, len(q), size):
        end, near = min(start + size, len(q)), max(start - window + 1, 0)
        reach = [slice(0, prompts), slice(near, end)] if prompts < near else [slice(0, end)]
        keys, values = (jnp.concatenate([x[part] for part in reach]) for x in (k, v))
        places = np.concatenate([np.arange(part.start, part.stop) for part in reach])
        out.append(block(q[start:end], keys, values, spans.visible(slice(start, end), places)))
    return jnp.concatenate(out)


def causal(q, k, v, cache):
    """Causal attention over a right-padded row. Ignores the cache and returns (k, v)."""
    del cache
    T = len(q)
    ends = jnp.zeros(T, jnp.int32), jnp.full(T, T, jnp.int32), jnp.zeros(T, jnp.int32)  # one prompt, no responses
    return spanned(q, k, v, Spans(*ends), T, T), (k, v)
