"""PeRL with the paper's hyper-parameters (section 4), for Qwen3-VL-8B.

Command:   python -m perl_jax.train --config=configs/qwen3_vl_8b.py --workdir=runs/qwen3_vl_8b
           or --config=configs/qwen3_vl_8b.py:8xh100
Data:      as configs/perl_7b.py
Hardware:  v6e:8x8, planned (benchmarks/PLANS.md): 62% of the memory, 10 s a step; or with :8xh100 8 H100 of 80 GB,
           estimated: 93%, 54 s
Result:    not run
"""

from configs import perl_7b


def get_config(machine: str = "tpu"):
    config = perl_7b.get_config()
    config.model = "Qwen/Qwen3-VL-8B-Instruct"
    config.prompt.min_pixels = 65536  # smaller images are enlarged, as published
    if machine == "8xh100":
        config.mesh.tensor = 1
        config.sampling.batch = 128  # 8 KV heads: a token's cache is 2.6 times that of Qwen2.5-VL-7B
    elif machine != "tpu":
        raise ValueError(f"configs/qwen3_vl_8b.py:{machine} is not one of tpu, 8xh100")
    return config
