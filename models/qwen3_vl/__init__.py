"""Qwen3-VL (dense) in Flax: vision tower, config, image packing and new small models; the rest is shared."""

from models.packing import Inputs, pack
from models.processing import Processor
from models.qwen3_vl import from_scratch
from models.qwen3_vl.config import Config, TextConfig, VisionConfig, published
from models.qwen3_vl.model import Qwen3_VL
from models.qwen3_vl.packing import pack_images, pack_shapes
from models.source import Source
from models.source import memory_name as hub_name  # the files have the in-memory names
from models.weights import load, named, save

Model = Qwen3_VL  # the common name in all families
NAME = "Qwen3-VL"  # as in texts
OWN_WEIGHTS = frozenset({"pos_embed", "deepstack_merger_list", "q_norm", "k_norm"})

__all__ = [
    "NAME",
    "OWN_WEIGHTS",
    "Config",
    "Inputs",
    "Model",
    "Processor",
    "Qwen3_VL",
    "Source",
    "TextConfig",
    "VisionConfig",
    "from_scratch",
    "hub_name",
    "load",
    "named",
    "pack",
    "pack_images",
    "pack_shapes",
    "published",
    "save",
]
