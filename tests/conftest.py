"""What all tests share: their environment (`support/environment.py`), their order, tiny models, cleared caches."""

import os

import environment  # noqa: F401  (before the first import of jax)
import hypothesis
import jax
import pytest
import tiny

# The first example of a property compiles what the others reuse, so a time limit per example would say nothing.
hypothesis.settings.register_profile("perl_jax", deadline=None, max_examples=40)
hypothesis.settings.load_profile("perl_jax")


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no process is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Compiled programs do not outlive their module: thousands of them exhaust the memory maps that a process may have,
    and XLA then crashes while it compiles another."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def shared_runs(tmp_path_factory):
    """Names the folder of the runs that all test processes share (`tiny_run.trained`)."""
    folder = tmp_path_factory.getbasetemp()
    os.environ["PERL_JAX_TINY_RUNS"] = str(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture
def optimized():
    """Compiles with XLA's optimizations, for programs that run so often that they pay."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def models():
    """{name: a random model of each tiny config}."""
    return {name: tiny.random_model(config) for name, config in tiny.ALL.items()}


@pytest.fixture(scope="session")
def theirs(models):
    """{name: transformers' model with the weights of ours}; skips without torch."""
    pytest.importorskip("torch")
    import reference

    return {name: reference.with_weights(model) for name, model in models.items()}
