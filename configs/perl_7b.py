"""PeRL as in the paper (section 4), for Qwen2.5-VL-7B on a slice of TPUs.

PLANNED_7B
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = "Qwen/Qwen2.5-VL-7B-Instruct"
    config.mesh.tensor = 4  # its key heads
    config.micro_batch.row_tokens = 10240  # one prompt and one response as long as they may be
    return config
