"""Figures of scored rows, against cases worked out by hand, enumeration and scipy."""

import doctest
import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from models.errors import InputError
from perl_jax.evaluation import figures as module
from perl_jax.evaluation.consistency import consistency
from perl_jax.evaluation.figures import compare_with, figures, majority, markdown, pass_at


def scored(name, correct, category="a", **changes):
    """A row of one question in its own order, as evaluate writes it."""
    count = len(correct)
    row = {
        "id": name,
        "category": category,
        "source": "s",
        "images": 2,
        "role": "original",
        "order": [0, 1],
        "shown": [0, 1],
        "question": "Which?",
        "answer": "A",
        "texts": ["words"] * count,
        "lengths": [10] * count,
        "truncated": [False] * count,
        "correct": correct,
        "extracted": ["A" if x else "B" for x in correct],
        "meaning": ["a" if x else "b" for x in correct],
        "place": None,
        "fixed": None,
        "fault": None,
    }
    return {**row, **changes}


def missing(name, samples=1, category="a"):
    return scored(
        name,
        [0.0] * samples,
        category,
        fault="image missing",
        texts=[""] * samples,
        lengths=[0] * samples,
        extracted=[None] * samples,
        meaning=[None] * samples,
    )


def result(rows, samples=1, macro=False, **changes):
    """A results.json, after a round trip through it."""
    measured = {
        "benchmark": "blink",
        "protocol": "boxed",
        "judge": None,
        "model": {"name": "tiny", "fingerprint": "f"},
        "data": "d",
        "settings": {"samples": samples, "temperature": 0.0, "max_new_tokens": 64, "seed": 0},
        "rows": 1200,
        "rejected": {},
        "partial": False,
        "time": "2026-11-22T10:00:00",
        "figures": figures(rows, samples, macro),
        "consistency": consistency(rows, samples),
        "against": None,
        **changes,
    }
    return json.loads(json.dumps(measured, allow_nan=False))


def test_doctests():
    assert doctest.testmod(module).failed == 0


def test_accuracy_over_questions_and_over_categories():
    rows = [*(scored(f"a{i}", [float(i < 6)]) for i in range(8)), *(scored(f"b{i}", [float(i)], "b") for i in range(2))]
    measured = figures(rows, 1, macro=True)
    assert measured["questions"] == 10 and measured["headline"] == "macro"
    assert measured["micro"]["mean"] == pytest.approx(0.7) and measured["macro"]["mean"] == pytest.approx(
        (0.75 + 0.5) / 2
    )
    wilson = binomtest(7, 10).proportion_ci(method="wilson")
    assert (measured["micro"]["low"], measured["micro"]["high"]) == pytest.approx(tuple(wilson))
    assert measured["macro"]["low"] < measured["macro"]["mean"] < measured["macro"]["high"]
    assert measured["categories"]["a"]["accuracy"]["mean"] == 0.75 and measured["categories"]["b"]["questions"] == 2
    assert figures(rows, 1, macro=False) == {**measured, "headline": "micro"}


def test_samples_of_a_question_do_not_narrow_its_interval():
    once = figures([scored(f"{i}", [float(i < 5)]) for i in range(10)], 1, False)["micro"]
    often = figures([scored(f"{i}", [float(i < 5)] * 8) for i in range(10)], 8, False)["micro"]
    assert once == often and often["questions"] == 10


def test_rates_are_of_responses_and_faults_count_as_wrong_questions_only():
    rows = [
        scored("1", [1.0, 0.0], extracted=["A", None], truncated=[False, True], lengths=[10, 64]),
        scored("2", [1.0, 1.0], "b", lengths=[20, 26]),
        missing("3", 2),
    ]
    measured = figures(rows, 2, False)
    assert measured["micro"]["mean"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert (measured["responses"], measured["failures"], measured["truncated"], measured["length"]) == (
        4,
        0.25,
        0.25,
        30.0,
    )
    assert measured["not_asked"] == {"image missing": 1}
    assert measured["categories"]["a"]["questions"] == 2 and measured["categories"]["a"]["failures"] == 0.5
    assert measured["categories"]["b"]["truncated"] == 0.0


@settings(max_examples=25, deadline=None)  # each bootstraps several times
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abc")), min_size=1, max_size=12))
def test_what_a_judge_could_decide_bounds_the_accuracy(cases):
    rows = [
        scored(f"{i}", [float(right and not left)], category, undecided=[left])
        for i, (right, left, category) in enumerate(cases)
    ]
    left = sum(left for _, left, _ in cases)
    best = [row | {"correct": [1.0]} if row["undecided"][0] else row for row in rows]
    for macro in (False, True):
        measured, name = figures(rows, 1, macro), "macro" if macro else "micro"
        low, high = measured[name]["mean"], figures(best, 1, macro)[name]["mean"]
        expected = {"responses": left, "low": pytest.approx(low), "high": pytest.approx(high)}
        assert measured["undecided"] == (expected if left else None)


def test_the_page_says_what_is_undecided():
    measured = result([scored(f"{i}", [float(i < 2)], undecided=[i == 3]) for i in range(4)])
    text = markdown(measured)
    assert "1 of 4 responses can be read by a judge only" in text and "between 50.0% and 75.0%" in text
    assert "judge only" not in markdown(result([scored("1", [1.0], undecided=[False]), scored("2", [0.0])]))
    del measured["figures"]["undecided"]  # as an earlier version wrote it
    assert "judge only" not in markdown(measured)


def test_a_part_of_an_answer_is_credit_and_not_an_accuracy():
    rows = [scored("1", [1.0]), scored("2", [0.5]), scored("3", [2 / 3]), scored("4", [0.0])]
    measured = figures(rows, 1, False)
    assert measured["micro"]["mean"] == 0.25 and measured["credit"]["mean"] == pytest.approx((1 + 1 / 2 + 2 / 3) / 4)
    assert figures([scored("1", [1.0]), scored("2", [0.0])], 1, False)["credit"] is None


@pytest.mark.parametrize("rows", [[], [missing("1"), missing("2")]], ids=["no rows", "nothing asked"])
@pytest.mark.parametrize("samples", [1, 4])
def test_nothing_to_count_is_null_and_no_crash(rows, samples):
    rows = [missing(row["id"], samples) for row in rows]
    measured = result(rows, samples, macro=True)
    assert measured["figures"]["failures"] is None and measured["figures"]["length"] is None
    assert measured["figures"]["micro"]["mean"] == (0.0 if rows else None) == measured["figures"]["macro"]["mean"]
    assert "nan" not in markdown(measured).lower()


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(drawn, data):
    k = data.draw(st.integers(1, len(drawn)))
    subsets = list(itertools.combinations(drawn, k))
    assert pass_at(k, len(drawn), sum(drawn)) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_of_a_benchmark():
    rows = [scored("1", [1.0, 0.0, 0.0, 0.0, 0.0]), scored("2", [1.0] * 5), scored("3", [0.0] * 5), missing("4", 5)]
    measured = figures(rows, 5, False)
    assert list(measured["pass_at"]) == ["1", "2", "4", "5"]
    means = [each["mean"] for each in measured["pass_at"].values()]
    assert means == pytest.approx([(p + 1) / 4 for p in (1 / 5, 2 / 5, 4 / 5, 1)])
    assert measured["pass_at"]["1"] == pytest.approx(measured["micro"])
    assert list(figures(rows[:0], 8, False)["pass_at"]) == ["1", "2", "4", "8"]
    assert figures([scored("1", [1.0])], 1, False)["pass_at"] is None


@pytest.mark.parametrize(
    ("meaning", "correct", "expected"),
    [
        (["a", "b", "b"], [1, 0, 0], False),
        (["a", "a", "b"], [1, 1, 0], True),
        (["b", "a", "a", "b"], [0, 1, 1, 0], False),  # a tie: b was drawn first
        (["a", "b", "b", "a"], [1, 0, 0, 1], True),
        ([None, None, "a"], [0, 0, 1], True),  # no answer is no vote
        ([None, None], [0, 0], False),
    ],
)
def test_majority(meaning, correct, expected):
    row = scored("1", [float(x) for x in correct], meaning=meaning, extracted=[each and "?" for each in meaning])
    assert majority(row) is expected


def test_answers_without_a_meaning_vote_by_their_words():
    extracted = ["Red", "BLUE.", r"\text{blue}", None, None]
    row = scored("1", [1.0, 0.0, 0.0, 0.0, 0.0], meaning=[None] * 5, extracted=extracted)
    assert not majority(row)
    assert majority({**row, "extracted": ["red.", "Red", "blue", "green", None]})


@pytest.mark.parametrize("nothing", ["$$", "...", "", '""', r"\(\)"])
def test_an_answer_of_no_words_is_no_vote(nothing):
    row = scored("1", [0.0, 0.0, 1.0], meaning=[None] * 3, extracted=[nothing, nothing, "red"])
    assert majority(row)
    assert not majority({**row, "correct": [0.0] * 3, "extracted": [nothing] * 3})


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.booleans(), min_size=3, max_size=3)), max_size=12),
    st.randoms(),
)
def test_the_order_of_rows_is_nothing(cases, rng: random.Random):
    rows = [scored(f"{i}", [float(x) for x in drawn], category) for i, (category, drawn) in enumerate(cases)]
    rows += [{**row, "role": "permuted", "correct": [0.0] * 3} for row in rows]  # only a question's own order counts
    expected = figures(rows, 3, True)
    rng.shuffle(rows)
    assert figures(rows, 3, True) == expected
    assert expected["questions"] == len(cases)


def test_against_another_result():
    here = [
        scored("both", [1.0]),
        scored("mine", [1.0]),
        scored("neither", [0.0]),
        scored("new", [1.0]),
        missing("no"),
        scored("other words", [1.0], answer="B"),
        *(scored(f"{i}", [1.0]) for i in range(8)),
    ]
    there = [
        *(scored(f"{i}", [0.0]) for i in range(8)),
        scored("other words", [0.0]),
        scored("both", [1.0]),
        scored("mine", [0.0]),
        scored("neither", [0.0]),
        scored("no", [1.0]),
    ]
    measured = compare_with(here, there)
    assert (measured["questions"], measured["first_only"], measured["second_only"]) == (11, 9, 0)
    assert (measured["only_here"], measured["only_there"]) == (2, 2)
    assert measured["p"] == pytest.approx(binomtest(9, 9).pvalue)
    assert measured["difference"]["mean"] == pytest.approx(9 / 11) and measured["difference"]["low"] > 0
    back = compare_with(there, here)
    assert (back["first_only"], back["p"], back["difference"]["mean"]) == (0, measured["p"], pytest.approx(-9 / 11))


def test_against_takes_the_first_response_for_the_test_and_all_for_the_difference():
    measured = compare_with([scored("1", [0.0, 1.0, 1.0, 1.0])], [scored("1", [1.0])])
    assert (measured["first_only"], measured["second_only"], measured["p"]) == (0, 1, 1.0)
    assert measured["difference"]["mean"] == -0.25


def test_against_what_shares_nothing():
    with pytest.raises(InputError, match="share none of their 1 and 2 questions"):
        compare_with([scored("1", [1.0])], [scored("2", [1.0]), scored("3", [1.0])])


def test_results_in_words():
    rows = [*(scored(f"a{i}", [float(i % 2), 1.0], "a|b") for i in range(8)), missing("lost", 2, "c")]
    other = compare_with(rows, [scored(f"a{i}", [1.0, 1.0], "a|b") for i in range(8)])
    text = markdown(
        result(
            rows,
            2,
            macro=True,
            rejected={"duplicate id": 2, "malformed row": 30},
            partial=True,
            judge={"model": "judge-1", "url": "u"},
            against={**other, "name": "GRPO"},
        )
    )
    lines = text.splitlines()
    assert lines[0] == "# blink, protocol boxed"
    for words in (
        "Model tiny, scored by rules, then the judge judge-1, 2026-11-22",
        "samples 2, temperature 0.0",
        "8 questions asked of 1,200 rows",
        "malformed row (30), duplicate id (2)",
        "wrong: image missing (1)",
        "**Partial**",
        "the mean over 2 categories",
        "## Against GRPO",
        "| pass@2 | 88.9%",
    ):
        assert words in text
    micro = np.mean([0.5] * 4 + [1.0] * 4 + [0])
    assert f"| accuracy, all questions | {100 * micro:.1f}% [" in text and "**Accuracy 37.5% [" in text
    assert "| a\\|b | 8 | 75.0% [" in text and "| c | 1 | 0.0% [" in text and "| – | – |" in text
    assert "| 8 | 0 | 4 | 0.125 | -25.0 [" in text
    assert text.index("| accuracy, mean over categories") < text.index("| accuracy, all questions"), "headline first"
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in tables) and "Consistency" not in text


def test_one_sample_one_category_says_less():
    text = markdown(result([scored("1", [1.0]), scored("2", [0.5], extracted=["B"])]))
    assert "pass@" not in text and "## Categories" not in text and "rules alone" in text
    assert "| partial credit | 75.0% [" in text and "**Accuracy 50.0% [" in text and "Left out" not in text
