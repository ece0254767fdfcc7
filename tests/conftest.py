"""Tests run on the CPU in float32; compiled programs are kept between runs, since compiling is most of their time."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before the first import of jax

import hypothesis
import jax
import pytest
import tiny

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "jax"

jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# The first example of a property compiles what the others reuse, so a time limit per example would say nothing.
hypothesis.settings.register_profile("perl_jax", deadline=None)
hypothesis.settings.load_profile("perl_jax")


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Compiled programs do not outlive their module: thousands of them exhaust the memory maps that a process may have,
    and XLA then crashes while it compiles another."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def models():
    """{name: a random model of each tiny config}."""
    return {name: tiny.random_model(config) for name, config in tiny.CONFIGS.items()}


@pytest.fixture(scope="session")
def theirs(models):
    """{name: transformers' model with the weights of ours}; skips without torch."""
    pytest.importorskip("torch")
    import reference

    return {name: reference.with_weights(model) for name, model in models.items()}
