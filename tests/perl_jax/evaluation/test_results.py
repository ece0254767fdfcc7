"""Results read again: whole, half-written, of another form."""

import json

import evaluation_results
import pytest

from models.errors import InputError
from perl_jax.evaluation import results


@pytest.fixture
def out(tmp_path):
    scored = evaluation_results.rows(6, permuted=(4, 2), control=True, samples=2, questions=8)
    evaluation_results.write(tmp_path / "out", scored, "data", samples=2)
    return evaluation_results.write(tmp_path / "out", evaluation_results.rows(3), "data", protocol="official")


def test_what_was_written_is_read(out):
    model = results.read("PeRL", out)
    assert model.name == "PeRL" and list(model.results) == [("blink", "boxed"), ("blink", "official")]
    boxed = model.results["blink", "boxed"]
    assert boxed.headline.mean == 0.75 and boxed.headline.questions == 8 and boxed.consistency["orders"] == 24
    questions = boxed.questions()
    assert list(questions) == [f"q{q}" for q in range(8)]
    assert [row["order"] for row in questions["q0"].orders] == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert questions["q0"].original["role"] == "original" and len(questions["q0"].control["texts"]) == 4
    assert model.results["blink", "official"].consistency is None


def test_half_a_line_and_a_question_without_its_own_order(out):
    file = out / "blink-official" / "scores.jsonl"
    last = evaluation_results.row(99, [1, 2, 0], "permuted")
    file.write_text(file.read_text() + json.dumps(last) + '\n{"id": "q100", "ro')
    assert len(results.read("a", out).results["blink", "official"].questions()) == 20


def test_bad_input_is_one_line(tmp_path, out):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no results .*perl_jax.evaluate --out="):
        results.read("a", tmp_path / "empty")
    (out / "copy").mkdir()
    for name in ("results.json", "scores.jsonl"):
        (out / "copy" / name).write_text((out / "blink-boxed" / name).read_text())
    with pytest.raises(InputError, match=r"blink boxed is in .* twice"):
        results.read("a", out)
    file = out / "copy" / "results.json"
    for content in (
        '{"benchmark": ',
        "[]",
        '{"benchmark": "blink"}',
        "7",
        '{"benchmark": "b", "protocol": "p", "figures": {"headline": "micro", "micro": {"mean": 1}}}',
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=r"copy/results.json: not the results of an evaluation"):
            results.read("a", out)
    file.unlink()
    (out / "blink-boxed" / "scores.jsonl").write_text('{"id": "q0"}\n')
    with pytest.raises(InputError, match=r"scores.jsonl: not the scores of an evaluation, a row has no 'answer'"):
        results.read("a", out)
