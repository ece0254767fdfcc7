"""The layout of packed images: each in one row, apart from the others, and placed on the table of positions."""

import dataclasses

import jax
import numpy as np
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from models.packing import Prepared
from models.qwen3_vl.packing import pack_images, pack_shapes

PIXELS = 3 * 16 * 16  # of a patch
SIZES = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=7)  # in merged patches


def preprocessed(sizes, merge: int, rng):
    """Images of `sizes` in merged patches, every patch different."""

    def image(h, w):
        values = rng.integers(1, 256, (h * w * merge**2, PIXELS), np.uint8)
        return Prepared((1, h * merge, w * merge), rng.random(), lambda: values)

    return [image(*size) for size in sizes]


@settings(max_examples=40)
@given(sizes=SIZES, merge=st.sampled_from([1, 2]), shards=st.integers(1, 3))
def test_image_layout(sizes, merge, shards):
    config = dataclasses.replace(tiny.QWEN3["qwen3-tied"].vision, spatial_merge_size=merge)
    batch = preprocessed(sizes, merge, np.random.default_rng(0))
    [(pack, index)] = pack_images(config, [batch], shards)
    filled = np.zeros(pack.images.shape, bool)
    for number, (grid, _, frame) in enumerate(batch):
        [row] = set(index[number][:, 0].tolist())  # one row
        places = (index[number][:, 1:] * merge**2 + np.arange(merge**2)).ravel()
        assert not filled[row, places].any()
        filled[row, places] = True
        np.testing.assert_array_equal(pack.patches[row, places], frame())
        [segment] = set(pack.images[row, places].tolist())
        assert (pack.images[row] == segment).sum() == len(places) and segment >= 0
        positions = pack.positions[row, places]
        assert len(set(map(tuple, positions.tolist()))) == len(places)
        assert positions.max(0).tolist() == [grid[1] - 1, grid[2] - 1]
        last = np.maximum(np.array(grid[1:]) - 1, 1)
        np.testing.assert_allclose(pack.spread[row, places] * last, positions, atol=1e-5)
    assert len(pack.images) % shards == 0
    assert (pack.images[~filled] == -1).all() and (pack.spread[~filled] == 0).all()


@given(side=st.integers(1, 12), count=st.integers(1, 9), shards=st.integers(1, 4))
def test_the_shapes_of_a_pack_have_room_for_it(side, count, shards):
    config, rng = tiny.QWEN3["qwen3-tied"].vision, np.random.default_rng(0)
    shapes = pack_shapes(config, 4 * side * side, count, shards)
    [(pack, _)] = pack_images(config, [preprocessed([(side, side)] * count, 2, rng)], shards)
    for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(pack), strict=True):
        assert (shape.dtype, shape.shape[2:]) == (array.dtype, array.shape[2:])
        assert shape.shape[0] % shards == 0 and np.prod(shape.shape[:2]) >= count * 4 * side * side


def test_only_own_shards_get_patches():
    config = tiny.QWEN3["qwen3-tied"].vision
    batch = preprocessed([(2, 3), (4, 4), (1, 2), (3, 3)], 2, np.random.default_rng(0))
    (whole, one, other) = (pack_images(config, [batch], 2, local)[0][0] for local in (None, {0}, {1}))
    np.testing.assert_array_equal(one.patches + other.patches, whole.patches)
    assert one.patches.any() and other.patches.any()
    for name in ("images", "positions", "spread"):
        np.testing.assert_array_equal(getattr(one, name), getattr(whole, name))
