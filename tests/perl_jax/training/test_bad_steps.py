"""Steps that are not finite: skipped and told; too many in a row end the run, saved so that they run again."""

import errno
import io
import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import command_line
import jax
import numpy as np
import pytest
import tiny
import tiny_run
from flax import nnx
from PIL import Image

from models import qwen2_5_vl as qwen
from models.errors import InputError
from models.image_files import Encoded
from perl_jax import policy, train, update
from perl_jax.training import bad_steps, batch, checkpoint

pytestmark = pytest.mark.slow

LAST = tiny_run.WARMUP + tiny_run.STEPS


def strict(file: Path) -> list[dict]:
    """Its lines as JSON, which has no NaN."""

    def refuse(name):
        raise AssertionError(f"{file} holds a bare {name}")

    return [json.loads(line, parse_constant=refuse) for line in file.read_text().splitlines()]


@pytest.fixture
def spoil(monkeypatch):
    """Makes the rollouts of these steps' first question none, as a fault in the sampler's numbers would."""
    made = batch.Grading.scores

    def at(*steps):
        def spoiled(grading):
            scores = made(grading)
            if grading._questions[0].record["step"] in steps:
                scores.rewards[0, 0, 0] = math.nan
            return scores

        taken = batch.Questions.take

        def noted(questions, count, n_s, p, step):
            return [q._replace(record={**q.record, "step": step}) for q in taken(questions, count, n_s, p, step)]

        monkeypatch.setattr(batch.Questions, "take", noted)
        monkeypatch.setattr(batch.Grading, "scores", spoiled)

    return at


def cut(workdir: Path, step: int) -> Path:
    """A copy of the shared run as it was after a step."""
    shutil.copytree(tiny_run.trained(), workdir)
    for folder in (workdir / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) > step:
            shutil.rmtree(folder)
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        (workdir / name).write_text("")
    return workdir


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    model = qwen.load(workdir / "init")
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        checkpoints.restore_weights(step, model)
    return {".".join(map(str, path)): np.array(x[...]) for path, x in nnx.to_flat_state(nnx.state(model))}


def test_a_bad_step_is_skipped_counted_and_named(tmp_path, caplog, spoil):
    """The step before and the one after are as good as ever, and the run ends well."""
    workdir, bad = cut(tmp_path / "run", LAST - 2), LAST - 1
    spoil(bad)
    with caplog.at_level("WARNING"):
        tiny_run.run(workdir, **{"eval.every": 99})
    before, at, after = (arrays(workdir, step) for step in (bad - 1, bad, LAST))
    assert all(np.array_equal(before[name], at[name]) for name in at)
    assert any((after[name] != at[name]).any() for name in at)
    lines = {line["step"]: line for line in strict(workdir / "metrics.jsonl") if "update/loss" in line}
    assert lines[bad]["update/skipped"] == 1 and lines[LAST]["update/skipped"] == 0
    assert lines[bad]["update/loss"] is None and lines[bad]["not_finite"]["update/loss"] == "nan"
    assert lines[bad]["reward/accuracy"] >= 0 and "not_finite" not in lines[LAST]
    [told] = [record.message for record in caplog.records if "in a row now" in record.message]
    ids = [row["id"] for row in strict(workdir / "rollouts.jsonl") if row["step"] == bad]
    assert told.startswith(f"step {bad}: ") and "update/loss nan" in told and all(name in told for name in ids)
    assert f"advantage nan ({ids[0]}), sampler's log-prob -" in told
    assert not list(workdir.glob("bad-step-*")) and (workdir / "finished").exists()


def test_bad_steps_in_a_row_end_the_run_and_run_again(tmp_path, spoil, monkeypatch, capsys):
    """Also where it was killed among them; the batch and the weights are those of the step, to the bit, and the
    one at fault is told."""
    workdir, options = cut(tmp_path / "run", LAST - 2), {"max_bad_steps": 2, "eval.every": 99}
    spoil(LAST - 1, LAST)
    given = []
    step_of = update.step

    def noted(state, groups, **options):
        given.append((jax.device_get(state.trainable), groups.groups))
        return step_of(state, groups, **options)

    monkeypatch.setattr(update, "step", noted)
    for first in (LAST - 1, LAST):  # the second time from the checkpoint between the two
        words = rf"^step {first}: .*loss nan.*; 2 such steps in a row .*bad-step-{LAST}; .* --bad_step={LAST}$"
        with pytest.raises(InputError, match=words):
            tiny_run.run(workdir, **options)
    monkeypatch.undo()
    weights, groups = given[-1]
    folder = workdir / f"bad-step-{LAST}"
    saved = bad_steps.read(folder)
    assert [row["id"] for row in strict(folder / bad_steps.QUESTIONS)] == [group.id for group in groups]
    for ours, theirs in zip(saved, groups, strict=True):
        assert ours.id == theirs.id and ours.orders == theirs.orders and ours.prompts == theirs.prompts
        assert [i.data for i in ours.images] == [i.data for i in theirs.images]
        for field in ("responses", "sampler_logprobs", "advantages"):
            flat, expected = (
                np.concatenate([np.ravel(x) for o in getattr(g, field) for x in o]) for g in (ours, theirs)
            )
            np.testing.assert_array_equal(flat, expected)
    model = policy.adapted(tiny_run.config(), qwen.load(workdir / "init"))
    with checkpoint.Checkpoints(folder, read_only=True) as checkpoints:
        checkpoints.restore_weights(LAST, model)
    assert all(map(np.array_equal, jax.tree.leaves(nnx.state(model)), jax.tree.leaves(weights)))
    capsys.readouterr()
    train.again(tiny_run.config(), workdir, LAST)
    again, *each = capsys.readouterr().out.splitlines()
    names = [group.id for group in bad_steps.read(workdir / f"bad-step-{LAST}")]
    assert again.startswith(f"step {LAST} again: ") and "loss nan" in again and "skipped 1" in again
    assert [line.partition(":")[0] for line in each] == names and len(names) == 2
    assert "loss nan" in each[0] and "advantage nan" in each[0] and "nan" not in each[1]
    with pytest.raises(InputError, match=r"bad-step-2 holds no step"):
        train.again(tiny_run.config(), workdir, 2)


def test_groups_come_back_as_they_were(tmp_path):
    """Ragged, without images, without responses, with and without log-probs."""
    file = io.BytesIO()
    Image.fromarray(tiny.noise_image(9, 7, 1)).save(file, "png")
    group = update.Group(
        [Encoded(file.getvalue(), "x")],
        [(0,), (0,)],
        [[1, 2], [3]],
        [[[4], []], [[5, 6], [7]]],
        np.ones((2, 2)),
        id="ü",
    )
    logprobs = [[np.float32([-1.5]), np.float32([])], [np.float32([np.nan, -np.inf]), np.float32([0])]]
    plain = update.Group([], [(), ()], [[1], [2]], [[[3], [4]], [[], []]], np.zeros((2, 2)), id="b")
    made = [group._replace(old_logprobs=logprobs), plain]
    np.savez(tmp_path / bad_steps.GROUPS, **dict(bad_steps._arrays(made)))
    first, second = bad_steps.read(tmp_path)
    assert [image.data for image in first.images] == [file.getvalue()] and first.images[0].height == 9
    assert (first.id, first.orders, first.prompts, first.responses) == (group.id, *group[1:4])
    assert second.orders == [(), ()] and second.responses == plain.responses and second.old_logprobs is None
    for ours, theirs in zip(first.old_logprobs, logprobs):
        for x, y in zip(ours, theirs):
            np.testing.assert_array_equal(x, y)
    assert bad_steps.largest(made[:1]) == "advantage 1 (ü), old log-prob nan (ü)"


def test_a_full_disk_does_not_hide_the_bad_step(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/groups.npz")

    group = update.Group([], [(), ()], [[1], [2]], [[[3], [4]], [[], []]], np.zeros((2, 2)), id="b")
    monkeypatch.setattr(bad_steps, "save", full)
    words = (
        r"^step 3: update/loss nan; 1 such steps in a row .* not saved \(/x/groups.npz: No space left on device: free"
    )
    with pytest.raises(InputError, match=words):
        bad_steps.BadSteps(tmp_path, 1, 9, SimpleNamespace(processor=None)).note(
            3, {"update/loss": math.nan}, [group], None, {}
        )


def test_the_command_that_runs_a_step_again_is_the_one_of_the_run(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/x/perl_jax/train.py", "--config=demo", "--config.data.split=a b"])
    assert bad_steps.command(7) == "python -m perl_jax.train --config=demo '--config.data.split=a b' --bad_step=7"
    monkeypatch.setattr("sys.argv", ["notebook", "--x"])
    assert bad_steps.command(7) == "python -m perl_jax.train --config=CONFIG --workdir=WORKDIR --bad_step=7"


def test_a_step_that_was_not_saved(tmp_path):
    done = command_line.run("train", "--config=demo", f"--workdir={tmp_path}", "--bad_step=7")
    assert done.code == 1 and "bad-step-7 holds no step that ended a run" in done.err
