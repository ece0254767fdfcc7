"""What JAX's devices start with: our settings for GPUs alone, and never in place of the user's."""

import logging
import os
import subprocess
import sys

import pytest
from environment import REPOSITORY

from perl_jax import plan
from perl_jax.runtime import device_settings

VARIABLES = (*device_settings.SHOWN, "JAX_PLATFORMS")


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A function that installs a package with a JAX plugin of this name; the environment has none of the variables."""
    before = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str) -> None:
        package = tmp_path / f"{name}-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text(f"[jax_plugins]\n{name} = jax_plugins.{name}\n")

    yield install
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(before)


def settings() -> dict[str, str]:
    return {name: os.environ[name] for name in device_settings.SHOWN if name in os.environ}


@pytest.mark.parametrize("name", ["xla_cuda12", "xla_cuda13", "xla_rocm7"])
def test_gpus_get_the_memory_that_the_plan_assumes(plugins, name):
    plugins(name)
    device_settings.apply()
    assert settings() == device_settings.ON_GPUS
    assert float(os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == plan.USABLE


@pytest.mark.parametrize(("name", "platforms"), [("xla_other", ""), ("xla_cuda13", "cpu"), ("xla_cuda13", "tpu,cpu")])
def test_nothing_is_set_where_there_are_no_gpus(plugins, name, platforms):
    plugins(name)
    os.environ["JAX_PLATFORMS"] = platforms
    device_settings.apply()
    assert not settings()


@pytest.mark.parametrize(
    "theirs",
    [
        {"XLA_FLAGS": "--xla_dump_to=/tmp/x"},
        {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"},
        {"XLA_CLIENT_MEM_FRACTION": ".5"},
        {"XLA_FLAGS": "", "XLA_PYTHON_CLIENT_MEM_FRACTION": ""},
    ],
)
def test_what_the_environment_sets_wins_and_is_shown(plugins, caplog, theirs):
    plugins("xla_cuda13")
    os.environ.update(theirs)
    device_settings.apply()
    assert theirs.items() <= settings().items()
    assert not {"XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"} <= settings().keys(), "JAX refuses both"
    with caplog.at_level(logging.INFO, "perl_jax"):
        device_settings.log()
    shown = [f"{name}={value}" for name, value in settings().items() if value]
    assert [record.getMessage() for record in caplog.records] == (
        [f"devices start with {' '.join(shown)}"] if shown else []
    )


@pytest.mark.slow
def test_a_command_starts_with_them(plugins, tmp_path):
    """One parser reads the flags of all devices, so that the CPU knows them too; an unknown one ends the process."""
    plugins("xla_cuda13")
    program = """
import jax
from jaxlib import xla_client
from perl_jax.runtime import cli, processes

def main(_):
    processes.join()
    print(jax.numpy.ones(3).sum(), xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"])

cli.run(main)
"""

    def start(**variables: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"} | variables
        return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)

    done = start()
    assert done.stdout == f"3.0 {plan.USABLE}\n", done.stderr
    line = " ".join(f"{name}={value}" for name, value in device_settings.ON_GPUS.items())
    assert done.stderr.count(f"devices start with {line}\n") == 1, done.stderr
    assert "Unknown flag in XLA_FLAGS" in start(XLA_FLAGS="--xla_none=1").stderr
