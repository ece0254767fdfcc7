"""Words count where they may depend on the order of the images, not where they belong to what an image shows."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perl_jax.curation import order_words
from perl_jax.curation.order_words import lone_names, place_words, time_words


def found(text, anchored=False, count=3):
    return time_words(text, anchored) + place_words(text, count) + lone_names(text, count)


def test_examples():
    assert doctest.testmod(order_words).attempted >= 4 and not doctest.testmod(order_words).failed


@pytest.mark.parametrize(
    "text",
    [
        "What happens next?",
        "Is the next one darker?",
        "Does @ come after @?",
        "What changed?",
        "What is missing?",
        "Was something added?",
        "Is the dog still there?",
        "Will it rain?",
        "Did the man move?",
        "Is the cat bigger?",
        "Is this picture dark?",
        "What does the picture above show?",
        "Is the other one dark?",
        "Is the former dark?",
        "Is the original photo dark?",
        "Is the dog on the left?",
        "What does the picture on top show?",
        "Is the topmost photo dark?",
        "the cat on the left of the two",
        "the second from the right",
        "What is in frame 3?",
        "Is the last a cat?",
        "Which is darker, 1 or 2?",
        "the man in A",
        "chart 2",
        "scene 1",
        "in (1)",
        "#2",
        "No. 2",
        "Compare 1 and 2",
        "Are 1 and 2 cats?",
        "1-3",
        "Is 2: a cat?",
        "plot b",
        "(a)",
        "is a the same?",
        "Is A dark?",
        "image a is",
        "view ii",
        "Panel I, please",
        "diagram two",
        "one or two",
        "in ②",
        "2 shows cats",
        "item_1",
        "In 3, is it dark?",
        "fig.2",
        "Is im2 like im1?",
        "part ii or part i",
        "Is the penultimate one dark?",
        "Is the temperature rising?",
        "Does the price drop?",
        "By how much does it shrink?",
        "How did the plant grow?",
        "How has the room been altered?",
        "What was the outcome?",
        "What was swapped?",
        "What's new?",
        "Where did the cat go?",
        "What is the man about to do?",
        "Does the light turn green?",
        "Does the camera zoom in?",
        "Does every other image show a cat?",
        "Do the even-numbered pictures show cats?",
        "Is there a cat in the bottom row?",
        "The pictures were taken in 1990 and in 2020.",
    ],
)
def test_words_that_count(text):
    assert found(text), text


@pytest.mark.parametrize(
    "text",
    [
        "Is the cup next to the lamp?",
        "Which picture suits her next collection?",
        "the next day",
        "in order to see it",
        "Which of the following images is it?",
        "a career change",
        "tilted to the right",
        "Is he looking left?",
        "to the left of the tree",
        "on the left side of the road",
        "his left hand",
        "for the first time",
        "an early 20th century car",
        "one third of it",
        "A picture of a window frame",
        "3 cats",
        "2 red cars",
        "1 hour",
        "1 or 2 dogs",
        "two dogs",
        "both of the two",
        "vitamin A",
        "at point B",
        "World War II",
        "A cat and a dog",
        "I am",
        "x = 2",
        "2 + 2",
        "$3$",
        "2.5",
        "Is one darker than the other?",
        "Is it like the others?",
        "in all images",
        "between the two pictures",
        "10 or 20",
    ],
)
def test_words_that_do_not_count(text):
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Which picture shows a place to relax after a day of fishing?",
        "Who is ready before leaving?",
        "Which two suit a before-and-after scenario?",
        'Which is the "before" one?',
        "What might he change about it?",
    ],
)
def test_events_are_harmless_where_an_image_is_named_or_asked_for(text):
    assert time_words(text, anchored=True) == [] != time_words(text, anchored=False)


@given(
    st.sampled_from(["chart", "map", "diagram", "scan", "slide", "table", "page", "thing", "Bild"]),
    st.integers(1, 4),
    st.sampled_from([" {}", "-{}", "_{}", "{}", " #{}", " no. {}", " ({})", " [{}]", " number {}", ": {}"]),
)
def test_any_word_with_a_small_number_counts(noun, number, form):
    text = f"What does {noun}{form.format(number)} show?"
    assert bool(lone_names(text, 4)) and not lone_names(text, number - 1)
