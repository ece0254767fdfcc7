"""Consistency under permutation, for policies whose answers to order are known."""

import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perl_jax.evaluation.consistency import consistency, markdown


def rows_of(name, policy, samples=1, images=3, orders=None, control=True, target=0):
    """The rows of "which image shows it?", asked in `orders`; `policy(place)` says a place, from 0, or None.

    Image `target` shows it, and an answer means the image that is at that place.
    """
    original, *others = orders or list(itertools.permutations(range(images)))
    rows = [_row(name, "original", original, samples, policy, target)]
    rows += [_row(name, "permuted", order, samples, policy, target) for order in others]
    return rows + ([_row(name, "control", original, samples * len(others), policy, target)] if control else [])


def _row(name, role, order, count, policy, target):
    place = order.index(target)
    text = [policy(place) for _ in range(count)]
    return {
        "id": name,
        "role": role,
        "order": list(order),
        "correct": [float(x == place) for x in text],
        "meaning": [None if x is None else str(order[x]) for x in text],
        "place": place,
        "fixed": None,
        "fault": None,
    }


def alone(name, fixed, **changes):
    """A question that was asked in its original order only."""
    row = _row(name, "original", (0,), 1, lambda place: place, 0)
    return {**row, "fixed": fixed, **changes}


def guesser(seed, right=0.6, images=3):
    """Right with the same probability in any order, else any other place."""
    rng = np.random.default_rng(seed)
    return lambda place: place if rng.random() < right else int(rng.choice([i for i in range(images) if i != place]))


def mean(found, *keys):
    for key in keys:
        found = found[key]
    return found["mean"]


def test_no_question_in_several_orders():
    assert consistency([], 1) is None
    assert consistency([alone("1", "one image"), alone("2", "one image")], 1) is None
    assert markdown(None) == []


@pytest.mark.parametrize("control", [True, False], ids=["sampled", "greedy"])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_perfect_policy(samples, control):
    rows = [
        row for i in range(5) for row in rows_of(f"{i}", lambda place: place, samples, control=control, target=i % 3)
    ]
    figures = consistency(rows, samples)
    assert (figures["questions"], figures["orders"], figures["samples"]) == (5, 30, samples)
    assert [mean(figures, key) for key in ("accuracy", "permuted", "consistent", "worst", "flip")] == [1, 1, 1, 1, 0]
    assert [mean(figures, "control", key) for key in ("permuted", "consistent", "flip")] == [1, 1, 0]
    assert [mean(figures, "difference", key) for key in ("permuted", "consistent", "flip")] == [0, 0, 0]
    assert figures["control"]["drawn"] is control
    assert [mean(each, "accuracy") for each in figures["places"]] == [1, 1, 1]


@pytest.mark.parametrize("control", [True, False], ids=["sampled", "greedy"])
def test_a_policy_that_answers_by_position_only(control):
    rows = [row for i in range(6) for row in rows_of(f"{i}", lambda place: 0, 2, control=control)]
    figures = consistency(rows, 2)
    assert [mean(figures, key) for key in ("accuracy", "consistent", "worst", "flip")] == [1, 0, 0, 1]
    assert mean(figures, "permuted") == pytest.approx(1 / 5), "one of the five other orders keeps the place"
    assert [mean(figures, "control", key) for key in ("permuted", "consistent", "flip")] == [1, 1, 0]
    assert mean(figures, "difference", "flip") == 1 and mean(figures, "difference", "permuted") == pytest.approx(-4 / 5)
    assert [mean(each, "accuracy") for each in figures["places"]] == [1, 0, 0]
    assert [mean(each, "difference") for each in figures["places"]] == pytest.approx([2 / 3, -1 / 3, -1 / 3])


def test_a_noisy_policy_that_minds_no_order_does_not_differ_from_its_control():
    policy = guesser(0)
    rows = [row for i in range(300) for row in rows_of(f"{i}", policy, 2, target=i % 3)]
    figures = consistency(rows, 2)
    assert mean(figures, "flip") > 0.9 and mean(figures, "control", "flip") > 0.9
    for key in ("permuted", "consistent", "worst", "flip"):
        assert figures["difference"][key]["low"] <= 0 <= figures["difference"][key]["high"]
        assert abs(mean(figures, "difference", key)) < 0.05
    for place in figures["places"]:
        assert place["difference"]["low"] <= 0 <= place["difference"]["high"]
        assert place["accuracy"]["low"] <= 0.6 <= place["accuracy"]["high"]


def test_by_hand_with_two_replicates():
    original = {
        "id": "q",
        "role": "original",
        "order": [0, 1, 2],
        "correct": [1.0, 0.0],
        "meaning": ["a", None],
        "place": 0,
        "fixed": None,
        "fault": None,
    }
    first = {
        **original,
        "role": "permuted",
        "order": [1, 0, 2],
        "correct": [1.0, 1.0],
        "meaning": ["a", "a"],
        "place": 1,
    }
    last = {
        **original,
        "role": "permuted",
        "order": [2, 1, 0],
        "correct": [0.0, 0.5],
        "meaning": ["b", None],
        "place": 1,
    }
    again = {**original, "role": "control", "correct": [1.0, 1.0, 0.0, 0.0], "meaning": ["a", "a", None, None]}
    figures = consistency([original, first, last, again], 2)
    # replicate 0 says a, a, b and replicate 1 nothing, a, nothing; the control a, a, a and nothing thrice
    assert [mean(figures, key) for key in ("accuracy", "consistent", "worst", "flip")] == [0.5, 0, 0, 1]
    assert mean(figures, "permuted") == pytest.approx(3 / 6)
    assert [mean(figures, "control", key) for key in ("permuted", "consistent", "worst", "flip")] == [0.5, 0.5, 0.5, 0]
    assert [mean(figures, "difference", key) for key in ("permuted", "consistent", "worst", "flip")] == [
        0,
        -0.5,
        -0.5,
        1,
    ]
    assert [(each["place"], mean(each, "accuracy")) for each in figures["places"]] == [(0, 0.5), (1, 0.5)]


def test_worst_order_is_no_more_than_accuracy_and_with_one_sample_right_every_time():
    policy = guesser(1, 0.8)
    one = consistency([row for i in range(50) for row in rows_of(f"{i}", policy)], 1)
    assert one["worst"] == one["consistent"]
    four = consistency([row for i in range(50) for row in rows_of(f"{i}", policy, 4)], 4)
    assert mean(four, "consistent") < mean(four, "worst") < mean(four, "permuted")


def test_no_answer_is_one_more_answer():
    def silent(place):
        return None

    def silent_once(place):
        return place or None

    assert mean(consistency(rows_of("q", silent), 1), "flip") == 0
    assert mean(consistency(rows_of("q", silent_once), 1), "flip") == 1


def test_a_place_does_not_look_bad_for_hard_questions():
    """Place 2 exists only in questions of three images, all of which the policy gets wrong."""
    rows = [row for i in range(20) for row in rows_of(f"easy {i}", lambda place: place, images=2)]
    rows += [row for i in range(20) for row in rows_of(f"hard {i}", lambda place: None, images=3)]
    places = consistency(rows, 1)["places"]
    assert [mean(each, "accuracy") for each in places] == [0.5, 0.5, 0]
    assert [mean(each, "difference") for each in places] == [0, 0, 0]
    assert [each["accuracy"]["questions"] for each in places] == [40, 40, 20]


def test_an_image_that_stayed_where_it_was_tells_no_place_from_another():
    rows = rows_of("q", lambda place: 0, images=3, orders=[(0, 1, 2), (0, 2, 1)])
    rows += [{**row, "place": None} for row in rows_of("nowhere", lambda place: 0)]
    [only] = consistency(rows, 1)["places"]
    assert (only["place"], mean(only, "accuracy"), only["difference"]["questions"]) == (0, 1, 0)
    assert only["difference"]["mean"] is None


def test_what_was_not_permuted_is_counted_by_reason():
    lost = [{**row, "fault": "image missing"} for row in rows_of("lost", lambda place: None)]
    rows = [
        *rows_of("q", lambda place: place),
        *lost,
        alone("1", "one image"),
        alone("2", "one image"),
        alone("3", "order_effect fixed: a film"),
        alone("4", None),
    ]
    figures = consistency(rows, 1)
    reasons = {"one image": 2, "order_effect fixed: a film": 1, "no reason given": 1, "image missing": 1}
    assert figures["not_permuted"] == reasons
    assert figures["questions"] == 1 and mean(figures, "permuted") == 1
    nothing = consistency(lost, 1)
    assert nothing["questions"] == 0 and nothing["permuted"]["mean"] is None and nothing["places"] == []
    json.dumps(nothing, allow_nan=False)
    assert "nan" not in "\n".join(markdown(nothing)).lower()


def test_questions_without_a_control_do_not_dilute_it():
    """Where some were drawn again, the control is of those alone, and so is the difference."""
    rows = rows_of("q", guesser(3, 0.5), 4) + rows_of("r", lambda place: 0, 4, control=False)
    figures = consistency(rows, 4)
    assert figures["control"]["drawn"] and figures["control"]["flip"]["questions"] == 1
    assert figures["difference"]["flip"]["questions"] == 1 and figures["flip"]["questions"] == 2


@settings(max_examples=15)
@given(st.integers(0, 2**20), st.integers(1, 3), st.booleans(), st.randoms())
def test_the_order_of_rows_is_nothing(seed, samples, control, rng: random.Random):
    policies = {images: guesser(seed, 0.5, images) for images in (2, 3)}
    rows = [
        row
        for i in range(6)
        for images, policy in policies.items()
        for row in rows_of(f"{images} {i}", policy, samples, images, control=control)
    ]
    expected = consistency(rows, samples)
    assert 0 <= mean(expected, "consistent") <= mean(expected, "worst") <= mean(expected, "permuted") <= 1
    rng.shuffle(rows)
    assert consistency(rows, samples) == expected


def test_in_words():
    rows = [row for i in range(6) for row in rows_of(f"{i}", lambda place: 0, 2, control=i < 0)]
    text = "\n".join(markdown(json.loads(json.dumps(consistency([*rows, alone("alone", "one image")], 2)))))
    assert "6 questions were asked in 36 orders, the original included, with 2 responses to each." in text
    assert "Not moved: one image (1)." in text and "0 by construction" in text and "drawn again" not in text
    assert "| flip rate | 100.0% [100.0, 100.0] | 0.0% [0.0, 0.0] | +100.0 [+100.0, +100.0] |" in text
    assert "| 2 | 6 | 0.0% [0.0, 0.0] | 6 | -33.3 [-33.3, -33.3] |" in text
    assert "| worst order |" in text and "Worst order: " in text
    drawn = "\n".join(markdown(consistency(rows_of("q", lambda place: place), 1)))
    assert "drawn again" in drawn and "by construction" not in drawn and "orst order" not in drawn
    assert "| flip rate | 0.0% [0.0, 0.0] | 0.0% [0.0, 0.0] | +0.0 [+0.0, +0.0], not separated |" in drawn
