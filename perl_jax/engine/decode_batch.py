"""Host side of a decoding batch: its possible shapes, the stream in each slot, and the tokens decoded so far."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

CAPACITY = 64  # tokens of the smallest per-stream KV cache; calls that need no more keep one batch size
FEWEST = 8  # prompts of the smallest batch


class Rollouts(NamedTuple):
    """N prompts x G rollouts; R is the longest response. Past a response's length: the pad id and log-prob 0."""

    tokens: np.ndarray  # int32 [N, G, R], the EOS included
    logprobs: np.ndarray  # float32 [N, G, R]: log-softmax of the raw logits
    sample_logprobs: np.ndarray  # float32 [N, G, R]: under the sampling distribution
    lengths: np.ndarray  # int32 [N, G]


class Segment(NamedTuple):
    """The tokens drawn in a segment, S per stream; arbitrary after a stream's end."""

    tokens: jax.Array  # int32 [N, G, S]
    logprobs: jax.Array  # float32 [N, G, S]
    sample_logprobs: jax.Array  # float32 [N, G, S]
    lengths: jax.Array  # int32 [N, G]: tokens of this segment
    done: jax.Array  # bool [N, G]


class Decoded:
    """Host-side state of a batch: the stream in each slot, and the tokens decoded so far."""

    def __init__(self, prompts: int, N: int, G: int, R: int, shards: int, finished):
        self._streams = np.arange(N * G).reshape(N, G)  # stream of each slot; -1: none
        self._streams[prompts:] = -1
        self.alive = self._streams >= 0  # of each slot
        self.shape, self._shards, self._finished = (prompts, G, R), shards, finished
        self._values = [np.zeros((prompts * G, R), dtype) for dtype in (np.int32, np.float32, np.float32)]
        self._lengths = np.zeros(prompts * G, np.int32)

    def add(self, segment: Segment, t: int, end: int) -> None:
        """Stores tokens t, ..., end - 1 of all slots; the segment may have room for more."""
        *arrays, lengths, done = jax.device_get(segment)
        streams = self._streams[self.alive]
        for values, new in zip(self._values, arrays):
            values[streams, t:end] = new[self.alive, : end - t]
        self._lengths[streams] += lengths[self.alive]
        ended = self._streams[self.alive & (done | (end == self.shape[2]))]
        self.alive = self.alive & ~done
        for stream in ended if self._finished else ():
            n, g = divmod(int(stream), self.shape[1])
            self._finished(n, g, self._values[0][stream, : self._lengths[stream]])

    def move(self, moves) -> None:
        """Follows the streams to the slots that `rollout._shrink` moves them to."""
        _, slots = moves
        parts = zip(*(np.split(x, self._shards) for x in (self._streams, slots)))
        self._streams = np.concatenate([np.where(to >= 0, streams.ravel()[to], -1) for streams, to in parts])
        self.alive = slots >= 0

    def result(self) -> tuple[np.ndarray, ...]:
        """(tokens, raw log-probs, sampling log-probs, lengths), as in Rollouts with R the limit."""
        G, R = self.shape[1:]
        return *(values.reshape(-1, G, R) for values in self._values), self._lengths.reshape(-1, G)


def rollouts(batches: Sequence[Decoded], pad_id: int) -> Rollouts:
    """Concatenates the results of batches."""
    *arrays, lengths = map(np.concatenate, zip(*(batch.result() for batch in batches)))
    longest = max(int(lengths.max()), 1)
    past = np.arange(longest) >= lengths[..., None]
    arrays = [
        np.where(past, fill, values[..., :longest]).astype(values.dtype) for values, fill in zip(arrays, (pad_id, 0, 0))
    ]
    return Rollouts(*arrays, lengths)


def capacities(R: int) -> list[int]:
    """Per-stream KV cache sizes, in tokens, for at most R new tokens; odd sizes, which TPUs would pad, are avoided."""
    sizes, most = [min(CAPACITY, max(R - 1, 1))], -(-(R - 1) // CAPACITY) * CAPACITY
    while sizes[-1] < R - 1:
        sizes.append(min(2 * sizes[-1], most))
    return sizes


def batch_sizes(N: int, G: int, R: int, shards: int = 1) -> list[tuple[int, int]]:
    """Batch sizes (prompts, streams) as streams end: each a quarter of the one before."""
    sizes, share, fewest = [(N, G)], N // shards, -(-FEWEST // shards)
    while R - 1 > CAPACITY and (G > 1 or share > fewest):
        share, G = (share, -(-G // 4)) if G > 1 else (max(-(-share // 4), fewest), 1)
        sizes.append((shards * share, G))
    return sizes


def regroup(alive, rows: int, width: int, shards: int = 1):
    """Fits the live slots of `alive` [N, G] into a batch of rows x width; None where they do not fit.

    Returns (old prompt of each row [rows], old slot [rows, width], -1 where none), indexed within a shard: a stream
    stays on its shard, where its cache is. A prompt may need several rows.
    """
    if shards > 1:
        parts = [regroup(part, rows // shards, width) for part in np.split(alive, shards)]
        return None if None in parts else tuple(map(np.concatenate, zip(*parts)))
    groups = [
        (n, slots[i : i + width])
        for n, row in enumerate(alive)
        for slots in [np.flatnonzero(row)]
        for i in range(0, len(slots), width)
    ]
    if len(groups) > rows:
        return None
    prompts, slots = np.zeros(rows, np.int32), np.full((rows, width), -1, np.int32)
    for row, (n, streams) in enumerate(groups):
        prompts[row], slots[row, : len(streams)] = n, n * alive.shape[1] + streams
    return prompts, slots
