"""A source becomes a directory of records, whole or not at all, and the command says what it did."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.errors import InputError
from perl_jax import data, prepare, records

SMALL = {"train_size": 12, "eval_size": 5, "image_size": 28}


def made(*rows):
    """A source of these rows, in place of whichever is asked for."""
    return lambda name: SimpleNamespace(SPLITS=("train",), records=lambda input, split, seed=0: iter(rows))


RECORD = {"id": "a", "images": [], "question": "Is it so?", "choices": [], "answer": "Yes", "kind": "text",
          "order_effect": "invariant", "source": "made", "accuracy": None, "movable": None}  # fmt: skip


def test_build_writes_every_split(tmp_path):
    summary = prepare.build("digits", tmp_path / "set", seed=3, **SMALL)
    assert {split: part["records"] for split, part in summary["splits"].items()} == {"train": 12, "eval": 5}
    assert summary["rejected"] == {"train": {}, "eval": {}}
    assert records.open_split(tmp_path / "set", "eval")[4]["id"] == "digits-eval-3-4"
    assert (tmp_path / "set" / prepare.REJECTED).read_text() == ""
    assert "digits_which" in prepare.table(summary)


def test_limit_and_seed(tmp_path):
    for name, options in (("a", {}), ("b", {}), ("c", {"seed": 1})):
        prepare.build("digits", tmp_path / name, limit=4, **options, **SMALL)
    assert len(records.open_split(tmp_path / "a", "train")) == 4
    prints = [records.fingerprint(tmp_path / name) for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_rejected_rows_are_listed_with_reasons(tmp_path, monkeypatch):
    bad = {**RECORD, "id": "c", "question": "\0?"}
    monkeypatch.setattr(data, "find", made(RECORD, data.Rejected("b", "malformed row"), bad))
    summary = prepare.build("made", tmp_path / "set")
    lines = [json.loads(line) for line in (tmp_path / "set" / prepare.REJECTED).read_text().splitlines()]
    assert [(line["split"], line["id"], line["reason"]) for line in lines] == [
        ("train", "b", "malformed row"), ("train", "c", "not a whole record")]
    assert summary["rejected"]["train"] == {line["reason"]: 1 for line in lines}
    assert all(line["reason"] in prepare.table(summary) for line in lines)
    assert len(records.open_split(tmp_path / "set")) == 1


def test_failures_leave_nothing(tmp_path, monkeypatch):
    for source, options, words in (
        ("digit", {}, "known are .*digits"),
        ("digits", {"size": 3}, "no option 'size'"),
        ("digits", {"bias": 2}, "bias"),
        ("digits", {"eval_size": 0, "train_size": 2}, "split 'eval'"),
        ("mantis", {"input": str(tmp_path / "nowhere")}, "train.json"),
    ):
        with pytest.raises(InputError, match=words):
            prepare.build(source, tmp_path / "set", **options)
        assert not os.listdir(tmp_path)
    monkeypatch.setattr(data, "find", made(data.Rejected("b", "malformed row", "not JSON")))
    with pytest.raises(InputError, match="not JSON"):
        prepare.build("made", tmp_path / "set")
    assert not os.listdir(tmp_path)


def test_options_are_literals_or_text():
    assert prepare.parse_options(["bias=0.5", "ragged=True", "questions=which,what"]) == {
        "bias": 0.5, "ragged": True, "questions": "which,what"}
    with pytest.raises(InputError, match="key=value"):
        prepare.parse_options(["bias"])


def test_every_source_keeps_the_contract():
    for name in data.names():
        module = data.find(name)
        assert module.SPLITS and callable(module.records)
        records.validate({**module.EXAMPLE, "images": [], "captions": []} | {"question": "?", "answer": "1"})
        assert set(module.EXAMPLE) - {"captions"} == records.Record.__required_keys__ - {"images"}


@pytest.mark.parametrize(("source", "code"), [("digits", 0), ("nothing", 1)])
def test_command(tmp_path, source, code):
    options = [f"--option={key}={value}" for key, value in SMALL.items()]
    done = subprocess.run(
        [sys.executable, "-m", "perl_jax.prepare", f"--source={source}", f"--out={tmp_path / 'set'}", *options],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1],
    )
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.splitlines()[-1] == (
            f"error: unknown data source 'nothing'; known are {', '.join(data.names())}")
        assert "Traceback" not in done.stderr and not (tmp_path / "set").exists()
    else:
        assert "digits_largest" in done.stdout and len(records.open_split(tmp_path / "set")) == 12
