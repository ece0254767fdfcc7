"""Config of Qwen2.5-VL, read from and written to Hugging Face's config.json."""

import dataclasses
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

ARCHITECTURE = FAMILIES["qwen2_5_vl"]

PUBLISHED = {  # layers, width, MLP, heads, KV heads, vocabulary, tied head; hidden units of the vision tower's MLP
    "3B": (36, 2048, 11008, 16, 2, 151936, True, 3420),
    "7B": (28, 3584, 18944, 28, 4, 152064, False, 3420),
    "32B": (64, 5120, 27648, 40, 8, 152064, False, 3456),
    "72B": (80, 8192, 29568, 64, 8, 152064, False, 3456),
}


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower; windows and patches are in pixels, `fullatt_block_indexes` are the full-attention blocks."""

    image_mean: ClassVar = (0.48145466, 0.4578275, 0.40821073)  # CLIP's red, green, blue
    image_std: ClassVar = (0.26862954, 0.26130258, 0.27577711)
    min_pixels: ClassVar[int] = 56 * 56  # of an image, unless its processor sets another
    max_pixels: ClassVar[int] = 28 * 28 * 1280

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    in_channels: int = 3

    def flops(self, patches: Sequence[int]) -> int:
        """FLOPs of a forward pass over images with these numbers of patches; a multiply-add is 2.

        2 n (X D + L (4 D^2 + 3 D F)) + 4 D (full layers n^2 + window layers n w) + the merger's 2 n (m D^2 + D E), for
        n patches of X values, windows of w patches and m of them merged to one token of width E.
        """
        D, F, L = self.hidden_size, self.intermediate_size, self.depth
        merged = self.spatial_merge_size**2
        values = self.in_channels * self.temporal_patch_size * self.patch_size**2
        full = sum(0 <= index < L for index in self.fullatt_block_indexes)
        window = (self.window_size // self.patch_size) ** 2
        total = 0
        for n in patches:
            total += 2 * n * (values * D + L * (4 * D * D + 3 * D * F))
            total += 4 * D * (full * n * n + (L - full) * n * min(n, window))
            total += 2 * n * (merged * D * D + D * self.out_hidden_size)
        return total


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The decoder; `mrope_section` splits half a head between time, height and width."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rope_theta: float
    mrope_section: tuple[int, ...]
    rms_norm_eps: float
    tie_word_embeddings: bool

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole model: hashable, so that it can be a static attribute of a jitted module."""

    model_type: ClassVar[str] = "qwen2_5_vl"
    vision: VisionConfig
    text: TextConfig
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    @property
    def embedding_size(self) -> int:
        """The width of an input embedding; no features are added to later layers."""
        return self.text.hidden_size

    @classmethod
    def published(cls, size: str) -> "Config":
        """The sizes of Qwen/Qwen2.5-VL-<size>-Instruct, for uses without weights."""
        L, D, F, H, J, V, tied, vision = PUBLISHED[size]
        text = TextConfig(V, D, F, L, H, J, 1e6, (16, 24, 24), 1e-6, tie_word_embeddings=tied)
        return cls(VisionConfig(32, 1280, vision, 16, D), text)

    @classmethod
    def from_hf(cls, raw: dict[str, Any]) -> "Config":
        """Reads a config.json, nested (`text_config`, `rope_parameters`) or flat (`rope_scaling`, `rope_theta` on top).

        Missing keys take transformers' defaults. Raises InputError for another architecture, for unsupported features
        (sliding windows, other activations or rotary types) and for inconsistent sizes.
        """
        check_architecture(raw, cls.model_type, ARCHITECTURE, "Qwen2.5-VL")
        text = raw if raw.get("text_config") is None else section(raw, "text_config")
        # Versions keep this flag in either place; the default is False in both, so a True in one counts.
        tied = flag(raw, "tie_word_embeddings") or flag(text, "tie_word_embeddings")
        config = cls(_vision(section(raw, "vision_config")), _text(text, tied), **token_ids(raw, cls))
        _check_sizes(config)
        return config

    def to_hf(self) -> dict[str, Any]:
        """A config.json in the published (flat) layout, which every version of transformers and vLLM reads.

        End-of-text ids are null: they belong to the tokenizer and generation_config.json, which this class does not
        have.
        """
        text, vision = dataclasses.asdict(self.text), dataclasses.asdict(self.vision)
        mrope = list(text.pop("mrope_section"))
        return {
            "architectures": [ARCHITECTURE],
            "model_type": self.model_type,
            **text,
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": mrope},
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "max_position_embeddings": 128000,
            "use_sliding_window": False,
            "bos_token_id": None,
            "eos_token_id": None,
            "image_token_id": self.image_token_id,
            "video_token_id": self.video_token_id,
            "vision_start_token_id": self.vision_start_token_id,
            "vision_end_token_id": self.vision_end_token_id,
            "vision_config": {
                "model_type": "qwen2_5_vl_vision",
                **vision,
                "fullatt_block_indexes": list(self.vision.fullatt_block_indexes),
                "in_chans": self.vision.in_channels,
                "hidden_act": "silu",
            },
        }


def published() -> dict[str, Config]:
    """The sizes of all published models, by hub id."""
    return {f"Qwen/Qwen2.5-VL-{size}-Instruct": Config.published(size) for size in PUBLISHED}


def _vision(raw: dict[str, Any]) -> VisionConfig:
    where = "vision_config."
    check_activation(raw, "silu", where)
    check_vision_rope(raw)
    depth = integer(raw, "depth", 32, where, most=MOST_LAYERS)
    blocks = integers(raw, "fullatt_block_indexes", (7, 15, 23, 31), "block numbers", where)
    return VisionConfig(
        depth=depth,
        hidden_size=integer(raw, "hidden_size", 3584, where),
        intermediate_size=integer(raw, "intermediate_size", 3420, where),
        num_heads=integer(raw, "num_heads", 16, where),
        out_hidden_size=integer(raw, "out_hidden_size", 3584, where),
        patch_size=integer(raw, "patch_size", 14, where),
        spatial_merge_size=integer(raw, "spatial_merge_size", 2, where),
        temporal_patch_size=integer(raw, "temporal_patch_size", 2, where),
        window_size=integer(raw, "window_size", 112, where),
        # transformers ignores indexes past the last block, as in small models with the default list.
        fullatt_block_indexes=tuple(sorted({block for block in blocks if 0 <= block < depth})),
        in_channels=integer(raw, "in_channels", integer(raw, "in_chans", 3, where), where),
    )


def _text(raw: dict[str, Any], tied: bool) -> TextConfig:
    check_text(raw)
    heads = integer(raw, "num_attention_heads", 64)
    theta, sections = rope(raw, 1e6, (16, 24, 24))
    return TextConfig(
        vocab_size=integer(raw, "vocab_size", 152064),
        hidden_size=integer(raw, "hidden_size", 8192),
        intermediate_size=integer(raw, "intermediate_size", 29568),
        num_hidden_layers=integer(raw, "num_hidden_layers", 80, most=MOST_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=integer(raw, "num_key_value_heads", 8, null=heads),
        rope_theta=theta,
        mrope_section=sections,
        rms_norm_eps=number(raw, "rms_norm_eps", 1e-5),
        tie_word_embeddings=tied,
    )


def _check_sizes(config: Config) -> None:
    vision, text = config.vision, config.text
    require(
        text.hidden_size % text.num_attention_heads == 0 and text.head_dim % 2 == 0,
        f"hidden_size {text.hidden_size} is no multiple of {text.num_attention_heads} heads of even size",
    )
    check_sizes(vision, text)
    require(
        vision.window_size >= vision.patch_size * vision.spatial_merge_size,
        f"vision_config.window_size {vision.window_size} is smaller than one merged patch "
        f"({vision.patch_size * vision.spatial_merge_size} pixels)",
    )
