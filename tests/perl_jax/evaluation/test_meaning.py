"""The same answer in other words, and in another order, means the same (whole questions: test_orders.py)."""

import pytest

from perl_jax import permute
from perl_jax.evaluation.meaning import meaning

RECORD = {
    "id": "q",
    "images": [0, 1],
    "question": "<image:0><image:1>Which one?",
    "choices": [],
    "answer": "{image:1}",
    "kind": "text",
    "order_effect": "rewrite",
    "source": "s",
    "accuracy": None,
    "movable": None,
}


def means(text: str | None, order=(0, 1), correct: bool = False, **changes):
    record = RECORD | changes
    return meaning(record, order, permute.render(permute.apply(record, order)), text, correct)


@pytest.mark.parametrize(
    ("kind", "changes", "alike"),
    [
        ("choice", {"answer": "A", "choices": ["a cat", "a dog", "a cow"]}, ["B", "(B)", "b.", "B. a dog", "a dog"]),
        ("choice", {"answer": "A"}, ["B", "(B)", "B."]),
        ("number", {"answer": "7"}, ["5", "5.0", "5.00", " 5 ", "$5$", "+5"]),
        ("number", {"answer": "7"}, ["1,000", "1000", "1000.0"]),
        ("text", {}, ["Image 1", "1", "the first image", "first", "#1"]),
        ("text", {"answer": "a cat"}, ["a dog", "A dog.", "  a  dog"]),
    ],
)
def test_other_words_for_the_same(kind, changes, alike):
    changes = {"kind": kind, "order_effect": "invariant" if "answer" in changes else "rewrite", **changes}
    assert len({means(text, **changes) for text in alike}) == 1
    assert means(alike[0], **changes) not in (None, means("something else", **changes))


def test_numbers_that_differ():
    kind = {"kind": "number", "answer": "7", "order_effect": "invariant"}
    assert len({means(text, **kind) for text in ("5", "50", "5.5", "-5", "0.5", "5,000", "1e5", "x")}) == 8


def test_an_image_is_told_in_the_original_order():
    assert means("Image 1") == means("Image 2", order=(1, 0)) == means("second", order=(1, 0)) == "image 1"
    assert means("Image 1") != means("Image 1", order=(1, 0))


def test_what_is_right_is_the_same_and_nothing_is_no_answer():
    assert means("the second one", correct=True) == means("1", order=(1, 0), correct=True)
    assert {means(text) for text in (None, "", "$$", "...")} == {None}
