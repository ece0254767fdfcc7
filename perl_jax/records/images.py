"""Normalizes images to the stored format: opaque, upright, single-frame RGB PNG or JPEG."""

import functools
import io
import warnings

from PIL import ExifTags, Image, UnidentifiedImageError

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
        image = image_files.pil_to_rgb(image)
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
