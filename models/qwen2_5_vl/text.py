"""How Qwen2.5-VL's decoder differs: biases, and M-RoPE in consecutive sections."""

import numpy as np

from models.decoder import Variant
from models.qwen2_5_vl.config import TextConfig


def variant(config: TextConfig) -> Variant:
    """Consecutive sections of the frequencies follow consecutive axes."""
    return Variant(biases=True, head_norms=False, axes=np.repeat(np.arange(3), config.mrope_section))
