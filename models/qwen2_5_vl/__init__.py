"""Qwen2.5-VL in Flax: network, config, image packing and new small models; the rest is shared."""

from models.packing import Inputs, pack
from models.processing import Processor
from models.qwen2_5_vl import from_scratch
from models.qwen2_5_vl.config import Config, TextConfig, VisionConfig, published
from models.qwen2_5_vl.model import Qwen2_5_VL
from models.qwen2_5_vl.packing import pack_images, pack_shapes
from models.source import Source, hub_name
from models.weights import load, named, save

Model = Qwen2_5_VL  # the common name in all families
NAME = "Qwen2.5-VL"  # as in texts
OWN_WEIGHTS = frozenset({"ln_q"})

__all__ = [
    "NAME",
    "OWN_WEIGHTS",
    "Config",
    "Inputs",
    "Model",
    "Processor",
    "Qwen2_5_VL",
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
