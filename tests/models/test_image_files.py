"""Encoded images are decoded once, upright and whole, and broken ones give one line."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFile
from sample_images import encoded, image_array

from models import image_files
from models.errors import InputError


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_open_image(kind):
    data = encoded(Image.fromarray(image_array(60, 80)), format=kind)
    image = image_files.open_image(data, "x")
    assert image.mode == "RGB" and image.size == (80, 60)
    image.getpixel((0, 0))


def test_open_image_turns_as_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert image_files.open_image(
        encoded(Image.fromarray(image_array(60, 80)), format="JPEG", exif=exif), "x"
    ).size == (60, 80)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_header_says_the_size(kind, orientation, monkeypatch):
    """Of the picture as it is shown; only then is it decoded, to what `open_image` makes of it."""
    decodes, load = [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decodes.append(1) or load(self))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(image_array(60, 80)), format=kind, exif=exif)
    image = image_files.Encoded(data, "x")
    assert not decodes
    expected = image_files.open_image(data, "x")
    assert (image.width, image.height) == expected.size
    assert image.decoded().tobytes() == expected.tobytes()
    assert image.digest == image_files.Encoded(data, "y").digest and 0 <= image.preferred_position < 1


def test_a_header_with_another_size_than_the_image(monkeypatch):
    image = image_files.Encoded(encoded(Image.fromarray(image_array(60, 80)), format="PNG"), "row 7, image 1")
    monkeypatch.setattr(image_files, "open_image", lambda *_: Image.new("RGB", (80, 61)))
    with pytest.raises(InputError, match="row 7, image 1: its header says 80 x 60 pixels, but it has 80 x 61"):
        image.decoded()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_broken_bytes(kind):
    data = encoded(Image.fromarray(image_array(60, 80)), format=kind)
    broken = [b"", b"text", data[:20], data[: len(data) // 2], data[:8] + bytes(200)]
    for number, part in enumerate(broken):
        with pytest.raises(InputError, match=r"^row 7, image 1: not a readable image") as error:
            image_files.Encoded(part, "row 7, image 1").decoded()
        assert "\n" not in str(error.value), number


def test_a_postscript_file_starts_no_program():
    with pytest.raises(InputError):
        image_files.open_image(encoded(Image.fromarray(image_array(60, 80)), format="EPS"), "x")


def upright(pixels, orientation):
    """The pixels as EXIF's orientation 1, 3, 6 or 8 says, by numpy."""
    return np.rot90(pixels, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
def test_an_image_object_is_turned_like_its_file(mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    rows, columns = np.mgrid[:6, :9]
    image = Image.fromarray((rows * 20 + columns).astype(np.uint8)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 256 + 7)
    expected = upright(rows * 20 + columns, orientation)
    opened = Image.open(io.BytesIO(encoded(image, format="PNG", exif=exif)))
    for shown in (opened, opened.copy()):
        made = np.asarray(image_files.to_rgb(image_files.to_rgb(shown)))  # once turned, it stays
        np.testing.assert_array_equal(made, np.repeat(expected[..., None], 3, axis=2))


@settings(deadline=None, max_examples=40)
@given(
    values=arrays(np.uint16, (4, 5)),
    form=strategies.sampled_from([("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PNG", {}), ("PGM", {})]),
)
def test_16_bit_grey_is_its_high_byte(values, form):
    kind, options = form
    if kind == "PGM":
        data = b"P5 5 4 65535\n" + values.astype(">u2").tobytes()
    else:
        data = encoded(Image.fromarray(values), format=kind, **options)
    expected = np.repeat((values >> 8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(np.asarray(image_files.open_image(data, "x")), expected)
    np.testing.assert_array_equal(np.asarray(image_files.Encoded(data, "x").decoded()), expected)
    np.testing.assert_array_equal(np.asarray(image_files.to_rgb(Image.open(io.BytesIO(data)))), expected)


def test_a_grey_that_stands_for_transparency_is_white():
    data = encoded(Image.fromarray(np.array([[0x1234, 0x8000]], np.uint16)), format="PNG", transparency=0x1234)
    assert np.asarray(image_files.open_image(data, "x"))[0, :, 0].tolist() == [255, 128]


def grey_tiff(samples, bits, photometric):
    """An uncompressed TIFF with one row of these 12 or 16-bit samples, written by hand."""
    data = b"".join(struct.pack("<H", sample) for sample in samples)
    if bits == 12:
        packed = sum(sample << 12 * place for place, sample in enumerate(reversed(samples)))
        data = packed.to_bytes(len(samples) * 12 // 8, "big")
    size = len(samples)
    values = {256: size, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    directory = struct.pack("<H", len(values)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


@pytest.mark.parametrize(
    ("bits", "photometric", "expected"),
    [(16, 1, [0, 3, 128, 255]), (16, 0, [255, 252, 127, 0]), (12, 1, [0, 3, 128, 255])],
)
def test_a_tiff_may_have_12_bits_or_a_white_zero(bits, photometric, expected):
    data = grey_tiff([value >> 16 - bits for value in (0, 1000, 0x8000, 0xFFFF)], bits, photometric)
    assert np.asarray(image_files.open_image(data, "x")).tolist() == [[[value] * 3 for value in expected]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_have_no_white_level(dtype):
    image = Image.fromarray(np.full((5, 5), 2, dtype))
    data = encoded(image, format="TIFF")
    for decode in (
        lambda: image_files.open_image(data, "x"),
        lambda: image_files.Encoded(data, "x").decoded(),
        lambda: image_files.to_rgb(image, "x"),
    ):
        with pytest.raises(InputError, match=r"^x: .*32 bits a pixel .* no known white level"):
            decode()
