"""Over how many devices sampling cuts each copy of the weights, by planned memory: `config.sampling.tensor = 0`."""

import jax
from ml_collections import ConfigDict

import models
from perl_jax import mesh
from perl_jax.planning import programs, roofline
from perl_jax.planning.programs import resident_bytes


def chosen(config: ConfigDict, sizes: models.Config, memory: float, assumed: roofline.Assumed) -> tuple[int, float]:
    """(the fewest devices with which prefill and decoding fit, the bytes that they are planned to need on each).

    On the current mesh, in `memory` bytes of a device; where none fit, those that need the least. A
    `config.sampling.tensor` other than 0 is the only candidate.
    """
    count, shards = jax.sharding.get_abstract_mesh().size, mesh.shards()
    needs: dict[int, float] = {}
    for size in [config.sampling.tensor] if config.sampling.tensor else mesh.tensor_sizes():
        config = with_tensor(config, size)
        _, resident = programs.programs(config, sizes, assumed)
        temporary = roofline.temporary(config, sizes, assumed, resident, count, shards)
        needs[size] = max(resident_bytes(resident, phase) + temporary[phase] for phase in ("prefill", "decode"))
        if needs[size] <= memory:
            break
    best = min(needs, key=lambda size: needs[size])
    return best, needs[best]


def with_tensor(config: ConfigDict, size: int) -> ConfigDict:
    """A copy of the config with this `sampling.tensor`."""
    config = config.copy_and_resolve_references()
    config.sampling.tensor = size
    return config
