"""Measures by question, chance and intervals, against known numbers and scipy."""

import doctest
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from perl_jax.evaluation import statistics


def row(name="q", order=(0, 1), original=True, correct=True, **changes):
    return {
        "id": name,
        "source": "digits",
        "order": list(order),
        "original": original,
        "images": len(order),
        "text": "",
        "answer": "1",
        "meaning": "1",
        "correct": correct,
        **changes,
    }


def random_rows(seed=0, questions=40, drawn=3):
    """Two- and one-image questions; the questions and orders are the same for every seed, the answers are not."""
    key, rng, rows = np.random.default_rng(99), np.random.default_rng(seed), []
    for q in range(questions):
        images = 1 if q % 4 == 0 else 2
        orders = [tuple(range(images))] + [tuple(key.permutation(2).tolist()) for _ in range(drawn)] * (images > 1)
        for place, order in enumerate(orders):
            meaning = str(rng.integers(3))
            rows.append(
                row(
                    f"q{q}",
                    order,
                    place == 0,
                    bool(rng.random() < 0.6),
                    meaning=meaning,
                    answer=str(key.integers(1, 3)),
                    source=("which", "what")[q % 2],
                )
            )
    return rows


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (3, 10), (150, 300), (299, 300)])
def test_wilson_is_scipys(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(statistics.wilson(successes / trials, trials), expected, atol=1e-12)


def test_no_questions_no_interval():
    estimate = statistics.proportion({})
    assert estimate.questions == 0 and all(map(math.isnan, estimate[:3]))
    assert statistics.difference({"a": 1.0}, {"b": 1.0}).questions == 0


def test_orders_of_one_question_count_as_one_question():
    rows = [row(), *(row(order=(1, 0), original=False) for _ in range(9))]
    assert statistics.proportion(statistics.measures(rows)["permuted"]).questions == 1


def test_chance_is_what_the_answer_key_gives_away():
    original = [row(name, answer=answer) for name, answer in zip("abcd", "1112")]
    drawn = [row(name, (1, 0), False, answer=answer) for name, answer in zip("abcd", "2211")]
    alone = [row("s", (0,), answer="7"), row("t", (0,), answer="8")]
    elsewhere = row("e", source="other", answer="9")
    result = statistics.chance([*original, *drawn, *alone, elsewhere])
    means = {name: np.mean(list(values.values())) for name, values in result.items() if values}
    at = [0.75, 0.75, 0.75, 0.25]
    expected = {"accuracy": (sum(at) + 1) / 5, "permuted": 0.5, "consistent": sum(at) / 4 * 0.5, "single": 0.5}
    assert means == pytest.approx(expected)


def test_chance_draws_each_order_anew():
    rows = [
        row(f"{i}", order, original, answer=answer)
        for i, answer in enumerate("12")
        for order, original in [((0, 1), True), ((1, 0), False), ((1, 0), False)]
    ]
    assert list(statistics.chance(rows)["consistent"].values()) == pytest.approx([1 / 8, 1 / 8])


def test_chance_is_what_a_guesser_reaches():
    rows, rng = random_rows(questions=400), np.random.default_rng(5)
    alike = {}
    for each in rows:
        alike.setdefault((each["source"], each["images"], each["original"]), []).append(each["answer"])
    guessed = []
    for each in rows:
        guess = rng.choice(alike[each["source"], each["images"], each["original"]])
        guessed.append({**each, "correct": guess == each["answer"]})
    for name, values in statistics.measures(guessed).items():
        if name != "flip":
            expected = np.mean(list(statistics.chance(rows)[name].values()))
            assert np.mean(list(values.values())) == pytest.approx(expected, abs=0.06)


def test_bootstrap_is_that_of_drawing_questions():
    differences = np.random.default_rng(0).choice([-1, -1 / 3, 0, 0, 1 / 3, 1], 200)
    drawn = differences[np.random.default_rng(1).integers(0, 200, (10_000, 200))].mean(1)
    assert statistics.paired_bootstrap(differences) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.006)


def test_bootstrap_repeats_narrows_and_turns_over():
    differences = np.random.default_rng(0).choice([-1.0, 0, 1], 50)
    low, high = statistics.paired_bootstrap(differences)
    assert (low, high) == statistics.paired_bootstrap(differences) == statistics.paired_bootstrap(differences[::-1])
    assert low < differences.mean() < high
    wide = np.diff(statistics.paired_bootstrap(np.tile(differences, 4)))[0]
    assert wide == pytest.approx((high - low) / 2, rel=0.1)
    assert statistics.paired_bootstrap(-differences) == pytest.approx((-high, -low), abs=0.02)
    assert statistics.paired_bootstrap([0.25] * 9) == pytest.approx((0.25, 0.25))


def test_bootstrap_within_groups_is_that_of_drawing_within_them():
    groups = [np.random.default_rng(i).integers(0, 2, size) for i, size in enumerate((20, 60, 200))]
    rng = np.random.default_rng(9)
    means = [group[rng.integers(0, len(group), (10_000, len(group)))].mean(1) for group in groups]
    expected = np.quantile(np.mean(means, 0), (0.025, 0.975))
    result = statistics.stratified_bootstrap(groups)
    assert result == pytest.approx(expected, abs=0.006)
    assert np.diff(result) < np.diff(statistics.paired_bootstrap(groups[0])), "three groups vary less than one"
    assert statistics.stratified_bootstrap([[1.0], [0.0, 0.0]]) == (0.5, 0.5)
    assert all(map(math.isnan, statistics.stratified_bootstrap([])))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_mcnemar_is_an_exact_test_on_what_differs(pairs):
    first = {str(i): a for i, (a, _) in enumerate(pairs)} | {"only in the first": True}
    second = {str(i): b for i, (_, b) in enumerate(pairs)} | {"only in the second": True}
    one, other = (sum(a and not b for a, b in each) for each in (pairs, [(b, a) for a, b in pairs]))
    least, n = min(one, other), one + other
    p = min(1, 2 * sum(math.comb(n, i) for i in range(least + 1)) / 2**n)  # both tails of a fair coin's n throws
    result = statistics.mcnemar(first, second)
    assert result == (one, other, pytest.approx(p))
    assert statistics.mcnemar(second, first) == (other, one, result.p)


def test_an_estimate_goes_to_json_and_back():
    there = statistics.proportion({"a": 1.0, "b": 0.0})
    assert statistics.Estimate.from_json(json.loads(json.dumps(there.to_json(), allow_nan=False))) == there
    nothing = statistics.proportion({}).to_json()
    assert nothing == {"mean": None, "low": None, "high": None, "questions": 0}
    assert math.isnan(statistics.Estimate.from_json(nothing).mean)
    assert statistics.percent(statistics.Estimate.from_json(nothing)) == "–"


def test_counts_in_words():
    assert doctest.testmod(statistics).failed == 0
    assert statistics.counted({}) == ""
    many = {f"reason {i}": 10 - i for i in range(5)}
    assert statistics.counted(many, 3) == "reason 0 (10), reason 1 (9), reason 2 (8), 2 other reasons (13)"


def test_difference_pairs_by_question_whatever_the_order_of_rows():
    first, last = random_rows(1), random_rows(2)
    expected = statistics.difference(statistics.measures(last)["permuted"], statistics.measures(first)["permuted"])
    shuffled = [first[i] for i in np.random.default_rng(0).permutation(len(first))]
    result = statistics.difference(statistics.measures(last)["permuted"], statistics.measures(shuffled)["permuted"])
    assert result == expected
    same = statistics.difference(statistics.measures(first)["permuted"], statistics.measures(shuffled)["permuted"])
    assert same == (0, 0, 0, 30) and not same.separated


def test_a_question_asked_otherwise_is_not_paired():
    rows = [row("a"), row("b"), row("c")]
    other = [row("a", correct=False), row("b", answer="2"), row("c", order=(1, 0))]
    result = statistics.difference(statistics.measures(rows)["accuracy"], statistics.measures(other)["accuracy"])
    assert result == (1, 1, 1, 1)


def test_separated_is_an_interval_without_0():
    assert statistics.Estimate(0.2, 0.1, 0.3, 9).separated and statistics.Estimate(-0.2, -0.3, -0.1, 9).separated
    assert not statistics.Estimate(0.2, 0.0, 0.3, 9).separated and not statistics.Estimate(0.0, -0.1, 0.1, 9).separated


def test_changed_questions_by_what_they_gained():
    def question(name, original, moved):
        return [row(name, correct=original), row(name, (1, 0), False, correct=moved)]

    before = [*question("up", 0, 1), *question("down", 1, 1), *question("swap", 0, 1), *question("same", 1, 0)]
    after = [
        *question("new", 1, 1),
        *question("same", 1, 0),
        *question("swap", 1, 0),
        *question("down", 0, 1),
        *question("up", 1, 1),
    ]
    result = statistics.changed(after, before)
    names = [[old[0]["id"] for old, _ in kind] for kind in result]
    assert names == [["up"], ["down"], ["swap"]]
    assert [[each["correct"] for each in side] for side in result.gained[0]] == [[0, 1], [1, 1]]


def test_tables_say_what_is_not_separated():
    def rows(right, drawn):
        return [
            each
            for q in range(60)
            for each in (
                row(f"{q}", correct=q < right),
                row(f"{q}", (1, 0), False, correct=q < drawn, meaning=str(q < drawn)),
            )
        ]

    results = [statistics.Result("a|b", 5, rows(30, 10), 12.0), statistics.Result("c", 9, rows(31, 50), math.nan)]
    section = statistics.section("eval", results)
    text = statistics.markdown([section])
    assert section.figures.rows[1][:3] == ["a|b", "50.0%", "16.7% [9.3, 28.0] of 60"]
    assert [line[0] for line in section.figures.rows] == ["chance", "a|b", "c"]
    assert section.figures.rows[0][4] == section.figures.rows[0][6] == section.figures.rows[2][6] == "–"
    name, questions, accuracy, permuted, _ = section.differences.rows[0]
    assert (name, questions) == ("c minus a|b", "60") and accuracy.endswith(", not separated")
    assert permuted.startswith("+66.7 [+") and "not separated" not in permuted
    assert "| a\\|b |" in text and "a|b 5, c 9" in text and "not all asked" not in text


def test_runs_without_an_evaluation_or_with_other_questions():
    results = [
        statistics.Result("none", 0, [], math.nan),
        statistics.Result("one", 1, random_rows(), 1.0),
        statistics.Result("two", 1, [row("z")], 1.0),
    ]
    section = statistics.section("eval", results)
    assert section.figures.rows[1] == ["none", *["–"] * 6]
    assert [line[1:] for line in section.differences.rows] == [["0", "–", "–", "–"]] * 2
    assert any("not all asked" in note for note in section.notes)
