"""Images laid out in the rows of a vision pack (host side, numpy): what the families' packs share.

An image is a list of *windows* of merged tokens. A *block* holds one window of the largest size, a *row* several
blocks. Each window is in one block, each image in one row; small windows share blocks and small images share rows,
separated by segment ids. So attention within windows is dense over blocks and attention within images dense over rows,
for any image sizes.
"""

import functools
from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from models import VisionConfig
from models.packing import Prepared, bucket

Grid = tuple[int, int, int]


class Rows(NamedTuple):
    """R rows of C patches of X = channels * patch^2 pixel values; segment id -1 is padding."""

    patches: np.ndarray  # uint8 [R, C, X]
    images: np.ndarray  # int32 [R, C]: index of the image in the row
    windows: np.ndarray  # int32 [R, C]: index of the window in the row
    positions: np.ndarray  # int32 [R, C, 2]: the patch's (height, width) in its image


def fill(
    config: VisionConfig,
    batches: Sequence[Sequence[Prepared]],
    windows_of: Callable[[Grid], list[np.ndarray]],
    block: int,
    shards: int = 1,
    local_shards: Container[int] | None = None,
) -> Iterator[tuple[Rows, list[np.ndarray]]]:
    """Packs each batch of images, not all of them empty: the rows and, per image, the (row, merged token) int32
    [n / merge^2, 2] of its merged tokens in raster order.

    `windows_of` an image's grid are its windows, each as the raster indices of its merged tokens, of which a block
    holds `block`. All rows have the same shape, and are a multiple of `shards`. Images are placed near the shard of
    their `preferred_position`. Only patches of images on the shards in `local_shards` (default all) are computed:
    untouched zeros take no memory.
    """
    unit = config.spatial_merge_size**2
    windows = [[windows_of(image.grid) for image in batch] for batch in batches]
    most_blocks = max(_Row(block, None).place(image) for batch in windows for image in batch)
    capacity = bucket(most_blocks, least=1, between=2)  # blocks a row
    placed = [_assign(*pair, block, capacity) for pair in zip(batches, windows)]
    share = bucket(-(-max(count for count, _ in placed) // shards), least=1, between=2)  # rows of a shard
    rows = shards * share
    for batch, (count, places) in zip(batches, placed):
        shape = (rows, capacity * block, unit)
        patches = np.zeros((*shape, pixels(config)), np.uint8)
        images, window_ids = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        positions = np.zeros((*shape, 2), np.int32)
        places = [(row * rows // count, slots, window) for row, slots, window in places]  # spreads empty rows evenly
        for number, (image, (row, slots, window)) in enumerate(zip(batch, places)):
            if local_shards is None or row // share in local_shards:
                patches[row, slots] = image.frame().reshape(-1, unit, patches.shape[-1])
            images[row, slots] = number
            window_ids[row, slots] = window[:, None]
            positions[row, slots] = _patch_positions(image.grid, config.spatial_merge_size)
        flat = Rows(*(a.reshape(rows, -1, *a.shape[3:]) for a in (patches, images, window_ids, positions)))
        yield flat, [np.stack([np.full_like(slots, row), slots], axis=-1) for row, slots, _ in places]


def row_shapes(config: VisionConfig, row_patches: int, count: int, shards: int) -> Rows:
    """Shapes and dtypes, as jax.ShapeDtypeStruct, of `Rows` of `count` images, one per row of so many patches."""
    shape = shards * bucket(-(-count // shards), least=1, between=2), row_patches
    sizes = ((*shape, pixels(config)), np.uint8), (shape, np.int32), (shape, np.int32), ((*shape, 2), np.int32)
    return Rows(*(jax.ShapeDtypeStruct(*size) for size in sizes))


def pixels(config: VisionConfig) -> int:
    """Pixel values of a patch."""
    return config.in_channels * config.patch_size**2


@functools.lru_cache(1024)
def _patch_positions(grid: Grid, merge: int) -> np.ndarray:
    """(height, width) of each patch, int32 [merged tokens in raster order, merge^2, 2]."""
    where = np.stack(np.mgrid[: grid[1], : grid[2]], axis=-1)
    where = where.reshape(grid[1] // merge, merge, grid[2] // merge, merge, 2).transpose(0, 2, 1, 3, 4)
    return where.reshape(-1, merge * merge, 2).astype(np.int32)


class _Row:
    """A row being filled: free merged tokens in each of its blocks. It prefers the position of its first image."""

    def __init__(self, block: int, capacity: int | None, preferred_position: float = 0.0):
        self.block, self.capacity, self.preferred_position, self.free = block, capacity, preferred_position, []
        self.room = (capacity or 0) * block  # free merged tokens in total

    def place(self, windows) -> int | None:
        """Places one image's windows by first fit; returns the blocks in use, or None (unchanged) if too many."""
        free, starts = list(self.free), []
        for window in windows:
            at = next((i for i, size in enumerate(free) if size >= len(window)), None)
            if at is None:
                at = len(free)
                free.append(self.block)
            starts.append((at + 1) * self.block - free[at])
            free[at] -= len(window)
        if self.capacity is not None and len(free) > self.capacity:
            return None
        self.free, self.starts = free, starts
        self.room -= sum(map(len, windows))
        return len(free)


def _assign(batch: Sequence[Prepared], windows_of: Sequence[list[np.ndarray]], block: int, capacity: int):
    """Assigns a batch of images to rows, large ones first, each to the row with room that is nearest to its position.

    Sizes are bucketed, so that images of similar size are sorted by position and share rows. Returns (rows used, per
    image (row, slots, window ids)); rows are sorted by position.
    """
    rows: list[_Row] = []
    places = [None] * len(batch)
    window_count = 0
    sizes = [sum(map(len, windows)) for windows in windows_of]
    for number in sorted(
        range(len(batch)), key=lambda i: (-bucket(sizes[i], 1, between=2), batch[i].preferred_position)
    ):
        windows, preferred_position = windows_of[number], batch[number].preferred_position
        nearest = sorted(
            (row for row in rows if row.room >= sizes[number]),
            key=lambda row: abs(row.preferred_position - preferred_position),
        )
        row = next((row for row in nearest if row.place(windows)), None)
        if row is None:
            row = _Row(block, capacity, preferred_position)
            rows.append(row)
            row.place(windows)
        slots, window_ids = (np.empty(sizes[number], np.int32) for _ in range(2))
        for start, window in zip(row.starts, windows):
            slots[window] = np.arange(start, start + len(window))
            window_ids[window] = window_count
            window_count += 1
        places[number] = (row, slots, window_ids)
    rank = {id(row): i for i, row in enumerate(sorted(rows, key=lambda row: row.preferred_position))}
    return len(rows), [(rank[id(row)], *place) for row, *place in places]
