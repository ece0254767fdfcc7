"""Families of vision-language models in Flax, behind one door; knows nothing of RL.

The door chooses the family by the `model_type` of config.json, or of a config that was read from one:

    load(path, dtype="float32", compute_dtype=None, sharding=None) -> Model     weights of a Hugging Face directory
    save(model, path, dtype=None)                                               and back
    pack(config, [(input_ids, images), ...], min_pixels=None, max_pixels=None)  prompts as padded arrays
    named(tree) -> {hub name: array}                                            of a model, an nnx.State or a dict
    Processor.from_pretrained(path) -> Processor                                chat messages and pictures to token ids
    read_config(path) -> Config, published() -> {hub id: Config}                sizes, without weights
    family(config) -> the package

A family is a package in here that is called as its `model_type`, has its line in FAMILIES, and has these names:

    Config               as below, made by Config.from_hf(config.json as a dict); to_hf() is back
    Model                as below, made by Model(config, rngs=, dtype=, compute_dtype=, source=)
    published()          {hub id: Config}
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from models.errors import InputError

FAMILIES = {"qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration"}  # model_type: what `architectures` says of it


def family(config: Any) -> ModuleType:
    """The package of a `Config`, or of a config.json as a dict; InputError for a model of no known family."""
    # Imported only when it is asked for: `models` is imported everywhere, also in grading workers, which have no JAX.
    if not isinstance(config, Mapping):
        return importlib.import_module(f"models.{config.model_type}")
    kind, architectures = config.get("model_type"), config.get("architectures")
    found = [name for name, its in FAMILIES.items() if kind == name or (kind is None and architectures == [its])]
    if not found:
        known = ", ".join(FAMILIES)
        raise InputError(f"config.json: model_type is {kind!r}, architectures {architectures!r}: known are {known}")
    return importlib.import_module(f"models.{found[0]}")


def read_config(path: str | Path) -> "Config":
    """The sizes that the config.json of a directory says. Raises InputError."""
    raw = _raw(path)
    return family(raw).Config.from_hf(raw)


def published() -> dict[str, "Config"]:
    """The sizes of all published models, by their hub ids."""
    return {name: config for kind in FAMILIES for name, config in family({"model_type": kind}).published().items()}


def load(path: str | Path, dtype="float32", compute_dtype=None, sharding=None) -> "Model":
    """The model in a Hugging Face directory."""
    return family(_raw(path)).load(path, dtype, compute_dtype, sharding)


def save(model: "Model", path: str | Path, dtype=None) -> None:
    """Writes a Hugging Face directory."""
    family(model.config).save(model, path, dtype)


def named(tree):
    """{hub name: array} of a model, an nnx.State or a dict: all families have the same names."""
    return family({"model_type": next(iter(FAMILIES))}).named(tree)


def pack(config: "Config", prompts, *args, **kwargs):
    """Packs prompts [(input_ids, images), ...]."""
    return family(config).pack(config, prompts, *args, **kwargs)


class Processor:
    """Chat messages and pictures to token ids."""

    @staticmethod
    def from_pretrained(path: str | Path) -> "Processor":
        """Reads the tokenizer and processor files of a local directory."""
        return family(_raw(path)).Processor.from_pretrained(path)


def _raw(path: str | Path) -> dict[str, Any]:
    from models.source import read_json

    if not Path(path).is_dir():
        raise InputError(f"{path}: no such directory: give a local Hugging Face directory")
    return read_json(Path(path) / "config.json")


class TextConfig(Protocol):
    """Sizes of a decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int  # of the gated MLP
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool


class VisionConfig(Protocol):
    """Sizes of a vision tower."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch_size: int  # pixels of a side
    spatial_merge_size: int  # patches of a side that make one image token
    temporal_patch_size: int
    in_channels: int


class Config(Protocol):
    """Sizes of a model: hashable, so that it can be a static attribute of a jitted module."""

    model_type: str
    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    video_token_id: int


class Model(Protocol):
    """A network, an nnx.Module."""

    config: Config
