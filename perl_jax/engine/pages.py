"""KV caches as pages of a few tokens, and attention over a list of them.

A page belongs to one prompt, whose streams all read it at once, or to one stream. So caches take the tokens that there
are, whatever the longest prompt or response is (paged attention, arXiv 2309.06180, with the pages of a batch listed
once instead of a table for each stream). The partial softmaxes of a reader's pages are merged by a product with a
matrix of zeros and ones: sums over scattered indices have no fixed order on a GPU.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.attention import Partial, partial_attention, platform
from models.layers import precision
from perl_jax import mesh

TOKENS = {"cpu": 32, "gpu": 128, "tpu": 128}  # of a page, by platform

Cache = tuple[jax.Array, jax.Array]  # of one layer: keys [K, J, d, tokens], values [K, J, tokens, d]


class Pages(NamedTuple):
    """Who reads each of K pages, and which of its tokens: those from `start` to `stop`, none in a free page."""

    reader: jax.Array  # int32 [K]: a row of queries
    start: jax.Array  # int32 [K]
    stop: jax.Array  # int32 [K]


def page() -> int:
    """Tokens of a page."""
    return TOKENS[platform()]


def pages_of(tokens: int) -> int:
    """The number of pages that so many tokens take."""
    return -(-int(tokens) // page())


def attend(q: jax.Array, cache: Cache, pages: Pages) -> Partial:
    """The part that pages have in attention, for `attention.merged`: of queries [R, J, T, d], by reader."""
    places, free = jnp.arange(cache[0].shape[-1]), (pages.stop <= pages.start)[:, None, None, None]
    mask = (places >= pages.start[:, None]) & (places < pages.stop[:, None])
    parts = partial_attention(q[pages.reader], *cache, mask[:, None, None] | free)
    reads = (pages.reader == jnp.arange(len(q))[:, None]) & ~free.ravel()  # [R, K]
    largest = jnp.max(jnp.where(reads[:, :, None, None, None], parts[0], -jnp.inf), axis=1)
    scale = jnp.where(free, 0.0, jnp.exp(parts[0] - largest[pages.reader]))

    def merged(x: jax.Array) -> jax.Array:
        reading, pages = reads.astype(x.dtype), (x * scale).reshape(len(x), -1)
        return jnp.matmul(reading, pages, precision=precision(q.dtype)).reshape(-1, *x.shape[1:])

    return largest, merged(parts[1]), merged(parts[2])


def from_tokens(keys: jax.Array, values: jax.Array) -> Cache:
    """Pages of keys and values [rows, T, J, d], whose rows are whole pages."""
    keys, values = (x.reshape(-1, page(), *x.shape[2:]) for x in (keys, values))
    return jnp.einsum("kpjd->kjdp", keys), jnp.einsum("kpjd->kjpd", values)


@jax.jit
def arranged(cache: Cache, new: Cache | None, index: jax.Array) -> Cache:
    """A layer's pages [K] by `index` [K'] within a shard: below K those of `cache`, from there on those of `new`."""

    def of_shard(cache: Cache, new: Cache | None, index: jax.Array) -> Cache:
        def chosen(old: jax.Array, new: jax.Array | None) -> jax.Array:
            if new is None:
                return old[index] if len(old) else jnp.zeros((len(index), *old.shape[1:]), old.dtype)
            if not len(old):
                return new[index]
            is_old = (index < len(old)).reshape(-1, *[1] * (old.ndim - 1))
            return jnp.where(is_old, old[index.clip(max=len(old) - 1)], new[(index - len(old)).clip(min=0)])

        return tuple(chosen(*pair) for pair in zip(cache, new or (None, None)))

    return mesh.rows(mesh.by_shard(of_shard)(cache, new, index), heads=1)


@partial(jax.jit, static_argnums=(0, 1, 2))
def empty(layers: int, shapes: tuple[tuple[int, ...], ...], dtype: str) -> list[Cache]:
    """Caches of zeros."""
    return [mesh.rows(tuple(jnp.zeros(shape, dtype) for shape in shapes), heads=1) for _ in range(layers)]


def all_arranged(layers: list[Cache], index: np.ndarray, new: list[Cache] | None = None) -> list[Cache]:
    """`arranged` of all layers, one after the other; the lists are emptied, so that the old arrays are freed early."""
    at = mesh.place(index)
    return [arranged(layers.pop(0), new.pop(0) if new else None, at) for _ in range(len(layers))]
