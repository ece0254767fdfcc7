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
from models.source import read_json

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
    raw = read_json(Path(path) / "config.json")
    return family(raw).Config.from_hf(raw)


def published() -> dict[str, "Config"]:
    """The sizes of all published models, by their hub ids."""
    return {name: config for kind in FAMILIES for name, config in family({"model_type": kind}).published().items()}


_HOMES = {"load": "weights", "save": "weights", "named": "weights", "pack": "packing", "Processor": "processing"}


def __getattr__(name: str) -> Any:
    """What the door's other names are, once they are asked for: most need JAX."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"models.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
