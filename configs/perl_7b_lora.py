"""PeRL with adapters (LoRA), for Qwen2.5-VL-7B on one GPU of 80 GB.

PLANNED_LORA
"""

from configs import perl_7b_8xh100


def get_config():
    config = perl_7b_8xh100.get_config("lora")
    config.sampling.batch = 24
    return config
