"""Our images are transformers' images, bit for bit, and broken ones give one line."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sample_images import encoded, image_array

from models import image_files, images
from models.errors import InputError
from models.qwen2_5_vl.config import VisionConfig
from models.qwen3_vl.config import VisionConfig as Qwen3VisionConfig

VISION = VisionConfig(1, 32, 48, 4, 48)
QWEN3 = Qwen3VisionConfig(1, 32, 48, 4, 48)
SIZES = [(28, 28), (1, 1), (1, 200), (200, 1), (13, 29), (56, 55), (57, 56), (99, 301), (640, 48), (333, 517), (42, 70)]
LIMITS = [(3136, 1003520), (1, 3136), (784, 784), (50000, 60000), (3136, 40000)]


def reference(image, min_pixels, max_pixels, vision=VISION):
    transformers = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    own = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if vision is QWEN3 else {}
    processor = transformers.Qwen2VLImageProcessorPil(
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        **own,
    )
    out = processor(image, return_tensors="np")
    return out["pixel_values"], tuple(out["image_grid_thw"][0].tolist())


def assert_equal(image, min_pixels, max_pixels, vision=VISION):
    ours, grid = images.patches(image, vision, min_pixels, max_pixels)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    theirs, their_grid = reference(image, min_pixels, max_pixels, vision)
    assert grid == their_grid and ours.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32))
    assert images.grid((image.height, image.width), vision, min_pixels, max_pixels) == grid[1:]


@pytest.mark.parametrize("limits", LIMITS)
def test_bits_of_the_reference(limits):
    for size in SIZES:
        assert_equal(image_array(*size), *limits)


def test_bits_of_the_reference_with_qwen3s_published_bounds():
    """Half of the range is mean and deviation; small pictures grow to 64 tokens; a side of 80 is 64, half to even."""
    for size in SIZES:
        assert_equal(image_array(*size), 65536, 16777216, QWEN3)
    assert images.grid((80, 2000), QWEN3, 1024) == (4, 124) and images.grid((1, 1), QWEN3) == (16, 16)
    assert_equal(image_array(80, 112), 1024, 20000, QWEN3)
    values = np.arange(32 * 32, dtype=np.uint32).reshape(32, 32, 1).astype(np.uint8)
    assert_equal(np.concatenate([values, values[::-1], values.transpose(1, 0, 2)], axis=-1), 1024, 1024, QWEN3)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 260), width=st.integers(1, 260), low=st.integers(1, 60000), more=st.integers(0, 200000))
def test_bits_of_the_reference_on_any_size(height, width, low, more):
    if max(height, width) <= 200 * min(height, width):
        assert_equal(image_array(height, width), low, low + more)


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 9000),
    width=st.integers(1, 9000),
    factor=st.integers(2, 64),
    low=st.integers(1, 10**6),
    more=st.integers(0, 2 * 10**7),
)
def test_resize_is_the_reference(height, width, factor, low, more):
    theirs = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
    if max(height, width) <= 200 * min(height, width):
        assert images.smart_resize(height, width, factor, low, low + more) == theirs(
            height, width, factor, low, low + more
        )


def test_other_patch_sizes():
    vision = VisionConfig(1, 32, 48, 4, 48, patch_size=8, spatial_merge_size=4, temporal_patch_size=3)
    assert_equal(image_array(70, 133), 1024, 20000, vision)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "PA", "CMYK", "YCbCr", "HSV"])
def test_every_mode(mode):
    image = Image.fromarray(image_array(40, 66))
    if mode in ("LA", "RGBA", "PA"):
        image.putalpha(Image.fromarray(image_array(40, 66, seed=1)[..., 0]))
    image = image.convert(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_equal(image, 3136, 1003520)


def test_transparency_of_a_palette():
    image = Image.fromarray(image_array(40, 66)).quantize(16)
    image.info["transparency"] = 3
    assert_equal(image, 3136, 1003520)


def test_array_equals_pil():
    array = image_array(31, 90)
    for a, b in zip(images.patches(array, VISION), images.patches(Image.fromarray(array), VISION)):
        np.testing.assert_array_equal(a, b)


def test_an_encoded_image_is_decoded_once_for_all_its_patches(monkeypatch):
    data, opened = encoded(Image.fromarray(image_array(300, 220)), format="PNG"), []
    open_image = image_files.open_image
    monkeypatch.setattr(image_files, "open_image", lambda *a: opened.append(1) or open_image(*a))
    image = image_files.Encoded(data, "x")
    small = images.resized(image, VISION, 784, 40000)
    assert small.width * small.height <= 40000
    for _ in range(2):
        ours, grid = images.patches(image, VISION, 784, 40000)
        theirs, their_grid = reference(Image.fromarray(image_array(300, 220)), 784, 40000)
        assert grid == their_grid and np.array_equal(ours.view(np.int32), theirs.view(np.int32))
    assert len(opened) == 1
    assert images.patches(image, VISION)[1] == (1, 22, 16) and len(opened) == 2, "another size is made anew"


def test_every_value_of_a_pixel_has_the_bits_of_the_reference():
    values = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28, 1)
    assert_equal(np.concatenate([values, values[::-1], values.transpose(1, 0, 2)], axis=-1), 784, 784)


@pytest.mark.parametrize(
    "image",
    [
        "file.png",
        None,
        [[1, 2]],
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 500, 3), np.uint8),
    ],
)
def test_refused(image):
    with pytest.raises(InputError):
        images.patches(image, VISION)


@pytest.mark.parametrize("limits", [(0, 100), (200, 100), (-1, 100)])
def test_refused_limits(limits):
    with pytest.raises(InputError, match="min_pixels"):
        images.grid((50, 50), VISION, *limits)


def test_aspect_ratio_of_200_is_the_last():
    assert images.grid((1, 200), VISION)
    with pytest.raises(InputError, match="201 x 1"):
        images.grid((1, 201), VISION)
