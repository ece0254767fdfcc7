"""Over how many devices sampling cuts each copy of the weights, by planned memory: `config.sampling.tensor = 0`."""

from ml_collections import ConfigDict

import models
from perl_jax import mesh
from perl_jax.planning import programs, roofline


def chosen(config: ConfigDict, sizes: models.Config, memory: float, assumed: roofline.Assumed) -> tuple[int, float]:
    """(the fewest devices with which prefill and decoding fit, the bytes that they are planned to need on each).

    On the current mesh, in `memory` bytes of a device; where none fit, those that need the least. A
    `config.sampling.tensor` other than 0 is the only candidate.
    """
    needs: dict[int, float] = {}
    for size in [config.sampling.tensor] if config.sampling.tensor else mesh.tensor_sizes():
        config = with_tensor(config, size)
        _, needed = programs.estimated(config, sizes, assumed)
        needs[size] = max(needed["prefill"], needed["decode"])
        if needs[size] <= memory:
            break
    best = min(needs, key=lambda size: needs[size])
    return best, needs[best]


def with_tensor(config: ConfigDict, size: int) -> ConfigDict:
    """A copy of the config with this `sampling.tensor`."""
    config = config.copy_and_resolve_references()
    config.sampling.tensor = size
    return config
