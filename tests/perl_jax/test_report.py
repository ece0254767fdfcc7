"""The report over directories of runs and of results with known figures, whole, half-written and hostile ones."""

import subprocess
import sys
from html import escape
from pathlib import Path

import evaluation_results
import pytest
from markup import Tags
from run_workdirs import ATTACK, lines, predictions, write_run

from models.errors import InputError
from perl_jax import report
from perl_jax.evaluation import training_runs
from perl_jax.runtime import html


@pytest.fixture
def two(tmp_path):
    grpo, perl = write_run(tmp_path / "a", right=2, seconds=1.0), write_run(tmp_path / "b", right=8)
    return {"GRPO": grpo, f"PeRL {ATTACK}": perl}


def test_the_table_has_the_figures(two, tmp_path):
    text = report.write(two, {}, tmp_path / "out" / "report.html")
    assert text == (tmp_path / "out" / "report.md").read_text()
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    chance, grpo, perl = table[2:5]
    assert chance == ["chance", "100.0%", "100.0%", "100.0%", "–", "–", "–"]  # one answer each in its kind of order
    assert grpo == ["GRPO", "30.0%", "20.0% [5.7, 51.0] of 10", "20.0%", "10.0%", "–", "4"]
    assert perl[1:] == ["90.0%", "80.0% [49.0, 94.3] of 10", "80.0%", "10.0%", "–", "6"]
    name, questions, accuracy, permuted, flips = table[7]
    assert name.endswith("minus GRPO") and questions == "10"
    assert accuracy == permuted == "+60.0 [+30.0, +90.0]"
    assert flips.startswith("+0.0 [") and flips.endswith(", not separated")


def test_the_page_holds_everything_and_no_script(two, tmp_path):
    report.write(two, {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert "script" not in tags.tags and ATTACK not in page and escape(ATTACK) in page
    assert not [name for name, _ in tags.attributes if name.startswith("on") or name == "href"]
    sources = [value for name, value in tags.attributes if name == "src"]
    assert sources and all(value.startswith("data:image/svg+xml;base64,") for value in sources)
    for word in (
        "reward in training",
        "permuted accuracy, held out",
        "right in more orders: 7",
        "✗",
        "order 2 1",
        "abc123, with uncommitted changes",
        "train.py --config=x",
        "jax 0.10.2",
        "1 x cpu",
        "2 starts",
        "-0.50",
        "half a pair ?",
        "not separated",
    ):
        assert word in tags.words, word
    assert "gradient norm" not in tags.words  # no run says it
    assert page.count("order 1 2\n") == 2 * training_runs.GROUPS_SHOWN


def test_half_a_line_is_skipped_and_a_table_can_be_short(tmp_path):
    path = write_run(tmp_path / "run")
    lines(path / "evaluations" / "eval-00000009.jsonl", predictions(3)[:8], end='{"id": "q4", "sou')
    (path / "run.json").write_text('[{"config": ')
    text = report.write({"run": path}, {}, tmp_path / "report.html")
    assert "of 4 |" in text and "minus" not in text and "run 9" in text
    assert "no run.json" in (tmp_path / "report.html").read_text()


def test_many_changed_questions_are_bounded(tmp_path):
    for name, right in (("a", 0), ("b", 50)):
        lines(tmp_path / name / "evaluations" / "eval-00000001.jsonl", predictions(right, "w" * 9000, questions=50))
    report.write({name: tmp_path / name for name in "ab"}, {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "right in more orders: 50, the first 8" in page and page.count("<h3>") == 8
    assert "w" * (html.MAX_CHARACTERS + 1) not in page and "(9005 characters)" in page


def test_results_and_runs_on_one_page(two, tmp_path):
    out = evaluation_results.write(tmp_path / "out", evaluation_results.rows(10), "gone")
    text = report.write(two, {"base": out}, tmp_path / "report.html")
    assert text.index("## Accuracy") < text.index("## Training runs") < text.index("| GRPO | 30.0%")
    words = Tags((tmp_path / "report.html").read_text()).words
    for each in ("PeRL report: base, GRPO, PeRL", "As printed elsewhere", "permuted accuracy, held out", "2 starts"):
        assert each in words, each
    alone = report.write({}, {"base": out}, tmp_path / "report.html")
    assert "Training runs" not in alone and text.startswith(alone)
    assert "Learning curves" not in Tags((tmp_path / "report.html").read_text()).words


def test_names_of_directories(tmp_path):
    for name in ("a", "b", "x=y"):
        (tmp_path / name).mkdir()
    a, b, odd = (str(tmp_path / name) for name in ("a", "b", "x=y"))
    assert report.parse_directories("workdir", [f"The  first={a}", b + "/", odd]) == {
        "The first": Path(a),
        "b": Path(b),
        "x=y": Path(odd),
    }
    for items, message in (
        ([a, f"a={b}"], "'a' is taken"),
        (["=" + a], "NAME=DIRECTORY"),
        (["a="], "NAME=DIRECTORY"),
        ([f"n={a}/none"], "not a directory"),
    ):
        with pytest.raises(InputError, match=message):
            report.parse_directories("results", items)


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nothing to report yet in .*empty"):
        report.write({"run": tmp_path / "empty"}, {}, tmp_path / "out" / "report.html")
    run = write_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"name it \*.html"):
        report.write({"run": run}, {}, tmp_path / "out" / "report.md")
    lines(run / "evaluations" / "eval-00000004.jsonl", [{"id": "q"}])
    with pytest.raises(InputError, match=r"eval-00000004.jsonl: not an evaluation, a row has no 'answer'"):
        report.write({"run": run}, {}, tmp_path / "out" / "report.html")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command(two, tmp_path):
    def command(*args):
        program = [sys.executable, "-m", "perl_jax.report", *args]
        return subprocess.run(program, capture_output=True, text=True, check=False)

    out = evaluation_results.write(tmp_path / "c", evaluation_results.rows(10), "gone")
    flags = [*(f"--workdir={name}={path}" for name, path in two.items()), f"--results=base={out}", f"--results={out}"]
    done = command(*flags, f"--out={tmp_path}/report.html")
    assert done.returncode == 0 and "| GRPO | 30.0% |" in done.stdout, done.stderr
    assert "| base | 50.0% [29.9, 70.1] of 20 † |" in done.stdout and "| c minus base |" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "report.html", "report.md"]
    for args, line in (
        ([f"--results=x={tmp_path}/none"], f"--results=x={tmp_path}/none: {tmp_path}/none is not a directory"),
        ([], "nothing to report: give --results=NAME=DIRECTORY or --workdir=NAME=DIRECTORY"),
    ):
        failed = command(*args, f"--out={tmp_path}/other.html")
        assert failed.returncode == 1 and failed.stderr.strip().splitlines() == [f"error: {line}"]
    assert not (tmp_path / "other.html").exists()
