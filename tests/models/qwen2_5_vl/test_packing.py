"""The layout of packed images and prompts: what window and full attention rely on, for any sizes."""

import dataclasses

import jax
import numpy as np
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models import qwen2_5_vl as qwen
from models.packing import Prepared
from models.qwen2_5_vl.packing import block_size, pack_images, pack_shapes

PIXELS = 3 * 14 * 14  # of a patch
SIZES = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=7)  # in merged patches


def vision_config(window: int, merge: int = 2) -> qwen.VisionConfig:
    base = tiny.CONFIGS["untied"].vision
    return dataclasses.replace(base, window_size=window, spatial_merge_size=merge)


def preprocessed(sizes, merge: int, rng):
    """Images of `sizes` in merged patches, every patch different."""

    def image(h, w):
        values = rng.integers(1, 256, (h * w * merge**2, PIXELS), np.uint8)
        return Prepared((1, h * merge, w * merge), rng.random(), lambda: values)

    return [image(*size) for size in sizes]


def patch_places(grid, merge: int):
    """(y, x) of each patch in the order that the image processor writes: blocks to be merged, raster in each."""
    height, width = grid[1:]
    return [
        (by + y, bx + x)
        for by in range(0, height, merge)
        for bx in range(0, width, merge)
        for y in range(merge)
        for x in range(merge)
    ]


@settings(max_examples=60)
@given(sizes=SIZES, window=st.sampled_from([28, 56, 84, 112]), merge=st.sampled_from([1, 2]))
@example(sizes=[(4, 4)] * 5, window=112, merge=2)  # whole windows
@example(sizes=[(1, 1)] * 7, window=112, merge=2)  # all in one block
def test_image_layout(sizes, window, merge):
    config = vision_config(window, merge)
    batch = preprocessed(sizes, merge, np.random.default_rng(0))
    [(pack, index)] = pack_images(config, [batch])
    unit, block = merge**2, block_size(config)
    rows, capacity = pack.images.shape
    assert capacity % block == 0
    side = window // config.patch_size // merge * merge  # a window's side in patches
    filled = np.zeros((rows, capacity), bool)
    for number, (grid, _, frame) in enumerate(batch):
        values = frame()
        assert index[number].shape == (len(values) // unit, 2)
        [row] = set(index[number][:, 0].tolist())  # one row
        places = (index[number][:, 1:] * unit + np.arange(unit)).ravel()
        assert not filled[row, places].any()  # nobody else's, and so a permutation
        filled[row, places] = True
        assert len(set(places.tolist())) == len(values)
        np.testing.assert_array_equal(pack.patches[row, places], values)
        [segment] = set(pack.images[row, places].tolist())
        assert (pack.images[row] == segment).sum() == len(values) and segment >= 0
        np.testing.assert_array_equal(pack.positions[row, places], patch_places(grid, merge))

        window_of = [(y // side, x // side) for y, x in patch_places(grid, merge)]
        ids = pack.windows[row, places].tolist()
        assert len(set(zip(window_of, ids))) == len(set(window_of)) == len(set(ids))  # a bijection
        for one in set(ids):
            assert len(set(np.flatnonzero(pack.windows[row] == one) // block)) == 1  # never across blocks
            assert (pack.windows[row] == one).sum() == ids.count(one)  # never shared with another image
    assert (pack.images[~filled] == -1).all() and (pack.windows[~filled] == -1).all()
    assert (pack.patches[~filled] == 0).all()


@settings(max_examples=25)
@given(batches=st.lists(st.one_of(st.just([]), SIZES), min_size=1, max_size=4))
@example(batches=[[], []])
@example(batches=[[(7, 7)], [], [(1, 1)] * 7])
def test_packs_of_several_batches_agree_in_shape(batches):
    config = vision_config(112)
    rng = np.random.default_rng(0)
    packs = pack_images(config, [preprocessed(sizes, 2, rng) for sizes in batches])
    if not any(batches):
        assert all(pack is None for pack, _ in packs)
        return
    assert len({str(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), pack)) for pack, _ in packs}) == 1
    for sizes, (pack, index) in zip(batches, packs):
        assert len(index) == len(sizes)
        assert (pack.images >= 0).sum() == sum(4 * h * w for h, w in sizes)


@settings(max_examples=25)
@given(sizes=SIZES, shards=st.integers(1, 4), data=st.data())
def test_only_own_shards_get_patches(sizes, shards, data):
    """The rest of a pack does not depend on what a process owns, and each image's patches are made in one shard."""
    config, batch = vision_config(112), preprocessed(sizes, 2, np.random.default_rng(0))
    local = data.draw(st.sets(st.integers(0, shards - 1)))
    parts, made = [], []
    for part in (None, local, set(range(shards)) - local):
        noted = [
            image._replace(frame=lambda image=image: made.append(image.preferred_position) or image.frame())
            for image in batch
        ]
        [(pack, _)] = pack_images(config, [noted], shards, part)
        parts.append(pack)
        filled = pack.patches.reshape(shards, -1).any(axis=1)
        assert part is None or set(np.flatnonzero(filled)) <= part
    assert sorted(made) == sorted([image.preferred_position for image in batch] * 2)
    full, mine, others = parts
    np.testing.assert_array_equal(mine.patches + others.patches, full.patches)
    for name in ("images", "windows", "positions"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(full, name))


def test_images_lie_about_where_they_are_at_home():
    """Whatever else is in the pack: so two processes that pack a batch and then parts of it prepare little twice."""
    rng = np.random.default_rng(0)
    batch = preprocessed(rng.integers(1, 9, (128, 2)), 2, rng)
    for part in (range(128), range(0, 64), range(1, 128, 2)):
        [(pack, index)] = pack_images(vision_config(112), [[batch[i] for i in part]], 8)
        halves = [places[0, 0] * 2 // len(pack.patches) for places in index]
        same = np.mean([half == int(2 * batch[i].preferred_position) for i, half in zip(part, halves)])
        assert same > 0.7, "half of them would by chance"


@given(side=st.integers(1, 12), count=st.integers(1, 9), shards=st.integers(1, 4))
def test_the_shapes_of_a_pack_have_room_for_it(side, count, shards):
    config, rng = vision_config(112), np.random.default_rng(0)
    shapes = pack_shapes(config, 4 * side * side, count, shards)
    [(pack, _)] = pack_images(config, [preprocessed([(side, side)] * count, 2, rng)], shards)
    for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(pack)):
        assert (shape.dtype, shape.shape[2:]) == (array.dtype, array.shape[2:])
        assert shape.shape[0] % shards == 0 and np.prod(shape.shape[:2]) >= count * 4 * side * side
