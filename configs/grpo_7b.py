"""GRPO baseline for PeRL: images in original order only, and as many rollouts per question as PeRL takes in total.

Command:   python -m perl_jax.train --config=configs/grpo_7b.py --workdir=runs/grpo_7b
Data:      as configs/perl_7b.py
Hardware:  as configs/perl_7b.py, with as many streams in a step; not planned separately
Result:    not run
"""

from configs import perl_7b


def get_config():
    config = perl_7b.get_config()
    config.n_s, config.rollouts = 0, 12
    return config
