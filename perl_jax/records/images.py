"""Normalizes images to the stored format: opaque, upright, single-frame RGB PNG or JPEG."""

import functools
import io
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from models import image_files
from models.errors import InputError, one_line


def to_stored_format(data: bytes, where: str) -> bytes:
    """Encodes the image's first frame as RGB PNG; bytes already in the stored format are returned unchanged.

    Raises:
        InputError: the image does not decode, exceeds Pillow's safe pixel limit (for which Pillow only warns), has a
            side of one pixel, or an aspect ratio over 200. The message starts with `where`.
    """
    if not isinstance(data, bytes):
        raise InputError(f"{where}: a {type(data).__name__}, not the bytes of an encoded image")
    try:
        return _encoded(data)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


@functools.lru_cache(maxsize=16)  # the questions of a conversation share images
def _encoded(data: bytes) -> bytes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=image_files.FORMATS)
            _check_shape(*image.size)
            image.load()
        if _is_stored_format(image):
            return data
        image = image_files.to_rgb(ImageOps.exif_transpose(_to_8_bits(image)))
    except InputError:
        raise
    except Exception as error:  # decoders raise arbitrary exceptions on broken bytes
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise InputError(f"cannot decode the image ({reason}); replace or drop it") from error
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _check_shape(width: int, height: int):
    if min(width, height) < 2 or max(width, height) > image_files.MAX_ASPECT * min(width, height):
        raise InputError(
            f"an image of {width} x {height} pixels is too narrow: each side needs 2 pixels, and at most "
            f"{image_files.MAX_ASPECT} times the other; replace or drop it"
        )


def _is_stored_format(image: Image.Image) -> bool:
    """Whether it is an RGB PNG or JPEG, opaque, upright, single-frame."""
    return (
        image.mode == "RGB"
        and image.format in ("PNG", "JPEG")
        and "transparency" not in image.info
        and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        and getattr(image, "n_frames", 1) == 1
    )


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit greyscale, which PIL would clip; InputError for 32-bit modes, whose white level is unknown."""
    # PPM in mode I is 16-bit too
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(
            f"an image of 32 bits a pixel (mode {image.mode}) has no known white level; save it with 8 or 16 bits"
        )
    return image
