"""Logs of a run: a line per step, a progress bar, TensorBoard, and files that a restart appends to."""

import collections
import contextlib
import importlib.metadata
import json
import math
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.errors import InputError, one_line
from perl_jax import __version__
from perl_jax.runtime import files

RUN = "run.json"  # in the workdir: config, versions and facts of each start
LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "transformers")
SKIPPED = "skipped.jsonl"  # in a workdir: records that failed in the run
NOT_FINITE = "not_finite"  # in metrics.jsonl: {metric: "nan", "inf" or "-inf"} of those that are null there
IN_LINE = {  # metric: short name in a step's line
    "reward/mean": "reward",
    "reward/accuracy": "accuracy",
    "permute/probability": "p",
    "group/all_right": "all right",
    "group/all_wrong": "all wrong",
    "response/entropy": "entropy",
    "update/logprob": "logprob",
    "update/grad_norm": "|grad|",
    "update/sampler_gap": "gap",
    "response/length_mean": "tokens",
    "speed/rollout_tokens_per_second": "rollout/s",
    "speed/update_tokens_per_second": "update/s",
}
IN_BAR = ("reward/mean", "reward/accuracy")
LEGEND = (
    "reward, accuracy: means over the step's responses; p: chance of a permuted order; all right, all wrong: shares of "
    "groups; entropy, logprob: of sampled tokens, nats; gap: sampler against update; tokens: of a response; rollout/s, "
    "update/s: tokens a second"
)


class Clock:
    """Times the parts of a step: `with clock("rollout"): ...`; the rest is `other`."""

    def __init__(self):
        self._start = time.perf_counter()
        self._parts: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, part: str):
        start = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] = self._parts.get(part, 0.0) + time.perf_counter() - start

    def seconds(self, part: str) -> float:
        """Seconds of a part so far."""
        return self._parts.get(part, 0.0)

    def metrics(self) -> dict[str, float]:
        """Seconds by part, `time/<part>`, with `time/other` and `time/total`."""
        total = time.perf_counter() - self._start
        parts = {**self._parts, "other": total - sum(self._parts.values()), "total": total}
        return {f"time/{name}": seconds for name, seconds in parts.items()}


class TensorBoard:
    """TensorBoard's file of scalars, written at once: `SummaryWriter` has a thread, and tells nobody of a full disk.

    What earlier files have from `purge_step` on is not shown.
    """

    def __init__(self, folder: Path, purge_step: int | None = None):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(exist_ok=True)
        self._events = EventsWriter(str(folder / "events"))
        self.flush, self.close = self._events.flush, self._events.close
        if purge_step is not None:
            begin = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(wall_time=time.time(), step=purge_step, session_log=begin))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        self._events.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))


class RunLog:
    """The log of a run of `last` steps in its workdir.

    Writes run.json, metrics.jsonl, rollouts.jsonl, evaluations/ and tensorboard/. What these and skipped.jsonl have of
    steps after `done`, the last one that was saved, is cut: it comes again.
    """

    def __init__(self, workdir: Path, config: Mapping, last: int, done: int | None = None, **facts):
        self._workdir = workdir
        if done is not None:
            for name in ("metrics.jsonl", "rollouts.jsonl", SKIPPED):
                files.cut_back(workdir / name, done or -1)  # a run that begins anew evaluates at step 0, too
        _append_run(workdir, {"config": config, **environment(), **facts})
        self._tensorboard = TensorBoard(workdir / "tensorboard", done and done + 1)
        self._metrics = files.appended(workdir / "metrics.jsonl")
        self._rollouts = files.appended(workdir / "rollouts.jsonl")
        self._console = Console(stderr=True, highlight=False)
        self._last, self._left, self._in_bar = last, None, ""
        self._seconds: collections.deque[float] = collections.deque(maxlen=50)  # of steps, without compiling

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in (self._tensorboard, self._metrics, self._rollouts):
            file.close()

    def tell(self, lines: Iterable[str]) -> None:
        """Prints lines: what a run begins with, and what to do when it has ended."""
        for line in lines:
            self._console.print(line, soft_wrap=True, markup=False)

    def track(self, first: int) -> Iterator[int]:
        """Steps first..last, with a progress bar (done, main metrics, rate, remaining time) on a terminal."""
        with progress(self._console, "step", self._last, first - 1) as add:
            if first <= self._last:
                self._console.print(LEGEND, style="dim", soft_wrap=True)
            for step in range(first, self._last + 1):
                yield step
                add(1, self._in_bar, self._left)

    def step(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Logs a step's metrics to TensorBoard and metrics.jsonl, and prints the main ones."""
        self._write(stage, step, values)
        self._in_bar = "  ".join(f"{IN_LINE[name]} {values[name]:.3g}" for name in IN_BAR if name in values)
        total = values["time/total"]
        self._seconds.append(total - min(total, values.get("compile/seconds", 0.0)))
        self._left = (self._last - step) * statistics.median(self._seconds)
        parts = [f"{short} {values[name]:.3g}" for name, short in IN_LINE.items() if name in values]
        if values.get("grading/failed"):
            parts.append(f"{values['grading/failed']:.0f} rewards failed")
        if values.get("compile/count"):
            parts.append(f"compiled {values['compile/count']} in {values['compile/seconds']:.1f} s")
        parts.append(f"{total:.2f} s")
        if not self._console.is_terminal:
            parts.append(f"{minutes(self._left)} left")
        self._console.print(f"{stage} {step}/{self._last}  " + "  ".join(parts), soft_wrap=True)

    def evaluation(self, name: str, stage: str, step: int, values: Mapping, rows: Iterable[Mapping]) -> None:
        """Logs an evaluation's metrics, and writes its predictions atomically to evaluations/<name>-<step>.jsonl."""
        file = self._workdir / "evaluations" / f"{name}-{step:08d}.jsonl"
        files.write(file, files.lines(map(files.without_nan, rows)))
        self._write(stage, step, values)
        text = "  ".join(f"{key.removeprefix('eval/')} {x:.3f}" for key, x in values.items() if key.count("/") == 1)
        self._console.print(f"{stage} {step}/{self._last}  {name}: {text}", soft_wrap=True)

    def groups(self, rows: Iterable[Mapping]) -> None:
        """Appends sample groups of a step to rollouts.jsonl."""
        for row in rows:
            self._rollouts.write(json.dumps(files.without_nan(row), ensure_ascii=False, default=_to_json) + "\n")
        self._rollouts.flush()

    def _write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        values = {name: float(value) for name, value in values.items()}
        bad = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
        line = {"stage": stage, "step": step, **values} | ({NOT_FINITE: bad} if bad else {})
        self._metrics.write(json.dumps(files.without_nan(line)) + "\n")
        self._metrics.flush()
        for name, value in values.items():
            if name not in bad:
                self._tensorboard.add_scalar(name, value, step)
        self._tensorboard.flush()


class NoLog:
    """The log of a process that does not write."""

    def __init__(self, workdir: Path, config: Mapping, last: int, done: int | None = None, **facts):
        del workdir, config, done, facts
        self._last = last

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def track(self, first: int) -> Iterator[int]:
        """Steps first..last."""
        return iter(range(first, self._last + 1))

    def step(self, *_) -> None:
        """No-op."""

    tell = evaluation = groups = step


@contextlib.contextmanager
def progress(console: Console, unit: str, total: int, done: int = 0) -> Iterator[Callable[..., tuple[str, float]]]:
    """A progress bar on a terminal: done of `total`, rate and remaining time.

    Yields a function of a count, and optionally a note and the remaining seconds, that advances it and returns the
    rate as text and the remaining seconds.
    """
    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(unit, total=total, completed=done, note="", rate="", left="")
        started, added = time.perf_counter(), 0

        def add(count: int, note: str = "", left: float | None = None) -> tuple[str, float]:
            nonlocal added
            added += count
            seconds = (time.perf_counter() - started) / added
            rate = f"{seconds:.2f} s/{unit}" if seconds >= 1 else f"{1 / seconds:.1f} {unit}s/s"
            left = seconds * (total - done - added) if left is None else left
            bar.update(task, advance=count, note=note, rate=rate, left=f"{minutes(left)} left")
            return rate, left

        yield add


def environment() -> dict:
    """Command, commit, whether its tree was clean, versions, devices, processes and time of this start."""
    commit, clean = _commit()
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    devices = jax.devices()
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": commit,
        "clean": clean,
        "versions": {"python": sys.version.split()[0], "perl_jax": __version__, **versions},
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _commit() -> tuple[str | None, bool | None]:
    """This code's commit and whether its tree is clean; None if installed, even inside another repository."""
    here = Path(__file__)

    def git(*args):
        with contextlib.suppress(OSError):  # git is not installed
            done = subprocess.run(["git", *args], cwd=here.parent, capture_output=True, text=True)
            return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return None, None
    status = git("status", "--porcelain")
    return git("rev-parse", "HEAD"), None if status is None else not status


def starts(workdir: Path) -> list[dict]:
    """The starts of a run as in its run.json, without their checksums; none without that file.

    Raises InputError where the file is not what runs have written.
    """
    file, out = workdir / RUN, []
    try:
        for start in json.loads(file.read_text(encoding="utf-8")) if file.exists() else []:
            kept = {name: value for name, value in start.items() if name != "crc"}
            if start.get("crc", _crc(kept)) != _crc(kept):  # none: written by an earlier version
                raise ValueError(f"start {len(out) + 1} is not what was written")
            out.append(kept)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is damaged ({one_line(error)}): restore it, or move it away, which loses what it says of earlier "
            "starts and nothing else"
        ) from error
    return out


def _append_run(workdir: Path, start: Mapping) -> None:
    every = [*starts(workdir), json.loads(json.dumps(start, default=_to_json))]
    files.write(workdir / RUN, json.dumps([{**one, "crc": _crc(one)} for one in every], indent=2))


def _crc(start: Mapping) -> int:
    return zlib.crc32(json.dumps(start, sort_keys=True).encode())


def _to_json(value):
    """Converts numpy and other values for JSON."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def minutes(seconds: float) -> str:
    """Seconds as 2:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
