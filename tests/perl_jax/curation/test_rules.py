"""Each rule of the filter has an example; together they name the first one that a row breaks."""

import doctest

import pytest

from perl_jax.curation import rules
from perl_jax.data import Row


def row(question="Which one is it?", answer="B", images=0, **fields):
    return Row("1", [None] * images, question, answer, "mine", **fields)


def test_every_rule_has_an_example():
    examples = {test.name.rsplit(".", 1)[1] for test in doctest.DocTestFinder().find(rules) if test.examples}
    assert {rule.__name__ for rule in rules.TEXT_RULES} <= examples
    assert not doctest.testmod(rules).failed


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (row("half \ud800 a pair"), "text"),
        (row("<|image_pad|>?"), "text"),
        (row("And what about the cat?", turn=2), "self contained"),
        (row("Why?", turn=1), "self contained"),
        (row("As you said, is it?", turn=1), "self contained"),
        (row("Is he happy?", turn=3), "self contained"),
        (row("x" * 5000), "length"),
        (row("Which of the two pictures is brighter?"), "speaks of images"),
        (row("Which is it?", choices=["Image 1", "Image 2"]), "speaks of images"),
        (row("图中有几只猫？"), "speaks of images"),
        (row(images=11), "image count"),
        (row("<image> is it?", images=2), "slots"),
        (row("<image><image> is it?", images=1), "slots"),
        (row("Which? The correct answer is B."), "leak"),
        (row("Which? answer: (red car)", "Red car"), "leak"),
    ],
)
def test_what_breaks_a_rule(bad, rule):
    assert rules.check(bad)[0] == rule


@pytest.mark.parametrize(
    "good",
    [
        row(),
        row("Is he happy?"),
        row("Does the man in image 2 wear it?", images=2, turn=4),
        row("<image> and <image>: which?", images=2),
        row("Which?", images=3),
        row("The answer is Bob's. Which?"),
        row("What is the right answer to 3 + 4?", "7"),
        row("Which image shows what they need?", images=2, turn=1),
    ],
)
def test_what_breaks_none(good):
    assert rules.check(good) is None


def test_duplicates_are_the_same_pictures_and_words():
    seen = rules.DuplicateFilter()
    assert [
        seen(*case)
        for case in (
            ("1", "Which?", [b"a", b"b"]),
            ("2", "which", [b"a", b"b"]),
            ("3", "Which?", [b"b", b"a"]),
            ("4", "Whose?", [b"a", b"b"]),
            ("5", "WHICH ?", [b"a", b"b"]),
        )
    ] == [None, "as 1", None, None, "as 1"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Solve x^2 - 3x + 2 = 0", "Solve x^2 + 3x + 2 = 0"),
        ("△ = ?", "□ = ?"),
        ("What is 8 × 2?", "What is 8 ÷ 2?"),
        ("Is a > b?", "Is a < b?"),
        ("How much is 50%?", "How much is 50?"),
        ("? ?", "! !"),
        ("यह की", "यह के"),
        ("What is 6/2?", "What is 6-2?"),
    ],
)
def test_a_sign_makes_another_question(one, other):
    seen = rules.DuplicateFilter()
    assert seen("1", one, [b"a"]) is seen("2", other, [b"a"]) is None
    assert (seen("3", one, [b"a"]), seen("4", f" {other}\n", [b"a"])) == ("as 1", "as 2")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Solve $x^2-3x+2=0$.", "solve x^2 \N{MINUS SIGN} 3x + 2 = 0"),
        ("Which **half-open** one: “A”, (B) or 'C'?", "Which half open one? A; B, or C"),
        ("它是什么？", "它是什么"),
        ("Is it \\(x+1\\)?", "Is it x + 1"),
    ],
)
def test_plain_punctuation_makes_no_other_question(one, other):
    assert rules.normalized(one) == rules.normalized(other) != ""
