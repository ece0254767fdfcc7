"""Reads a Hugging Face directory: config.json, tensors (lazily, never unpickled) and side files."""

import dataclasses
import fnmatch
import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from models.errors import InputError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SIDE_FILES = (
    "tokenizer*.json",
    "tokenizer*.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*.json",
    "chat_template*.jinja",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "perl_jax.json",
    "LICENSE*",
)
_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
DTYPES = {name: np.dtype(dtype) for name, dtype in _TYPES.items()}  # by their names in safetensors
MAX_HEADER = 100_000_000  # bytes, as the safetensors library allows


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Metadata of loaded weights, with which `save` writes a complete directory.

    Compared and hashed by one digest: a model carries it as a static attribute, which keys compilation caches.
    """

    config: bytes = dataclasses.field(repr=False)  # of config.json
    dtypes: tuple[tuple[str, str], ...] = dataclasses.field(repr=False)  # (short name, dtype on disk), in its order
    files: tuple[tuple[str, bytes], ...] = dataclasses.field(repr=False)  # (name, bytes) of side files
    digest: str = dataclasses.field(init=False)

    def __post_init__(self):
        digest = hashlib.sha256(repr((self.config, self.dtypes)).encode())
        for name, data in self.files:
            digest.update(name.encode() + hashlib.sha256(data).digest())
        object.__setattr__(self, "digest", digest.hexdigest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @functools.cached_property
    def dtype_of(self) -> dict[str, str]:
        """{short name: dtype on disk} of all tensors on disk."""
        return dict(self.dtypes)

    @functools.cached_property
    def pad_id(self) -> int:
        """The padding token in generation_config.json or config.json, else 0; what cannot be one is passed over."""
        named = [json.loads(dict(self.files).get("generation_config.json", b"{}")), json.loads(self.config)]
        ids = [content.get("pad_token_id") for content in named]
        return next((number for number in ids if isinstance(number, int) and 0 <= number < 1 << 24), 0)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file, read from disk when indexed."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def __getitem__(self, index: Any) -> np.ndarray:
        # memmap reads only the indexed part into memory.
        return np.memmap(self.file, DTYPES[self.dtype], "r", self.offset, self.shape or (1,)).reshape(self.shape)[index]


def open_directory(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], Source]:
    """The config.json as a dict, {short name: Tensor} (`hub_name`) and the Source of a Hugging Face directory.

    Raises InputError, naming the file, for missing, truncated or malformed files, and for weights only in pickle files.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such directory: give a Hugging Face model directory")
    raw = read_json(path / "config.json")
    tensors = _tensors(path)
    dtypes = tuple((name, tensor.dtype) for name, tensor in tensors.items())
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    files = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in SIDE_FILES)]
    config = (path / "config.json").read_bytes()
    return raw, tensors, Source(config, dtypes, tuple((name, (path / name).read_bytes()) for name in files))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; InputError where the file is missing or holds something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file: is this a complete Hugging Face directory?") from error
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def hub_name(name: str) -> str:
    """The short name of a tensor that may have its in-memory name (`model.language_model.*`, `model.visual.*`): that
    of its attribute path, and that of Qwen2.5-VL's files."""
    for prefix, hub in (("model.language_model.", "model."), ("model.visual.", "visual.")):
        if name.startswith(prefix):
            return hub + name.removeprefix(prefix)
    return name


def memory_name(name: str) -> str:
    """The in-memory name in transformers of a tensor or module with either name: the inverse of `hub_name`."""
    name = hub_name(name)
    for prefix, memory in (("model.", "model.language_model."), ("visual.", "model.visual.")):
        if name.startswith(prefix):
            return memory + name.removeprefix(prefix)
    return name


def _tensors(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file, expected in _files(path).items():
        content = _header(path / file)
        for name in expected - content.keys():
            raise InputError(f"{path / file}: tensor {name!r} is missing here, though {INDEX} lists it: download again")
        for name, tensor in content.items():
            if hub_name(name) in tensors:
                raise InputError(
                    f"{path / file}: tensor {name!r} is there twice, also in {tensors[hub_name(name)].file}"
                )
            tensors[hub_name(name)] = tensor
    return tensors


def _files(path: Path) -> dict[str, set[str]]:
    """{safetensors file: names of tensors that must be in it}."""
    if (path / WEIGHTS).exists():
        return {WEIGHTS: set()}
    if (path / INDEX).exists():
        places = read_json(path / INDEX).get("weight_map")
        if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
            raise InputError(f"{path / INDEX}: 'weight_map' must name a file for each tensor: download it again")
        files: dict[str, set[str]] = {}
        for name, file in places.items():
            if Path(file).name != file:
                raise InputError(f"{path / INDEX}: {file!r} is not the name of a file in this directory")
            files.setdefault(file, set()).add(name)
        return files
    if pickles := sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)):
        raise InputError(f"{path / pickles[0]}: pickled weights are never read: convert them to {WEIGHTS}")
    raise InputError(f"{path}: no {WEIGHTS} and no {INDEX}: give a directory that holds the weights")


def _header(file: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file (8 bytes of length, a JSON header, raw bytes); checks the file's size."""
    if not file.is_file():
        raise InputError(f"{file}: this shard is missing: download it again")
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or size < 8 + length <= 8 + MAX_HEADER:
                raise InputError(f"{file}: truncated, its header is not complete: download it again")
            entries = json.loads(stream.read(length)) if length <= MAX_HEADER else None
        entries.pop("__metadata__", None)
        tensors = {name: _entry(file, 8 + length, name, entry) for name, entry in entries.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{file}: not a safetensors file, its header is malformed: download it again") from error
    if size != end:
        problem = "truncated" if size < end else "too long"
        raise InputError(f"{file}: {problem}, {size} bytes where its header says {end}: download it again")
    return tensors


def _entry(file: Path, start: int, name: str, entry: dict[str, Any]) -> Tensor:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in DTYPES:
        raise InputError(f"{file}: tensor {name!r} is {dtype}, only {', '.join(DTYPES)} are read: convert the weights")
    valid = all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end))
    if not valid or end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise InputError(f"{file}: tensor {name!r} has {end - begin} bytes, not those of {dtype} {list(shape)}")
    return Tensor(file, dtype, shape, start + begin)
