"""PeRL as in the paper (section 4), for Qwen2.5-VL-7B on a slice of TPUs.

Command:   python -m perl_jax.train --config=configs/perl_7b.py --config.data.directory=DATA --workdir=runs/perl_7b
Hardware:  v5e:8x8, v5p:4x4x4 or v6e:16x16; planned (benchmarks/PLANS.md): 58%, 10%, 19% of the memory, 33, 13, 6 s
           a step
Result:    not run
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = "Qwen/Qwen2.5-VL-7B-Instruct"
    config.mesh.tensor = 4  # its key heads
    config.micro_batch.row_tokens = 10240  # one prompt and one response as long as they may be
    return config
