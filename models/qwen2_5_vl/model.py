"""The Qwen2.5-VL network."""

from models.network import Network
from models.qwen2_5_vl.text import variant
from models.qwen2_5_vl.vision import VisionTower


class Qwen2_5_VL(Network):
    """Qwen2.5-VL, made as `models.Model` says."""

    vision_tower = VisionTower
    variant = staticmethod(variant)
