"""What a run would take: shapes and sums on the CPU, and real compiling for TPUs where libtpu is installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tiny
import tiny_run

from models import qwen2_5_vl as qwen
from models.errors import InputError
from perl_jax import flops, mesh, plan, rollout, train, update

ASSUMED = plan.Assumed(images=2, words=5, response=4)


def small(**changes):
    """A config whose shapes are small."""
    return tiny_run.config(**{"micro_batch.row_tokens": 192, "prompt.max_pixels": 84 * 84, **changes})


@pytest.fixture(scope="module")
def found():
    """({program: what it needs}, {what stays: bytes}) for one CPU device."""
    with jax.set_mesh(mesh.make()):
        lowered, resident = plan.programs(small(), tiny.CONFIGS["untied"], ASSUMED)
        return {name: plan.compiled(lower) for name, lower in lowered.items()}, resident


def test_the_runs_own_programs_compile(found):
    programs, resident = found
    assert programs.keys() == plan.RESIDENT.keys()
    assert all(isinstance(program, plan.Compiled) and program.total > 0 for program in programs.values())
    assert all(program.sent == {} for program in programs.values()), "one device sends nothing"
    weights = sum(value.size for value in qwen.named(tiny.random_model(tiny.CONFIGS["untied"])).values())
    assert resident["weights"] == resident["gradients"] == 4 * weights
    assert resident["optimizer state"] == pytest.approx(8 * weights, rel=1e-3)
    assert programs["optimizer"].arguments == pytest.approx(16 * weights, rel=1e-3)


def test_they_are_the_ones_that_training_runs(monkeypatch):
    """The same functions; only their shapes are made up."""
    seen = []
    for module, name in ((rollout, "_start"), (rollout, "_decode"), (update, "_embed"), (update, "_add_rows"),
                         (update, "_apply")):  # fmt: skip
        program = getattr(module, name)
        monkeypatch.setattr(module, name, Spy(program, seen, name))
    with jax.set_mesh(mesh.make()):
        lowered, _ = plan.programs(small(), tiny.CONFIGS["untied"], ASSUMED)
        for lower in lowered.values():
            lower()
    assert seen == ["_start", "_decode", "_embed", "_add_rows", "_apply"]


class Spy:
    def __init__(self, program, seen, name):
        self.program, self.seen, self.name = program, seen, name

    def lower(self, *args):
        self.seen.append(self.name)
        return self.program.lower(*args)


def test_prompts_that_divide_the_mesh_badly_are_told_as_by_training(monkeypatch, tmp_path):
    monkeypatch.setattr(mesh, "shards", lambda: 16)
    monkeypatch.setattr(plan, "MEMORY", {jax.devices()[0].device_kind: 1e9})
    with pytest.raises(InputError, match="12 of 16 rows would be empty"):
        plan.report(small(), tiny.CONFIGS["untied"], ASSUMED, jax.devices(), 0.4, 0.0)
    with pytest.raises(InputError, match="12 of 16 rows would be empty"):
        train.train(small(), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "before anything is written"


def test_phases_add_what_stays():
    resident = {"weights": 10.0, "optimizer state": 20.0, "gradients": 10.0}
    program = plan.Compiled(arguments=1.0, total=30.0, results=5.0, sent={})
    needed = plan.phases(dict.fromkeys(plan.RESIDENT, program) | {"decode": 1.25}, resident, memory=100.0)
    assert needed == {"prefill pictures": 0.5, "prefill": 0.5, "decode": 1.25, "update pictures": 0.6, "update": 0.55,
                      "optimizer": 0.3}  # fmt: skip


def test_what_is_sent_is_read_off_the_program():
    text = """
  %ag = bf16[8,4]{1,0} all-gather(bf16[2,4] %x), dimensions={0}
  %ar = (f32[3], f32[5,2]) all-reduce-start(f32[3] %a, f32[5,2] %b)
  %no = f32[100] add(f32[100] %all-gather, f32[100] %y)
"""
    assert plan.sent(text) == {"all-gather": 64, "all-reduce": 52}


@pytest.mark.parametrize(
    "message, times",
    [
        ("RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (20.00G) exceeds available HBM (16.00G).",
         1.25),
        ("Ran out of memory in memory space hbm. Used 3.00G of 1536.0M hbm. Exceeded", 2.0),
    ],
)  # fmt: skip
def test_too_much_memory_is_an_answer(message, times):
    assert plan.overflow(message) == times
    with pytest.raises(RuntimeError, match="something else"):
        plan.overflow("something else")


def test_seconds_follow_the_work():
    """One device of a slice of one, no padding: FLOPs over peak, bytes over bandwidth."""
    sizes, kind = qwen.Config.published("3B"), "TPU v5"
    assumed = plan.Assumed(images=0, words=1000, response=500)
    config = small(**{"questions": 8, "n_s": 0, "rollouts": 2, "micro_batch.row_tokens": 2000, "micro_batch.rows": 8,
                      "prompt.max_tokens": 1000, "remat": True})  # fmt: skip
    parts = plan.seconds(config, sizes, assumed, kind, count=1, shards=1, efficiency=0.5)
    row = flops.text(sizes.text, 2000, 2000 * 1250, 2000)
    assert parts["update"] == pytest.approx(4 * 8 * row / flops.PEAK[kind] / 0.5)
    four = plan.seconds(config, sizes, assumed, kind, count=4, shards=4, efficiency=0.5)
    assert four["update"] == pytest.approx(parts["update"]), "8 rows on each of 4 shards: most are empty"
    assert parts["decode"] / 500 > 2 * 3.0e9 / flops.BANDWIDTH[kind] / 0.5


def test_sizes_come_from_a_name_or_a_directory(tmp_path):
    assert plan.sizes_of("Qwen/Qwen2.5-VL-7B-Instruct@main") == qwen.Config.published("7B")
    (tmp_path / "config.json").write_text(json.dumps(tiny.CONFIGS["tied"].to_hf()))
    assert plan.sizes_of(str(tmp_path)) == tiny.CONFIGS["tied"]
    with pytest.raises(InputError, match="neither a directory nor"):
        plan.sizes_of("Qwen/Qwen2-VL-7B")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: requirements-tpu.txt")
def test_a_topology_is_compiled_for(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny.CONFIGS["untied"].to_hf()))
    changes = {"model": tmp_path, "mesh.tensor": 2, "questions": 4, "prompt.max_pixels": 84 * 84,
               "prompt.max_tokens": 256, "sampling.max_new_tokens": 128, "micro_batch.row_tokens": 512}  # fmt: skip
    command = [sys.executable, "-m", "perl_jax.plan", "--config=configs/base.py", "--topology=v5e:2x2",
               *(f"--config.{key}={value}" for key, value in changes.items()), f"--out={tmp_path / 'plan.md'}"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(plan.__file__).parents[1])
    assert run.returncode == 0, run.stderr
    said = (tmp_path / "plan.md").read_text()
    assert "4 x TPU v5 lite" in said and "**fits**" in said and "2 shards" in said and "all-gather" in said


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_libtpu_it_says_what_to_do():
    with pytest.raises(InputError, match=r"requirements-tpu\.txt"):
        plan.devices_of("v5e:2x2")
