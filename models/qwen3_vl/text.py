"""How Qwen3-VL's decoder differs: norms of the heads, no biases, and interleaved M-RoPE."""

import numpy as np

from models.decoder import Variant
from models.qwen3_vl.config import TextConfig


def variant(config: TextConfig) -> Variant:
    """Every third frequency follows the height and the next one the width, as far as their sections reach; the rest
    follow the time."""
    axes = np.zeros(config.head_dim // 2, np.int64)
    for axis in (1, 2):
        axes[axis : 3 * config.mrope_section[axis] : 3] = axis
    return Variant(biases=False, head_norms=True, axes=axes)
