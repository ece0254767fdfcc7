"""Short training runs of a micro model on real digits; one complete run is shared by many tests."""

import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for running as a script

import environment  # noqa: F401  (before the first import of jax)
import tiny
from subprocesses import free_port

import models
from configs import base
from models import image_files
from perl_jax import train
from perl_jax.runtime import bucket, cli, logs, processes

WARMUP, STEPS = 2, 4  # of the shared run

ADAPTERS = {"lora.rank": 3, "lora.targets": tiny.EVERYWHERE, "warmup.steps": 0, "loss.kl_coef": 0.1}


VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1e4,
    "mrope_section": (2, 1, 1),
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
FAMILIES = {  # a micro model of each
    "qwen2_5_vl": {"vision": {**VISION, "window_size": 56, "fullatt_block_indexes": (1,)}, "text": TEXT},
    "qwen3_vl": {
        "model_type": "qwen3_vl",
        "vision": {**VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": (0,)},
        "text": {**TEXT, "num_hidden_layers": 2, "head_dim": 8},
    },
}


def config(family: str = "qwen2_5_vl", **changes):
    """The config of a run of `WARMUP` supervised and `STEPS` PeRL steps with a micro model; `changes` as
    {"loss.kl_coef": 0.1}."""
    made = base.get_config()
    made.scratch = FAMILIES[family]
    few = {
        "compute_dtype": "float32",
        "remat": "none",
        "data.source": "digits",
        "data.options": {
            "train_size": 24,
            "eval_size": 6,
            "image_size": 28,
            "max_images": 2,
            "questions": ("which", "what"),
        },
        "prompt.system": "",
        "prompt.instruction": "In a box.",
        "prompt.min_pixels": 28 * 28,
        "prompt.max_pixels": 56 * 56,
        "prompt.max_tokens": 128,
        "warmup.steps": WARMUP,
        "warmup.questions": 4,
        "warmup.learning_rate": 1e-2,
        "warmup.response": "\\boxed{{answer}}",
        "total_steps": STEPS,
        "questions": 2,
        "rollouts": 2,
        "sampling.max_new_tokens": 8,
        "reward": "tiny_reward:score",
        "grading.workers": 1,
        "loss.kl_coef": 0.0,
        "optimizer.learning_rate": 1e-2,
        "optimizer.steps_per_batch": 1,
        "micro_batch.rows": 2,
        "micro_batch.row_tokens": 256,
        "eval.sets": ("eval",),
        "eval.every": 3,
        "eval.permute": 1,
        "eval.batch": 12,
        "checkpoint.every": 1,
        "checkpoint.keep": 9,
    }
    made.update_from_flattened_dict({**few, **changes})
    return made


def untrained(path: Path, family: str) -> None:
    """Writes a directory with a micro model of random weights, whose tokenizer knows the digits' questions."""
    sizes = dict(FAMILIES[family])
    make = models.family({"model_type": sizes.pop("model_type", family)}).from_scratch.make
    make(path, sizes, ["Which image shows 7? In a box."], vocab_size=300)


def run(workdir: Path, **changes) -> Path:
    """Trains in `workdir` and returns it."""
    train.train(config(**changes), workdir)
    return workdir


def run_until(workdir: str, step: int, number: int = signal.SIGKILL, **changes) -> None:
    """As `run`, but the process gets a signal when `step` is logged, by default that of `kill -9`."""
    write = logs.RunLog.step

    def write_and_die(log, stage, at, values):
        write(log, stage, at, values)
        if at == step:
            os.kill(os.getpid(), number)

    logs.RunLog.step = write_and_die
    run(Path(workdir), **changes)


def start(
    workdir: Path,
    count: int,
    devices: int = 4,
    changes: Sequence[Mapping] = ({},),
    die: str = "0",
    which: int = -1,
    broken: str = "nothing",
) -> list[subprocess.Popen]:
    """`count` processes of one run, with `devices` in all, of which one dies, as `main` has it; `changes` in turns."""
    coordinator = f"localhost:{free_port()}" if count > 1 else ""
    flags = f"--xla_force_host_platform_device_count={devices // count}"
    variables = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}

    def process(index: int) -> subprocess.Popen:
        made, dies = json.dumps(changes[index % len(changes)]), die if index == which % count else "0"
        command = [sys.executable, __file__, workdir, made, coordinator, count, index, dies, broken]
        return subprocess.Popen(
            [str(part) for part in command], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return [process(index) for index in range(count)]


def trained(family: str = "qwen2_5_vl") -> Path:
    """The workdir of one complete run, read-only."""
    return _once("trained", family)


def adapted(family: str = "qwen2_5_vl") -> Path:
    """The workdir of one complete run that trained adapters of both towers with KL, read-only."""
    return _once("adapted", family, **ADAPTERS)


@functools.cache
def _once(name: str, family: str, **changes) -> Path:
    """The workdir of a run that one test process makes for all of them, in the folder that conftest.py names."""
    workdir = Path(os.environ["PERL_JAX_TINY_RUNS"], family, name)
    workdir.parent.mkdir(exist_ok=True)
    with open(f"{workdir}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = Path(f"{workdir}.done")
        if not done.exists():
            run(workdir, family=family, **changes)
            done.touch()
    return workdir


def metrics(workdir: Path, stage: str | None = None) -> list[dict]:
    """The lines of metrics.jsonl for training steps (not evaluations)."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "update/loss" in line and stage in (None, line["stage"])]


def main(
    workdir: str,
    changes: str,
    coordinator: str = "",
    count: str = "1",
    index: str = "0",
    die: str = "0",
    broken: str = "nothing",
) -> None:
    """One process of a run: `tiny_run.py WORKDIR CHANGES [COORDINATOR COUNT INDEX [DIE [BROKEN]]]`.

    DIE is "STEP:SIGNAL", such as "3:SIGKILL": what it gets at which step. The images of record BROKEN cannot be
    decoded; WORKDIR/decoded-INDEX.json lists the images that it decoded.
    """
    processes.TIMEOUT, processes.LOST = 60, 20
    at, _, number = die.partition(":")

    def dying(write):
        def write_and_die(log, stage, step, values):
            write(log, stage, step, values)
            if step == int(at):
                os.kill(os.getpid(), getattr(signal, number))

        return write_and_die

    for each in (logs.NoLog, logs.RunLog):
        each.step = dying(each.step)
    decode, decoded = image_files.open_image, []

    def noted(data, where):
        decoded.append(where)
        return decode(data[: len(data) // 2] if f"'{broken}'" in where else data, where)

    image_files.open_image = noted
    with cli.telling():
        processes.join(coordinator, int(count), int(index))
        folder = run(bucket.local(workdir), **json.loads(changes))
        (folder / f"decoded-{index}.json").write_text(json.dumps(decoded))


if __name__ == "__main__":
    main(*sys.argv[1:])
