"""Several processes: real ones, each with two CPU devices, train as one process with four."""

import json
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from subprocesses import finish

import models
from models.errors import InputError
from perl_jax.runtime import processes
from perl_jax.training import checkpoint

CHANGES = {
    "warmup.steps": 1,
    "warmup.questions": 16,
    "total_steps": 3,
    "mesh.data": 2,
    "eval.every": 4,
    "data.options.image_size": 56,
}
LAST = 4
BROKEN = "digits-train-0-13"  # one of those of the first step
NOT_COMPARED = ("time/", "compile/", "speed/", "stage")


def start(workdir: Path, count: int, changes=({},), die="0") -> list[subprocess.Popen]:
    """`count` processes of one run, with four devices in all; the last is the one that dies."""
    every = [CHANGES | each for each in changes]
    return tiny_run.start(workdir, count, changes=every, die=die, broken=BROKEN)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, request):
    """{processes: the workdir of a whole run}."""
    workdirs, changes = {}, {"family": getattr(request, "param", "qwen2_5_vl")}
    for count in (1, 2):
        workdirs[count] = tmp_path_factory.mktemp("processes") / f"run{count}"
        for code, text in finish(start(workdirs[count], count, changes=(changes,))):
            assert code == 0, text
            warnings = [line for line in text.splitlines() if "skipped" in line]
            assert (
                len(warnings) == 1
                and f"skipped (1 in this step): record '{BROKEN}', image 1: not a readable image" in warnings[0]
            )
    return workdirs


def outcome(workdir: Path) -> dict:
    """What a run has left, to be compared."""
    model = models.load(workdir / "init")
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        checkpoints.restore_weights(LAST, model)
        run = checkpoints.run(LAST)
    steps = {
        line["step"]: {name: value for name, value in line.items() if not name.startswith(NOT_COMPARED)}
        for line in tiny_run.metrics(workdir)
    }
    rollouts = [json.loads(line) for line in (workdir / "rollouts.jsonl").read_text().splitlines()]
    rollouts_by_step = {row["step"]: (row["responses"], row["rewards"], row["orders"]) for row in rollouts}
    predictions = (workdir / "evaluations" / f"eval-{LAST:08d}.jsonl").read_text()
    return {
        "weights": models.named(model),
        "stream": run["stream"],
        "base": run["base"],
        "steps": steps,
        "rollouts": rollouts_by_step,
        "predictions": predictions,
    }


def assert_same(workdir: Path, other: Path):
    """Float32: what was said and earned is equal; metrics within 1e-4, and weights but for where Adam divides a
    gradient of rounding errors by itself: one in a thousand may move by up to two steps' learning rate."""
    actual, expected = outcome(workdir), outcome(other)
    for key in ("stream", "base", "rollouts", "predictions"):
        assert actual[key] == expected[key], key
    assert actual["steps"].keys() == expected["steps"].keys() == set(range(1, LAST + 1))
    for step, values in expected["steps"].items():
        for name, value in values.items():
            assert actual["steps"][step][name] == pytest.approx(value, rel=1e-4, abs=1e-5), (step, name)
    gaps = np.concatenate([np.ravel(np.abs(actual["weights"][name] - x)) for name, x in expected["weights"].items()])
    assert np.quantile(gaps, 0.999) < 1e-4 and gaps.max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("runs", tiny_run.FAMILIES, indirect=True)
def test_two_processes_train_as_one(runs):
    assert_same(runs[2], runs[1])
    assert len(json.loads((runs[2] / "run.json").read_text())) == 1, "process 0 alone writes"


@pytest.mark.slow
def test_each_process_decodes_its_share_of_the_images(runs):
    """Of all that one process decodes, in the evaluation and both stages of training; the rest its rows never need."""
    [alone], (first, second) = (
        [json.loads((runs[count] / f"decoded-{index}.json").read_text()) for index in range(count)] for count in (1, 2)
    )
    assert len(set(alone)) == len(alone)
    assert len(set(first)) == len(first) and len(set(second)) == len(second), "none twice"
    assert set(first) | set(second) == set(alone)
    assert max(len(first), len(second)) < 0.7 * len(alone)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(runs, tmp_path):
    """As one process, then as two, of which one dies and ends the other, then as one: the same as never interrupted."""
    workdir = tmp_path / "run"
    shutil.copytree(runs[1], workdir)
    for step in range(2, LAST + 1):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        remaining = [line for line in (workdir / name).read_text().splitlines() if json.loads(line)["step"] < 2]
        (workdir / name).write_text("".join(f"{line}\n" for line in remaining))
    (first, text), (second, _) = finish(start(workdir, 2, die=f"{LAST}:SIGKILL"))
    assert second == -9 and first == 1
    assert text.splitlines()[-1].startswith(f"error: process 1 on {socket.gethostname()} is lost: "), text
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.latest() == LAST - 1, "saved by both"
    for code, text in finish(start(workdir, 1)):
        assert code == 0, text
    assert_same(workdir, runs[1])


@pytest.mark.slow
def test_all_processes_save_and_end_where_one_is_asked_to(tmp_path):
    """JAX's own handler of SIGTERM would only note it."""
    for code, text in finish(start(tmp_path, 2, changes=({"checkpoint.every": 99},), die="1:SIGTERM")):
        assert code == 0, text
        assert "stopped by SIGTERM at step 1, saved; the same command goes on" in text.splitlines(), text
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1]


@pytest.mark.slow
def test_different_configs_end_everywhere(tmp_path):
    for code, text in finish(start(tmp_path / "run", 2, changes=({}, {"seed": 1}))):
        assert code == 1 and "error: process 1 has a config different from process 0" in text, text


def test_a_coordinator_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(processes, "TIMEOUT", 1)
    with pytest.raises(InputError, match="--coordinator=localhost:9 cannot be reached"):
        processes.join("localhost:9", 2, 1)
    with pytest.raises(InputError, match="cannot be reached"):
        processes.join("localhost", 2, 1)


@pytest.mark.parametrize("count, index", [(0, 0), (2, 2), (2, -1)])
def test_a_coordinator_needs_the_rest(count, index):
    with pytest.raises(InputError, match="--process_index below it"):
        processes.join("localhost:9", count, index)


def test_one_process_is_alone():
    processes.join()  # no cluster
    assert processes.first() and all(processes.is_mine(number) for number in range(5))
    assert processes.exchange({"a": [1, 2.5, "x"]}) == [{"a": [1, 2.5, "x"]}]
    processes.check_equal([1], "anything")
    made = []
    processes.after_first(lambda: made.append(1))
    assert made == [1]
