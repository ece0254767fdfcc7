"""Structured test images, as arrays and as encoded bytes."""

import io

import numpy as np
from PIL import Image


def image_array(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth gradient plus noise, so that both a filter's weights and its clipping matter."""
    rng = np.random.default_rng((seed, height, width))
    smooth = np.add.outer(np.arange(height) * 7, np.arange(width) * 3)[..., None] + np.array([0, 60, 170])
    return ((smooth + rng.integers(0, 256, (height, width, 3))) % 256).astype(np.uint8)


def encoded(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()
