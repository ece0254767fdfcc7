"""What JAX's GPU backend reads from the environment as it starts: set here where the environment has not."""

import importlib.metadata
import logging
import os

logger = logging.getLogger(__name__)

GPU_MEMORY = 0.92  # share of a GPU's memory for XLA; JAX's own default is 0.75, and `perl_jax.plan` counts with this
FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
# Sends between GPUs while they compute, as JAX's documentation advises. An unknown flag ends the process: the tests
# start one with these. TPUs get no flags: libtpu's defaults are what `perl_jax.plan` compiles with.
ON_GPUS = {FRACTION: str(GPU_MEMORY), "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true"}
SAME = {FRACTION: "XLA_CLIENT_MEM_FRACTION"}  # its later name: JAX refuses both at once
SHOWN = (*ON_GPUS, *SAME.values(), "LIBTPU_INIT_ARGS")


def apply() -> None:
    """Sets `ON_GPUS` where JAX may use GPUs, for the variables that are not set; must precede any use of devices."""
    if gpus_possible():
        for name, value in ON_GPUS.items():
            if name not in os.environ and SAME.get(name, name) not in os.environ:
                os.environ[name] = value


def gpus_possible() -> bool:
    """Whether JAX has a plugin for GPUs, and JAX_PLATFORMS allows it. Does not start JAX's devices."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not any(name in platforms for name in ("cuda", "rocm", "gpu")):
        return False
    plugins = {plugin.name for plugin in importlib.metadata.entry_points(group="jax_plugins")}
    return any(kind in name for name in plugins for kind in ("cuda", "rocm"))


def log() -> None:
    """Logs in one line what is set, by us or by the environment; nothing where nothing is."""
    if here := [f"{name}={os.environ[name]}" for name in SHOWN if os.environ.get(name)]:
        logger.info("devices start with %s", " ".join(here))
