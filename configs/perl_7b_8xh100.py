"""PeRL as in the paper (section 4): Qwen2.5-VL-7B on the paper's machine, eight H100; all weights, or LoRA.

Command:   python -m perl_jax.train --config=configs/perl_7b_8xh100.py --workdir=runs/7b
           or --config=configs/perl_7b_8xh100.py:lora
Data:      as configs/perl_7b.py
Hardware:  8 H100 of 80 GB; estimated (benchmarks/PLANS.md): 84% of the memory, adapters 60%, 42 s a step
Result:    not run
"""

from configs import perl_7b


def get_config(trained: str = "full"):
    config = perl_7b.get_config()
    config.mesh.tensor = 1
    if trained == "lora":
        config.lora.rank, config.lora.alpha = 64, 128
        config.optimizer.learning_rate = 1e-5
    elif trained != "full":
        raise ValueError(f"configs/perl_7b_8xh100.py:{trained} is not one of full, lora")
    return config
