"""What points at images is a symbol; it moves exactly and becomes the words that a person would use."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InputError
from perl_jax import permute, symbols


def test_examples():
    assert doctest.testmod(symbols).attempted >= 3 and not doctest.testmod(symbols).failed


@pytest.mark.parametrize(
    ("style", "place", "total", "words"),
    [
        (None, 1, 3, "Image 2"),
        ("lower", 1, 3, "image 2"),
        ("number", 1, 3, "2"),
        ("letter", 1, 3, "B"),
        ("ordinal", 1, 3, "second"),
        ("ordinal", 10, 12, "11th"),
        ("Ordinal", 0, 3, "First"),
        ("nth", 0, 3, "1st"),
        ("nth", 1, 3, "2nd"),
        ("nth", 2, 3, "3rd"),
        ("nth", 11, 30, "12th"),
        ("nth", 20, 30, "21st"),
        ("nth", 110, 200, "111th"),
        ("numeral", 1, 3, "two"),
        ("numeral", 11, 20, "12"),
        ("last", 2, 3, "last"),
        ("last", 1, 3, "second"),
        ("final", 2, 3, "final"),
        ("side", 0, 2, "left"),
        ("Side", 1, 2, "Right"),
    ],
)
def test_words_of_each_style(style, place, total, words):
    assert symbols.words(symbols.mention(place, style), total) == words


@pytest.mark.parametrize(
    ("places", "style", "words"),
    [
        ((0, 1, 2), None, "1-3"),
        ((2, 0, 1), "to", "1 to 3"),
        ((0, 1, 3), None, "1, 2 and 4"),
        ((0, 2), "through", "1 and 3"),
        ((1, 2), "dash", "2–3"),
        ((0, 1), "and", "1 and 2"),
        ((3, 1, 2), "and", "2, 3 and 4"),
    ],
)
def test_words_of_sets(places, style, words):
    assert symbols.words(symbols.mention_set(places, style), 4) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{image:2}", "image 2, but it has 2"),
        ("{images:0,5}", "image 5"),
        ("{image:0|loud}", "unknown style.*lower"),
        ("{images:0,1|loud}", "unknown style.*through"),
        ("{image:30|letter}", "image 30"),
    ],
)
def test_what_is_not_there_is_named(text, words):
    with pytest.raises(InputError, match=words):
        symbols.words(text, 2)
    with pytest.raises(InputError, match="of two images, not of 3"):
        symbols.words("{image:0|side}", 3)


@given(st.data())
def test_moving_there_and_back_is_the_identity(data):
    total = data.draw(st.integers(2, 6))
    place = st.integers(0, total - 1)
    mention = st.builds(symbols.mention, place, st.sampled_from(list(symbols.STYLES)))
    several = st.builds(symbols.mention_set, st.sets(place, min_size=2), st.sampled_from(list(symbols.SET_STYLES)))
    text = " and ".join(data.draw(st.lists(st.one_of(mention, several), max_size=4)))
    order = data.draw(st.permutations(range(total)))
    moved = symbols.move(text, order)
    assert symbols.move(moved, permute.inverse(order)) == text
    assert sorted(symbols.mentioned(moved)) == sorted(order[i] for i in symbols.mentioned(text))
