"""Over how many devices sampling cuts the weights is chosen by planned memory: the fewest that fit."""

import dataclasses

import jax
import pytest
import tiny
import tiny_run
from jax.sharding import Mesh

from models.errors import InputError
from perl_jax import mesh
from perl_jax.planning import decode_tensor, programs, roofline

FOUR = {"fsdp": 2, "tensor": 2}
TINY = tiny.CONFIGS["untied"]
SIZES = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, intermediate_size=2**15))  # weights count most


def chosen(memory, sizes=None, **changes):
    config = tiny_run.config(**{"micro_batch.row_tokens": 4096, **changes})
    with jax.set_mesh(four_devices(**(sizes or {"fsdp": 4}))):
        return decode_tensor.chosen(config, SIZES, memory, roofline.Assumed())


def four_devices(**sizes) -> Mesh:
    """A mesh for planning: one device stands for all."""
    return mesh.make(jax.devices() * 4, **sizes) if jax.device_count() == 1 else mesh.make(jax.devices()[:4], **sizes)


def test_the_fewest_devices_that_fit():
    """With less and less memory more of them; where none fit, those that need the least."""
    needs = {size: chosen(1e15, **{"sampling.tensor": size})[1] for size in (1, 2, 4)}
    assert needs[1] > needs[2]
    assert chosen(needs[1]) == (1, needs[1]) and chosen(needs[1] - 1) == (2, needs[2])
    least = min(needs, key=needs.get)
    assert chosen(1.0) == (least, needs[least])


def test_a_mesh_may_have_a_tensor_axis_already():
    assert chosen(1e15, FOUR)[0] == 2
    with pytest.raises(InputError, match=r"config.sampling.tensor is 3; .* must be 0 or one of 2, 4"):
        chosen(1e15, FOUR, **{"sampling.tensor": 3})


def test_weights_to_prefill_are_counted():
    """They lie beside those that are trained only where sampling has a mesh of its own."""
    config = tiny_run.config(**{"micro_batch.row_tokens": 4096})
    with jax.set_mesh(four_devices(fsdp=4)):
        sizes = {
            size: programs.programs(decode_tensor.with_tensor(config, size), SIZES, roofline.Assumed())
            for size in (0, 1, 2)
        }
    resident = {size: buffers for size, (_, buffers) in sizes.items()}
    assert resident[0] == resident[1] and resident[0]["weights to prefill"] == 0
    assert resident[2]["weights to prefill"] > 0
    assert resident[2]["decoding copy"] < 0.6 * resident[1]["decoding copy"]
