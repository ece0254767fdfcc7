"""Records that fail in a run: what cannot be read or shown is counted and listed, and too much of it ends the run."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_run

from models.errors import InputError
from perl_jax import records
from perl_jax.records import prompts
from perl_jax.records.stream import Stream
from perl_jax.training import batch, checkpoint
from perl_jax.training.skipped import Skipped


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("size, most, first", [(1000, 0.01, 11), (24, 0.01, 2), (24, 0.0, 1), (24, 0.05, 6)])
def test_the_share_that_may_fail_is_one_of_records(tmp_path, size, most, first):
    """However often each is drawn, before and after a restart."""
    skipped = Skipped(tmp_path, most, size)
    for number in range(1, first):
        for step in (number, number + 100):
            skipped.add(step, [(f"r{number}", "cut")])
    assert skipped.count() == 2 * (first - 1) and skipped.count() == 0
    again = Skipped(tmp_path, most, size)
    again.restore(skipped.state())
    for each in (skipped, again):
        with pytest.raises(InputError, match=rf"step 9: {first} of .*skipped.jsonl.* = {most:g} allows.*last: broken"):
            each.add(9, [(f"r{first}", "broken")])
    assert lines(tmp_path / "skipped.jsonl")[-1] == {"step": 9, "id": f"r{first}", "reason": "broken"}


@pytest.fixture
def damaged(monkeypatch):
    """Damages records of the shared run's data: one as stored, one picture's header, one picture's pixels."""
    tiny_run.trained()
    opened = records.Split.__getitem__
    stored, header, pixels = (f"digits-train-0-{number}" for number in (3, 8, 13))

    def read(split, index):
        record = opened(split, index)
        if record["id"] == stored:
            raise InputError(f"record {index} cannot be read")
        cut = {header: 0.01, pixels: 0.5}.get(record["id"], 1.0)
        return {**record, "images": [data[: int(len(data) * cut)] for data in record["images"]]}

    monkeypatch.setattr(records.Split, "__getitem__", read)
    return {stored: "cannot be read", header: "not a readable image", pixels: "not a readable image"}


def questions(workdir, **changes):
    config, shared = tiny_run.config(**changes), tiny_run.trained()
    settings = prompts.Prompts(prompts.models.Processor.from_pretrained(shared / "init"), **config.prompt)
    return batch.Questions(config, Stream(str(shared / "data")), settings, workdir)


@pytest.mark.slow
def test_each_kind_of_failure_is_listed_and_others_are_drawn(tmp_path, damaged):
    source = questions(tmp_path, max_skipped=0.03)
    for step in (1, 2):  # epochs
        taken = source.take(21, 1, 0.5, step)
        ids = {question.record["id"] for question in taken}
        assert len(ids) == 21 and not ids & damaged.keys()
    listed = lines(tmp_path / "skipped.jsonl")
    assert {line["step"] for line in listed} == {1, 2} and source.skipped.count() == len(listed) >= 4
    names = {next((name for name in damaged if name == line["id"]), "") for line in listed}
    assert names == {"", *list(damaged)[1:]}, "one that cannot be read has no id"
    assert all(damaged.get(line["id"], "cannot be read") in line["reason"] for line in listed)
    again = questions(tmp_path)
    again.restore(source.state())
    assert again.state() == source.state() and len(source.state()["skipped"]) == 3


@pytest.mark.slow
def test_too_many_failures_end_the_step(tmp_path, damaged, monkeypatch):
    with pytest.raises(InputError, match=r"step 1: 3 of 24 records have failed"):
        questions(tmp_path).take(21, 0, 0.0, 1)
    opened = records.Split.__getitem__
    monkeypatch.setattr(records.Split, "__getitem__", lambda *at: {**opened(*at), "images": [b"", b""]})
    source = questions(tmp_path / "none", max_skipped=0.1)
    (tmp_path / "none").mkdir()
    source.prepare(4, 0, 0.0, 1)
    with pytest.raises(InputError, match="records have failed"):
        source.take(4, 0, 0.0, 1)
    assert len(lines(tmp_path / "none" / "skipped.jsonl")) > 10
    with pytest.raises(InputError, match="no question of digits can be shown"):
        questions(tmp_path, max_skipped=1.0).take(4, 0, 0.0, 1)


@pytest.mark.slow
def test_a_run_counts_what_it_skips_and_lists_it_once(tmp_path, damaged):
    """Also where it is cut and goes on."""
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run.trained(), workdir)
    for step in (workdir / "checkpoints").iterdir():
        if step.name.isdigit() and int(step.name) > tiny_run.WARMUP:
            shutil.rmtree(step)
    last = tiny_run.WARMUP + tiny_run.STEPS
    tiny_run.run(workdir, max_skipped=0.5, **{"eval.every": 99})
    steps = tiny_run.metrics(workdir)
    assert [line["step"] for line in steps] == list(range(1, last + 1)), "no line twice"
    listed = lines(workdir / "skipped.jsonl")
    counted = {line["step"]: line["data/skipped"] for line in steps}
    assert sum(counted.values()) == len(listed) > 0
    assert all(counted[step] == sum(line["step"] == step for line in listed) for step in counted)
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.run(last)["stream"]["skipped"] == list(dict.fromkeys(line["id"] for line in listed))
    shutil.rmtree(workdir / "checkpoints" / str(last))
    tiny_run.run(workdir, max_skipped=0.5, **{"eval.every": 99})
    assert lines(workdir / "skipped.jsonl") == listed
