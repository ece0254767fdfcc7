"""Vision-language model families in Flax, behind one interface; independent of RL.

The family is chosen by the `model_type` of config.json, or of a config read from one:

    load(path, dtype="float32", compute_dtype=None, sharding=None) -> Model     reads a Hugging Face directory
    save(model, path, dtype=None)                                               writes one
    pack(config, [(input_ids, images), ...], min_pixels=None, max_pixels=None)  prompts as padded arrays
    named(tree) -> {hub name: array}                                            of a model, an nnx.State or a dict
    Processor.from_pretrained(path) -> Processor                                chat messages and images to token ids
    read_config(path) -> Config, published() -> {hub id: Config}                sizes, without weights
    family(config) -> the package

A family is a package in this one, named by its `model_type`, with an entry in FAMILIES. The shared modules (attention,
layers, images, packing, chat, weights, adapters) and perl_jax use these names of it:

    Config                              as below, by Config.from_hf(config.json as a dict); to_hf() is the inverse
    Model                               as below, an nnx.Module
    NAME                                the family's name in texts, such as Qwen2.5-VL
    published() -> {hub id: Config}     built-in sizes
    pack_images(config.vision, batches, shards=1, local_shards=None) -> [(pack, index), ...]
        For each batch of images (`packing.Prepared`) its pack, or None where no batch has an image: a pytree of arrays
        [R, ...] in R rows, a multiple of `shards`, all packs of one shape, with `images`: int32 [R, C], the index in
        the row of each patch's image, -1 for none. And for each image the (row, place) of its merged tokens, int32
        [n, 2]. Patches are left zero in rows of shards that are not in `local_shards`.
    pack_shapes(config.vision, patches, count, shards) -> such a pack of jax.ShapeDtypeStruct
        Of `count` images of so many patches each.
    hub_name(name) -> str               a tensor's name in the family's files, by the name from its attribute path
    OWN_WEIGHTS                         attributes by which `named` knows the family of weights without a config
    from_scratch.make(path, sizes, texts, seed=0, vocab_size=1000)
    from_scratch.make_processor(path, sizes, texts, vocab_size=1000)
        Writes a directory with random weights and a tokenizer trained on texts, and the same without weights; `sizes`
        is {"vision": {...}, "text": {...}} with the field names of its configs.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from models.errors import InputError

MARKER = "<image>"  # in the text of a chat message: the place of the next of its images

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from models.source import Source

FAMILIES = {  # model_type: its entry in `architectures`
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}


def family(config: Any) -> ModuleType:
    """The package of a `Config`, or of a config.json as a dict; InputError for an unknown family."""
    if not isinstance(config, Mapping):
        return importlib.import_module(f"models.{config.model_type}")
    kind, architectures = config.get("model_type"), config.get("architectures")
    names = [name for name, its in FAMILIES.items() if kind == name or (kind is None and architectures == [its])]
    if not names:
        known = ", ".join(FAMILIES)
        raise InputError(f"config.json: model_type is {kind!r}, architectures {architectures!r}: known are {known}")
    return importlib.import_module(f"models.{names[0]}")


def read_config(path: str | Path) -> "Config":
    """The sizes in the config.json of a directory. Raises InputError."""
    from models.source import read_json  # numpy comes with it, which a list of commands can do without

    raw = read_json(Path(path) / "config.json")
    return family(raw).Config.from_hf(raw)


def published() -> dict[str, "Config"]:
    """The sizes of all published models, by hub id."""
    return {name: config for kind in FAMILIES for name, config in family({"model_type": kind}).published().items()}


# Imported lazily, like families: `models` is imported everywhere, also in workers without JAX.
_MODULES = {"load": "weights", "save": "weights", "named": "weights", "pack": "packing", "Processor": "processing"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"models.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# The interface of a family's classes for shared modules and perl_jax. R rows of C patches, T tokens, D is the hidden
# size, E the embedding size, V the vocabulary, H and J heads of queries and of keys, d their size.


class TextConfig(Protocol):
    """Sizes of the decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int  # of its gated MLP
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool


class VisionConfig(Protocol):
    """Sizes of the vision tower, and settings of image preprocessing."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch_size: int  # pixels per side
    spatial_merge_size: int  # patches per side of an image token
    temporal_patch_size: int  # how many times an image is repeated in time
    in_channels: int
    image_mean: tuple[float, float, float]  # red, green, blue, of values from 0 to 1
    image_std: tuple[float, float, float]
    min_pixels: int  # of a resized image, unless set by caller or processor
    max_pixels: int

    def flops(self, patches: Sequence[int]) -> int:
        """FLOPs of a forward pass over images with these numbers of patches; a multiply-add is 2."""


class Config(Protocol):
    """Sizes of a model: hashable, so that it can be a static attribute of a jitted module."""

    model_type: str
    text: TextConfig
    vision: VisionConfig
    image_token_id: int  # one per merged patch
    video_token_id: int
    embedding_size: int  # E: the hidden size, plus the sizes of any features that later layers add at the same token


class Decoder(Protocol):
    """The decoder of a `Model`."""

    layers: "nnx.Module | nnx.List"

    def __call__(
        self, h: "jax.Array", positions: "jax.Array", attend: Callable, caches: Any = None, *, remat: str = "none"
    ) -> tuple["jax.Array", Any]:
        """(h [T, E], positions int32 [3, T], attend, caches=None, *, remat="none") -> (hidden [T, D], caches): the
        decoder over one row, up to its last norm. `attend(q [T, H, d], k [T, J, d], v [T, J, d], cache) -> (out [T, H,
        d], cache)` is each layer's attention (attention.py), with positions already in q and k; `caches` has an entry a
        layer. A row of tokens that are no images may come as [T, D]."""


class Model(Protocol):
    """A network, made by Model(config, rngs=, dtype=float32, compute_dtype=None, source=None).

    Its weights have the metadata `axes`, logical names (perl_jax/mesh.py), and paths from which weights.py derives the
    hub's names: the vision tower is `visual`, stacked layers are `visual.blocks` and `model.layers`, the embeddings [V,
    D] are `model.embed_tokens.embedding`, and an untied head is `lm_head`. Linear layers are `layers.Linear`, which may
    get adapters. `model.layers` may also be a list of single layers (`layers.unstacked`).
    """

    config: Config
    source: "Source | None"  # the loaded directory
    compute_dtype: Any
    visual: Any
    model: Decoder

    def encode(self, pack: Any, *, remat: str = "none", constrain: Callable = lambda h: h) -> "jax.Array":
        """Image tokens [R, C / merge^2, E] of a pack; `constrain` is called on the matrix of patches [R * C, ...]."""

    def embed(
        self, ids: "jax.Array", image_index: "jax.Array | None" = None, image_tokens: "jax.Array | None" = None
    ) -> "jax.Array":
        """Embeddings [..., E] of ids [...], with image tokens at (row, place) where image_index [..., 2] is not -1.

        Embeddings are [..., D] without `image_tokens`.
        """

    def head(self) -> "jax.Array":
        """The output matrix [D, V], as stored."""

    def logits(self, h: "jax.Array") -> "jax.Array":
        """Logits, float32 [..., V], of hidden states [..., D]."""
