"""The pairs of `benchmarks.grading`: no wrong answer is rewarded, and the program says so."""

from benchmarks import grading

EVERY = list(grading.pairs(grading.FILE.read_text(encoding="utf-8")))


def test_there_are_enough_pairs_of_both_kinds():
    assert len(EVERY) >= 300 and len(set(EVERY)) == len(EVERY)
    assert all(sum(pair.right == right for pair in EVERY) > 100 for right in (True, False))
    assert {pair.kind for pair in EVERY} == {"choice", "number", "order", "text"}


def test_no_wrong_answer_is_rewarded_and_hardly_a_right_one_refused():
    wrongly = grading.mistakes(EVERY, grading.ours)
    assert [pair for pair in wrongly if not pair.right] == []
    assert len(wrongly) <= 5


def test_each_gold_is_right_itself():
    golds = [pair._replace(response=pair.gold, right=True) for pair in EVERY]
    assert grading.mistakes(golds, grading.ours) == []


def test_the_table_counts_mistakes(tmp_path, monkeypatch, capsys):
    file = tmp_path / "pairs.txt"
    monkeypatch.setattr(grading, "FILE", file)
    file.write_text("# small\nnumber ¦ 1:2:3\n  + 2:4:6\n  - 2:3:4 ¦ 1:2\nchoice ¦ B ¦ 3 ; 5\n  + B. 5\n", "utf-8")
    assert grading.main() == 0
    assert "of 4 pairs, 0 wrong answers rewarded and 0 right ones refused" in capsys.readouterr().out
    file.write_text("# small\nnumber ¦ 5\n  - 5.0\n  + 6\n", "utf-8")
    assert grading.main() == 1
    out = capsys.readouterr().out
    assert "| small | 1 | 1 | 1 |" in out and "REWARDED: 5.0 for 5" in out and "refused: 6 for 5" in out
