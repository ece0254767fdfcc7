"""Config of dense Qwen3-VL, read from and written to Hugging Face's config.json."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from models import FAMILIES
from models.config_json import (
    MOST_LAYERS,
    check_activation,
    check_architecture,
    check_sizes,
    check_text,
    check_vision_rope,
    flag,
    integer,
    integers,
    number,
    require,
    rope,
    section,
    token_ids,
)

ARCHITECTURE = FAMILIES["qwen3_vl"]

PUBLISHED = {  # layers, width, MLP, heads, tied head; whether the vision tower is the large one
    "2B": (28, 2048, 6144, 16, True, False),
    "4B": (36, 2560, 9728, 32, True, False),
    "8B": (36, 4096, 12288, 32, False, True),
    "32B": (64, 5120, 25600, 64, False, True),
}
SMALL_VISION = (24, 1024, 4096, 16), (5, 11, 17)  # depth, width, MLP, heads; deepstack_visual_indexes
LARGE_VISION = (27, 1152, 4304, 16), (8, 16, 24)


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower; after the blocks of `deepstack_visual_indexes` a merger each makes features for the decoder."""

    image_mean: ClassVar = (0.5, 0.5, 0.5)
    image_std: ClassVar = (0.5, 0.5, 0.5)
    min_pixels: ClassVar[int] = 256 * 256  # of an image, unless its processor sets another: as published
    max_pixels: ClassVar[int] = 4096 * 4096

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    patch_size: int = 16
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    num_position_embeddings: int = 2304
    deepstack_visual_indexes: tuple[int, ...] = (8, 16, 24)
    in_channels: int = 3

    @property
    def table_side(self) -> int:
        """The side of the square table of learned positions."""
        return math.isqrt(self.num_position_embeddings)

    @property
    def deepstack_mergers(self) -> tuple[int, ...]:
        """The mergers that make features, in the order of their blocks. Block i has the first that names it; one that
        names no block makes none, as in transformers."""
        indexes = self.deepstack_visual_indexes
        return tuple(indexes.index(block) for block in range(self.depth) if block in indexes)

    def flops(self, patches: Sequence[int]) -> int:
        """FLOPs of a forward pass over images with these numbers of patches; a multiply-add is 2.

        2 n (X D + L (4 D^2 + 2 D F)) + 4 D L n^2 + the mergers' 2 n (m D^2 + D E) each, for n patches of X values, m of
        them merged to one token of width E.
        """
        D, F, L = self.hidden_size, self.intermediate_size, self.depth
        values = self.in_channels * self.temporal_patch_size * self.patch_size**2
        merger = self.spatial_merge_size**2 * D * D + D * self.out_hidden_size
        mergers = (1 + len(self.deepstack_mergers)) * merger
        return sum(2 * n * (values * D + L * (4 * D * D + 2 * D * F) + mergers) + 4 * D * L * n * n for n in patches)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The decoder; `mrope_section` says how many frequencies of a head follow time, height and width, in turns."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    mrope_section: tuple[int, ...]
    rms_norm_eps: float
    tie_word_embeddings: bool


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole model: hashable, so that it can be a static attribute of a jitted module."""

    model_type: ClassVar[str] = "qwen3_vl"
    vision: VisionConfig
    text: TextConfig
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    @property
    def embedding_size(self) -> int:
        """The width of an input embedding: the token's, and a feature for each of the first decoder layers."""
        return self.text.hidden_size * (1 + len(self.vision.deepstack_mergers))

    @classmethod
    def published(cls, size: str) -> "Config":
        """The sizes of Qwen/Qwen3-VL-<size>-Instruct, for uses without weights."""
        L, D, F, H, tied, large = PUBLISHED[size]
        vision, deepstack = LARGE_VISION if large else SMALL_VISION
        text = TextConfig(151936, D, F, L, H, 8, 128, 5e6, (24, 20, 20), 1e-6, tie_word_embeddings=tied)
        return cls(VisionConfig(*vision, D, deepstack_visual_indexes=deepstack), text)

    @classmethod
    def from_hf(cls, raw: dict[str, Any]) -> "Config":
        """Reads a config.json in the layout of the hub (`rope_scaling`, `rope_theta`) or of transformers 5
        (`rope_parameters`).

        Missing keys take transformers' defaults. Raises InputError for another architecture, for unsupported features
        (biases in attention, sliding windows, other activations or rotary types) and for inconsistent sizes.
        """
        check_architecture(raw, cls.model_type, ARCHITECTURE, "dense Qwen3-VL")
        text = section(raw, "text_config")
        # Versions keep this flag in either place; the default is False in both, so a True in one counts.
        tied = flag(raw, "tie_word_embeddings") or flag(text, "tie_word_embeddings", "text_config.")
        config = cls(_vision(section(raw, "vision_config")), _text(text, tied), **token_ids(raw, cls))
        require(config.text.head_dim % 2 == 0, f"head_dim {config.text.head_dim} must be even")
        check_sizes(config.vision, config.text)
        return config

    def to_hf(self) -> dict[str, Any]:
        """A config.json in the published layout, which transformers 4.57, 5 and vLLM read.

        End-of-text ids are null: they belong to the tokenizer and generation_config.json, which this class does not
        have.
        """
        text, vision = dataclasses.asdict(self.text), dataclasses.asdict(self.vision)
        mrope, tied = list(text.pop("mrope_section")), text.pop("tie_word_embeddings")
        return {
            "architectures": [ARCHITECTURE],
            "model_type": self.model_type,
            "image_token_id": self.image_token_id,
            "video_token_id": self.video_token_id,
            "vision_start_token_id": self.vision_start_token_id,
            "vision_end_token_id": self.vision_end_token_id,
            "tie_word_embeddings": tied,
            "text_config": {
                "model_type": "qwen3_vl_text",
                **text,
                "rope_scaling": {"mrope_interleaved": True, "mrope_section": mrope, "rope_type": "default"},
                "attention_bias": False,
                "attention_dropout": 0.0,
                "hidden_act": "silu",
                "initializer_range": 0.02,
                "max_position_embeddings": 262144,
                "tie_word_embeddings": tied,
                "bos_token_id": None,
                "eos_token_id": None,
            },
            "vision_config": {
                "model_type": self.model_type,
                **vision,
                "deepstack_visual_indexes": list(self.vision.deepstack_visual_indexes),
                "hidden_act": "gelu_pytorch_tanh",
                "initializer_range": 0.02,
            },
        }


def published() -> dict[str, Config]:
    """The sizes of all published models, by hub id."""
    return {f"Qwen/Qwen3-VL-{size}-Instruct": Config.published(size) for size in PUBLISHED}


def _vision(raw: dict[str, Any]) -> VisionConfig:
    where = "vision_config."
    check_activation(raw, "gelu_pytorch_tanh", where)
    check_vision_rope(raw)
    return VisionConfig(
        depth=integer(raw, "depth", 27, where, most=MOST_LAYERS),
        hidden_size=integer(raw, "hidden_size", 1152, where),
        intermediate_size=integer(raw, "intermediate_size", 4304, where),
        num_heads=integer(raw, "num_heads", 16, where),
        out_hidden_size=integer(raw, "out_hidden_size", 3584, where),
        patch_size=integer(raw, "patch_size", 16, where),
        spatial_merge_size=integer(raw, "spatial_merge_size", 2, where),
        temporal_patch_size=integer(raw, "temporal_patch_size", 2, where),
        num_position_embeddings=integer(raw, "num_position_embeddings", 2304, where),
        deepstack_visual_indexes=integers(raw, "deepstack_visual_indexes", (8, 16, 24), "block numbers", where),
        in_channels=integer(raw, "in_channels", 3, where),
    )


def _text(raw: dict[str, Any], tied: bool) -> TextConfig:
    check_text(raw)
    require(
        not flag(raw, "attention_bias", "text_config."),
        "text_config.attention_bias is true: no published Qwen3-VL has biases in attention",
    )
    heads = integer(raw, "num_attention_heads", 32)
    theta, sections = rope(raw, 5e5, (24, 20, 20))
    return TextConfig(
        vocab_size=integer(raw, "vocab_size", 151936),
        hidden_size=integer(raw, "hidden_size", 4096),
        intermediate_size=integer(raw, "intermediate_size", 22016),
        num_hidden_layers=integer(raw, "num_hidden_layers", 32, most=MOST_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=integer(raw, "num_key_value_heads", 32, null=heads),
        head_dim=integer(raw, "head_dim", 128),
        rope_theta=theta,
        mrope_section=sections,
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-6),
        tie_word_embeddings=tied,
    )
