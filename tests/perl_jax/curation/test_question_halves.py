"""A question is cut to the half that its answer settles, or left alone where the halves cannot be told apart."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perl_jax.curation import question_halves
from perl_jax.curation.question_halves import asked_image, asked_verdict, two_questions, without_reason

FIRST = [
    "Which image shows a calm place?",
    "Which two images show people and their dogs?",
    "If it rains in image 1, which other image would help?",
    "In which picture could you swim?",
    "Considering the light, which of the images is darker?",
]
SECOND = [
    ", and why?", " and why?", "? Why?", ", why?", "—and why?", ", and if so, what does it show?", " and how so?",
    ", and what is in it?", " and what elements make it so?", ", and for what reason?", " and in what way?",
    ", and describe its colours.", " and explain why.", "? Explain your answer.", "? Please explain.",
    ", and who is in it?", ", and where was it taken?", ", and which player numbers could be seen in it?",
    "; what is in it?", "? If so, what is it?", " and discuss the mood of the scene.", ", and whose dog is it?",
    " and is it old?", ", and how do you know?", "? State your reason.",
]  # fmt: skip
IS_IT = ["Is it old?", "Would the cat of image 1 fit into the box of image 2?", "Given the rain, can it burn?"]


def test_examples():
    assert doctest.testmod(question_halves).attempted >= 6 and not doctest.testmod(question_halves).failed


@settings(max_examples=50)
@given(st.sampled_from(FIRST), st.sampled_from(SECOND))
def test_a_second_half_is_cut(first, second):
    assert asked_image(first) == first
    assert asked_image(first.rstrip("?") + second) == first
    assert asked_image(asked_image(first.rstrip("?") + second)) == first


@settings(max_examples=50)
@given(st.sampled_from(IS_IT), st.sampled_from([*SECOND, ", and which image shows it?", " and which one is it?"]))
def test_a_second_half_is_cut_from_yes_and_no(first, second):
    assert asked_verdict(f"<image><image>\n{first.rstrip('?')}{second}") == f"<image><image>\n{first}"


@pytest.mark.parametrize(
    "question",
    [
        "What is red, and which image shows it?",
        "Is there a dog, and in which image?",
        "Which image is new and which is old?",
        "Which image is new, and which one is old?",
        "Which image is new and which image is old?",
        "Which image is new while another is old?",
        "Which image is new? Which image is old?",
        "What do you see? Which image is new?",
        "What attire is worn, and which image can be its place?",
        "Which image explains why it rains and how it snows?",  # one half or two?
        "Which two images show plants and name them?",
    ],
)
def test_what_cannot_be_cut_is_not(question):
    assert asked_image(question.replace("in which image", "which image")) is None


@pytest.mark.parametrize(
    "question",
    [
        "Which two images, when combined, tell a story?",
        "Which image shows a room in which people and dogs sleep?",
        "Which image shows salt and pepper, sugar and what looks like tea?",
        "Which images label and describe animals?",
        "Which images show plants and provide shade?",
    ],
)
def test_one_half_is_never_cut_in_the_middle(question):
    assert asked_image(question) in (question, None)


def test_one_half_stays_whole():
    for question in (
        "Which image shows two dogs and one cat?",
        "Which image shows a title and name?",
        "Which images show a lamp, a bed and a desk?",
        "Which image do you think is older?",
    ):
        assert asked_image(question) == question


def test_a_reason_is_cut_from_any_question():
    for tail in (", and why?", "? Why?", "? Explain your answer.", "? Justify your choice.", " and explain why."):
        assert without_reason(f"How many dogs are there{tail}") == "How many dogs are there?"
    for whole in ("Why?", "What does the sign explain?", "How many ways are there?", "Find x."):
        assert without_reason(whole) == whole


def test_two_questions():
    assert two_questions("What animal is it, and how many legs has it?")
    assert two_questions("How many cats and how many dogs are there?")
    assert not two_questions("How many cats and dogs are there?")
    assert not two_questions("If a and b are what they were, what is c?")
