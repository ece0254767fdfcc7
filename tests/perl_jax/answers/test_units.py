"""Units: what is one, what is a variable, and that equal quantities are equal."""

import doctest
from fractions import Fraction

import pytest

from perl_jax.answers import units


@pytest.mark.parametrize(
    "one, other",
    [
        line.split("|")
        for line in """
cm|centimeters
km/h|km per hour
m/s^2|m s^{-2}
cm^2|square centimeters
sq ft|square feet
m^3|cubic metres
cm squared|cm^2
°|degrees
sets|set
KG|kg
%|percent
$|dollars
minutes|min""".strip().splitlines()
    ],
)
def test_names_of_one_unit(one, other):
    assert units.parse(one) == units.parse(other) != None  # noqa: E711


@pytest.mark.parametrize(
    "one, other, factor",
    [
        ("m", "cm", 100),
        ("hours", "s", 3600),
        ("m^2", "cm^2", 10_000),
        ("l", "ml", 1000),
        ("km/h", "m/s", Fraction(5, 18)),
        ("ft", "in", 12),
        ("lb", "oz", 16),
        ("dollar", "cents", 100),
        ("weeks", "days", 7),
        ("ha", "m^2", 10_000),
    ],
)
def test_conversions(one, other, factor):
    one, other = units.parse(one), units.parse(other)
    assert one.powers == other.powers and one.factor == factor * other.factor


@pytest.mark.parametrize("text", ["", "or", "six", "hundred", "not", "squared", "square", "/", "km/", "x", "ab", "M",
                                  "cm or m", "5", "cm^99", "cm^m", "half", "minus six", "Б", "thousandths"
])  # fmt: skip
def test_no_units(text):
    assert units.parse(text) is None


@pytest.mark.parametrize(
    "text, value",
    [
        ("5 cm", "5"),
        ("5cm", "5"),
        ("5 m", "5"),
        ("360 sets", "360"),
        ("12 blue cars", "12"),
        ("$5", "5"),
        ("50%", "50"),
        (r"2\sqrt{3} cm", r"2\sqrt{3}"),
        (r"2\pi cm", r"2\pi"),
        (r"\frac{1}{2}@ m", r"\frac{1}{2}"),
        ("60°", "60"),
        ("1.5 m/s^2", "1.5"),
        ("2a@ cm^2", "2a"),
    ],
)
def test_the_value_before_a_unit(text, value):
    assert units.split(text)[0] == value and units.split(text)[1] is not None


@pytest.mark.parametrize(
    "text",
    [
        "5m",
        "2ab",
        "6xy",
        r"2 \pi",
        "AB",
        "x + 2 m",
        r"\frac{1}{2} m",
        "5 or six",
        "5 six",
        "12 very fast cars",
        "12cars",
        "x cars",
        "cm",
        "@cm",
        "",
    ],
)
def test_variables_and_words_are_no_units(text):
    assert units.split(text) == (text, None)


def test_what_was_asked_in_numbers_may_be_answered_in_metres():
    assert units.split("5m", lenient=True) == ("5", units.parse("m"))
    assert units.split("am", lenient=True) == ("am", None)


def test_examples_in_the_docstrings():
    assert doctest.testmod(units).failed == 0
