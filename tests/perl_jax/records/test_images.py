"""Whatever image a source has, what is stored is an RGB PNG or JPEG, or a line that says what is wrong with it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from perl_jax.records import images


def picture(mode="RGB", size=(30, 20), form="PNG", seed=0, **options):
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def stored(data):
    """The stored form of an image, opened: always RGB, one frame."""
    opened = Image.open(io.BytesIO(images.to_stored_format(data, "x")))
    assert opened.mode == "RGB" and opened.format in ("PNG", "JPEG") and getattr(opened, "n_frames", 1) == 1
    return opened


def test_an_animated_image_is_its_first_frame():
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    for form in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 3
        assert np.abs(np.subtract(stored(data).getpixel((4, 3)), (255, 0, 0))).max() < 3  # MPO holds JPEGs


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.frombytes("I;16B", (5, 5), b"\x80\x00" * 25), "TIFF"),
        encoded(Image.fromarray(np.full((5, 5), 0x8000, np.uint16)), "TIFF"),
        b"P5 5 5 65535\n" + b"\x80\x00" * 25,
        b"P6 5 5 65535\n" + b"\x80\x00" * 75,
    ],
    ids=["big endian", "little endian", "PGM", "PPM"],
)
def test_16_bits_are_scaled(data):
    assert stored(data).getpixel((2, 2)) == (128, 128, 128)


def test_a_colour_that_stands_for_transparency_becomes_white():
    assert stored(encoded(Image.new("RGB", (4, 4), (9, 9, 9)), transparency=(9, 9, 9))).getpixel((0, 0)) == (255,) * 3
    assert stored(encoded(Image.new("P", (4, 4)), transparency=0)).getpixel((0, 0)) == (255,) * 3


def test_long_sides_are_kept_up_to_the_ratio_that_the_model_takes():
    assert stored(encoded(Image.new("RGB", (30_000, 150)))).size == (30_000, 150)
    for size in ((30_000, 149), (149, 30_000), (1, 1), (1, 100), (60_000, 1)):
        with pytest.raises(InputError, match=f"^x: .*{size[0]} x {size[1]} pixels"):
            images.to_stored_format(encoded(Image.new("L", size)), "x")


def bomb(width, height):
    """A PNG's beginning that promises so many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    signed = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + signed + struct.pack(">I", 1000) + b"IDAT"


def test_what_pillow_only_warns_of_is_refused_too():
    limit = Image.MAX_IMAGE_PIXELS
    for pixels in (limit + 20_000, 2 * limit + 20_000):  # a warning, an error
        with pytest.raises(InputError, match=r"^x: .*decompression bomb"):
            images.to_stored_format(bomb(10_000, pixels // 10_000), "x")
    for form in ("GIF", "BMP"):  # whatever the format's decoder would do
        with pytest.raises(InputError, match=r"^x: "):
            images.to_stored_format(encoded(Image.new("1", (10_000, limit // 10_000 + 1)), form), "x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no known format"),
        (encoded(Image.new("RGB", (9, 9)), "EPS"), "no known format"),  # Pillow would start another program
        (encoded(Image.new("RGB", (9, 9)), "ICO"), "no known format"),
        (picture(form="JPEG")[:-40], "truncated"),
        (picture(form="PNG")[:400], "cannot decode"),
        (picture(form="WEBP")[:200], "cannot decode"),
        (encoded(Image.fromarray(np.full((5, 5), 70000, np.int32)), "TIFF"), "32 bits"),
        (encoded(Image.fromarray(np.full((5, 5), 0.5, np.float32)), "TIFF"), "32 bits"),
        (None, "NoneType"),
        (bytearray(picture()), "bytearray"),
    ],
)
def test_a_bad_image_is_one_line(data, words):
    with pytest.raises(InputError, match=f"^x: .*{words}") as caught:
        images.to_stored_format(data, "x")
    assert "\n" not in str(caught.value)
