"""What is recomputed is chosen by planned memory: the fastest that fits."""

import jax
import pytest
import tiny
import tiny_run

from perl_jax import mesh
from perl_jax.planning import remat, roofline


def chosen(memory, **changes):
    config = tiny_run.config(**{"remat": "auto", "micro_batch.row_tokens": 4096, **changes})
    with jax.set_mesh(mesh.make()):
        return remat.chosen(config, tiny.CONFIGS["untied"], memory, roofline.Assumed())


def test_the_fastest_that_fits():
    """With less and less memory: none, dots, full; with less than all need, full nevertheless."""
    needs = {name: chosen(1e15, remat=name)[1] for name in ("none", "dots", "full")}
    assert needs["none"] > needs["dots"] > needs["full"]
    for name, need in needs.items():
        assert chosen(need) == (name, need)
    assert chosen(needs["none"] - 1)[0] == "dots" and chosen(needs["dots"] - 1)[0] == "full"
    assert chosen(1.0) == ("full", needs["full"])


@pytest.mark.parametrize(("given", "name"), [(True, "full"), (False, "none"), ("dots", "dots")])
def test_a_given_one_is_taken(given, name):
    assert chosen(1.0, remat=given)[0] == name


def test_memory_of_a_host():
    assert 1e8 < remat.device_memory() < 1e14
