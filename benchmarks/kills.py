"""Runs killed with -9 at random moments end as ones that nobody stopped: `python -m benchmarks.kills` (about 40 min).

Each run is killed one to three times, at moments drawn over a whole run: while it starts, between steps, in a save;
half of them also right after a checkpoint's file appeared. Then the same command runs to its end. Compared to the bit
are all weights and moments of each checkpoint that is left, metrics but times, rollouts, evaluations and skipped
records; and of the killed run no process may be left. Writes a section of FAULTS.md.
"""

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks import faults
from perl_jax import records
from perl_jax.data import digits

SMALL: dict[str, object] = {
    "scratch.vision.depth": 1,
    "scratch.vision.fullatt_block_indexes": (0,),
    "scratch.text.num_hidden_layers": 1,
    "warmup.steps": 2,
    "warmup.questions": 4,
    "warmup.response": "\\boxed{{answer}}",
    "total_steps": 6,
    "questions": 4,
    "rollouts": 2,
    "sampling.max_new_tokens": 8,
    "eval.every": 4,
    "eval.limit": 8,
    "eval.permute": 1,
    "checkpoint.every": 2,
    "reward": "benchmarks.rewards:distinct",
}
CONFIGS: dict[str, dict[str, object]] = {
    "PeRL with evaluations and the best checkpoint": {},
    "groups drawn again until rewards differ": {"online_filter": "refill", "refill_rounds": 3},
    "adapters with KL to the base": {
        "lora.rank": 2,
        "warmup.steps": 0,
        "loss.kl_coef": 0.1,
        "optimizer.steps_per_batch": 2,
    },
}


def flags(changes: dict[str, object]) -> list[str]:
    return ["--config=demo", *(f"--config.{key}={value}" for key, value in {**SMALL, **changes}.items())]


def killed(run: faults.Run, moments: random.Random, seconds: float) -> tuple[list[int], int]:
    """Begins a run one to three times and kills it: (steps done at each kill, processes left behind)."""
    at, left = [], 0
    for _ in range(moments.randint(1, 3)):
        process, end, in_a_save = run.start(), time.monotonic() + moments.uniform(0, seconds), moments.random() < 0.5
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)
        before = set(run.workdir.glob("checkpoints/*"))
        while in_a_save and process.poll() is None and not set(run.workdir.glob("checkpoints/*")) - before:
            time.sleep(0.005)
        if process.poll() is not None:  # it had ended before
            break
        left += len(run.kill())
        at.append(len(run.steps()))
    return at, left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of each config")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, faults.told("kills") as lines:
        data = Path(folder, "data")
        options = {"train_size": 64, "eval_size": 8, "max_images": 2, "questions": "which"}  # few programs
        records.write({split: digits.records(split=split, **options) for split in digits.SPLITS}, str(data))
        first = finish(faults.Run(Path(folder, "first"), flags({"data.directory": data})))
        lines += ["| config | runs | kills | steps done when killed | equal | processes left |", "|" + " --- |" * 6]
        for number, (name, changes) in enumerate(CONFIGS.items()):
            command = flags({**changes, "data.directory": data, "model": first.workdir / "init"})
            finish(faults.Run(Path(folder, f"{number}-compiled"), command))
            started, whole = time.monotonic(), finish(faults.Run(Path(folder, f"{number}-whole"), command))
            seconds, wanted = time.monotonic() - started, whole.results()
            moments, equal, kills, left = random.Random(arguments.seed + number), 0, 0, 0
            steps: list[int] = []
            for i in range(arguments.runs):
                run = faults.Run(Path(folder, f"{number}-{i}"), command)
                at, lasting = killed(run, moments, seconds)
                differ = faults.differing(wanted, finish(run).results())
                kills, steps, left, equal = kills + len(at), steps + at, left + lasting, equal + (not differ)
                print(f"{name}, run {i + 1}: killed at step {at}, {differ[:3] or 'equal'}", flush=True)
                shutil.rmtree(run.workdir)
            done = ", ".join(f"{steps.count(step)} at {step}" for step in sorted(set(steps)))
            lines.append(f"| {name} | {arguments.runs} | {kills} | {done} | {equal} of {arguments.runs} | {left} |")


def finish(run: faults.Run) -> faults.Run:
    """The run at its end. Raises SystemExit with the end of its log where it fails."""
    if run.start().wait():
        raise SystemExit(f"{run.workdir.name} failed:\n{run.last_lines()}")
    return run


if __name__ == "__main__":
    main()
