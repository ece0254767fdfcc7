"""Packs prompts and images to padded arrays (host side, numpy): each distinct image once, few shapes.

The layout of a vision pack is the model family's (its `pack_images`); the rest is shared.
"""

import hashlib
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import flax.struct
import numpy as np

import models
from models import image_files
from models import images as image_processing
from models.errors import InputError


@flax.struct.dataclass
class Inputs:
    """B prompts, right-padded to T tokens, and their distinct images."""

    ids: np.ndarray  # int32 [B, T]
    mask: np.ndarray  # bool [B, T]
    position_ids: np.ndarray  # int32 [3, B, T]: M-RoPE (time, height, width)
    image_index: np.ndarray  # int32 [B, T, 2]: (row, merged token) in the vision pack; -1 for text
    vision: Any  # the model family's pack of the images, or None

    @property
    def lengths(self):
        """Tokens of each prompt, int32 [B]."""
        return self.mask.sum(-1)

    @property
    def starts(self):
        """The M-RoPE position after each prompt, the same on all axes, int32 [B]."""
        return self.position_ids.max(axis=(0, 2)) + 1


def bucket(size: int, least: int = 16, between: int = 4) -> int:
    """`size` rounded up to one of few sizes, to limit recompilation: `between` per doubling, steps >= least."""
    size = max(size, 1)
    step = max(least, (1 << (size - 1).bit_length()) // (2 * between))
    return -(-size // step) * step


def pack(
    config: models.Config,
    prompts: Sequence,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    shards: int = 1,
    local_shards: Container[int] | None = None,
) -> Inputs:
    """Packs prompts [(input_ids, images), ...], one list of PIL images or uint8 [H, W, 3] arrays per prompt.

    ids hold one image token per merged patch; repeated images (same bytes) are packed once. The rows of images are a
    multiple of `shards`; patches are left zero in rows of shards that are not in `local_shards` (default all). Raises
    InputError where ids and images do not match.
    """
    images = Images(config.vision, min_pixels, max_pixels)
    numbers = [[images.add(image) for image in prompt_images] for _, prompt_images in prompts]
    [layout] = models.family(config).pack_images(config.vision, [images.images], shards, local_shards)
    length = bucket(max((len(ids) for ids, _ in prompts), default=1))
    return _pack_text(config, prompts, numbers, images, layout, length)


class Prepared(NamedTuple):
    """An image whose patches are not computed yet."""

    grid: tuple[int, int, int]  # (1, height, width) in patches
    preferred_position: float  # as `image_files.preferred_position`
    frame: Callable[[], np.ndarray]  # uint8 [height * width, channels * patch^2]


class Images:
    """Distinct images in order of first appearance; none is decoded or resized here."""

    def __init__(self, config: models.VisionConfig, min_pixels: int | None = None, max_pixels: int | None = None):
        self.config, self.limits = config, (min_pixels or config.min_pixels, max_pixels or config.max_pixels)
        self.images: list[Prepared] = []
        self._by_object, self._by_content = {}, {}

    def add(self, image) -> int:
        """The image's index in `images`."""
        number = self._by_object.get(id(image))
        if number is None:
            content = self._content(image)
            number = self._by_content.get(content)
            if number is None:
                number = self._by_content[content] = len(self.images)
                self.images.append(self._prepared(image, content[-1]))
            self._by_object[id(image)] = number
        return number

    def _content(self, image) -> tuple:
        """A key that equal images share; its last element is a hash."""
        if isinstance(image, image_files.Encoded):
            return (image.digest,)
        array = np.asarray(image_files.to_rgb(image))  # its own values may mean other colours: a palette, a rotation
        return array.shape, hashlib.blake2b(array.tobytes()).digest()

    def _prepared(self, image, digest: bytes) -> Prepared:
        decodable = image if isinstance(image, image_files.Encoded) else image_files.to_rgb(image)
        grid = image_processing.grid((decodable.height, decodable.width), self.config, *self.limits)
        return Prepared(
            (1, *grid),
            image_files.preferred_position(digest),
            lambda: image_processing.frame(decodable, self.config, *self.limits)[0],
        )


def _pack_text(config: models.Config, prompts, prompt_images, images: Images, layout, length: int) -> Inputs:
    vision, index = layout
    shape = (len(prompts), length)
    ids, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    positions = np.zeros((3, *shape), np.int32)
    image_index = np.full((*shape, 2), -1, np.int32)
    for row, ((prompt, _), numbers) in enumerate(zip(prompts, prompt_images)):
        prompt = check_ids(config, prompt, f"prompt {row}")
        grids = [images.images[number].grid for number in numbers]
        ids[row, : len(prompt)] = prompt
        mask[row, : len(prompt)] = True
        positions[:, row, : len(prompt)] = mrope_positions(config, prompt, grids, f"prompt {row}")
        if numbers:
            at = np.flatnonzero(prompt == config.image_token_id)
            image_index[row, at] = np.concatenate([index[number] for number in numbers])
    return Inputs(ids, mask, positions, image_index, vision)


def check_ids(config: models.Config, ids, where: str) -> np.ndarray:
    """Token ids as int32 [T]; raises InputError for an empty list, an id outside the vocabulary, or a video."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{where}: expected a non-empty list of token ids, got shape {ids.shape} of {ids.dtype}")
    if ids.min() < 0 or ids.max() >= config.text.vocab_size:
        raise InputError(
            f"{where}: token ids lie in {ids.min()}..{ids.max()}, the vocabulary has "
            f"{config.text.vocab_size}; use the model's own tokenizer"
        )
    if (ids == config.video_token_id).any():
        raise InputError(f"{where}: video inputs are not supported; show the frames as images")
    return ids.astype(np.int32)


def image_runs(config: models.Config, ids) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of the runs of image tokens in ids [T], one run per image."""
    image = np.concatenate([[False], np.asarray(ids) == config.image_token_id, [False]])
    return tuple(np.flatnonzero(np.diff(image.astype(np.int8))).reshape(-1, 2).T)


def mrope_positions(config: models.Config, ids: np.ndarray, grids, where: str) -> np.ndarray:
    """M-RoPE positions, int32 [3, T], of ids [T] whose runs of image tokens show images of `grids` (1, h, w), in order.

    Text advances on all axes; an image keeps the time of its start and counts rows and columns from it; the next token
    starts after its longer side (Qwen2-VL, section 2.1). Raises InputError where a run's length does not match its
    image.
    """
    starts, ends = image_runs(config, ids)
    if len(starts) != len(grids):
        raise InputError(f"{where}: {len(grids)} images were given for {len(starts)} runs of image tokens")
    positions = np.empty((3, len(ids)), np.int32)
    done, now = 0, 0
    for number, (start, end, grid) in enumerate(zip(starts, ends, grids)):
        height, width = (size // config.vision.spatial_merge_size for size in grid[1:])
        if end - start != height * width:
            raise InputError(
                f"{where}: image {number + 1} takes {height} x {width} = {height * width} tokens, "
                f"but its run has {end - start}"
            )
        positions[:, done:start] = np.arange(now, now + start - done)
        now += start - done
        positions[0, start:end] = now
        positions[1:, start:end] = now + np.indices((height, width)).reshape(2, -1)
        now += max(height, width)
        done = end
    positions[:, done:] = np.arange(now, now + len(ids) - done)
    return positions
