"""The rollout filter as a whole: what it writes, and that a filter cut anywhere, in other batches or on more processes
writes the same."""

import json
import os
import subprocess
import sys

import command_line
import filter_run
import pytest
import tiny_run
from subprocesses import finish, free_port

from models import image_files
from models.errors import InputError
from perl_jax import policy, records
from perl_jax.curation.build import build
from perl_jax.filtering import difficulty
from perl_jax.planning import roofline

pytestmark = pytest.mark.slow

OPTIONS = {"rollouts": 4, "low": 0.2, "high": 0.9, "target": 0.4, "batch": 8}


@pytest.fixture(scope="module")
def changes(tmp_path_factory, request):
    """Settings of one model and one set of 24 records for all filters here."""
    directory = tmp_path_factory.mktemp("filter")
    build("digits", str(directory / "data"), **tiny_run.config().data.options)
    tiny_run.untrained(directory / "model", getattr(request, "param", "qwen2_5_vl"))
    return {"model": str(directory / "model"), "data.directory": str(directory / "data")}


BOTH_FAMILIES = pytest.mark.parametrize("changes", tiny_run.FAMILIES, indirect=True)


@pytest.fixture(scope="module")
def full_run(changes, tmp_path_factory):
    """The workdir of a filter that nothing disturbed, for reading only."""
    workdir = tmp_path_factory.mktemp("filter") / "whole"
    filter_run.run(workdir, changes, **OPTIONS)
    return workdir


def rows(workdir, name: str = "rollouts.jsonl") -> dict[int, dict]:
    _, *lines = (workdir / name).read_text(encoding="utf-8").splitlines()
    result = [json.loads(line) for line in lines]
    assert len({row["number"] for row in result}) == len(result), "nothing is rolled out twice"
    return {row["number"]: row for row in result}


def assert_same(workdir, other):
    assert rows(workdir) == rows(other)
    assert records.fingerprint(str(workdir / "records")) == records.fingerprint(str(other / "records"))
    assert (workdir / "filter.md").read_text() == (other / "filter.md").read_text()


@BOTH_FAMILIES
def test_what_it_keeps(full_run, changes):
    """Records of the band as they were, with their accuracies, and the other split untouched."""
    before = {record["id"]: record for record in records.open_split(changes["data.directory"])}
    shares = {row["id"]: sum(row["scores"]) / 4 for row in rows(full_run).values()}
    assert shares.keys() == before.keys() and len(set(shares.values())) > 2
    kept = list(records.open_split(str(full_run / "records")))
    assert 3 < len(kept) < len(before)
    for record in kept:
        assert 0.2 <= record["accuracy"] == shares[record["id"]] <= 0.9
        assert record == {**before[record["id"]], "accuracy": record["accuracy"]}
    original, held_out = (
        list(records.open_split(str(path), "eval")) for path in (full_run / "records", changes["data.directory"])
    )
    assert original == held_out
    assert (full_run / "accuracy.png").stat().st_size > 10_000
    page = (full_run / "filter.md").read_text()
    assert "| digits_what | 12 |" in page and f"| {len(kept)} |" in page and "accuracy.png" in page


def test_rows_are_there_to_read(full_run):
    for row in rows(full_run).values():
        assert row["images"] == 2 and row["source"].startswith("digits_") and row["prompt"] > 10
        assert len(row["scores"]) == len(row["lengths"]) == 4 and all(1 <= length <= 8 for length in row["lengths"])
        assert 0 <= row["truncated"] <= 4 and isinstance(row["response"], str) and 0 < row["guess"] < 1


@BOTH_FAMILIES
def test_other_batches_give_the_same(full_run, changes, tmp_path):
    filter_run.run(tmp_path, changes, **{**OPTIONS, "batch": 5})
    assert_same(tmp_path, full_run)


def test_started_again_it_computes_nothing_and_leaves_what_is_there(full_run, changes, monkeypatch):
    monkeypatch.setattr(policy, "frozen", None)  # no model is loaded
    monkeypatch.setattr(records, "write", None)
    before = {path: path.stat().st_mtime_ns for path in (full_run / "records").iterdir()}
    assert filter_run.run(full_run, changes, **OPTIONS) == (full_run / "filter.md").read_text()
    assert {path: path.stat().st_mtime_ns for path in (full_run / "records").iterdir()} == before


def started(workdir, changes, count: int = 1, die: int = 0) -> list[subprocess.Popen]:
    """`count` processes of one filter, with a device each."""
    coordinator = f"localhost:{free_port()}" if count > 1 else ""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    text = [workdir, json.dumps(changes), json.dumps(OPTIONS), coordinator, count]
    return [
        subprocess.Popen(
            [sys.executable, filter_run.__file__, *map(str, [*text, index, die])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]


def test_killed_while_it_writes_it_goes_on(full_run, changes, tmp_path):
    """The half-written line is cut, the batch's whole lines stay."""
    [(code, text)] = finish(started(tmp_path / "cut", changes, die=2))
    assert code == -9, text
    content = (tmp_path / "cut" / "rollouts.jsonl").read_text()
    done = content.count("\n") - 1
    assert 8 < done < 16 and not content.endswith("\n")
    filter_run.run(tmp_path / "cut", changes, **OPTIONS)
    assert (tmp_path / "cut" / "rollouts.jsonl").read_text().startswith(content[: content.rfind("\n") + 1])
    assert_same(tmp_path / "cut", full_run)


def test_two_processes_give_the_same(full_run, changes, tmp_path):
    for code, text in finish(started(tmp_path / "two", changes, count=2)):
        assert code == 0, text
    assert_same(tmp_path / "two", full_run)


def test_another_target_needs_no_rollouts_and_replaces_the_records(changes, full_run, tmp_path, monkeypatch):
    (tmp_path / "rollouts.jsonl").write_bytes((full_run / "rollouts.jsonl").read_bytes())
    monkeypatch.setattr(policy, "frozen", None)
    filter_run.run(tmp_path, changes, **OPTIONS)
    assert_same(tmp_path, full_run)
    filter_run.run(tmp_path, changes, **{**OPTIONS, "low": 0.3, "target": 0.5})
    result = [record["accuracy"] for record in records.open_split(str(tmp_path / "records"))]
    assert result and min(result) >= 0.3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_rollouts_of_other_settings_are_not_mixed(full_run, changes):
    with pytest.raises(InputError, match=r"rollouts\.jsonl was made with other settings \(seed 0, now 1\)"):
        filter_run.run(full_run, {**changes, "seed": 1}, **OPTIONS)
    with pytest.raises(InputError, match=r"\(rollouts 4, now 5\)"):
        filter_run.run(full_run, changes, **{**OPTIONS, "rollouts": 5})


def test_blind(changes, tmp_path, monkeypatch):
    """A reward that no image changes: what is mostly right goes, for it is so without images; what is right no more
    often than by guessing stays."""
    shown, grey = [], difficulty.with_grey_images

    def noted(record):
        shown.append((record, grey(record)))
        return shown[-1][1]

    monkeypatch.setattr(difficulty, "with_grey_images", noted)
    options = {**OPTIONS, "rollouts": 8, "blind": True, "batch": 12}
    page = filter_run.run(tmp_path, {**changes, "reward": "tiny_reward:easy"}, **options)
    blind = rows(tmp_path, "blind.jsonl")
    inside = [n for n, row in rows(tmp_path).items() if 0.2 <= sum(row["scores"]) / 8 <= 0.9]
    assert sorted(blind) == sorted(inside) and len(shown) == len(inside)
    for record, greyed in shown:
        for original, other in zip(record["images"], greyed["images"], strict=True):
            assert (original.width, original.height) == (other.width, other.height)
            assert other.decoded().getextrema() == ((128, 128),) * 3
    assert any(row["response"] != rows(tmp_path)[n]["response"] for n, row in blind.items())
    gone = {line.split(" | ")[0]: int(line.split(" | ")[5]) for line in page.splitlines() if "| digits" in line}
    assert gone["| digits_what"] > len([n for n in inside if "what" in blind[n]["source"]]) / 2
    assert gone["| digits_which"] == 0 and f"{len(inside)} records of the band were also asked blind" in page


def test_what_cannot_be_shown_is_skipped_and_named(full_run, changes, tmp_path, monkeypatch, capsys):
    """Prompts that are too long, and an image of which only a part is there."""
    lengths = {number: row["prompt"] for number, row in rows(full_run).items() if number < 20}
    shortest = min(lengths, key=lengths.get)
    broken, decode = f"digits-train-0-{shortest}", image_files.open_image
    monkeypatch.setattr(
        image_files,
        "open_image",
        lambda data, where: decode(data[: len(data) // 2] if f"'{broken}'" in where else data, where),
    )
    short = sorted(set(lengths.values()))[-2]
    page = filter_run.run(tmp_path, {**changes, "prompt.max_tokens": short}, **OPTIONS, limit=20)
    result, text = rows(tmp_path), capsys.readouterr().err
    long = [number for number, length in lengths.items() if length > short]
    assert len(result) == 20 and sorted(n for n, row in result.items() if "skipped" in row) == sorted([shortest, *long])
    for number in (shortest, *long):
        assert f"- skipped: {result[number]['skipped']}" in page and result[number]["skipped"] in text
    assert f"record '{broken}', image 1: " in result[shortest]["skipped"]
    assert "limited to the first 20 of 24 records" in page
    assert all(
        result[number]["scores"] == rows(full_run)[number]["scores"] for number in result.keys() - {shortest, *long}
    )


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ({"data.split": "train[:50%]"}, {}, "config.data.split is 'train.:50%.'; .* train, eval|config.data.split"),
        ({}, {"low": 0.5, "target": 0.4}, "--low=0.5 --target=0.4"),
        ({"sampling.temperature": 0.0}, {}, "config.sampling.temperature is 0.0; it must be at least"),
        ({"reward": "nope"}, {}, "no reward 'nope'"),
    ],
)
def test_settings_that_cannot_be(changes, tmp_path, config, options, words):
    with pytest.raises(InputError, match=words):
        filter_run.run(tmp_path, {**changes, **config}, **{**OPTIONS, **options})
    assert not (tmp_path / "records").exists()


def test_when_nothing_is_kept_the_page_says_how_hard_it_was(full_run, changes, tmp_path, monkeypatch):
    (tmp_path / "rollouts.jsonl").write_bytes((full_run / "rollouts.jsonl").read_bytes())
    with pytest.raises(InputError, match=r"no record has an accuracy between 0.3 and 0.4: see .*filter\.md"):
        filter_run.run(tmp_path, changes, **{**OPTIONS, "low": 0.3, "high": 0.4, "target": 0.35})
    assert "no record is kept" in (tmp_path / "filter.md").read_text() and not (tmp_path / "records").exists()


def test_its_defaults_are_what_a_plan_counts_with(changes, tmp_path, monkeypatch):
    """As many rollouts, and as many prompts at once as in training."""
    seen = []

    def noted(setup, file, settings, numbers):
        seen.append((setup.batch, setup.config.rollouts))
        raise InputError("enough")

    monkeypatch.setattr(difficulty, "measure", noted)
    with pytest.raises(InputError, match="enough"):
        filter_run.run(tmp_path, changes)
    assert seen == [(roofline.decode_batch(tiny_run.config()), roofline.FILTERED[1])]


def test_the_command(full_run, changes, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rollouts.jsonl").write_bytes((full_run / "rollouts.jsonl").read_bytes())
    (tmp_path / "tiny.py").write_text(
        "import tiny_run, filter_run\n\n\ndef get_config():\n    return tiny_run.config(**filter_run.CHANGES)\n"
    )
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    flags += [f"--{key}={value}" for key, value in OPTIONS.items()]
    done = command_line.run("filter", f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'run'}", *flags)
    assert done.code == 0 and "| all |" in done.out and done.out.strip().endswith(f"wrote {tmp_path}/run/records")
    done = command_line.run(
        "filter", f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'run'}", *flags, "--seed=3"
    )
    assert done.code == 1 and done.err.startswith("error: ") and "seed" in done.err
