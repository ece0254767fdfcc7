"""What permuting teaches, and when it pays: `python -m benchmarks.evidence [PART ...] [--seeds=3]` (Linux).

Trains the arms of configs/evidence.py side by side, a run on each CPU core, from one warm-up a seed, and asks each the
held-out questions of its seed. Every finished run is a line of evidence.jsonl; started again, the command does what is
missing there. `--run=ARM,QUESTIONS,SEED` makes one line anew and prints it. --quick (15 minutes) runs a few arms once,
into a folder of its own. After the runs, or with --report alone, EVIDENCE.md and its plots are written from the lines.
"""

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import evidence_report
from benchmarks.readme import REPOSITORY, machine
from configs import evidence
from perl_jax import evaluate, train
from perl_jax.evaluation import consistency, statistics, training_runs
from perl_jax.export import export
from perl_jax.runtime import files, logs

FILE = Path(__file__).with_name("evidence.jsonl")
WORK = REPOSITORY / "runs" / "evidence"
BLOCK = 10  # steps of a point of a curve
CURVES = {
    "reward": "reward/mean",
    "between": "reward/between_order_variance",
    "within": "reward/within_order_variance",
    "silent": "advantage/zero_share",
    "permuted": "permute/share",
}
WARM_UP = ("warm-up", 12000)
SIZES = (250, 1000, 4000, 12000)
CORE = ("grpo", "shuffle-once", "shuffle-fresh", "shuffle-half", "perl", "perl-constant", "perl-constant-order")
PARTS = {
    "core": [WARM_UP, *((arm, size) for size in SIZES for arm in CORE)],
    "group": [
        (arm, 1000)
        for arm in (
            "perl-constant-both",
            "perl-constant-times",
            "perl-constant-plus",
            "perl-constant-drawn",
            "perl-cosine",
            "perl-rising",
            "perl-adaptive",
            "perl-constant-3",
        )
    ],
    "loss": [(f"perl-constant-{name}", 1000) for name in ("gspo", "cispo", "sapo", "refill")],
}
QUICK = [WARM_UP, *((arm, 1000) for arm in ("grpo", "shuffle-once", "perl", "perl-constant"))]


class Run(NamedTuple):
    """One arm of configs/evidence.py, trained on the first `questions` records of a seed's data."""

    arm: str
    questions: int
    seed: int

    def __str__(self) -> str:
        return f"{self.arm},{self.questions},{self.seed}"

    @classmethod
    def parse(cls, text: str) -> "Run":
        arm, questions, seed = text.split(",")
        return cls(arm, int(questions), int(seed))


def warm_up(folder: Path, seed: int) -> None:
    """Trains and exports what all arms of a seed begin from, once."""
    model = folder / f"warm-up-{seed}" / "model"
    if not model.exists():
        config = evidence.get_config("warm-up")
        config.seed = seed
        train.train(config, model.parent)
        export(model.parent, model)


def line(folder: Path, run: Run) -> dict:
    """Trains and evaluates one arm, or evaluates the warm-up: its line of evidence.jsonl."""
    start, workdir, warm = time.monotonic(), folder / str(run), folder / f"warm-up-{run.seed}"
    config = evidence.get_config(f"{run.arm},{run.questions}")
    if run.arm == "warm-up":
        workdir = warm
    else:
        shutil.rmtree(workdir, ignore_errors=True)
        config.seed, config.model, config.data.directory = run.seed, str(warm / "model"), str(warm / "data")
        train.train(config, workdir)
        export(workdir, workdir / "model")
    trained = time.monotonic()
    drawn = evaluate.evaluate(
        evaluate.Options(
            model=str(workdir / "model"),
            benchmark="records",
            data=str(warm / "data"),
            out=str(workdir / "results"),
            temperature=1.0,
            max_new_tokens=config.sampling.max_new_tokens,
            seed=run.seed,
            permute=2,
            limit=200,
            batch=256,
            dtype="float32",
        )
    )["consistency"]
    found = {
        **run._asdict(),
        "commit": (logs.environment()["commit"] or "")[:7],
        "machine": machine(),
        "date": str(date.today()),
        "seconds": round(trained - start, 1),
        "evaluation_seconds": round(time.monotonic() - trained, 1),
        **figures(training_runs.read(str(run), workdir), files.json_lines(workdir / "rollouts.jsonl")),
        "drawn": {
            "accuracy": drawn["accuracy"]["mean"],
            **{name: drawn[name]["mean"] for name in consistency.COMPARED},
            "control_flip": drawn["control"]["flip"]["mean"],
        },
    }
    shutil.rmtree(workdir if workdir != warm else warm / "results")
    return json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 5))


def figures(run: training_runs.Run, groups: Iterator[dict]) -> dict:
    """Greedy held-out figures of a finished run, its curves, and how its advantages are distributed."""
    rows = run.result("eval").rows
    measures = statistics.measures(rows)
    of_question = statistics.by_question(rows)
    by_source = {
        f"{name}/{source.removeprefix('digits_')}": np.mean(
            [value for question, value in measures[name].items() if of_question[question][0]["source"] == source]
        )
        for name in ("accuracy", "permuted")
        for source in sorted({of_question[question][0]["source"] for question in measures[name]})
    }
    which = [row for row in rows if row["source"] == "digits_which"]
    places = sorted({row["answer"] for row in which})
    advantages = np.array([value for group in groups for order in group["advantages"] for value in order])
    counts, _ = np.histogram(advantages, np.arange(-3.25, 3.5, 0.5))
    return {
        **{name: np.mean(list(values.values())) for name, values in measures.items()},
        "by_source": by_source,
        "by_place": {place: np.mean([row["correct"] for row in which if row["answer"] == place]) for place in places},
        "curves": {name: curve(run, metric) for name, metric in CURVES.items()},
        "advantages": (counts / max(1, len(advantages))).tolist(),
        "step_seconds": np.median(list(run.values("time/total").values())),
    }


def curve(run: training_runs.Run, metric: str) -> list[float]:
    """The means of a metric over blocks of `BLOCK` steps."""
    values = list(run.values(metric, "perl").values())
    return [float(np.mean(values[i : i + BLOCK])) for i in range(0, len(values), BLOCK)]


def missing(runs: Sequence[Run], file: Path) -> list[Run]:
    """The runs that have no line in a file yet."""
    done = {Run(found["arm"], found["questions"], found["seed"]) for found in files.json_lines(file)}
    return [run for run in runs if run not in done]


def measure(runs: Sequence[Run], folder: Path, file: Path) -> int:
    """Adds the lines of runs to a file, as they end: one at a time on each core, each in a process of its own.

    Returns how many runs failed; FOLDER/log says why.
    """
    cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def alone(run: Run) -> str:
        core = cores.get()
        command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.evidence", f"--run={run}"]
        try:
            with (folder / "log").open("a") as log:
                done = subprocess.run(
                    [*command, f"--folder={folder}"], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=log
                )
        finally:
            cores.put(core)
        return "" if done.returncode else done.stdout.decode().splitlines()[-1]

    folder.mkdir(parents=True, exist_ok=True)
    begun, ended, failed = time.monotonic(), 0, 0
    first = [Run(*WARM_UP, seed) for seed in sorted({run.seed for run in runs})]  # which all others begin from
    first = [run for run in first if run in runs or not (folder / f"warm-up-{run.seed}" / "model").exists()]
    with ThreadPoolExecutor(cores.qsize()) as pool:
        for part in (first, [run for run in runs if run not in first]):
            tasks = {pool.submit(alone, run): run for run in part}
            for task in as_completed(tasks):
                run, text, ended = tasks[task], task.result(), ended + 1
                failed += not text
                if text and run in runs:
                    with file.open("a", encoding="utf-8") as lines:
                        lines.write(text + "\n")
                left = (len(runs) - ended) * (time.monotonic() - begun) / ended
                told = "FAILED"
                if text:
                    told = "accuracy {accuracy:.3f}, permuted {permuted:.3f}".format(**json.loads(text))
                print(f"{ended} of {len(runs)}: {run}: {told}; {left / 60:.0f} min left", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--run", type=Run.parse, help="print the line of one run alone, as perl,1000,0")
    parser.add_argument("--folder", type=Path, default=WORK, help="where runs are")
    arguments = parser.parse_args()
    if arguments.run:
        jax.config.update("jax_compilation_cache_dir", str(REPOSITORY / ".cache" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        warm_up(arguments.folder, arguments.run.seed)
        print(json.dumps(line(arguments.folder, arguments.run)))
        return
    if unknown := set(arguments.parts) - set(PARTS):
        raise SystemExit(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    cells = QUICK if arguments.quick else [cell for name in arguments.parts or PARTS for cell in PARTS[name]]
    seeds, file = (1, WORK / "quick.jsonl") if arguments.quick else (arguments.seeds, FILE)
    runs = [Run(*cell, seed) for seed in range(seeds) for cell in cells]
    failed = 0 if arguments.report else measure(missing(runs, file), arguments.folder, file)
    every = [Run(*cell, seed) for seed in range(seeds) for part in PARTS.values() for cell in part]
    still = 0 if arguments.quick else len(missing(every, file))
    evidence_report.write(list(files.json_lines(file)), PARTS, still, file.with_name("EVIDENCE.md"), BLOCK)
    if failed:
        raise SystemExit(f"{failed} runs failed: {arguments.folder / 'log'} says why")


if __name__ == "__main__":
    main()
