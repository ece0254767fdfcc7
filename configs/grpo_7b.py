"""GRPO, to compare PeRL with: images in their own order only, and as many rollouts of a question as PeRL takes in all.

Command:   python -m perl_jax.train --config=configs/grpo_7b.py --workdir=runs/grpo_7b
Data:      as configs/perl_7b.py
Hardware:  as configs/perl_7b.py, with as many streams in a step; not planned by itself
Result:    not run
"""

from configs import perl_7b


def get_config():
    config = perl_7b.get_config()
    config.n_s, config.rollouts = 0, 12
    return config
