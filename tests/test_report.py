"""The report over run directories with known figures, whole, half-written and hostile ones."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markup import Tags

from models.errors import InputError
from perl_jax import report

ATTACK = "<script>alert('x')</script>"


def lines(file, rows, end=""):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(each) + "\n" for each in rows) + end)


def predictions(right, text=ATTACK, questions=10):
    """Two orders of each question; the first `right` questions are right in both, the next one in its own order."""
    return [{"id": f"q{q}", "source": "which", "order": order, "canonical": order == [0, 1], "images": 2,
             "text": f"{text} of {q}", "answer": str(order.index(0) + 1), "meaning": "1" if right_here else "2",
             "correct": right_here}
            for q in range(questions) for order in ([0, 1], [1, 0])
            for right_here in [q < right or (q == right and order == [0, 1])]]  # fmt: skip


def write_run(path, right=5, seconds=1.5, steps=4, evaluated=(0, 4)):
    """A run of four steps, restarted after the second, which it does anew, and killed in its last line."""
    metrics = [{"stage": "perl", "step": step, "time/total": seconds, "reward/mean": step / 10, "update/entropy": 0.5,
                "permute/probability": 1 - step / steps, "update/kl": 0.0} for step in (1, 2, *range(2, steps + 1))]
    metrics[1] |= {"time/total": 1000.0, "reward/mean": 77.0}
    metrics.append({"stage": "perl", "step": 4, "eval/permuted_accuracy": right / 10})
    lines(path / "metrics.jsonl", metrics, end='{"stage": "perl", "step": 5, "time/to')
    for step in evaluated:
        lines(path / "evaluations" / f"eval-{step:08d}.jsonl", predictions(right if step else 1))
    group = {"stage": "perl", "id": "q0", "orders": [[0, 1], [1, 0]], "questions": [f"Where? {ATTACK}"] * 2,
             "responses": [[ATTACK, "b"], ["c", "half a pair \ud800"]], "rewards": [[1.0, 0.0], [0.0, 0.0]],
             "advantages": [[1.5, -0.5], [-0.5, -0.5]]}  # fmt: skip
    lines(path / "rollouts.jsonl", [{**group, "step": step} for step in range(9)])
    start = {"config": {"note": ATTACK}, "command": ["train.py", "--config=x"], "commit": "abc123", "clean": False,
             "versions": {"jax": "0.10.2"}, "device": "1 x cpu", "time": "now"}  # fmt: skip
    (path / "run.json").write_text(json.dumps([start, {**start, "clean": True}]))
    return path


@pytest.fixture
def two(tmp_path):
    grpo, perl = write_run(tmp_path / "a", right=2, seconds=1.0), write_run(tmp_path / "b", right=8)
    return {"GRPO": grpo, f"PeRL {ATTACK}": perl}


def test_the_table_has_the_figures(two, tmp_path):
    text = report.write(two, tmp_path / "out" / "report.html")
    assert text == (tmp_path / "out" / "report.md").read_text()
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    chance, grpo, perl = table[2:5]
    assert chance == ["chance", "100.0%", "100.0%", "100.0%", "–", "–", "–"]  # one answer each in its kind of order
    assert grpo == ["GRPO", "30.0%", "20.0% [5.7, 51.0] of 10", "20.0%", "10.0%", "–", "4"]
    assert perl[1:] == ["90.0%", "80.0% [49.0, 94.3] of 10", "80.0%", "10.0%", "–", "6"]
    name, questions, canonical, permuted, flips = table[7]
    assert name.endswith("minus GRPO") and questions == "10"
    assert canonical == permuted == "+60.0 [+30.0, +90.0]"
    assert flips.startswith("+0.0 [") and flips.endswith(", not separated")


def test_the_page_holds_everything_and_no_script(two, tmp_path):
    report.write(two, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    seen = Tags(page)
    assert "script" not in seen.tags and ATTACK not in page and html.escape(ATTACK) in page
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name == "href"]
    sources = [value for name, value in seen.attributes if name == "src"]
    assert sources and all(value.startswith("data:image/svg+xml;base64,") for value in sources)
    for word in ("reward in training", "permuted accuracy, held out", "right in more orders: 7", "✗", "order 2 1",
                 "abc123, with uncommitted changes", "train.py --config=x", "jax 0.10.2", "1 x cpu", "2 starts",
                 "-0.50", "half a pair ?", "not separated"):  # fmt: skip
        assert word in seen.words, word
    assert "gradient norm" not in seen.words  # no run says it
    assert page.count("order 1 2\n") == 2 * report.GROUPS_SHOWN


def test_what_was_done_anew_counts_once(two):
    run = report.read_run("run", two["GRPO"])
    assert run.values("reward/mean", "perl") == {("perl", step): step / 10 for step in (1, 2, 3, 4)}
    assert run.result("eval").seconds == 4.0 and run.result("eval").step == 4
    assert run.metrics["perl", 4]["eval/permuted_accuracy"] == 0.2 and ("perl", 5) not in run.metrics


def test_half_a_line_is_skipped_and_a_table_can_be_short(tmp_path):
    path = write_run(tmp_path / "run")
    lines(path / "evaluations" / "eval-00000009.jsonl", predictions(3)[:8], end='{"id": "q4", "sou')
    (path / "run.json").write_text('[{"config": ')
    text = report.write({"run": path}, tmp_path / "report.html")
    assert "of 4 |" in text and "minus" not in text and "run 9" in text
    assert "no run.json" in (tmp_path / "report.html").read_text()


def test_many_changed_questions_are_bounded(tmp_path):
    for name, right in (("a", 0), ("b", 50)):
        lines(tmp_path / name / "evaluations" / "eval-00000001.jsonl", predictions(right, "w" * 9000, questions=50))
    report.write({name: tmp_path / name for name in "ab"}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "right in more orders: 50, the first 8" in page and page.count("<h3>") == 8
    assert "w" * (report.WORDS_SHOWN + 1) not in page and "(9005 characters)" in page


def test_runs_that_have_not_evaluated_yet(tmp_path):
    path = write_run(tmp_path / "run", evaluated=())
    assert report.write({"run": path}, tmp_path / "report.html") == "No evaluation yet.\n"
    seen = Tags((tmp_path / "report.html").read_text())
    assert "reward in training" in seen.words and "Held-out" not in seen.words


def test_each_set_has_its_own_table(tmp_path):
    path = write_run(tmp_path / "run")
    lines(path / "evaluations" / "far-off-00000004.jsonl", predictions(0))
    text = report.write({"run": path}, tmp_path / "report.html")
    assert re.findall("^## (.*)$", text, re.M) == ["eval", "far-off"]


def test_lines_of_any_length_are_drawn():
    for lengths in ([1], [0, 1, 2], [39, 40, 41], [500, 0]):
        drawn = report._plot([{step: step**0.5 for step in range(length)} for length in lengths], "")
        assert drawn.startswith('<img alt="" src="data:image/svg+xml;base64,')


def test_names_of_runs(tmp_path):
    for name in ("a", "b", "x=y"):
        (tmp_path / name).mkdir()
    a, b, odd = (str(tmp_path / name) for name in ("a", "b", "x=y"))
    assert report.parse_workdirs([f"The  first={a}", b + "/", odd]) == {
        "The first": Path(a), "b": Path(b), "x=y": Path(odd)}  # fmt: skip
    for items, message in (([a, f"a={b}"], "'a' is taken"), (["=" + a], "NAME=DIRECTORY"), (["a="], "NAME=DIRECTORY"),
                           ([f"n={a}/none"], "not a directory")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            report.parse_workdirs(items)


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nothing to report yet in .*empty"):
        report.write({"run": tmp_path / "empty"}, tmp_path / "out" / "report.html")
    run = write_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"name it \*.html"):
        report.write({"run": run}, tmp_path / "out" / "report.md")
    lines(run / "evaluations" / "eval-00000004.jsonl", [{"id": "q"}])
    with pytest.raises(InputError, match=r"eval-00000004.jsonl: not an evaluation, a row has no 'answer'"):
        report.write({"run": run}, tmp_path / "out" / "report.html")
    assert not (tmp_path / "out").exists()


def test_the_command(two, tmp_path):
    def command(*args):
        program = [sys.executable, "-m", "perl_jax.report", *args]
        return subprocess.run(program, capture_output=True, text=True, check=False)

    runs = [f"--workdir={name}={path}" for name, path in two.items()]
    done = command(*runs, f"--out={tmp_path}/report.html")
    assert done.returncode == 0 and "| GRPO | 30.0% |" in done.stdout, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "report.html", "report.md"]
    failed = command(f"--workdir={tmp_path}/none", f"--out={tmp_path}/other.html")
    assert failed.returncode == 1 and not (tmp_path / "other.html").exists()
    assert failed.stderr.strip().splitlines() == [
        f"error: --workdir={tmp_path}/none: {tmp_path}/none is not a directory"]  # fmt: skip
