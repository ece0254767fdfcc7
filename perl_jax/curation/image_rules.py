"""Image filters: readability, size, duplicates, and overlap with evaluation sets."""

import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from models.errors import InputError
from perl_jax import data, records
from perl_jax.curation import rules
from perl_jax.curation.curate import Curated
from perl_jax.records import hub_files
from perl_jax.records.images import to_stored_format

NEAR = 4  # images whose perceptual hashes (64 bits) differ in at most this many bits count as equal
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
QUESTIONS = ("question", "problem", "query", "prompt")  # column names of questions in evaluation sets
LONG = 40  # minimum characters of a question for equality to count as overlap


class Filters:
    """Loads the images of curated records and applies the image rules; one instance per source."""

    def __init__(self, decontaminate: Iterable[str] = ()):
        self._duplicates = rules.DuplicateFilter()
        self._overlap = Overlap(decontaminate)

    def __call__(self, item: Curated, readers: Sequence[data.ImageReader]) -> Curated | data.Rejected:
        record, name = item.record, item.record["id"]
        images = []
        for number, read_image in enumerate(readers, start=1):
            try:
                images.append(to_stored_format(read_image(), f"image {number}"))
            except InputError as error:
                return data.Rejected(name, "unreadable image", str(error))
            if too_small := rules.image_size(Image.open(io.BytesIO(images[-1])).size):
                return data.Rejected(name, "image size", f"image {number}: {too_small}")
        text = "\n".join((record["question"], *record["choices"]))
        if duplicate_of := self._duplicates(name, text, images):
            return data.Rejected(name, "duplicate", duplicate_of)
        if overlap := self._overlap(record["question"], images):
            return data.Rejected(name, "overlap with an evaluation set", overlap)
        return item._replace(record={**record, "images": images})


class Overlap:
    """Detects overlap of a record with evaluation sets: one of its images (by perceptual hash) or its question."""

    def __init__(self, directories: Iterable[str]):
        questions, hashes = {}, {}
        for directory in directories:
            for question, images in _evaluation_set(directory):
                if len(text := rules.normalized(question)) >= LONG:
                    questions[text] = directory
                hashes |= dict.fromkeys(filter(None, map(perceptual_hash, images)), directory)
        self._questions, self._where = questions, list(hashes.values())
        self._hashes = np.array(list(hashes), np.uint64)

    def __call__(self, question: str, images: Sequence[bytes]) -> str | None:
        if directory := self._questions.get(rules.normalized(question)):
            return f"its question is in {directory}"
        for number, image in enumerate(images if len(self._hashes) else (), start=1):
            if image_hash := perceptual_hash(image):
                distances = np.bitwise_count(self._hashes ^ np.uint64(image_hash))
                if distances.min() <= NEAR:
                    return f"image {number} is in {self._where[int(distances.argmin())]}"
        return None


def perceptual_hash(image: bytes) -> int | None:
    """A 64-bit perceptual hash, robust to rescaling and re-encoding (pHash, by `imagehash`).

    None if it is not an image, or has too little contrast to identify it (a blank page).
    """
    import imagehash

    try:
        grey = Image.open(io.BytesIO(to_stored_format(image, "image"))).convert("L")
    except InputError:
        return None
    if np.asarray(grey.resize((16, 16))).std() < 4:  # of 256 grey levels
        return None
    return int(str(imagehash.phash(grey)), 16)


def _evaluation_set(directory: str) -> Iterator[tuple[str, list[bytes]]]:
    """Yields (question, images) of a record set, or of all files of a folder in Hugging Face format."""
    if not os.path.isdir(directory):
        raise InputError(f"--decontaminate={directory} is not a directory")
    if os.path.isfile(os.path.join(directory, "dataset_info.json")):
        for split in records.splits(directory):
            yield from ((record["question"], record["images"]) for record in records.open_split(directory, split))
        return
    any_items = False
    for path in sorted(Path(directory).rglob("*")):
        for question, images in _read_file(path):
            any_items = True
            yield question, images
    if not any_items:
        raise InputError(f"--decontaminate={directory} holds no records, questions or images")


def _read_file(path: Path) -> Iterator[tuple[str, list[bytes]]]:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        yield "", [path.read_bytes()]
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if Path(name).suffix.lower() in IMAGE_SUFFIXES]
            yield from (("", [hub_files.read_member(archive, name)]) for name in members)
    elif path.suffix.lower() in hub_files.FORMATS:
        for _, row in hub_files.rows(path):
            if isinstance(row, dict):
                texts = [row[key] for key in QUESTIONS if isinstance(row.get(key), str)]
                yield "".join(texts[:1]), list(_embedded_images(list(row.values())))


def _embedded_images(value: object) -> Iterator[bytes]:
    """The images embedded in a row, at any depth."""
    if isinstance(value, bytes) and value:
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _embedded_images(inner)
