"""Several devices: where weights and rows lie, and that what is computed does not depend on it."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import mesh_run
import numpy as np
import optax
import pytest
import tiny
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

import models as door
from models import qwen2_5_vl as qwen
from models.errors import InputError
from perl_jax import mesh

MESHES = {  # (sizes, a case of mesh_run)
    "fsdp": ({"fsdp": -1}, "short"),
    "all": ({"data": 2, "fsdp": 2, "tensor": 2}, "long"),
    "slices": ({"slice": 2, "fsdp": 1, "tensor": 4}, "text"),  # more than there are key heads; a frozen tower
    "adapters": ({"data": 2, "fsdp": 2, "tensor": 2}, "adapters"),
    "cut": ({"data": 2, "fsdp": 4}, "short"),  # sampling cuts the weights over two devices
    "second family": ({"data": 2, "fsdp": 2, "tensor": 2}, "second family"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """({case: results on one device}, {mesh: results}, {mesh: what was compiled for it})."""
    folder = tmp_path_factory.mktemp("meshes")
    for family, config in mesh_run.configs().items():
        door.save(tiny.random_model(config), folder / family)
    command = [sys.executable, mesh_run.__file__, folder, folder, "8", json.dumps(MESHES)]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""})
    assert run.returncode == 0, run.stderr
    assert "rematerialization" not in run.stderr, "XLA holds an array whole in between"
    on_meshes = {name: dict(np.load(folder / f"{name}.npz")) for name in MESHES}
    programs = {name: json.loads((folder / f"{name}.json").read_text()) for name in MESHES}
    alone = {}
    for name, sampling in (("long", True), ("adapters", True), ("text", False), ("second family", True)):
        family, case, tokens = mesh_run.CASES[name]
        alone[name] = mesh_run.results(*case(door.load(folder / family)), optax.sgd(0.01), tokens * sampling)
    alone["short"] = shortened(alone["long"], mesh_run.CASES["short"][-1])
    alone["text"] = alone["short"] | alone["text"]  # the same model samples
    return alone, on_meshes, programs


def shortened(results: dict, most: int) -> dict:
    """The same results where no response may be longer than `most` tokens."""
    ends = np.arange(most) < results["lengths"][..., None]
    cut = {name: np.where(ends, results[name][..., :most], 0) for name in ("tokens", "sampled")}
    return {**results, **cut, "lengths": results["lengths"].clip(max=most)}


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_computes_what_one_device_does(results, name):
    """Float32: tokens equal; log-probs, metrics and updated weights (a step of SGD: the gradient) within 2e-5."""
    expected, on_mesh = results[0][MESHES[name][1]], results[1][name]
    assert expected.keys() == on_mesh.keys()
    for key, value in expected.items():
        if key in ("tokens", "lengths"):
            np.testing.assert_array_equal(on_mesh[key], value, err_msg=key)
        else:
            np.testing.assert_allclose(on_mesh[key], value, rtol=2e-5, atol=2e-5, err_msg=key)
    assert len(set(expected["lengths"].ravel())) > 3


@pytest.mark.slow
def test_bfloat16_on_a_mesh_is_near_float32(results):
    """Its gradients are reduced in float32: XLA on a CPU ends the process over some sums in bfloat16."""
    exact, rounded = results[1]["fsdp"], results[2]["fsdp"]["bfloat16"]
    for name, value in rounded.items():
        assert value == pytest.approx(float(exact[f"metric {name}"]), rel=0.02, abs=0.01), name


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_nothing_is_compiled_again(results, name):
    assert results[2][name]["compiled"] == 0


@pytest.mark.slow
def test_decoding_gathers_no_weights(results):
    """Read off the compiled programs, their loops and what stands before them."""
    for name, (sizes, case) in MESHES.items():
        config = mesh_run.configs()[mesh_run.CASES[case][0]].text
        D, F, kv = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_dim
        tensor = mesh_run.TENSOR.get(name, sizes.get("tensor", 1))
        parts = [out // n for n in (1, tensor) for out in (D, F, kv, config.vocab_size)]
        weights = {shape for part in parts for shape in ((D, part), (part, D))}
        gathered = {tuple(shape) for shape in results[2][name]["gathered"]}
        assert gathered and not gathered & weights, name


@pytest.mark.slow
def test_decoding_moves_nothing_but_what_is_drawn(results):
    """Where no layer is parted; in the training layout each token's activations would go around."""
    programs, streams = results[2]["fsdp"], 8 * mesh_run.SAMPLES  # slots for a prompt on each device
    drawn = [[streams], [streams, mesh_run.CASES["short"][-1]]]
    assert all(shape in drawn for shape in programs["gathered"])
    assert not all(shape in drawn for shape in programs["gathered in the training layout"])


def at(**sizes):
    """An abstract mesh of these sizes."""
    sizes = {axis: sizes.get(axis, 1) for axis in mesh.AXES}
    types = (AxisType.Auto,) * len(mesh.AXES)
    return jax.sharding.use_abstract_mesh(AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=types))


def test_where_weights_lie():
    with at(fsdp=4, tensor=2):
        assert mesh.partition_spec((36, 2048, 11008), ("layers", "embed", "mlp")) == P(None, "fsdp", "tensor")
        assert mesh.partition_spec((2048, 11008), ("layers", "embed", "mlp")) == P("fsdp", "tensor"), (
            "a layer of the stack"
        )
        assert mesh.partition_spec((36, 2048, 11008), ("layers", "embed", "mlp"), "decode") == P(None, None, "tensor")
        assert mesh.partition_spec((151936, 2048), ("vocab", "embed")) == P("tensor", "fsdp")
        assert mesh.partition_spec((36, 2048), ("layers", "norm")) == P(None, None)
        assert mesh.partition_spec((36, 2050, 11008), ("layers", "embed", "mlp")) == P(None, None, "tensor"), (
            "4 divides no 2050"
        )


def test_tensor_takes_from_fsdp():
    """Neighbours come together; the order of devices stays, so that arrays need not move through the host."""
    with jax.set_mesh(mesh.make()), mesh.with_tensor(1) as is_other:
        assert not is_other
    with mesh.with_tensor(8) as is_other:
        assert not is_other and mesh.shards() == 1, "without a mesh"
    with (
        jax.set_mesh(mesh.make()),
        pytest.raises(InputError, match=r"config.sampling.tensor is 64; with tensor=1 and fsdp=\d+ in the mesh"),
        mesh.with_tensor(64),
    ):
        pass


def test_shards_and_layouts():
    with at(slice=2, data=3, fsdp=4, tensor=2):
        assert mesh.shards() == 24
    with at(tensor=8):
        assert mesh.shards() == 1
    assert mesh.shards() == 1


def test_a_thread_has_the_mesh_it_was_given():
    """Without a mesh, the function itself; with one, in a thread as here."""
    assert mesh.in_any_thread(mesh.shards) is mesh.shards
    with ThreadPoolExecutor(1) as thread, jax.set_mesh(mesh.make()):
        assert thread.submit(lambda: jax.sharding.get_mesh().empty).result()
        there = thread.submit(mesh.in_any_thread(lambda: dict(jax.sharding.get_mesh().shape))).result()
        assert there == dict.fromkeys(mesh.AXES, 1)
        assert thread.submit(lambda: jax.sharding.get_mesh().empty).result()


def test_every_name_of_a_weight_is_known():
    """What is cut is cut on purpose: a new logical name must be listed here."""
    unsharded = {"layers", "norm", "channels", "time", "height", "width", "vision_heads"}
    names = {axis for config in tiny.CONFIGS.values() for axes in axes_of(config) for axis in axes}
    assert names == unsharded | mesh.LAYOUTS["train"].keys()


def test_adapters_lie_as_their_kernels_with_their_rank_whole(models):
    linear = tiny.with_adapters(models["untied"]).model.layers.mlp.up_proj
    with at(fsdp=4, tensor=2):
        a, b = (
            mesh.partition_spec(w.kernel.shape, w.kernel.get_metadata("axes")) for w in (linear.lora_A, linear.lora_B)
        )
        assert a == P(None, "fsdp", None) and b == P(None, None, "tensor")


def axes_of(config):
    from flax import nnx

    state = nnx.state(nnx.eval_shape(lambda: qwen.Qwen2_5_VL(config, rngs=nnx.Rngs(0))))
    return [param.get_metadata("axes") for _, param in nnx.to_flat_state(state)]


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"fsdp": 3}, "fsdp=3, tensor=1 does not make up 1 devices"),
        ({"fsdp": -1, "data": -1}, "-1 once"),
        ({"data": 0}, "1 or more"),
        ({"tensor": 2, "fsdp": -1}, "does not make up 1 devices"),
    ],
)
def test_meshes_that_cannot_be(sizes, message):
    with pytest.raises(InputError, match=message):
        mesh.make(**sizes)


def test_one_device_is_a_mesh_too():
    assert dict(mesh.make().shape) == dict(mesh.make(data=-1, fsdp=1).shape) == dict.fromkeys(mesh.AXES, 1)


def test_the_module_names_the_axes_alone():
    """No other module knows what a mesh axis is called."""
    repository = Path(__file__).resolve().parents[2]
    for room in ("models", "perl_jax"):
        for file in (repository / room).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert file.name == "mesh.py" or not any(f'"{axis}"' in text for axis in ("fsdp", "tensor")), file
