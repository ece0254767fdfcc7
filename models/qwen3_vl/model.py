"""The Qwen3-VL network."""

from models.network import Network
from models.qwen3_vl.text import variant
from models.qwen3_vl.vision import VisionTower


class Qwen3_VL(Network):
    """Qwen3-VL, made as `models.Model` says. An image token has a feature for each of the first decoder layers."""

    vision_tower = VisionTower
    variant = staticmethod(variant)
