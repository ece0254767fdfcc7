"""Qwen2.5-VL in Flax: the network, its config, pictures and chat to tokens, Hugging Face weights in and out."""

from models.qwen2_5_vl import from_scratch
from models.qwen2_5_vl.config import Config, TextConfig, VisionConfig, published
from models.qwen2_5_vl.model import Qwen2_5_VL
from models.qwen2_5_vl.packing import Inputs, pack
from models.qwen2_5_vl.processing import Processor
from models.qwen2_5_vl.weights import load, named, save
from models.source import Source

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
    "published",
    "save",
]
