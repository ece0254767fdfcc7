"""PeRL with the paper's hyper-parameters (section 4), for Qwen2.5-VL-72B on a slice of TPUs.

PLANNED_72B
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = "Qwen/Qwen2.5-VL-72B-Instruct"
    config.mesh.tensor = 8  # its key heads
    config.micro_batch.row_tokens = 10240  # one prompt and one response as long as they may be
    return config
