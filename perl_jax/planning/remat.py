"""What the backward pass recomputes, chosen by planned memory: `config.remat = "auto"`."""

import os

import jax
from ml_collections import ConfigDict

import models
from models.layers import REMAT, remat_name
from perl_jax.planning import programs, roofline

GIB = 2**30
HOST = 0.5  # share of a host's memory that devices on its CPU may take


def chosen(config: ConfigDict, sizes: models.Config, memory: float, assumed: roofline.Assumed) -> tuple[str, float]:
    """(the first of `layers.REMAT`, from the fastest, with which an update fits, the bytes that it is planned to need).

    On the current mesh, in `memory` bytes of a device; the last, "full", where none fits. A `config.remat` other than
    "auto" is the only candidate.
    """
    candidates = REMAT if config.remat == "auto" else (remat_name(config.remat),)
    needed = 0.0
    for name in candidates:
        config = named(config, name)
        needed = programs.estimated(config, sizes, assumed)[1]["update"]
        if needed <= memory:
            break
    return config.remat, needed


def named(config: ConfigDict, name: str) -> ConfigDict:
    """A copy of the config with this `remat`."""
    config = config.copy_and_resolve_references()
    with config.ignore_type():  # a text in place of True or False
        config.remat = name
    return config


def device_memory() -> float:
    """Bytes of one of this process's devices that a program may use."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return HOST * pages / len(jax.local_devices())
