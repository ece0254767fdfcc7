"""What a run would take: shapes and sums on the CPU, and real compiling for TPUs where libtpu is installed."""

import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import pytest
import tiny
import tiny_run
from flax import nnx

import models
from configs import perl_3b
from models import qwen2_5_vl as qwen
from models.errors import InputError
from perl_jax import mesh, plan, rollout, train, update
from perl_jax.planning import programs, roofline

pytestmark = pytest.mark.slow

ASSUMED = roofline.Assumed(images=2, words=5, response=4)


def small(**changes):
    """A config whose shapes are small."""
    return tiny_run.config(**{"micro_batch.row_tokens": 192, "prompt.max_pixels": 84 * 84, **changes})


@pytest.mark.parametrize("name", ["untied", "qwen3-untied"])
def test_the_runs_own_programs_compile(name):
    """What they need and what stays, for one CPU device."""
    with jax.set_mesh(mesh.make()):
        lowered, resident = programs.programs(small(), tiny.ALL[name], ASSUMED)
        compiled = {program: programs.compiled(lower) for program, lower in lowered.items()}
    assert compiled.keys() == plan.ARGUMENTS.keys() and resident.keys() <= plan.LIVES.keys()
    assert all(isinstance(program, programs.Compiled) and program.total > 0 for program in compiled.values())
    assert all(program.sent == {} for program in compiled.values()), "one device sends nothing"
    weights = sum(value.size for value in models.named(tiny.random_model(tiny.ALL[name])).values())
    assert resident["weights"] == resident["gradients"] == 4 * weights
    assert resident["optimizer state"] == pytest.approx(8 * weights, rel=1e-3)
    assert compiled["optimizer"].arguments == pytest.approx(16 * weights, rel=1e-3)


def test_they_are_the_ones_that_training_runs(monkeypatch):
    """The same functions; only their shapes are made up."""
    calls = []
    for module, name in (
        (rollout, "prefill"),
        (rollout, "_decode"),
        (update, "_embed"),
        (update, "_add_rows"),
        (update, "_apply"),
    ):
        program = getattr(module, name)
        monkeypatch.setattr(module, name, Spy(program, calls, name))
    with jax.set_mesh(mesh.make()):
        lowered, _ = programs.programs(small(), tiny.CONFIGS["untied"], ASSUMED)
        for lower in lowered.values():
            lower()
    assert calls == ["prefill", "_decode", "_embed", "_add_rows", "_apply"]


class Spy:
    def __init__(self, program, calls, name):
        self.program, self.seen, self.name = program, calls, name

    def lower(self, *args):
        self.seen.append(self.name)
        return self.program.lower(*args)


def test_prompts_that_divide_the_mesh_badly_are_told_as_by_training(monkeypatch, tmp_path):
    monkeypatch.setattr(mesh, "shards", lambda: 16)
    for run in (
        partial(plan.compile_for, small(), tiny.CONFIGS["untied"], ASSUMED, jax.devices()),
        partial(plan.estimate, small(), tiny.CONFIGS["untied"], ASSUMED, plan.GPUS["h100"], jax.devices()),
        partial(train.train, small(), tmp_path / "run"),
    ):
        with pytest.raises(InputError, match="12 of 16 rows would be empty"):
            run()
    assert not (tmp_path / "run").exists(), "before anything is written"


def test_phases_add_what_stays():
    resident = {"weights": 10.0, "optimizer state": 20.0, "gradients": 10.0, "prompt caches": 3.0}
    program = programs.Compiled(arguments=1.0, total=30.0, results=5.0, sent={})
    needed = plan.phases(dict.fromkeys(plan.ARGUMENTS, program) | {"decode": 1.25}, resident, memory=100.0)
    assert needed == {
        "prefill images": 0.53,
        "prefill": 0.53,
        "decode": 1.25,
        "update images": 0.6,
        "update": 0.55,
        "optimizer": 0.3,
    }
    assert plan.resident_bytes(resident, "decode") == 33


def test_frozen_weights_and_the_reference_are_counted_in_the_compute_dtype():
    sizes = tiny.CONFIGS["untied"]
    model = nnx.state(nnx.eval_shape(lambda: qwen.Qwen2_5_VL(sizes, rngs=nnx.Rngs(0))))
    total, vision = (sum(leaf.size for leaf in jax.tree.leaves(part)) for part in (model, model["visual"]))
    bf16 = {"compute_dtype": "bfloat16", "loss.kl_coef": 0.1}
    with jax.set_mesh(mesh.make()):
        full, tower, adapters = (
            programs.programs(small(**bf16, **changes), sizes, ASSUMED)[1]
            for changes in ({}, {"train_vision": False}, {"lora.rank": 2})
        )
    assert full["weights"] == 4 * total and full["frozen weights"] == 0 and full["reference"] == 2 * total
    assert tower["weights"] == tower["gradients"] == 4 * (total - vision) and tower["frozen weights"] == 2 * vision
    assert adapters["frozen weights"] == 2 * total and adapters["reference"] == 0
    assert adapters["optimizer state"] == pytest.approx(2 * adapters["weights"], rel=1e-2)


def test_what_is_sent_is_read_off_the_program():
    """Of a loop as often as it runs, of an operation in several parts once."""
    text = """
%part (x: bf16[2,4]) -> bf16[8,4] {
  ROOT %ag.1 = bf16[8,4]{1,0} all-gather(%x), channel_id=1, dimensions={0}
}

%condition (c: (s32[], f32[5])) -> pred[] {
  %n = s32[]{:T(128)} constant(9)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%body (c: (s32[], f32[5])) -> (s32[], f32[5]) {
  %ar = f32[5] all-reduce(%y), channel_id=2
  %started = bf16[8,4] fusion(%x), kind=kOutput, calls=%part
  %other = bf16[8,4] fusion(%x), kind=kOutput, calls=%part
}

ENTRY %main (a: f32[3]) -> f32[3] {
  %loop = (s32[], f32[5]) while(%tuple), condition=%condition, body=%body
  %reduced = (f32[3], f32[5,2]) all-reduce-start(%a, %b), channel_id=3
  %gathered = (f32[2], f32[8]) all-gather-start(%a), channel_id=4
  %no = f32[100] add(f32[100] %all-gather, f32[100] %y)
}
"""
    assert programs.sent(text) == {"all-gather": 9 * 64 + 32, "all-reduce": 9 * 20 + 52}
    counted = "s32[] constant(128)\n  ROOT %less = pred[]{:T(512)} compare(%i, %n)"
    assert programs.trips(counted) == 128
    assert programs.trips(counted.replace("compare", "and")) == 1, "as decoding, which ends with its streams"
    assert programs.trips("no constant") == programs.trips("s32[] constant(2) s32[] constant(3)") == 1


@pytest.mark.parametrize(
    "message, times",
    [
        (
            "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (20.00G) exceeds available HBM "
            "(16.00G).",
            1.25,
        ),
        ("Ran out of memory in memory space hbm. Used 3.00G of 1536.0M hbm. Exceeded", 2.0),
    ],
)
def test_too_much_memory_is_an_answer(message, times):
    assert programs.overflow(message) == times
    with pytest.raises(RuntimeError, match="something else"):
        programs.overflow("something else")


def test_sizes_come_from_a_name_or_a_directory(tmp_path):
    assert plan.sizes_of("Qwen/Qwen2.5-VL-7B-Instruct@main") == qwen.Config.published("7B")
    (tmp_path / "config.json").write_text(json.dumps(tiny.CONFIGS["tied"].to_hf()))
    assert plan.sizes_of(str(tmp_path)) == tiny.CONFIGS["tied"]
    with pytest.raises(InputError, match="neither a directory nor"):
        plan.sizes_of("Qwen/Qwen2-VL-7B")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: requirements-tpu.txt")
@pytest.mark.parametrize("slices", [1, 2])
def test_a_topology_is_compiled_for(tmp_path, slices):
    (tmp_path / "config.json").write_text(json.dumps(tiny.CONFIGS["untied"].to_hf()))
    changes = {
        "model": tmp_path,
        "mesh.tensor": 2,
        "mesh.slice": slices,
        "questions": 4,
        "prompt.max_pixels": 84 * 84,
        "prompt.max_tokens": 256,
        "sampling.max_new_tokens": 128,
        "micro_batch.row_tokens": 512,
    }
    command = [
        sys.executable,
        "-m",
        "perl_jax.plan",
        "--config=configs/base.py",
        "--topology=v5e:2x2",
        *(f"--config.{key}={value}" for key, value in changes.items()),
        f"--out={tmp_path / 'plan.md'}",
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(plan.__file__).parents[1])
    assert run.returncode == 0, run.stderr
    text = (tmp_path / "plan.md").read_text()
    assert f"{4 * slices} x TPU v5 lite" in text and "**fits**" in text and f"{2 * slices} shards" in text
    assert "all-gather" in text and "compiled ahead of time" in text and "decoding copy" in text


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_libtpu_it_says_what_to_do():
    with pytest.raises(InputError, match=r"requirements-tpu\.txt"):
        programs.devices_of("v5e:2x2")


def test_a_name_stands_for_topologies():
    assert plan.topologies("v5p:4x4x4") == ["v5p:4x4x4"] and plan.topologies("h100:8") == ["h100:8"]
    assert plan.topologies("v6e")[0] == "v6e:2x2" and plan.topologies("v6e")[-1] == "v6e:16x16"
    for name in ("v9:2x2", "h100", "tpu"):
        with pytest.raises(InputError, match="expected a TPU such as"):
            plan.topologies(name)


@pytest.mark.parametrize("config", ["perl_3b.py", "qwen3_vl_4b.py"])
def test_gpus_are_estimated(tmp_path, config):
    """As a command: memory by phase, times, money, and the largest micro-batch, without a compiler."""
    changes = {"micro_batch.row_tokens": 16384, "questions": 128}
    command = [
        sys.executable,
        "-m",
        "perl_jax.plan",
        f"--config=configs/{config}",
        "--topology=h100:8",
        "--price_per_device_hour=2",
        *(f"--config.{key}={value}" for key, value in changes.items()),
        f"--out={tmp_path / 'plan.md'}",
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(plan.__file__).parents[1])
    assert run.returncode == 0, run.stderr
    text = (tmp_path / "plan.md").read_text()
    assert "8 x NVIDIA H100 80GB HBM3: estimated, not compiled" in text and "**fits**" in text
    assert "PFLOP: MFU is at most" in text
    assert "money" in text and "58,000 samples" in text and "26,405 questions" in text
    assert "The largest micro_batch.row_tokens would be" in text


@pytest.mark.parametrize("count", ["0", "1000", "all"])
def test_more_gpus_than_there_can_be(count):
    with pytest.raises(InputError, match=f"h100:{count}: expected 1 to"):
        plan.plan(perl_3b.get_config(), f"h100:{count}", ASSUMED)
