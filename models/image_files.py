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
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF


def open_image(data: bytes, where: str) -> Image.Image:
    """Decodes an image (first frame, rotated as in its EXIF) to a loaded RGB image.

    Raises InputError, naming `where`, for bytes that are no image or only part of one.
    """
    try:
        return pil_to_rgb(Image.open(io.BytesIO(data), formats=FORMATS))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # decoders raise various exceptions for broken bytes
        raise InputError(_unreadable(where, error)) from error


class Encoded:
    """An encoded image, of which only the header is read until pixels are needed; then only resized pixels are kept.

    Raises InputError, naming `where`, for bytes without a valid image header.
    """

    def __init__(self, data: bytes, where: str):
        self.data, self._where, self._resized = data, where, None
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # PNG's getexif would decode
                turned = orientation >= 5 and image.format != "TIFF"  # for TIFF Pillow has already swapped the size
                self.width, self.height = image.size[::-1] if turned else image.size
        except Exception as error:
            raise InputError(_unreadable(where, error)) from error

    def decoded(self) -> Image.Image:
        """The image, decoded at each call; errors as `open_image`, and InputError if its size is not the header's."""
        image = open_image(self.data, self._where)
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
        return hashlib.blake2b(self.data).digest()

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
    """The RGB image of a PIL image, as `pil_to_rgb`, or of a uint8 array [H, W, 3].

    Raises InputError, naming `where`, for other arrays and for PIL images that do not decode.
    """
    if isinstance(image, Encoded):
        return image.decoded()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
            raise InputError(f"{where}: an array must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        return Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InputError(f"{where}: expected a PIL image or a uint8 array [H, W, 3], not {type(image).__name__}")
    try:
        return pil_to_rgb(image)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # a lazily opened file is decoded here, and decoders raise various exceptions
        raise InputError(f"{where}: the image cannot be read as RGB ({one_line(error)})") from error


def pil_to_rgb(image: Image.Image) -> Image.Image:
    """The RGB image of a PIL image: upright as its EXIF says, transparent parts on white, 16-bit grey scaled to 8 bits.

    All images are decoded by it, so that all commands see the same pixels. Raises InputError for modes without a known
    white level (32 bits a pixel), and what Pillow raises for a file that does not decode.
    """
    _load(image)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    grey_in_8_bits = _to_8_bits(image)
    return _opaque(grey_in_8_bits if orientation == 1 else ImageOps.exif_transpose(grey_in_8_bits))


def _load(image: Image.Image) -> None:
    """Loads the pixels; without the file name, by which Pillow 13 would map a rotated TIFF to memory and skew it."""
    name = getattr(image, "filename", None)
    if image.format != "TIFF" or not name:
        image.load()
        return
    try:
        image.filename = ""
        image.load()
    finally:
        image.filename = name


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey, which PIL would clip; InputError for 32-bit modes, whose white level is unknown."""
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # PPM in mode I is 16-bit, too
        raise InputError(
            f"an image of 32 bits a pixel (mode {image.mode}) has no known white level; save it with 8 or 16 bits"
        )
    tags = getattr(image, "tag_v2", {})  # of a TIFF: bits of a sample, and 0 where zero is white
    (bits, *_), inverted = tags.get(_BITS_PER_SAMPLE, (16,)), tags.get(_PHOTOMETRIC) == 0
    values = np.asarray(image).astype(np.int64)
    grey = (values >> (bits - 8)).clip(0, 255)
    if inverted:
        grey = 255 - grey
    if isinstance(transparent := image.info.get("transparency"), int):
        grey = np.where(values == transparent, 255, grey)
    scaled = Image.fromarray(grey.astype(np.uint8))
    scaled.info.update({key: value for key, value in image.info.items() if key != "transparency"})
    scaled.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
    return scaled


def _opaque(image: Image.Image) -> Image.Image:
    """The image in RGB, on white where it is transparent."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def _unreadable(where: str, error: Exception) -> str:
    return f"{where}: not a readable image ({one_line(error)}): replace the file"
