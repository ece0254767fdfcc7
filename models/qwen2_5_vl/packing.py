"""From prompts and pictures to padded arrays (host side, numpy): each distinct picture once, few shapes.

Vision layout. A *block* holds one window's worth of patches (64 as published), a *row* some blocks. Each window lies
whole in one block, each image whole in one row; small windows share blocks and small images share rows, kept apart by
segment ids. So window attention is dense over blocks and full attention dense over rows, whatever the images' sizes.
"""

import functools
import hashlib
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

import flax.struct
import numpy as np

from models import image_files
from models.errors import InputError
from models.qwen2_5_vl import images as image_processing
from models.qwen2_5_vl.config import Config, VisionConfig

MIN_PIXELS, MAX_PIXELS = 3136, 1003520


@flax.struct.dataclass
class Vision:
    """A pack of images: R rows of C patches of X values; segment id -1 is padding."""

    patches: np.ndarray  # float32 [R, C, X]
    images: np.ndarray  # int32 [R, C]: which image of the row
    windows: np.ndarray  # int32 [R, C]: which window of the row
    positions: np.ndarray  # int32 [R, C, 2]: the patch's (height, width) in its image


@flax.struct.dataclass
class Inputs:
    """B prompts, padded on the right to T tokens, and the distinct images that they show."""

    ids: np.ndarray  # int32 [B, T]
    mask: np.ndarray  # bool [B, T]
    position_ids: np.ndarray  # int32 [3, B, T]: M-RoPE (time, height, width)
    image_index: np.ndarray  # int32 [B, T, 2]: (row, merged token) of the vision pack; -1 where text
    vision: Vision | None

    @property
    def lengths(self):
        """Tokens of each prompt, int32 [B]."""
        return self.mask.sum(-1)

    @property
    def starts(self):
        """The M-RoPE position of what follows each prompt, the same on all axes, int32 [B]."""
        return self.position_ids.max(axis=(0, 2)) + 1


def bucket(size: int, least: int = 16, between: int = 4) -> int:
    """`size` rounded up to one of few sizes, so that little compiles anew: `between` to a doubling, steps >= least."""
    size = max(size, 1)
    step = max(least, (1 << (size - 1).bit_length()) // (2 * between))
    return -(-size // step) * step


def block_size(config: VisionConfig) -> int:
    """Patches of a whole window."""
    return (config.window_size // config.patch_size // config.spatial_merge_size * config.spatial_merge_size) ** 2


def pack(
    config: Config,
    prompts: Sequence,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    shards: int = 1,
    own: Container[int] | None = None,
) -> Inputs:
    """Packs prompts [(input_ids, images), ...], one list of PIL images or uint8 [H, W, 3] arrays per prompt.

    ids hold one image token per merged patch; an image that occurs again (same bytes) is packed once. The rows of
    images are a multiple of `shards`; those of other shards than the `own` (by default all) are left without patches.
    Raises InputError where ids and images do not fit each other.
    """
    images = Images(config.vision, min_pixels, max_pixels)
    shown = [[images.add(image) for image in pictures] for _, pictures in prompts]
    [layout] = pack_images(config.vision, [images.found], shards, own)
    length = bucket(max((len(ids) for ids, _ in prompts), default=1))
    return _pack_text(config, prompts, shown, images, layout, length)


class Prepared(NamedTuple):
    """An image of which only the patches are still to be made."""

    grid: tuple[int, int, int]  # (1, height, width) in patches
    home: float  # as `images.home`
    frame: Callable[[], np.ndarray]  # float32 [height * width, channels, 1, patch^2]: all of its frames are equal


class Images:
    """Distinct images in the order of their first appearance; none is decoded or resized here."""

    def __init__(self, config: VisionConfig, min_pixels: int | None = None, max_pixels: int | None = None):
        self.config, self.limits = config, (min_pixels or MIN_PIXELS, max_pixels or MAX_PIXELS)
        self.found: list[Prepared] = []
        self._of_object, self._of_content = {}, {}

    def add(self, image) -> int:
        """The image's number in `found`."""
        number = self._of_object.get(id(image))
        if number is None:
            content = self._content(image)
            number = self._of_content.get(content)
            if number is None:
                number = self._of_content[content] = len(self.found)
                self.found.append(self._prepared(image, content[-1]))
            self._of_object[id(image)] = number
        return number

    def _content(self, image) -> tuple:
        """What equal images have in common; the last of it is a hash."""
        if isinstance(image, image_files.Encoded):
            return (image.digest,)
        array = np.asarray(image)
        return getattr(image, "mode", None), array.shape, hashlib.blake2b(array.tobytes()).digest()

    def _prepared(self, image, digest: bytes) -> Prepared:
        picture = image if isinstance(image, image_files.Encoded) else image_files.rgb(image)
        grid = image_processing.grid((picture.height, picture.width), self.config, *self.limits)
        return Prepared(
            (1, *grid), image_files.home(digest), lambda: image_processing.frame(picture, self.config, *self.limits)[0]
        )


def pack_images(
    config: VisionConfig, batches: Sequence[Sequence[Prepared]], shards: int = 1, own: Container[int] | None = None
) -> list[tuple[Vision | None, list[np.ndarray]]]:
    """Packs each batch of images.

    Returns for each the pack and, per image, the (row, merged token) int32 [n / merge^2, 2] of its merged tokens in
    raster order. All packs have the same shape, with a multiple of `shards` rows; None where no batch has an image.
    Each of `shards` parts of the rows has about the images that are at home there. The patches of images in other parts
    than the `own` ones (by default all) are not made: memory of zeros that nobody touches is not even there.
    """
    if not any(batches):
        return [(None, []) for _ in batches]
    unit = config.spatial_merge_size**2
    block = block_size(config) // unit  # in merged tokens
    windows = [[_windows(image.grid, config) for image in batch] for batch in batches]
    alone = max(_Row(block, None).place(image) for batch in windows for image in batch)
    capacity = bucket(alone, least=1, between=2)  # blocks a row
    placed = [_assign(*pair, block, capacity) for pair in zip(batches, windows)]
    share = bucket(-(-max(count for count, _ in placed) // shards), least=1, between=2)  # rows of a shard
    rows, packs = shards * share, []
    for batch, (count, places) in zip(batches, placed):
        shape = (rows, capacity * block, unit)
        patches = np.zeros((*shape, *_patch_shape(config)), np.float32)
        images, window_ids = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
        positions = np.zeros((*shape, 2), np.int32)
        places = [(row * rows // count, slots, window) for row, slots, window in places]  # empty rows among the others
        for number, (image, (row, slots, window)) in enumerate(zip(batch, places)):
            if own is None or row // share in own:
                frame = image.frame()
                patches[row, slots] = frame.reshape(-1, unit, *frame.shape[1:])
            images[row, slots] = number
            window_ids[row, slots] = window[:, None]
            positions[row, slots] = _patch_positions(image.grid, config)
        patches = patches.reshape(*shape, -1)
        flat = [a.reshape(rows, -1, *a.shape[3:]) for a in (patches, images, window_ids, positions)]
        index = [np.stack([np.full_like(slots, row), slots], axis=-1) for row, slots, _ in places]
        packs.append((Vision(*flat), index))
    return packs


def _patch_shape(config: VisionConfig) -> tuple[int, int, int]:
    return config.in_channels, config.temporal_patch_size, config.patch_size**2


@functools.lru_cache(1024)
def _windows(grid, config: VisionConfig) -> list[np.ndarray]:
    """An image's windows, each as the raster numbers of its merged tokens."""
    side = config.window_size // config.patch_size // config.spatial_merge_size
    height, width = (size // config.spatial_merge_size for size in grid[1:])
    numbers = np.arange(height * width).reshape(height, width)
    return [numbers[y : y + side, x : x + side].ravel() for y in range(0, height, side) for x in range(0, width, side)]


@functools.lru_cache(1024)
def _patch_positions(grid, config: VisionConfig) -> np.ndarray:
    """(height, width) of each patch, int32 [merged tokens in raster order, merge^2, 2]."""
    m = config.spatial_merge_size
    where = np.stack(np.mgrid[: grid[1], : grid[2]], axis=-1)
    where = where.reshape(grid[1] // m, m, grid[2] // m, m, 2).transpose(0, 2, 1, 3, 4)
    return where.reshape(-1, m * m, 2).astype(np.int32)


class _Row:
    """A row being filled: what is free in each of its blocks, in merged tokens. It is at home where its first image
    is."""

    def __init__(self, block: int, capacity: int | None, home: float = 0.0):
        self.block, self.capacity, self.home, self.free = block, capacity, home, []
        self.room = (capacity or 0) * block  # what is free in all, in merged tokens

    def place(self, windows) -> int | None:
        """Places one image's windows, first fit; the number of blocks then in use, or None (unchanged) if too many."""
        free, starts = list(self.free), []
        for window in windows:
            at = next((i for i, room in enumerate(free) if room >= len(window)), None)
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


def _assign(batch: Sequence[Prepared], windows_of, block: int, capacity: int):
    """Rows for a batch of images with windows, large ones first, each in the row with room that is nearest to its home.

    Sizes count in steps: images of about one size come in the order of their homes, and so share rows.
    Returns (rows used, per image (row, slots, window ids)); rows are in the order of their homes.
    """
    rows: list[_Row] = []
    places = [None] * len(batch)
    windows_seen = 0
    sizes = [sum(map(len, windows)) for windows in windows_of]
    for number in sorted(range(len(batch)), key=lambda i: (-bucket(sizes[i], 1, between=2), batch[i].home)):
        windows, home = windows_of[number], batch[number].home
        nearest = sorted((row for row in rows if row.room >= sizes[number]), key=lambda row: abs(row.home - home))
        row = next((row for row in nearest if row.place(windows)), None)
        if row is None:
            row = _Row(block, capacity, home)
            rows.append(row)
            row.place(windows)
        slots, window_ids = (np.empty(sizes[number], np.int32) for _ in range(2))
        for start, window in zip(row.starts, windows):
            slots[window] = np.arange(start, start + len(window))
            window_ids[window] = windows_seen
            windows_seen += 1
        places[number] = (row, slots, window_ids)
    rank = {id(row): i for i, row in enumerate(sorted(rows, key=lambda row: row.home))}
    return len(rows), [(rank[id(row)], *place) for row, *place in places]


def _pack_text(config: Config, prompts, shown, images: Images, layout, length: int) -> Inputs:
    vision, index = layout
    shape = (len(prompts), length)
    ids, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    positions = np.zeros((3, *shape), np.int32)
    image_index = np.full((*shape, 2), -1, np.int32)
    for row, ((prompt, _), numbers) in enumerate(zip(prompts, shown)):
        prompt = check_ids(config, prompt, f"prompt {row}")
        grids = [images.found[number].grid for number in numbers]
        ids[row, : len(prompt)] = prompt
        mask[row, : len(prompt)] = True
        positions[:, row, : len(prompt)] = mrope_positions(config, prompt, grids, f"prompt {row}")
        if numbers:
            at = np.flatnonzero(prompt == config.image_token_id)
            image_index[row, at] = np.concatenate([index[number] for number in numbers])
    return Inputs(ids, mask, positions, image_index, vision)


def check_ids(config: Config, ids, where: str) -> np.ndarray:
    """Token ids as int32 [T]; raises InputError for none, one outside the vocabulary, or a video."""
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


def image_runs(config: Config, ids) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of the runs of image tokens in ids [T], one for each image."""
    image = np.concatenate([[False], np.asarray(ids) == config.image_token_id, [False]])
    return tuple(np.flatnonzero(np.diff(image.astype(np.int8))).reshape(-1, 2).T)


def mrope_positions(config: Config, ids: np.ndarray, grids, where: str) -> np.ndarray:
    """M-RoPE positions, int32 [3, T], of ids [T] whose runs of image tokens show images of `grids` (1, h, w), in order.

    Text counts on all axes; an image keeps the time of its start and counts rows and columns from it; what follows
    starts after its longer side (Qwen2-VL, section 2.1). Raises InputError where a run's length is not its image's.
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
