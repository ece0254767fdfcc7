"""Prefill: the KV pages of prompts, in pieces of bounded length.

A piece is one row of tokens a shard, which holds prompts of like length one after the other, each from the start of a
page on, without its last token, which is the first that is decoded: it is drawn from. The possible lengths of rows
(`row_lengths`) are few; the longest holds any prompt.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

import models
from models.attention import Spans, platform, spanned
from models.packing import Inputs, bucket
from perl_jax import mesh
from perl_jax.engine import embeddings
from perl_jax.engine.decode_batch import Row
from perl_jax.engine.pages import Cache, all_arranged, from_tokens, page, pages_of

FULL = {"cpu": 256, "gpu": 4096, "tpu": 4096}  # tokens of a row that keep a device busy
ROW_LENGTHS, SHORTEST = 6, 64  # most programs, and tokens of the shortest row


class Piece(NamedTuple):
    """The tokens of S shards, a row of T each, as arrays of the host."""

    ids: np.ndarray  # int32 [S, T]
    image_index: np.ndarray  # int32 [S, T, 2], as in `models.packing.Inputs`
    position_ids: np.ndarray  # int32 [3, S, T]
    spans: Spans  # of int32 [S, T]


def row_lengths(longest: int) -> list[int]:
    """Possible tokens of a row, rising, for prompts of at most `longest` tokens."""
    full = FULL[platform()]
    most = full if longest <= full else pages_of(bucket(longest)) * page()
    return sorted({pages_of(max(most >> i, SHORTEST)) * page() for i in range(ROW_LENGTHS)})


def pieces(
    inputs: Inputs, prompts: Sequence[tuple[int, int, int]], shards: int, lengths: Sequence[int]
) -> Iterator[tuple[Piece, list[tuple[int, int, int]]]]:
    """Cuts prompts [(shard, row of `inputs`, its number)] into pieces: (piece, [(shard, number, its first page)]).

    Longer prompts come first. A piece's rows are as long as its longest prompt asks for, and no longer than it takes
    to keep a device busy.
    """
    tokens = inputs.lengths - 1
    queues: list[list[tuple[int, int]]] = [[] for _ in range(shards)]
    for shard, row, number in sorted(prompts, key=lambda prompt: tokens[prompt[1]]):
        queues[shard].append((row, number))  # the longest last
    while any(queues):
        longest = max(pages_of(tokens[queue[-1][0]]) * page() for queue in queues if queue)
        waiting = max(sum(pages_of(tokens[row]) * page() for row, _ in queue) for queue in queues)
        wanted = max(longest, min(waiting, FULL[platform()]))
        size = next(length for length in lengths if length >= wanted)
        placed = []
        for shard, queue in enumerate(queues):
            at = 0
            while queue and at + pages_of(tokens[queue[-1][0]]) * page() <= size:
                row, number = queue.pop()
                placed.append((shard, row, number, at))
                at += pages_of(tokens[row]) * page()
        yield _piece(inputs, placed, shards, size), [(shard, number, at // page()) for shard, _, number, at in placed]


def _piece(inputs: Inputs, placed: Sequence[tuple[int, int, int, int]], shards: int, size: int) -> Piece:
    ids, index = np.zeros((shards, size), np.int32), np.full((shards, size, 2), -1, np.int32)
    position_ids = np.zeros((3, shards, size), np.int32)
    start, fork = np.tile(np.arange(size, dtype=np.int32), (2, shards, 1))  # padding: a tree of its own
    for shard, row, _, at in placed:
        count = int(inputs.mask[row].sum()) - 1
        to = slice(at, at + count)
        ids[shard, to], index[shard, to] = inputs.ids[row, :count], inputs.image_index[row, :count]
        position_ids[:, shard, to] = inputs.position_ids[:, row, :count]
        start[shard, to], fork[shard, to] = at, at + count
    return Piece(ids, index, position_ids, Spans(start, fork, start))


@partial(jax.jit, static_argnums=0)
def prefill(
    graph: nnx.GraphDef, weights: nnx.State, h: jax.Array, position_ids: jax.Array, spans: Spans
) -> list[Cache]:
    """The pages of a piece by layer, from its input embeddings [S, T, E]."""
    model: models.Model = nnx.merge(graph, weights)

    def row(h: jax.Array, positions: jax.Array, spans: Spans) -> Cache:
        attention = partial(spanned, prompts=len(h), window=len(h))

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, cache: None) -> tuple[jax.Array, Cache]:
            return mesh.by_heads(attention)(q, k, v, spans), (k, v)

        return model.model(h, positions, attend)[1]

    keys, values = mesh.by_row(row, in_axes=(0, 1, 0), out_axes=1)(h, position_ids, spans)
    return [mesh.rows(from_tokens(*layer), heads=1) for layer in zip(keys, values)]


class PackedPrompts:
    """The prompts of a call: packed, and their images encoded, `at_once` together when the first of them is due.

    `starts` [N] are the positions after each prompt, known from then on.
    """

    def __init__(
        self,
        parts: tuple[nnx.GraphDef, nnx.State],
        prompts: Sequence,
        at_once: int,
        min_pixels: int | None,
        max_pixels: int | None,
    ):
        self._parts, self._prompts, self._size, self._pixels = parts, prompts, at_once, (min_pixels, max_pixels)
        self._ready: dict[int, tuple[Inputs, Any, set[int]]] = {}  # (inputs, image tokens, prompts to be prefilled)
        self.starts = np.zeros(len(prompts), np.int32)

    def prefilled(
        self, caches: list[Cache], admitted: Sequence[tuple[int, Row]], lengths: Sequence[int]
    ) -> list[Cache]:
        """The prompts' caches by layer with the pages of admitted ones, [(shard, row)], in rows of these `lengths`."""
        for number in sorted({row.prompt // self._size for _, row in admitted}):
            inputs, images, left = self._ready.get(number) or self._pack(number)
            of_batch = [(shard, row) for shard, row in admitted if row.prompt // self._size == number]
            places = [(shard, row.prompt - number * self._size, i) for i, (shard, row) in enumerate(of_batch)]
            for piece, placed in pieces(inputs, places, mesh.shards(), lengths):
                h = embeddings.lookup(*self._parts, *mesh.place((piece.ids, piece.image_index)), images)
                new = prefill(*self._parts, h, mesh.place(piece.position_ids, axis=1), mesh.place(piece.spans))
                count = len(caches[0][0]) // mesh.shards()
                index = np.tile(np.arange(count, dtype=np.int32), (mesh.shards(), 1))
                for shard, i, first in placed:
                    pages = of_batch[i][1].pages
                    index[shard, pages] = count + first + np.arange(len(pages))
                caches = all_arranged(caches, index.ravel(), new)
            left -= {row.prompt for _, row in of_batch}
            if not left:
                del self._ready[number]
        return caches

    def _pack(self, number: int) -> tuple[Inputs, Any, set[int]]:
        first = number * self._size
        prompts = self._prompts[first : first + self._size]
        config = nnx.merge(*self._parts).config
        inputs = models.pack(config, prompts, *self._pixels, mesh.shards(), mesh.local_shards())
        self.starts[first : first + len(prompts)] = inputs.starts
        images = embeddings.image_tokens(*self._parts, mesh.place(inputs.vision))
        self._ready[number] = inputs, images, set(range(first, first + len(prompts)))
        return self._ready[number]
