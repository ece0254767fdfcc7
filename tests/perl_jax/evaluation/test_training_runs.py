"""The part of a report that is about training runs: what they left is read, and curves are drawn."""

import pytest
from markup import Tags
from run_workdirs import lines, predictions, write_run

from models.errors import InputError
from perl_jax.evaluation import training_runs


@pytest.fixture
def run(tmp_path):
    return training_runs.read("GRPO", write_run(tmp_path / "a", right=2, seconds=1.0))


def test_what_was_done_anew_counts_once(run):
    assert run.values("reward/mean", "perl") == {("perl", step): step / 10 for step in (1, 2, 3, 4)}
    assert run.result("eval").seconds == 4.0 and run.result("eval").step == 4
    assert run.metrics["perl", 4]["eval/permuted_accuracy"] == 0.2 and ("perl", 5) not in run.metrics


def test_rows_of_another_form(tmp_path):
    path = write_run(tmp_path / "run")
    lines(path / "evaluations" / "eval-00000004.jsonl", [{"id": "q"}])
    with pytest.raises(InputError, match=r"eval-00000004.jsonl: not an evaluation, a row has no 'answer'"):
        training_runs.read("run", path)


def test_a_run_that_has_not_evaluated_yet(tmp_path):
    run = training_runs.read("run", write_run(tmp_path / "run", evaluated=()))
    seen = Tags("".join(training_runs.body([run])))
    assert training_runs.markdown([run]) == "No evaluation yet.\n"
    assert "reward in training" in seen.words and "Held-out" not in seen.words


def test_each_set_has_its_own_table(tmp_path):
    path = write_run(tmp_path / "run")
    lines(path / "evaluations" / "far-off-00000004.jsonl", predictions(0))
    assert [part.title for part in training_runs.sections([training_runs.read("run", path)])] == ["eval", "far-off"]


def test_lines_of_any_length_are_drawn():
    for lengths in ([1], [0, 1, 2], [39, 40, 41], [500, 0]):
        drawn = training_runs._plot([{step: step**0.5 for step in range(length)} for length in lengths], "")
        assert drawn.startswith('<img alt="" src="data:image/svg+xml;base64,')
