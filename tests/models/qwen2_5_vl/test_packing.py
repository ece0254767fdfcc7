"""The layout of packed images and prompts: what window and full attention rely on, for any sizes."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models import qwen2_5_vl as qwen
from models.qwen2_5_vl.packing import Prepared, block_size, bucket, pack_images

FRAME, TIMES = (3, 1, 196), 2  # a patch's values, and how often they are shown
SIZES = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=7)  # in merged patches


def vision_config(window: int, merge: int = 2) -> qwen.VisionConfig:
    base = tiny.CONFIGS["untied"].vision
    return dataclasses.replace(base, window_size=window, spatial_merge_size=merge)


def preprocessed(sizes, merge: int, rng):
    """Images of `sizes` in merged patches, every patch different."""

    def image(h, w):
        values = rng.normal(size=(h * w * merge**2, *FRAME)).astype(np.float32)
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
        values = frame().repeat(TIMES, axis=2).reshape(grid[1] * grid[2], -1)
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
    own = data.draw(st.sets(st.integers(0, shards - 1)))
    parts, made = [], []
    for part in (None, own, set(range(shards)) - own):
        noted = [image._replace(frame=lambda image=image: made.append(image.home) or image.frame()) for image in batch]
        [(pack, _)] = pack_images(config, [noted], shards, part)
        parts.append(pack)
        filled = pack.patches.reshape(shards, -1).any(axis=1)
        assert part is None or set(np.flatnonzero(filled)) <= part
    assert sorted(made) == sorted([image.home for image in batch] * 2)
    whole, mine, others = parts
    np.testing.assert_array_equal(mine.patches + others.patches, whole.patches)
    for name in ("images", "windows", "positions"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(whole, name))


def test_images_lie_about_where_they_are_at_home():
    """Whatever else is in the pack: so two processes that pack a batch and then parts of it prepare little twice."""
    rng = np.random.default_rng(0)
    batch = preprocessed(rng.integers(1, 9, (128, 2)), 2, rng)
    for part in (range(128), range(0, 64), range(1, 128, 2)):
        [(pack, index)] = pack_images(vision_config(112), [[batch[i] for i in part]], 8)
        halves = [places[0, 0] * 2 // len(pack.patches) for places in index]
        same = np.mean([half == int(2 * batch[i].home) for i, half in zip(part, halves)])
        assert same > 0.7, "half of them would by chance"


@given(sizes=st.lists(st.integers(0, 1 << 17), min_size=2, max_size=2), least=st.sampled_from([1, 16, 64]))
def test_bucket(sizes, least):
    small, large = sorted(sizes)
    assert bucket(small, least) <= bucket(large, least)
    for size in sizes:
        assert bucket(size, least) >= max(size, 1)
        assert bucket(bucket(size, least), least) == bucket(size, least)
        if size > 4 * least:
            assert bucket(size, least) <= 1.25 * size


def test_buckets_are_few():
    for low in (64, 512, 4096):
        assert len({bucket(size) for size in range(low + 1, 2 * low + 1)}) <= 4


def test_a_pack_holds_each_prompt_as_it_is_alone():
    config = tiny.CONFIGS["untied"]
    every = tiny.prompts(config)
    for prompts in (every[:2], every[2:], [every[1]] * 2):
        inputs = qwen.pack(config, prompts, max_pixels=tiny.MAX_PIXELS)
        for b, (ids, pictures) in enumerate(prompts):
            length = int(inputs.lengths[b])
            assert inputs.ids[b, :length].tolist() == list(ids) and length == len(ids)
            assert inputs.mask[b].tolist() == [True] * length + [False] * (inputs.mask.shape[1] - length)
            shows = inputs.image_index[b, :, 0] >= 0
            assert shows[:length].tolist() == [token == config.image_token_id for token in ids]
            assert not shows[length:].any()
            assert inputs.starts[b] == inputs.position_ids[:, b, :length].max() + 1
            alone = qwen.pack(config, [(ids, pictures)], max_pixels=tiny.MAX_PIXELS)
            np.testing.assert_array_equal(inputs.position_ids[:, b, :length], alone.position_ids[:, 0, :length])
            np.testing.assert_array_equal(shown_patches(inputs, b), shown_patches(alone, 0))


def shown_patches(inputs, row):
    """The patches [S, merge^2, X] that a prompt shows, in its order."""
    index = inputs.image_index[row][inputs.image_index[row, :, 0] >= 0]
    if not len(index):
        return np.zeros((0, 4, 1176), np.float32)
    patches = inputs.vision.patches
    return patches.reshape(len(patches), -1, 4, patches.shape[-1])[index[:, 0], index[:, 1]]


def distinct_images(inputs) -> int:
    return sum(len(set(row.tolist()) - {-1}) for row in inputs.vision.images)


def test_an_image_shown_twice_is_packed_once():
    config = tiny.CONFIGS["untied"]
    one, other = (tiny.picture(84, 84, seed) for seed in (1, 2))

    def pack(*pictures_of_prompts):
        return qwen.pack(
            config,
            [
                (sum((tiny.image_tokens(config, p) for p in pictures), [5]), list(pictures))
                for pictures in pictures_of_prompts
            ],
        )

    assert distinct_images(pack([one, other])) == 2
    assert distinct_images(pack([one, other], [other, one.copy()], [one, one])) == 2
    inputs = pack([one, other], [other.copy(), one])
    half = inputs.image_index[:, (inputs.image_index[0, :, 0] >= 0)].reshape(2, 2, -1, 2)
    np.testing.assert_array_equal(half[0], half[1, ::-1])  # an order of the images is an index, no more


def test_equal_bytes_of_another_shape_are_another_image():
    config = tiny.CONFIGS["untied"]
    wide = tiny.picture(56, 84, seed=1)
    tall = wide.reshape(84, 56, 3)
    ids = tiny.image_tokens(config, wide) + tiny.image_tokens(config, tall)
    assert distinct_images(qwen.pack(config, [(ids, [wide, tall])])) == 2


def test_no_images_at_all_pack_no_vision():
    inputs = qwen.pack(tiny.CONFIGS["untied"], [([1, 2, 3], []), ([4], [])])
    assert inputs.vision is None
    assert inputs.lengths.tolist() == [3, 1] and inputs.starts.tolist() == [3, 1]


def test_zero_prompts_is_not_a_crash_in_numpy():
    """An empty batch packs to empty arrays; who needs prompts says so itself."""
    assert qwen.pack(tiny.CONFIGS["untied"], []).ids.shape[0] == 0


@pytest.mark.parametrize("limit", ["min_pixels", "max_pixels"])
def test_limits_reach_the_images(limit):
    """The number of tokens that a picture takes follows the limits given to `pack`."""
    config, picture = tiny.CONFIGS["untied"], tiny.picture(84, 84, seed=1)
    value = {"min_pixels": 28 * 28 * 16, "max_pixels": 28 * 28 * 4}[limit]
    tokens = {"min_pixels": 16, "max_pixels": 4}[limit]
    ids = [config.vision_start_token_id, *[config.image_token_id] * tokens, config.vision_end_token_id]
    inputs = qwen.pack(config, [(ids, [picture])], **{limit: value})
    assert (inputs.vision.images >= 0).sum() == 4 * tokens
