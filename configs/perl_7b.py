"""PeRL as in the paper (section 4), for Qwen2.5-VL-7B on a slice of TPUs.

Command:   python -m perl_jax.train --config=configs/perl_7b.py --workdir=runs/perl_7b
Data:      runs/mantis and runs/k12, made by prepare and filter (perl_jax/data/README.md), in the paper's shares; other
           sets by --config.data.directory=DIR or DIR=22,DIR2=36
Hardware:  v5e:8x8, v5p:4x4x4 or v6e:16x16; planned (benchmarks/PLANS.md): 58%, 18%, 43% of the memory, 32, 11, 6 s
           a step
Result:    not run
"""

from configs import base


def get_config():
    config = base.get_config()
    config.model = "Qwen/Qwen2.5-VL-7B-Instruct"
    config.mesh.tensor = 4  # its KV heads
    config.data.directory = "runs/mantis=22,runs/k12=36"  # thousands of several-image and single-image records
    config.micro_batch.row_tokens = 10240  # fits the longest prompt and response
    return config
