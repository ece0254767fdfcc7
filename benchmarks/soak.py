"""A long run under all that goes wrong: `python -m benchmarks.soak` (an hour; --minutes=M; Linux).

One of a hundred rows cannot be read, rewards are slow, fail, hang or kill their worker. In the first half the run is
killed with -9 at random moments, and its disk is full once, where the right to mount one is there; each time the same
command goes on. The second half is one process, whose memory, open files and compilations are watched; SIGTERM ends it.
Writes a section of FAULTS.md, and fails where a promise is broken.
"""

import argparse
import contextlib
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks import faults, kills
from perl_jax import records
from perl_jax.data import digits

RECORDS = 1000  # of which one in a hundred is bad
CHECKPOINT, WARM, CALL = 10, 150, 5.0  # steps between checkpoints; steps until all shapes were there; seconds
CHANGES = {  # of kills.SMALL
    "warmup.steps": 0,
    "total_steps": 1_000_000,
    "eval.every": 50,
    "checkpoint.every": CHECKPOINT,
    "max_skipped": 0.02,
    "grading.timeout": 1.0,
}


def write_data(folder: Path) -> None:
    """Records, one in a hundred with a picture that ends too early, which `records.write` would refuse."""
    options = {"train_size": RECORDS, "eval_size": 8, "max_images": 3, "questions": ("which", "what", "largest")}

    def some_bad(split: str) -> Iterator[dict]:
        for number, record in enumerate(digits.records(split=split, **options)):
            if split == "train" and number % 100 == 50:
                record = {**record, "images": [data[: len(data) * 2 // 3] for data in record["images"]]}
            yield record

    with mock.patch("perl_jax.records.record.to_stored_format", lambda data, _: data):
        records.write({split: some_bad(split) for split in digits.SPLITS}, str(folder))


@contextlib.contextmanager
def disk() -> Iterator[tuple[Path, bool]]:
    """A folder, and whether it is a disk of its own, of 400 MB."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", folder], capture_output=True
        ).returncode
        try:
            yield Path(folder), mounted
        finally:
            if mounted:
                subprocess.run(["umount", "-l", folder], check=True)


def fill(run: faults.Run, process: subprocess.Popen) -> bool:
    """Fills the run's disk until it ends; whether it said why in one line."""
    filler = run.workdir.with_name("filler")
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    try:
        code = process.wait(timeout=300)
    finally:
        filler.unlink()
    last = run.last_lines().rpartition("\n")[2]
    return code == 1 and last.startswith("error: ") and ("No space left" in last or "free" in last)


def troubled(run: faults.Run, seconds: float, moments: random.Random, mounted: bool) -> dict[str, object]:
    """Kills the run at random moments, and fills its disk once where it is one of its own; what came of it."""
    end, count, left, done = time.monotonic() + seconds, 0, 0, []
    told = "" if mounted else "not tried: it needs the right to mount one"
    process = run.start()
    while (now := time.monotonic()) < end:
        time.sleep(min(moments.expovariate(8 / seconds), end - now))
        if process.poll() is not None:
            raise SystemExit(f"the run ended:\n{run.last_lines()}")
        if not told and end - now < seconds / 2:
            told = "one line" if fill(run, process) else "NOT one line"
        else:
            count += 1
        left += len(run.kill())
        done.append(len(run.steps()))
        process = run.start()
    resumed = [int(step) for step in re.findall(r"resumed from step (\d+)", run.log.read_text())]
    again = [before - after for before, after in zip(done, resumed)]
    return {
        "kills -9": count,
        "full disk": told or "not tried: the time was too short",
        "processes left": left,
        "most steps done again": max(again, default=0),
    }


def report(
    found: dict, steps: list[dict], first: int, seen: list[tuple[int, int]], code: int, mounted: bool
) -> tuple[dict[str, object], dict[str, bool]]:
    """(facts, promises) of a run.

    By what `troubled` found, its steps, the first that was watched, the (bytes, open files) seen from then on, its exit
    code, and whether its disk was filled.
    """
    fifths = np.array_split(np.array(seen or [(0, 0)]), 5)
    sizes, files = np.array([np.median(part, axis=0) for part in fifths if len(part)]).T
    late = [row for row in steps[first:] if row["compile/count"]]
    count, last = sum(row["compile/count"] for row in late), late[-1]["step"] if late else 0
    facts = {
        "steps": len(steps),
        **found,
        "rewards failed": f"{sum(row.get('grading/failed', 0) for row in steps):g}",
        f"MiB of the last process after {WARM} steps, by fifths": ", ".join(f"{size / 2**20:.0f}" for size in sizes),
        "its open files": ", ".join(f"{number:g}" for number in files),
        "programs that it compiled from then on": f"{count:g}" + f", the last in step {last}" * bool(last),
    }
    return facts, {
        "each step once in metrics.jsonl": [row["step"] for row in steps] == [*range(1, len(steps) + 1)],
        "at most 10 steps done again": found["most steps done again"] <= CHECKPOINT,
        "full disk told in one line": not mounted or found["full disk"] == "one line",
        "no process left": not found["processes left"],
        "exit code 0 on SIGTERM": code == 0,
        "memory within 5%": sizes[-1] <= 1.05 * sizes[0],
        "open files flat": files[-1] <= files[0],
        "nothing compiled in the second half of that": last < (first + len(steps)) / 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as data, disk() as (folder, mounted), faults.told("soak") as lines:
        write_data(Path(data, "set"))
        changes = {**CHANGES, "reward": "benchmarks.rewards:troubled", "data.directory": f"{data}/set"}
        run = faults.Run(folder / "run", kills.flags(changes))
        run.log = Path(data, "log")  # not on the disk that is filled
        half = 30 * arguments.minutes
        found = troubled(run, half, random.Random(arguments.seed), mounted)
        process, first, seen = run.last, len(run.steps()) + WARM, []
        end = time.monotonic() + half
        while time.monotonic() < end and process.poll() is None:
            if seen or len(run.steps()) >= first:  # the file is long by then: it is not read again
                seen.append((faults.memory(process.pid), faults.open_files(process.pid)))
            time.sleep(CALL)
        process.send_signal(signal.SIGTERM)
        code, found["processes left"] = process.wait(), found["processes left"] + len(run.left())
        steps = run.steps()
        skipped = faults.rows(run.workdir / "skipped.jsonl")
        facts, holds = report(found, steps, first, seen, code, mounted)
        times = f"{len(skipped)} times, {len({row['id'] for row in skipped})} of {RECORDS // 100}"
        facts = {"minutes": f"{arguments.minutes:g}", **facts, "bad records skipped": times}
        lines += ["| | |", "| --- | --- |", *(f"| {name} | {fact} |" for name, fact in facts.items())]
        lines += [f"| {name} | {'yes' if held else 'NO'} |" for name, held in holds.items()]
    if not all(holds.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
