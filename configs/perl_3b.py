"""PeRL as in the paper (section 4), for Qwen2.5-VL-3B.

Command:   python -m perl_jax.train --config=configs/perl_3b.py --workdir=runs/perl_3b
           or --config=configs/perl_3b.py:MACHINE with MACHINE one of v6e-4x4 (the default), v5e-4x4, h100-1
Data:      runs/mantis and runs/k12, made by prepare and filter (perl_jax/data/README.md), in the paper's shares; other
           sets by --config.data.directory=DIR or DIR=22,DIR2=36
Hardware:  16 TPU v6e, 16 TPU v5e, or one H100; planned (benchmarks/PLANS.md) 57%, 74% of the memory, 17, 61 s a
           step. One H100 is tight: estimated 181 s and 100%, or 86% with --config.train_vision=False
Result:    not run
"""

from configs import base


def get_config(machine: str = "v6e-4x4"):
    config = base.get_config()
    config.model = "Qwen/Qwen2.5-VL-3B-Instruct"
    config.data.directory = "runs/mantis=22,runs/k12=36"  # thousands of several-image and single-image records
    config.micro_batch.row_tokens = 10240  # fits the longest prompt and response
    if machine == "v5e-4x4":
        config.mesh.tensor = 2
        config.sampling.batch = 128
    elif machine == "h100-1":  # masters, moments and gradients take 52 GB of the 80: no room for a reference policy
        config.loss.kl_coef = 0.0
        config.optimizer.mu_dtype = "bfloat16"
        config.sampling.batch = 16
    elif machine != "v6e-4x4":
        raise ValueError(f"configs/perl_3b.py:{machine} is not one of v6e-4x4, v5e-4x4, h100-1")
    return config
