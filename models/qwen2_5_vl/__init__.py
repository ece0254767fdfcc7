"""Qwen2.5-VL in Flax: the network, its config, pictures and chat to tokens, Hugging Face weights in and out."""

from models.qwen2_5_vl.config import Config, TextConfig, VisionConfig
from models.qwen2_5_vl.model import Qwen2_5_VL
from models.qwen2_5_vl.packing import Inputs, pack
from models.qwen2_5_vl.processing import Processor
from models.qwen2_5_vl.source import Source
from models.qwen2_5_vl.weights import load, named, save

__all__ = [
    "Config",
    "Inputs",
    "Processor",
    "Qwen2_5_VL",
    "Source",
    "TextConfig",
    "VisionConfig",
    "load",
    "named",
    "pack",
    "save",
]
