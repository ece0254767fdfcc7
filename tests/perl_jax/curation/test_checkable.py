"""Answers come down to what a rule can check, or are left out with their reason."""

import doctest

import pytest

from perl_jax.curation import checkable as module
from perl_jax.curation.checkable import checkable, split_choices
from perl_jax.data import Rejected, Row


def row(question, answer, images=3, **fields):
    return Row("1", [None] * images, question, answer, "mine", **fields)


def test_examples():
    assert doctest.testmod(module).attempted >= 4 and not doctest.testmod(module).failed


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        ("Which?\nA. cat\nB. dog", ["cat", "dog"]),
        ("Which?\n(A) cat\n(B) dog\n(C) cow", ["cat", "dog", "cow"]),
        ("Which? Options: (A) a cat (B) a dog", ["a cat", "a dog"]),
        ("Which?\nA: tie shoe\nB: pick up ball\n", ["tie shoe", "pick up ball"]),
        ("Which?\nA、3:00\nB、9:00", ["3:00", "9:00"]),
        ("Which?\nA. <image>\nB. <image>", ["<image>", "<image>"]),
        ("Which?\nA. cat", []),
        ("Which?\nA. cat\nC. dog", []),
        ("A. cat\nB. dog", []),  # no question is left
        ("Is Vitamin A. or B. better?", []),
    ],
)
def test_options_are_taken_out_of_the_question(question, choices):
    head, result = split_choices(question)
    assert result == choices
    assert head == ("Which?" if choices else question)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("b.", "B"),
        ("the dog", "B"),
        ("Answer: B", "B"),
        ("B: the dog", "B"),
        ("The answer is (B)", "B"),
        ("(B) the dog", "B"),
        ("Answer: the dog.", "B"),
        ("The dog", "B"),
        ("C", None),
        ("a cow", None),
        ("B: the cat", None),
        ("A or B", None),
        ("AB", None),
    ],
)
def test_a_choice_is_its_letter(answer, letter):
    result = checkable(row("Which?", answer, choices=["the cat", "the dog"]))
    if letter is None:
        assert isinstance(result, Rejected) and result.reason == "answer is not a choice"
    else:
        assert (result.answer, result.kind) == (letter, "choice")


@pytest.mark.parametrize("answer", ["...", "The answer is ", "Answer: .", "B. the cat", "the cat and the dog"])
def test_an_answer_of_nothing_is_not_the_choice_of_nothing(answer):
    for nothing in ("", ".", " "):
        result = checkable(row("Which?", answer, choices=["the cat", nothing]))
        assert isinstance(result, Rejected) and result.reason == "answer is not a choice"


def test_a_letter_tells_a_choice_without_a_text():
    for answer, letter in (("B", "B"), ("(A) the cat", "A"), ("B. by its colour", "B"), ("the cat", "A")):
        assert checkable(row("Which?", answer, choices=["the cat", ""])).answer == letter
    assert checkable(row("Which?", "<image>", choices=["none", "<image>"])).answer == "B"


@pytest.mark.parametrize("other", ["", "<image>", "..."])
def test_equal_choices_are_told_beside_one_that_has_no_text(other):
    assert checkable(row("Which?", "A", choices=[other, "a cat", "A cat."])).reason == "two choices are equal"
    assert checkable(row("Which?", "A", choices=[other, other, "a cat"])).answer == "A"


@pytest.mark.parametrize(
    ("question", "answer", "new", "kind", "hint"),
    [
        ("How many?", "4", "4", "number", ""),
        ("How many?", "1,250.", "1,250", "number", ""),
        ("How long?", r"$2\sqrt{3}$", r"$2\sqrt{3}$", "number", ""),
        ("Is it?", "yes.", "Yes", "text", ""),
        ("Is it, and why?", "No, since it rains.", "No", "text", "Is it? Answer yes or no."),
        ("Is it?", "Nothing is.", "Nothing is", "text", ""),
        ("What is it?", "A red car.", "A red car", "text", ""),
        ("Which image is it?", "Image 2", "Image 2", "text", ""),
        (
            "Which image is it and why?",
            "It is image 2, by far.",
            "Image 2",
            "text",
            "Which image is it? Answer with its number.",
        ),
        (
            "Which two images fit?",
            "Image 3 and Image 1 fit. Image 3 is red.",
            "1 and 3",
            "order",
            "Which two images fit? Answer with their numbers.",
        ),
        ("Which images fit?", "3, 1", "1 and 3", "order", ""),
        ("Which images fit?", "Image 1 and Image 2.", "1 and 2", "order", ""),
        (
            "Which images fit?",
            "Images 2 and 3 fit.",
            "2 and 3",
            "order",
            "Which images fit? Answer with their numbers.",
        ),
    ],
)
def test_short_answers(question, answer, new, kind, hint):
    result = checkable(row(question, answer))
    assert (result.answer, result.kind, result.question) == (new, kind, hint or question)


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Why is it?", "Because it was raining all day.", "answer cannot be checked by a rule"),
        ("Is it, and what is it?", "Perhaps.", None),
        ("What does the cat do?", "Yes, it sleeps all day.", "asks for two things"),  # not yes or no: what else?
        ("What animal is it, and how old is it?", "A cat.", "asks for two things"),
        ("How many cats and how many dogs are there?", "4", "asks for two things"),
        ("Would it be a fitting gift?", "Yes, it would be, for a friend.", "a matter of taste"),
        ("Does it match her shirt?", "Yes, it would somewhat match it.", "the source is not sure"),
        ("Does it fit?", "Yes, it probably does.", "the source is not sure"),
        ("Is it a bird?", "No, although not every part can be seen.", "the source is not sure"),
        ("Which image is it, and which is not?", "Image 2", "asks for two things"),
        ("Which two images could fit?", "1 and 3", "a matter of taste"),
    ],
)
def test_what_no_rule_can_check(question, answer, reason):
    result = checkable(row(question, answer))
    assert result.reason == reason if reason else result.answer == answer.rstrip(".")


@pytest.mark.parametrize(
    ("question", "answer", "new", "gold"),
    [
        (
            "Can it fly, and if so, what might it do?",
            "Yes, it can. It might land.",
            "Can it fly? Answer yes or no.",
            "Yes",
        ),
        ("Can it fly, and if so, where?", "Yes.", "Can it fly?", "Yes"),
        ("How many are there, and why?", "4", "How many are there?", "4"),
        ("What is it? Explain.", "A red car.", "What is it?", "A red car"),
        ("Is there a cat, and which image shows it?", "Yes, image 2 does.", "Is there a cat? Answer yes or no.", "Yes"),
        ("Which image is it, and what is in it?", "Image 2.", "Which image is it?", "Image 2"),
        ("Which images fit, and why?", "3, 1", "Which images fit?", "1 and 3"),
        ("Could the cat reach it?", "No, it could not.", "Could the cat reach it? Answer yes or no.", "No"),
    ],
)
def test_a_second_half_does_not_stay(question, answer, new, gold):
    result = checkable(row(f"<image><image><image>\n{question}", answer))
    assert (result.question, result.answer) == (f"<image><image><image>\n{new}", gold)


def test_a_given_kind_is_trusted_within_limits():
    assert checkable(row("?", "the man in the red coat", kind="text")).answer == "the man in the red coat"
    assert checkable(row("?", "word " * 90, kind="text")).reason == "answer too long to check"
    assert checkable(row("?", "B", kind="choice")).answer == "B"
    assert checkable(row("?", "a cat", kind="choice")).reason == "a choice without choices"
    assert checkable(row("?", "A", choices=["cat", "Cat"])).reason == "two choices are equal"
    assert checkable(row("?", "  ")).reason == "empty question or answer"
