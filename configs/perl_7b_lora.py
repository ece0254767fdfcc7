"""PeRL with adapters (LoRA), for Qwen2.5-VL-7B on one GPU of 80 GB.

Command:   python -m perl_jax.train --config=configs/perl_7b_lora.py --workdir=runs/lora
Data:      as configs/perl_7b.py
Hardware:  one H100 of 80 GB; estimated (benchmarks/PLANS.md): 80% of the memory, 353 s a step
Result:    not run. Adapters learn with a larger rate than the paper's, which trains all weights: 1e-5
"""

from configs import perl_7b_8xh100


def get_config():
    config = perl_7b_8xh100.get_config("lora")
    config.sampling.batch = 24
    return config
