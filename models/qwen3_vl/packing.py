"""Vision packs of Qwen3-VL (host side, numpy): rows of images, each attended to as a whole."""

import functools
from collections.abc import Container, Sequence

import flax.struct
import jax
import numpy as np

from models import image_rows
from models.packing import Prepared, bucket
from models.qwen3_vl.config import VisionConfig


@flax.struct.dataclass
class Vision:
    """A pack of images: R rows of C patches of X = channels * patch^2 pixel values; image -1 is padding."""

    patches: np.ndarray  # uint8 [R, C, X]
    images: np.ndarray  # int32 [R, C]: index of the image in the row
    positions: np.ndarray  # int32 [R, C, 2]: the patch's (height, width) in its image
    spread: np.ndarray  # float32 [R, C, 2]: the same from 0, the image's first row or column, to 1, its last


def pack_images(
    config: VisionConfig,
    batches: Sequence[Sequence[Prepared]],
    shards: int = 1,
    local_shards: Container[int] | None = None,
) -> list[tuple[Vision | None, list[np.ndarray]]]:
    """Packs each batch of images, as the docstring of `models` has it; see `image_rows.fill`."""
    if not any(batches):
        return [(None, []) for _ in batches]
    most = max(image.grid[1] * image.grid[2] for batch in batches for image in batch) // config.spatial_merge_size**2
    windows = functools.partial(_whole, config=config)
    filled = image_rows.fill(config, batches, windows, bucket(most, between=2), shards, local_shards)
    return [(_pack(config, batch, rows, index), index) for batch, (rows, index) in zip(batches, filled)]


def pack_shapes(config: VisionConfig, patches: int, count: int, shards: int) -> Vision:
    """Shapes of a pack of `count` images of `patches` patches, one per row, which may be longer than the image."""
    unit = config.spatial_merge_size**2
    rows = image_rows.row_shapes(config, unit * bucket(-(-patches // unit), between=2), count, shards)
    spread = jax.ShapeDtypeStruct(rows.positions.shape, np.float32)
    return Vision(rows.patches, rows.images, rows.positions, spread)


def _pack(
    config: VisionConfig, batch: Sequence[Prepared], rows: image_rows.Rows, index: Sequence[np.ndarray]
) -> Vision:
    last = np.ones((*rows.images.shape, 2), np.int32)  # of each patch's image
    by_token = last.reshape(len(last), -1, config.spatial_merge_size**2, 2)
    for image, places in zip(batch, index):
        by_token[places[:, 0], places[:, 1]] = np.maximum(np.array(image.grid[1:]) - 1, 1)
    spread = rows.positions.astype(np.float32) / last.astype(np.float32)
    return Vision(rows.patches, rows.images, rows.positions, spread)


def _whole(grid: image_rows.Grid, config: VisionConfig) -> list[np.ndarray]:
    """An image as one window: the raster indices of its merged tokens."""
    return [np.arange(grid[1] * grid[2] // config.spatial_merge_size**2)]
