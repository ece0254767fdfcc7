"""What a config leaves to planned memory is decided; what it says itself stays."""

import jax
import pytest
import tiny
import tiny_run

from perl_jax import mesh
from perl_jax.planning import decode_tensor, fitting, remat, roofline

ASSUMED = roofline.Assumed()


def fitted(memory, **changes):
    config = tiny_run.config(**changes)
    config.unlock()
    with jax.set_mesh(mesh.make(jax.devices() * 4 if jax.device_count() == 1 else jax.devices()[:4], fsdp=4)):
        made = fitting.fitted(config, tiny.CONFIGS["untied"], memory, ASSUMED)
        wanted = (
            remat.chosen(config, tiny.CONFIGS["untied"], memory, ASSUMED)[0],
            decode_tensor.chosen(made, tiny.CONFIGS["untied"], memory, ASSUMED)[0],
        )
    return (made.remat, made.sampling.tensor), wanted


@pytest.mark.parametrize("memory", [1e15, 1.0])
def test_what_is_left_to_memory_is_decided(memory, caplog):
    with caplog.at_level("INFO"):
        made, wanted = fitted(memory, **{"remat": "auto", "sampling.tensor": 0})
    assert made == wanted and made[0] == ("none" if memory > 1 else "full")
    assert [line.partition(":")[0] for line in caplog.messages] == ["remat", "sampling.tensor"]


def test_what_is_said_stays(caplog):
    with caplog.at_level("INFO"):
        assert fitted(1.0, **{"remat": "dots", "sampling.tensor": 2})[0] == ("dots", 2)
    assert not caplog.messages
