"""Encoded images are decoded once, upright and whole, and broken ones give one line."""

import pytest
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
        with pytest.raises(InputError, match=r"row 7, image 1: ") as error:
            image_files.Encoded(part, "row 7, image 1").decoded()
        assert "\n" not in str(error.value), number


def test_a_postscript_file_starts_no_program():
    with pytest.raises(InputError):
        image_files.open_image(encoded(Image.fromarray(image_array(60, 80)), format="EPS"), "x")
