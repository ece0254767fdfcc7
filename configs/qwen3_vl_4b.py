"""PeRL with the paper's hyper-parameters (section 4), for Qwen3-VL-4B.

Command:   python -m perl_jax.train --config=configs/qwen3_vl_4b.py --workdir=runs/qwen3_vl_4b
Data:      as configs/perl_7b.py
Hardware:  v6e:4x4, planned (benchmarks/PLANS.md): 88% of the memory, 22 s a step; or 8 H100 of 80 GB, estimated: 73%,
           33 s
Result:    not run
"""

from configs import perl_7b


def get_config():
    config = perl_7b.get_config()
    config.model = "Qwen/Qwen3-VL-4B-Instruct"
    config.prompt.min_pixels = 65536  # smaller images are enlarged, as published
    config.mesh.tensor = 1
    config.sampling.batch = 128  # 8 KV heads: a token's cache is 2.6 times that of Qwen2.5-VL-7B
    return config
