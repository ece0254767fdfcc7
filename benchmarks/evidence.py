"""What permuting teaches, and when it pays: `python -m benchmarks.evidence [PART ...] [--seeds=3]` (Linux).

Trains the arms of configs/evidence.py side by side, a run on each CPU core, from one warm-up a seed, and asks each the
held-out questions of its seed. Every finished run is a line of evidence.jsonl; started again, the command does what is
missing there. --quick (15 minutes) runs a few arms once, into a folder of its own. After the runs, or with --report
alone, EVIDENCE.md and its plots are written from the lines.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
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
SIZES = (250, 1000, 4000, 12000)
CORE = ("grpo", "shuffle-once", "shuffle-fresh", "shuffle-half", "perl", "perl-constant", "perl-constant-order")
PARTS = {
    "core": [("warm-up", 12000), *((arm, size) for size in SIZES for arm in CORE)],
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
QUICK = [("warm-up", 12000), *((arm, 1000) for arm in ("grpo", "shuffle-once", "perl", "perl-constant"))]


class Run(NamedTuple):
    """One arm of configs/evidence.py, trained on the first `questions` records of a seed's data."""

    arm: str
    questions: int
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}-{self.questions}-{self.seed}"


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
    measures["worst"] = {q: float(min(row["correct"] for row in of_question[q])) for q in measures["permuted"]}
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


def on_one_core(cores: multiprocessing.Queue) -> None:
    """Sets up a process that trains one run after another, on a core of its own: a run's rounding depends on it."""
    os.sched_setaffinity(0, {cores.get()})  # before JAX starts its threads
    jax.config.update("jax_compilation_cache_dir", str(REPOSITORY / ".cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def missing(runs: Sequence[Run], file: Path) -> list[Run]:
    """The runs that have no line in a file yet."""
    done = Counter(Run(found["arm"], found["questions"], found["seed"]) for found in files.json_lines(file))
    return [run for run in runs if run not in done]


def measure(runs: Sequence[Run], folder: Path, file: Path) -> None:
    """Adds the lines of runs to a file, as they end; several at a time."""
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    available = sorted(os.sched_getaffinity(0))
    for core in available:
        cores.put(core)
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(len(available), context, on_one_core, (cores,)) as pool:
        for warm in as_completed([pool.submit(warm_up, folder, seed) for seed in sorted({run.seed for run in runs})]):
            warm.result()
        begun = time.monotonic()
        for count, done in enumerate(as_completed([pool.submit(line, folder, run) for run in runs]), start=1):
            found = done.result()
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(found) + "\n")
            left = (len(runs) - count) * (time.monotonic() - begun) / count
            print(
                f"{count} of {len(runs)}: {found['arm']} on {found['questions']}, seed {found['seed']}: "
                f"accuracy {found['accuracy']:.3f}, permuted {found['permuted']:.3f}, {found['seconds']:.0f} s; "
                f"{left / 60:.0f} min left",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        raise SystemExit(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    cells = QUICK if arguments.quick else [cell for name in arguments.parts or PARTS for cell in PARTS[name]]
    seeds, file = (1, WORK / "quick.jsonl") if arguments.quick else (arguments.seeds, FILE)
    runs = [Run(*cell, seed) for seed in range(seeds) for cell in cells]
    if not arguments.report and (left := missing(runs, file)):
        measure(left, WORK, file)
    still = len(
        missing([Run(*cell, seed) for seed in range(seeds) for cells in PARTS.values() for cell in cells], file)
    )
    lines = list(files.json_lines(file))
    evidence_report.write(lines, PARTS, 0 if arguments.quick else still, file.with_name("EVIDENCE.md"), BLOCK)


if __name__ == "__main__":
    main()
