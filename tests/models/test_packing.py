"""Prompts and their images, packed: the same whatever else is in the pack."""

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from models import qwen2_5_vl as qwen
from models.packing import bucket


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
        for b, (ids, prompt_images) in enumerate(prompts):
            length = int(inputs.lengths[b])
            assert inputs.ids[b, :length].tolist() == list(ids) and length == len(ids)
            assert inputs.mask[b].tolist() == [True] * length + [False] * (inputs.mask.shape[1] - length)
            shows = inputs.image_index[b, :, 0] >= 0
            assert shows[:length].tolist() == [token == config.image_token_id for token in ids]
            assert not shows[length:].any()
            assert inputs.starts[b] == inputs.position_ids[:, b, :length].max() + 1
            alone = qwen.pack(config, [(ids, prompt_images)], max_pixels=tiny.MAX_PIXELS)
            np.testing.assert_array_equal(inputs.position_ids[:, b, :length], alone.position_ids[:, 0, :length])
            np.testing.assert_array_equal(shown_patches(inputs, b), shown_patches(alone, 0))


def shown_patches(inputs, row):
    """The patches [S, merge^2, X] that a prompt shows, in its order."""
    index = inputs.image_index[row][inputs.image_index[row, :, 0] >= 0]
    if not len(index):
        return np.zeros((0, 4, 588), np.uint8)
    patches = inputs.vision.patches
    return patches.reshape(len(patches), -1, 4, patches.shape[-1])[index[:, 0], index[:, 1]]


def distinct_images(inputs) -> int:
    return sum(len(set(row.tolist()) - {-1}) for row in inputs.vision.images)


def test_an_image_shown_twice_is_packed_once():
    config = tiny.CONFIGS["untied"]
    one, other = (tiny.noise_image(84, 84, seed) for seed in (1, 2))

    def pack(*images_of_prompts):
        return qwen.pack(
            config,
            [
                (sum((tiny.image_tokens(config, p) for p in prompt_images), [5]), list(prompt_images))
                for prompt_images in images_of_prompts
            ],
        )

    assert distinct_images(pack([one, other])) == 2
    assert distinct_images(pack([one, other], [other, one.copy()], [one, one])) == 2
    inputs = pack([one, other], [other.copy(), one])
    half = inputs.image_index[:, (inputs.image_index[0, :, 0] >= 0)].reshape(2, 2, -1, 2)
    np.testing.assert_array_equal(half[0], half[1, ::-1])  # an order of the images is an index, no more


def test_equal_bytes_of_another_shape_are_another_image():
    config = tiny.CONFIGS["untied"]
    wide = tiny.noise_image(56, 84, seed=1)
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
    config, image = tiny.CONFIGS["untied"], tiny.noise_image(84, 84, seed=1)
    value = {"min_pixels": 28 * 28 * 16, "max_pixels": 28 * 28 * 4}[limit]
    tokens = {"min_pixels": 16, "max_pixels": 4}[limit]
    ids = [config.vision_start_token_id, *[config.image_token_id] * tokens, config.vision_end_token_id]
    inputs = qwen.pack(config, [(ids, [image])], **{limit: value})
    assert (inputs.vision.images >= 0).sum() == 4 * tokens
