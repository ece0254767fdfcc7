"""Data files in a local directory: rows of JSONL, JSON, Parquet, CSV and TSV files, and their images.

One bad row or image does not end a run: an unreadable row is yielded as an InputError, and an image is read only on
request. Images are files, members of zips (never unpacked to disk), or embedded in the row.
"""

import ast
import base64
import binascii
import collections
import csv
import functools
import json
import math
import os
import re
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from models.errors import InputError, one_line
from perl_jax.records.rows import ImageReader

FORMATS = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
_LONGEST_CELL = 10_000  # characters that may be paths of images
MAX_BYTES = 1 << 28  # of one encoded image; a zip member may declare any size
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
_ROWS_AT_A_TIME = 64  # of a Parquet file, whose rows may embed images
_CACHED_IMAGES = 16  # images cached in memory: questions of one conversation share images
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{32,}={0,2}\s*")
_IMAGE_FIELDS = ("bytes", "path", "image", "url", "image_url")  # struct fields that hold an image or its path
_IMAGE_SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP")


def rows(path: str | Path) -> Iterator[tuple[int, dict | InputError]]:
    """Yields (number, row) of a file, numbered from 1 (in JSONL by line); an InputError in place of a bad row.

    Raises:
        InputError: no such file, an unsupported format, or a file that cannot be read at all.
    """
    path = Path(path)
    read = dict(zip(FORMATS, (_lines, _list, _table, _delimited, _delimited))).get(path.suffix.lower())
    if read is None or not path.is_file():
        raise InputError(f"{path}: {'no such file' if read else 'rows are read from ' + ', '.join(FORMATS)}")
    try:
        for number, row in read(path):
            if not isinstance(row, dict | InputError):
                row = InputError(f"a {type(row).__name__}, not an object with columns")
            yield number, row
    except (OSError, ValueError, RecursionError, csv.Error) as error:  # pyarrow's exceptions derive from these
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({one_line(error)}): download or write it again") from error


def text(value: object, name: str) -> str:
    """Returns the value if it is storable text; InputError otherwise, as for NUL and lone surrogates."""
    if not isinstance(value, str):
        raise InputError(f"{name} is a {type(value).__name__}, not text")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{name} contains a NUL or a lone surrogate")
    return value


def text_or_number(value: object, name: str) -> str:
    """As `text`, but numbers are converted to text; NaN, sometimes written for a missing value, is not a number."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return text(str(value) if number else value, name)


def download(repo: str, folder: str | Path, patterns: Sequence[str] | None = None, revision: str | None = None) -> None:
    """Downloads a Hugging Face data set, or its files matching `patterns`, to a folder, skipping files already there.

    Raises:
        InputError: the download fails; the message has the command to run elsewhere.
    """
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repo, repo_type="dataset", revision=revision, local_dir=folder, allow_patterns=patterns)
    except Exception as error:  # the hub client passes on any exception of its network libraries
        options = f" --revision {revision}" if revision else ""
        options += "".join(f" --include '{pattern}'" for pattern in patterns or ())
        raise InputError(
            f"{repo} cannot be downloaded ({one_line(error)}): run, where there is a network, `hf download "
            f"{repo} --repo-type dataset --local-dir {folder}{options}`"
        ) from error


class ImageStore:
    """Finds and reads the images of a data file: in its folder and, for published data sets, in zips opened once.

    For a user's own file (`zips=None`) a path is used as given. For published files (`zips` may be empty) it is looked
    up in the folder, in subfolders named like `train_images`, and in the zips: first the full path, then as the end of
    a member's path. For an absolute path, which existed only on the authors' machine, its tails are looked up.

    Args:
        folder: where relative paths begin.
        zips: zips of published files.
        also: more folders where relative paths may begin.
        within: the folder that images must not leave, also by symbolic links; `folder` by default.

    Raises:
        InputError: a zip that cannot be opened.
    """

    def __init__(
        self,
        folder: str | Path,
        zips: Sequence[str | Path] | None = None,
        *,
        also: Sequence[str | Path] = (),
        within: str | Path | None = None,
    ):
        self._folder = os.path.realpath(folder)
        self._folders = list(dict.fromkeys([self._folder, *map(os.path.realpath, also)]))
        self._within = os.path.realpath(folder if within is None else within)
        self._published = zips is not None
        self._zips = [_open_zip(path) for path in zips or ()]
        self._file = functools.lru_cache(maxsize=_CACHED_IMAGES)(self._read_path)

    def reader(self, value: object) -> ImageReader:
        """Returns a function that reads an image given as bytes, as text (a path, a file:// URL, base64, a data: URL),
        or as a struct holding one of these under `bytes`, `path`, `image` or `url`."""
        return functools.partial(self._read, value)

    def _read(self, value: object) -> bytes:
        for _ in range(2):  # {"image_url": {"url": ...}} is the deepest nesting in use
            if isinstance(value, Mapping):
                value = next((value[key] for key in _IMAGE_FIELDS if value.get(key)), None)
        if isinstance(value, bytes) and value:
            return value
        if not isinstance(value, str) or not value:
            raise InputError(f"an image is given as {type(value).__name__} {_short(value)}; give a path or its bytes")
        if value.startswith("data:"):
            return _data_url(value)
        if re.match(r"https?://", value, re.I):
            raise InputError(f"image {_short(value)} is on the web: download it and give its path")
        decoded = _image_in_base64(value)
        return self._file(value) if decoded is None else decoded

    def _read_path(self, value: str) -> bytes:
        path = urllib.parse.unquote(value.removeprefix("file://")) if value.startswith("file://") else value
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts and (self._published or self._within == self._folder == self._folders[-1]):
            raise InputError(f"image {_short(value)} leaves its folder: give a path inside it, or --images=FOLDER")
        try:
            tails = _tails(path, parts)
            roots = [*self._folders, *self._image_folders]
            places = [os.path.join(root, tail) for tail in tails for root in roots]
            if not self._published:
                return self._read_given(path, value)
            if file := next(filter(os.path.isfile, places), None):
                return self._read_inside(file, value)
            return self._read_zipped(tails, value)
        except (OSError, ValueError) as error:  # an invalid path, or one without read permission
            if isinstance(error, InputError):
                raise
            raise InputError(f"image {_short(value)} cannot be read ({one_line(error)})") from error

    def _read_given(self, path: str, value: str) -> bytes:
        """The image at a path, from any of the folders; an absolute path is used as given."""
        files = [file for folder in self._folders if os.path.isfile(file := os.path.join(folder, path))]
        if not files:
            raise InputError(f"image {_short(value)} is not in {' or '.join(self._folders)}")
        if len({os.path.realpath(file) for file in files}) > 1:
            raise InputError(f"image {_short(value)} may be {files[0]} or {files[1]}: rename one")
        return self._read_inside(files[0], value)

    def _read_inside(self, path: str, value: str) -> bytes:
        real = os.path.realpath(path)
        if os.path.commonpath([self._within, real]) != self._within:
            raise InputError(f"image {_short(value)} is outside {self._within}: put it there, or give --images=FOLDER")
        _check_bytes(os.path.getsize(real), value)
        with open(real, "rb") as file:
            return file.read()

    def _read_zipped(self, tails: list[str], value: str) -> bytes:
        members = self._members(tails)
        if not members:
            zips = f" and its {len(self._zips)} zips" if self._zips else ""
            raise InputError(f"image {_short(value)} is not in {self._folder}{zips}")
        if len({name for _, name in members}) > 1:
            raise InputError(f"image {_short(value)} may be {members[0][1]} or {members[-1][1]} of the zips")
        return read_member(*members[0])

    def _members(self, tails: list[str]) -> list[tuple[zipfile.ZipFile, str]]:
        """The zip members that match the longest tail: the whole path, or the end of it."""
        for tail in tails:
            candidates = self._index.get(tail.rpartition("/")[2], ())
            if members := [(archive, name) for archive, name in candidates if name == tail]:
                return members
            ambiguous = "/" not in tail and tail != tails[0]  # a bare file name may match an unrelated member
            members = [(archive, name) for archive, name in candidates if name.endswith("/" + tail)]
            if members and not ambiguous:
                return members
        return []

    @functools.cached_property
    def _index(self) -> dict[str, list[tuple[zipfile.ZipFile, str]]]:
        """{file name: [(archive, member)]}, without members whose paths escape the archive."""
        index = collections.defaultdict(list)
        for archive in self._zips:
            for name in archive.namelist():
                if not name.endswith("/") and not name.startswith("/") and ".." not in name.split("/"):
                    index[name.rpartition("/")[2]].append((archive, name))
        return index

    @functools.cached_property
    def _image_folders(self) -> list[str]:
        return sorted(str(path) for path in Path(self._folder).glob("*images*") if path.is_dir())


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member of a zip. Raises InputError where it has more than MAX_BYTES, whatever it declares, or is damaged."""
    info, where = archive.getinfo(name), f"{name} of {archive.filename}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack any size at once
        raise InputError(f"{where} is not packed by deflate: pack the zip again")
    if info.file_size > MAX_BYTES:
        raise InputError(f"{where} has {info.file_size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        with archive.open(info) as member:
            data = b"".join(iter(lambda: member.read(1 << 20), b""))  # at once it would unpack up to 2 GiB
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{where} cannot be unpacked ({one_line(error)})") from error
    return data


def is_image(value: object) -> bool:
    """Whether a value has the form of an image that `ImageStore` reads, or of a list of them. Nothing is opened."""
    images = listed(value)
    return bool(images) and all(map(_is_one_image, images))


def _is_one_image(value: object) -> bool:
    for _ in range(2):
        if isinstance(value, Mapping):
            value = next((value[key] for key in _IMAGE_FIELDS if value.get(key)), None)
    if isinstance(value, bytes):
        return value.startswith(_IMAGE_SIGNATURES)
    if not isinstance(value, str):
        return False
    path = value.lower().endswith(IMAGE_SUFFIXES) and "\n" not in value
    return path or value.startswith("data:image/") or _image_in_base64(value) is not None


def listed(value: object) -> list:
    """An image column's value as a list: of one image, a list, its JSON or printed Python, or paths with separators."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        for parse in (json.loads, ast.literal_eval):
            try:
                found = parse(value.strip())
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                continue
            if isinstance(found, list):
                return found
    if value is None or value == "":
        return []
    if isinstance(value, str) and len(value) < _LONGEST_CELL:  # a cell with several paths: a.png;b.png
        for separator in ";|,\n":
            parts = [part.strip() for part in value.split(separator)]
            if len(parts) > 1 and all(part.lower().endswith(IMAGE_SUFFIXES) for part in parts):
                return parts
    return list(value) if isinstance(value, list | tuple) else [value]


def image_zips(folder: str | Path, split: str = "train") -> list[Path]:
    """The zips in a folder that hold a split's images: those listed in `<split>_images_zips.txt`, one per line, else
    `<split>_images.zip`. Zips that are listed but absent are skipped; rows that need them then lack their images."""
    folder = Path(folder)
    listing = folder / f"{split}_images_zips.txt"
    names = listing.read_text(encoding="utf-8").split() if listing.is_file() else [f"{split}_images.zip"]
    return [folder / Path(name).name for name in names if (folder / Path(name).name).is_file()]


def _lines(path: Path) -> Iterator[tuple[int, object]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:
                    yield number, InputError(f"line {number} is not JSON ({one_line(error)})")


def _list(path: Path) -> Iterator[tuple[int, object]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}); name a file with one object per line .jsonl") from error
    if not isinstance(content, list):
        raise InputError(f"{path} holds a {type(content).__name__}, not a list of rows")
    yield from enumerate(content, start=1)


def _table(path: Path) -> Iterator[tuple[int, object]]:
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        end = 0
        for group in range(file.num_row_groups):
            number, end = end, end + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(_ROWS_AT_A_TIME, row_groups=[group]):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                yield number + 1, InputError(f"rows {number + 1} to {end} cannot be read ({one_line(error)})")


def _delimited(path: Path) -> Iterator[tuple[int, object]]:
    """The rows of a CSV or TSV file with a header, all cells text; an empty cell is None."""
    csv.field_size_limit(MAX_BYTES)  # a cell may be an image in base64
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.reader(file, "excel-tab" if path.suffix.lower() == ".tsv" else "excel", strict=True)
        header = next(table, [])
        if repeated := [name for name, times in collections.Counter(header).items() if times > 1]:
            raise InputError(f"{path} has the column {repeated[0]!r} twice: rename one")
        for number, cells in enumerate(filter(None, table), start=1):
            if len(cells) != len(header):
                yield number, InputError(f"row {number} has {len(cells)} cells under {len(header)} columns")
            else:
                yield number, {name: cell or None for name, cell in zip(header, cells)}


def _open_zip(path: str | Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be opened as a zip ({one_line(error)}): download it again") from error


def _tails(path: str, parts: list[str]) -> list[str]:
    """Suffixes of the path, longest first: all of an absolute path's, else the path and, if its first folder is like
    `train_images`, the path without it."""
    starts = len(parts) if path.startswith("/") else 1 + (len(parts) > 1 and "images" in parts[0])
    return ["/".join(parts[start:]) for start in range(starts)]


def _data_url(value: str) -> bytes:
    head, comma, body = value.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InputError(f"image {_short(value)} is not a data: URL in base64")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"image {_short(value)} is not base64 ({one_line(error)})") from error


def _image_in_base64(value: str) -> bytes | None:
    """The decoded bytes if the text is base64 of an image; else None, and the text is a path."""
    if not _BASE64.fullmatch(value):
        return None
    try:
        data = base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if data.startswith(_IMAGE_SIGNATURES) else None


def _check_bytes(count: int, value: str) -> None:
    if count > MAX_BYTES:
        raise InputError(f"image {_short(value)} has {count:,} bytes; at most {MAX_BYTES:,} are read")


def _short(value: object) -> str:
    return text if len(text := ascii(value)) <= 100 else f"{text[:97]}..."
