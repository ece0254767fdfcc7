"""Attention for one row of tokens, in plain XLA: softmax in float32, grouped queries without repeated keys.

An `attend(q, k, v, cache) -> (out, cache)` is one layer's attention for the text tower: q [T, H, d] and k, v [T, J, d]
of the tokens at hand, already rotated; out [T, H, d]. What a token may see is the caller's choice, so that prefill,
decoding and training share one network. Batches come by `jax.vmap`.
"""

from functools import reduce

import jax
import jax.numpy as jnp

from models.qwen2_5_vl.layers import precision


def attention(q, *parts):
    """One softmax over several blocks of keys: q [..., T, H, d], parts (k [..., S, J, d], v alike, mask [T or 1, S]).

    A part without q's leading axes is shared by all of them and never repeated. Each token must see at least one key.
    Plain arithmetic, so the gradient is that of one dense masked softmax over all parts. Returns [..., T, H, d].
    """
    scores = [jnp.where(mask, _scores(q, k), -jnp.inf) for k, _, mask in parts]
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1) if len(parts) > 1 else scores[0], axis=-1)
    out, start = 0, 0
    for k, v, _ in parts:
        out = out + _mix(weights[..., start : start + k.shape[-3]], v)
        start += k.shape[-3]
    return out


def _scores(q, k):
    """Scaled products of grouped queries: q [..., T, H, d], k [..., S, J, d] -> float32 [..., J, H / J, T, S]."""
    heads = (k.shape[-2], q.shape[-2] // k.shape[-2])
    q = q.reshape(*q.shape[:-2], *heads, q.shape[-1])
    products = jnp.einsum(
        "...tjgd,...sjd->...jgts", q, k, precision=precision(q.dtype), preferred_element_type=jnp.float32
    )
    return products * q.shape[-1] ** -0.5


def _mix(weights, v):
    """Values under attention weights: [..., J, H / J, T, S], v [..., S, J, d] -> [..., T, H, d]."""
    out = jnp.einsum("...jgts,...sjd->...tjgd", weights.astype(v.dtype), v, precision=precision(v.dtype))
    return out.reshape(*out.shape[:-3], -1, out.shape[-1])


def partial_attention(q, k, v, mask):
    """One block's part of a softmax over several, to be `merged`: q [..., T, d], k [..., d, S], v [..., S, d].

    Returns float32 (largest score [..., T, 1], sum of exponentials [..., T, 1], weighted values [..., T, d]). `mask`
    broadcasts to [..., T, S]; each token must see a key.
    """
    exact = precision(q.dtype)
    scores = jnp.matmul(q, k, precision=exact, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    scores = jnp.where(mask, scores, -jnp.inf)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    out = jnp.matmul(weights.astype(v.dtype), v, precision=exact, preferred_element_type=jnp.float32)
    return largest, jnp.sum(weights, axis=-1, keepdims=True), out


def merged(*parts):
    """Attention over all keys, float32 [..., T, d], from parts by `partial_attention`."""
    largest = reduce(jnp.maximum, [part[0] for part in parts])
    scales = [jnp.exp(part[0] - largest) for part in parts]
    total = sum(part[1] * scale for part, scale in zip(parts, scales))
    return sum(part[2] * scale for part, scale in zip(parts, scales)) / total


def causal(q, k, v, cache):
    """Each token sees itself and what stands before it; right padding is never seen. Takes no cache, returns (k, v)."""
    del cache
    return attention(q, (k, v, jnp.tri(q.shape[0], dtype=bool))), (k, v)
