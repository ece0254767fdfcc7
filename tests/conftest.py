"""What all tests share: the environment that they run in (`support/environment.py`), tiny models, cleared caches."""

import environment  # noqa: F401  (before the first import of jax)
import hypothesis
import jax
import pytest
import tiny

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
