"""What a config leaves to planned memory, `remat = "auto"` and `sampling.tensor = 0`, is decided."""

import logging

from ml_collections import ConfigDict

import models
from perl_jax import mesh
from perl_jax.planning import decode_tensor, remat, roofline
from perl_jax.runtime import processes

logger = logging.getLogger(__name__)


def for_run(config: ConfigDict, sizes: models.Config) -> ConfigDict:
    """The config, `fitted` to the memory of this run's smallest device; all processes make the same call."""
    return fitted(config, sizes, min(processes.exchange(remat.device_memory())), roofline.Assumed())


def fitted(config: ConfigDict, sizes: models.Config, memory: float, assumed: roofline.Assumed) -> ConfigDict:
    """The config with `remat` and `sampling.tensor` for `memory` bytes of a device, on the current mesh."""
    if config.remat == "auto":
        name, needed = remat.chosen(config, sizes, memory, assumed)
        logger.info("remat: %s (planned: %.2g of %.2g GiB)", name, needed / remat.GIB, memory / remat.GIB)
        config = remat.named(config, name)
    if not config.sampling.tensor:
        size, *others = mesh.tensor_sizes()
        if others:  # a single candidate is not estimated
            size, needed = decode_tensor.chosen(config, sizes, memory, assumed)
            logger.info("sampling.tensor: %d (planned: %.2g of %.2g GiB)", size, needed / remat.GIB, memory / remat.GIB)
        config = decode_tensor.with_tensor(config, size)
    return config
