"""GRPO, to compare PeRL with: images in their own order only, and as many rollouts of a question as PeRL takes in all.

PLANNED_GRPO
"""

from configs import perl_7b


def get_config():
    config = perl_7b.get_config()
    config.n_s, config.rollouts = 0, 12
    return config
