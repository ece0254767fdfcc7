"""Pictures to patches, with the same bits as transformers' Qwen2VLImageProcessorPil and without it."""

import functools
import hashlib
import io
import math

import numpy as np
from PIL import ExifTags, Image, ImageOps

from models.errors import InputError
from models.qwen2_5_vl.config import VisionConfig

MIN_PIXELS = 56 * 56
MAX_PIXELS = 28 * 28 * 1280
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, red, green, blue
STD = (0.26862954, 0.26130258, 0.27577711)
MAX_ASPECT = 200
# Only formats that Pillow decodes itself: EPS, for one, would start another program. MPO comes under JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")


def open_image(data: bytes, where: str) -> Image.Image:
    """Decodes a picture (first frame, turned as its EXIF says) to a loaded RGB image.

    Raises InputError, with `where` in its line, for bytes that are no picture or only part of one.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
        return rgb(ImageOps.exif_transpose(image), where)
    except InputError:
        raise
    except Exception as error:  # decoders of broken bytes raise whatever they stumble over
        raise InputError(_unreadable(where, error)) from error


class Encoded:
    """An encoded picture whose header alone is read, until its pixels are asked for; then only the resized are kept.

    Raises InputError, with `where` in its line, for bytes that do not begin as a picture does.
    """

    def __init__(self, data: bytes, where: str):
        self._data, self._where, self._resized = data, where, None
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # PNG's own would decode
                turned = orientation >= 5 and image.format != "TIFF"  # whose size Pillow has turned already
                self.width, self.height = image.size[::-1] if turned else image.size
        except Exception as error:
            raise InputError(_unreadable(where, error)) from error

    def decoded(self) -> Image.Image:
        """The picture, as `open_image` (also its errors), anew each time; InputError where its size is not the
        header's."""
        picture = open_image(self._data, self._where)
        if picture.size != (self.width, self.height):
            raise InputError(f"{self._where}: its header says {self.width} x {self.height} pixels, but it has "
                             f"{picture.width} x {picture.height}: save it anew")  # fmt: skip
        return picture

    def resized(self, width: int, height: int) -> Image.Image:
        """`decoded` in another size; asked for the same again, it is at hand."""
        if self._resized is None or self._resized.size != (width, height):
            self._resized = self.decoded().resize((width, height), Image.Resampling.BICUBIC)
        return self._resized

    @functools.cached_property
    def digest(self) -> bytes:
        """A hash of the encoded bytes."""
        return hashlib.blake2b(self._data).digest()

    @property
    def home(self) -> float:
        """As `home` of the digest."""
        return home(self.digest)


def home(digest: bytes) -> float:
    """Where in [0, 1) a picture with this hash is at home.

    In a pack that is shared out to devices it lies about there, whatever else is in the pack: so of several processes
    mostly the same one prepares it.
    """
    return int.from_bytes(digest[:4], "little") / 2**32


def rgb(image: Image.Image | np.ndarray | Encoded, where: str = "image") -> Image.Image:
    """An RGB picture of a PIL image of any mode (transparent parts on white) or of a uint8 array [H, W, 3]."""
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
    except (OSError, SyntaxError, ValueError) as error:  # a lazily opened file is decoded only here
        raise InputError(f"{where}: the picture cannot be read as RGB ({_first_line(error)})") from error


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """The (height, width) a picture is resized to: multiples of `factor`, about the same shape, area within limits.

    Raises InputError for an empty picture, for one side more than 200 times the other and for limits that contradict.
    """
    if not 1 <= min_pixels <= max_pixels:
        raise InputError(f"min_pixels {min_pixels} and max_pixels {max_pixels}: expected 1 <= min_pixels <= max_pixels")
    if min(height, width) < 1:
        raise InputError(f"a picture of {width} x {height} pixels is empty")
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise InputError(
            f"a picture of {width} x {height} pixels has one side over {MAX_ASPECT} times the other: crop it"
        )
    rounded = tuple(round(side / factor) * factor for side in (height, width))
    if math.prod(rounded) > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return tuple(max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
    if math.prod(rounded) < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return tuple(math.ceil(side * grow / factor) * factor for side in (height, width))
    return rounded


def grid(
    size: tuple[int, int], vision: VisionConfig, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[int, int]:
    """(grid_h, grid_w) in patches of a picture of `size` (height, width); InputError as `smart_resize`."""
    height, width = _target(size, vision, min_pixels, max_pixels)
    return height // vision.patch_size, width // vision.patch_size


def resized(
    image: Image.Image | np.ndarray | Encoded,
    vision: VisionConfig,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """The RGB picture in the size that it is shown in; InputError as `rgb` and `smart_resize`."""
    picture = image if isinstance(image, Encoded) else rgb(image)
    height, width = _target((picture.height, picture.width), vision, min_pixels, max_pixels)
    if isinstance(picture, Encoded):
        return picture.resized(width, height)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def frame(
    image: Image.Image | np.ndarray | Encoded,
    vision: VisionConfig,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Resizes, normalises and cuts a picture.

    Returns float32 [grid_h * grid_w, channels, 1, patch * patch], the patches of one merge block next to each other,
    and (1, grid_h, grid_w). None means 3136 and 1003520 pixels. Raises InputError as `rgb` and `smart_resize`.
    """
    pixels = np.asarray(resized(image, vision, min_pixels, max_pixels))
    patch, merge = vision.patch_size, vision.spatial_merge_size
    grid_h, grid_w = pixels.shape[0] // patch, pixels.shape[1] // patch
    blocks = pixels.reshape(grid_h // merge, merge, patch, grid_w // merge, merge, patch, 3)
    blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # block row, block column, row, column, channel, y, x
    return _normalised(blocks.reshape(grid_h * grid_w, 3, 1, patch * patch)), (1, grid_h, grid_w)


def patches(
    image: Image.Image | np.ndarray | Encoded,
    vision: VisionConfig,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """As `frame`, but a film of `temporal_patch_size` equal frames: float32 [grid_h * grid_w, channels * temporal *
    patch * patch]."""
    values, shape = frame(image, vision, min_pixels, max_pixels)
    return values.repeat(vision.temporal_patch_size, axis=2).reshape(len(values), -1), shape


def _target(
    size: tuple[int, int], vision: VisionConfig, min_pixels: int | None, max_pixels: int | None
) -> tuple[int, int]:
    return smart_resize(
        *size,
        factor=vision.patch_size * vision.spatial_merge_size,
        min_pixels=MIN_PIXELS if min_pixels is None else min_pixels,
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
    )


def _unreadable(where: str, error: Exception) -> str:
    return f"{where}: not a picture that can be read ({_first_line(error)}): replace the file"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _normalised(pixels: np.ndarray) -> np.ndarray:
    """float32 [n, 3, 1, m] of uint8. The reference scales in float64; of each of the 256 values the quotient in float32
    is the same to the bit, and faster than a look-up."""
    values = pixels.astype(np.float32)
    values /= np.float32(255)
    values -= np.array(MEAN, np.float32).reshape(3, 1, 1)
    values /= np.array(STD, np.float32).reshape(3, 1, 1)
    return values
