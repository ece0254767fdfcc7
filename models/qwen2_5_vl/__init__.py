"""Qwen2.5-VL in Flax: the network, its config, pictures and chat to tokens, Hugging Face weights in and out."""

from models.packing import Inputs, pack
from models.processing import Processor
from models.qwen2_5_vl import from_scratch
from models.qwen2_5_vl.config import Config, TextConfig, VisionConfig, published
from models.qwen2_5_vl.model import Qwen2_5_VL
from models.qwen2_5_vl.packing import pack_images, pack_shapes
from models.source import Source
from models.weights import load, named, save

Model = Qwen2_5_VL  # by the name that every family has

__all__ = [
    "Config",
    "Inputs",
    "Model",
    "Processor",
    "Qwen2_5_VL",
    "Source",
    "TextConfig",
    "VisionConfig",
    "from_scratch",
    "load",
    "named",
    "pack",
    "pack_images",
    "pack_shapes",
    "published",
    "save",
]
