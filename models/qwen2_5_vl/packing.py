"""Vision packs of Qwen2.5-VL (host side, numpy): rows of images, laid out for dense window attention.

A block of `models.image_rows` holds one window's worth of patches (64 as published).
"""

import functools
from collections.abc import Container, Sequence

import flax.struct
import numpy as np

from models import image_rows
from models.packing import Prepared, bucket
from models.qwen2_5_vl.config import VisionConfig


@flax.struct.dataclass
class Vision:
    """A pack of images: R rows of C patches of X = channels * patch^2 pixel values; segment id -1 is padding."""

    patches: np.ndarray  # uint8 [R, C, X]
    images: np.ndarray  # int32 [R, C]: index of the image in the row
    windows: np.ndarray  # int32 [R, C]: index of the window in the row
    positions: np.ndarray  # int32 [R, C, 2]: the patch's (height, width) in its image


def block_size(config: VisionConfig) -> int:
    """Patches of a whole window."""
    return (config.window_size // config.patch_size // config.spatial_merge_size * config.spatial_merge_size) ** 2


def pack_images(
    config: VisionConfig,
    batches: Sequence[Sequence[Prepared]],
    shards: int = 1,
    local_shards: Container[int] | None = None,
) -> list[tuple[Vision | None, list[np.ndarray]]]:
    """Packs each batch of images, as the docstring of `models` has it; see `image_rows.fill`."""
    if not any(batches):
        return [(None, []) for _ in batches]
    block = block_size(config) // config.spatial_merge_size**2  # in merged tokens
    filled = image_rows.fill(config, batches, lambda grid: _windows(grid, config), block, shards, local_shards)
    return [(Vision(**rows._asdict()), index) for rows, index in filled]


def pack_shapes(config: VisionConfig, patches: int, count: int, shards: int) -> Vision:
    """Shapes of a pack of `count` images of `patches` patches, one per row, which may be longer than the image."""
    block = block_size(config)
    row_patches = block * bucket(-(-patches // block) + 1, least=1, between=2)
    return Vision(**image_rows.row_shapes(config, row_patches, count, shards)._asdict())


@functools.lru_cache(1024)
def _windows(grid: image_rows.Grid, config: VisionConfig) -> list[np.ndarray]:
    """An image's windows, each as the raster indices of its merged tokens."""
    side = config.window_size // config.patch_size // config.spatial_merge_size
    height, width = (size // config.spatial_merge_size for size in grid[1:])
    numbers = np.arange(height * width).reshape(height, width)
    return [numbers[y : y + side, x : x + side].ravel() for y in range(0, height, side) for x in range(0, width, side)]
