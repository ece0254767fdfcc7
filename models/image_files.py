"""Decodes image files and Python image objects to RGB; shared by all model families, and without JAX."""

import functools
import hashlib
import io

import numpy as np
from PIL import ExifTags, Image, ImageOps

from models.errors import InputError, one_line

MAX_ASPECT = 200
# Only formats that Pillow decodes itself: EPS, for example, would start another program. JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")


def open_image(data: bytes, where: str) -> Image.Image:
    """Decodes an image (first frame, rotated as in its EXIF) to a loaded RGB image.

    Raises InputError, naming `where`, for bytes that are no image or only part of one.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
        return to_rgb(ImageOps.exif_transpose(image), where)
    except InputError:
        raise
    except Exception as error:  # decoders raise various exceptions for broken bytes
        raise InputError(_unreadable(where, error)) from error


class Encoded:
    """An encoded image, of which only the header is read until pixels are needed; then only resized pixels are kept.

    Raises InputError, naming `where`, for bytes without a valid image header.
    """

    def __init__(self, data: bytes, where: str):
        self._data, self._where, self._resized = data, where, None
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # PNG's getexif would decode
                turned = orientation >= 5 and image.format != "TIFF"  # for TIFF Pillow has already swapped the size
                self.width, self.height = image.size[::-1] if turned else image.size
        except Exception as error:
            raise InputError(_unreadable(where, error)) from error

    def decoded(self) -> Image.Image:
        """The image, decoded at each call; errors as `open_image`, and InputError if its size is not the header's."""
        image = open_image(self._data, self._where)
        if image.size != (self.width, self.height):
            raise InputError(
                f"{self._where}: its header says {self.width} x {self.height} pixels, but it has "
                f"{image.width} x {image.height}: save it anew"
            )
        return image

    def resized(self, width: int, height: int) -> Image.Image:
        """`decoded` in another size; the last size is cached."""
        if self._resized is None or self._resized.size != (width, height):
            self._resized = self.decoded().resize((width, height), Image.Resampling.BICUBIC)
        return self._resized

    @functools.cached_property
    def digest(self) -> bytes:
        """A hash of the encoded bytes."""
        return hashlib.blake2b(self._data).digest()

    @property
    def preferred_position(self) -> float:
        """`preferred_position` of the digest."""
        return preferred_position(self.digest)


def preferred_position(digest: bytes) -> float:
    """The preferred relative position in [0, 1) of an image with this hash in a sharded pack.

    An image is packed near it whatever else is in the pack, so that mostly the same process decodes it.
    """
    return int.from_bytes(digest[:4], "little") / 2**32


def to_rgb(image: Image.Image | np.ndarray | Encoded, where: str = "image") -> Image.Image:
    """The RGB image of a PIL image of any mode (transparent parts on white) or of a uint8 array [H, W, 3]."""
    if isinstance(image, Encoded):
        return image.decoded()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
            raise InputError(f"{where}: an array must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        return Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InputError(f"{where}: expected a PIL image or a uint8 array [H, W, 3], not {type(image).__name__}")
    try:
        if image.mode == "RGB" and "transparency" not in image.info:
            image.load()
            return image
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
        return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # a lazily opened file is decoded here
        raise InputError(f"{where}: the image cannot be read as RGB ({one_line(error)})") from error


def _unreadable(where: str, error: Exception) -> str:
    return f"{where}: not a readable image ({one_line(error)}): replace the file"
