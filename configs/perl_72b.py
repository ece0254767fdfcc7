"""PeRL with the paper's hyper-parameters (section 4), for Qwen2.5-VL-72B on a slice of TPUs.

Command:   python -m perl_jax.train --config=configs/perl_72b.py --workdir=runs/perl_72b
Data:      as configs/perl_7b.py
Hardware:  v5p:4x4x4 or v6e:16x16; planned (benchmarks/PLANS.md): 82%, 87% of the memory, 97, 30 s a step
Result:    not run
"""

from configs import perl_7b


def get_config():
    config = perl_7b.get_config()
    config.model = "Qwen/Qwen2.5-VL-72B-Instruct"
    config.mesh.tensor = 8  # its KV heads
    return config
