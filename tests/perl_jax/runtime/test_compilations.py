"""The guard that counts compilations."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from benchmarks import compilations as ragged
from perl_jax.runtime.compilations import Compilations


def test_counts_and_names_the_shape(caplog, monkeypatch):
    monkeypatch.setattr("perl_jax.runtime.compilations.LEAST", 60)  # a busy machine may take long for the first one

    @jax.jit
    def double(batch):
        return jax.tree.map(lambda x: x * 2, batch)

    shapes = [(2, 4), (2, 4), (2, 5), (2, 4), (3, 5)]
    counts = []
    with caplog.at_level(logging.INFO, "perl_jax"), Compilations() as compilations:
        for shape in shapes:
            double({"ids": np.ones(shape), "mask": np.ones(3)})
            counts.append(compilations.take()["compile/count"])
    assert counts == [1, 0, 1, 0, 1]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and all("compiled double in" in line for line in lines)
    assert "batch['ids'], now f32[2,5] and before f32[2,4]" in lines[0]
    assert "mask" not in lines[0]


def test_nothing_is_heard_outside_of_it(caplog):
    before = jax.config.jax_explain_cache_misses
    with caplog.at_level(logging.INFO, "perl_jax"):
        with Compilations() as compilations:
            pass
        jax.jit(lambda x: x * 3)(jnp.ones(7))
    assert compilations.take() == {"compile/count": 0, "compile/seconds": 0.0} and not caplog.records
    assert jax.config.jax_explain_cache_misses == before


def test_compiled_ahead_is_not_compiled_again():
    """What `rollout.compile_ahead` relies on."""

    @jax.jit
    def cube(x):
        return x * x * x

    with Compilations() as compilations:
        cube.lower(jax.ShapeDtypeStruct((4,), jnp.float32)).compile()
        assert compilations.take()["compile/count"] == 1
        cube(np.ones(4, np.float32))
        assert compilations.take()["compile/count"] == 0


@pytest.mark.slow
def test_forty_ragged_steps_compile_nothing_after_warm_up(optimized):
    """New images, prompts and lengths of responses in every step; `python -m benchmarks.compilations` takes sixty."""
    steps = list(ragged.steps(tiny.random_model(tiny.CONFIGS["untied"]), 40))
    programs = [step["programs"] for step in steps]
    assert programs[0] >= 5 and sum(programs[20:]) == 0, programs
