"""Image preprocessing, bit-identical to transformers' Qwen2VLImageProcessorPil, without importing transformers."""

import math

import numpy as np
from PIL import Image

from models import VisionConfig
from models.errors import InputError
from models.image_files import MAX_ASPECT, Encoded, to_rgb


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The (height, width) to resize an image to: multiples of `factor`, similar aspect ratio, area within limits.

    Raises InputError for an empty image, for one side more than 200 times the other and for contradictory limits.
    """
    if not 1 <= min_pixels <= max_pixels:
        raise InputError(f"min_pixels {min_pixels} and max_pixels {max_pixels}: expected 1 <= min_pixels <= max_pixels")
    if min(height, width) < 1:
        raise InputError(f"an image of {width} x {height} pixels is empty")
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise InputError(
            f"an image of {width} x {height} pixels has one side over {MAX_ASPECT} times the other: crop it"
        )
    rounded = tuple(round(side / factor) * factor for side in (height, width))
    if math.prod(rounded) > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return tuple(max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
    if math.prod(rounded) < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return tuple(math.ceil(side * grow / factor) * factor for side in (height, width))
    return rounded


def grid(
    size: tuple[int, int], vision: VisionConfig, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[int, int]:
    """(grid_h, grid_w) in patches of an image of `size` (height, width); InputError as `smart_resize`."""
    height, width = _target(size, vision, min_pixels, max_pixels)
    return height // vision.patch_size, width // vision.patch_size


def resized(
    image: Image.Image | np.ndarray | Encoded,
    vision: VisionConfig,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """The RGB image in the size that the model gets; InputError as `to_rgb` and `smart_resize`."""
    rgb_image = image if isinstance(image, Encoded) else to_rgb(image)
    height, width = _target((rgb_image.height, rgb_image.width), vision, min_pixels, max_pixels)
    if isinstance(rgb_image, Encoded):
        return rgb_image.resized(width, height)
    return rgb_image.resize((width, height), Image.Resampling.BICUBIC)


def frame(
    image: Image.Image | np.ndarray | Encoded,
    vision: VisionConfig,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Resizes an image and cuts it to patches, which the vision tower normalises on the device.

    Returns uint8 [grid_h * grid_w, channels * patch * patch], the patches of one merge block next to each other, and
    (1, grid_h, grid_w). None means the `vision` config's limits. Raises InputError as `to_rgb` and `smart_resize`.
    """
    pixels = np.asarray(resized(image, vision, min_pixels, max_pixels))
    patch, merge = vision.patch_size, vision.spatial_merge_size
    grid_h, grid_w = pixels.shape[0] // patch, pixels.shape[1] // patch
    blocks = pixels.reshape(grid_h // merge, merge, patch, grid_w // merge, merge, patch, 3)
    blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # block row, block column, row, column, channel, y, x
    return blocks.reshape(grid_h * grid_w, 3 * patch * patch), (1, grid_h, grid_w)


def patches(
    image: Image.Image | np.ndarray | Encoded,
    vision: VisionConfig,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """`frame` as transformers gives it to its models, for comparison with them.

    Normalised, and repeated `temporal_patch_size` times: float32 [grid_h * grid_w, channels * temporal * patch *
    patch]. The reference scales in float64; for all 256 values the quotient in float32 is bit-identical.
    """
    pixels, grid = frame(image, vision, min_pixels, max_pixels)
    values = pixels.reshape(len(pixels), 3, 1, -1).astype(np.float32) / np.float32(255)
    values -= np.array(vision.image_mean, np.float32).reshape(3, 1, 1)
    values /= np.array(vision.image_std, np.float32).reshape(3, 1, 1)
    return values.repeat(vision.temporal_patch_size, axis=2).reshape(len(values), -1), grid


def _target(
    size: tuple[int, int], vision: VisionConfig, min_pixels: int | None, max_pixels: int | None
) -> tuple[int, int]:
    return smart_resize(
        *size,
        factor=vision.patch_size * vision.spatial_merge_size,
        min_pixels=vision.min_pixels if min_pixels is None else min_pixels,
        max_pixels=vision.max_pixels if max_pixels is None else max_pixels,
    )
