r"""Numbers: each spelling of a value is that value, exactly; what can be read in two ways is none."""

import doctest
import math
from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from perl_jax.answers import numbers

FRACTIONS = st.fractions(-1000, 1000, max_denominator=200)


def value(text):
    number = numbers.read(text)
    return number and number.value


@given(FRACTIONS)
def test_a_fraction_in_many_spellings(fraction):
    above, below, sign = abs(fraction.numerator), fraction.denominator, "-" * (fraction < 0)
    spellings = [f"{sign}{above}/{below}", rf"{sign}\frac{{{above}}}{{{below}}}", rf"{sign}({above})\div({below})"]
    if above < 10 and below < 10:
        spellings += [rf"{sign}\frac{above}{below}", rf"{sign}\frac {above} {below}"]
    whole, rest = divmod(above, below)
    if whole and rest:
        spellings.append(rf"{sign}{whole}\frac{{{rest}}}{{{below}}}")
    assert [value(spelling) for spelling in spellings] == [fraction] * len(spellings)


@given(st.integers(1, 9999), st.integers(-40, 40), st.integers(0, 3))
def test_scientific_notation_is_exact_in_each_spelling(digits, exponent, places):
    exact = Fraction(digits) * Fraction(10) ** exponent
    mantissa, power = f"{digits / 10**places:.{places}f}", exponent + places
    spellings = [
        f"{mantissa}e{power}",
        f"{mantissa}E{power:+03d}",
        rf"{mantissa}\times 10^{{{power}}}",
        rf"{mantissa} \cdot 10^{power}",
        f"{mantissa}*10^({power})",
    ]
    assert [value(spelling) for spelling in spellings] == [exact] * len(spellings)
    assert {numbers.read(spelling).step for spelling in spellings} == {Fraction(10) ** exponent if places else None}


@given(FRACTIONS, FRACTIONS, st.sampled_from("+-*/"))
def test_arithmetic(one, other, sign):
    text = rf"(\frac{{{one.numerator}}}{{{one.denominator}}}){sign}(\frac{{{other.numerator}}}{{{other.denominator}}})"
    if sign == "/" and not other:
        assert value(text) is None
    else:
        assert value(text) == {"+": one + other, "-": one - other, "*": one * other, "/": one / (other or 1)}[sign]


@given(st.integers(2, 60), st.integers(1, 20), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_irrational_values_are_those_of_floats(under, factor, below):
    for text, expected in (
        (rf"{factor}\sqrt{{{under}}}", factor * math.sqrt(under)),
        (rf"\frac{{{factor}\pi}}{{{below}}}", factor * math.pi / below),
        (rf"\log_{{{under}}} {factor}", math.log(factor, under)),
        (rf"\ln {under}", math.log(under)),
        (rf"\sin {factor}°", math.sin(math.radians(factor))),
        (rf"\cos\frac{{\pi}}{below}", math.cos(math.pi / below)),
        (rf"\sqrt[3]{{{under}}}", under ** (1 / 3)),
        (rf"{under}^{{\frac{{1}}{{{below}}}}}", under ** (1 / below)),
        (rf"{under}^{below}", under**below),
    ):
        assert math.isclose(float(sympy.sympify(value(text))), expected, rel_tol=1e-9, abs_tol=1e-12), text


@pytest.mark.parametrize("text", [
    r"1/2\pi", r"\sqrt12", "2 3", r"\frac123", r"2\frac53", r"2.5\frac12", r"\log 100", "2x", "", "-", "1/0",
    r"\sqrt{-1}", r"\tan 90°", "60°", "9^{9^{9}}", "10^{99999}", "99999!", r"\sin^{-1} 1", "(1", "1)", r"\frac{1}",
    "1..2", "1,000", "5%", r"\ln 0", "0^{-1}", r"\infty", "i", "[1,2]", "\u0665", "2^{10^{10}}", "(" * 500 + "1",
])  # fmt: skip
def test_what_has_no_single_value(text):
    assert numbers.read(text) is None


@given(st.integers(-(10**6), 10**6), st.integers(-30, 30), st.integers(-(10**6), 10**6))
def test_numbers_of_any_size_differ(one, exponent, other):
    gold, guess = (numbers.read(rf"{number}\times 10^{{{exponent}}}") for number in (one, other))
    assert numbers.equal(gold, guess) == numbers.equal(guess, gold) == (one == other)


def test_rounding_further_is_right_only_where_it_is_asked_for():
    def equal(gold, guess, rounding):
        return numbers.equal(numbers.read(gold), numbers.read(guess), rounding=rounding)

    for gold, guess in (
        ("2.45", "2.5"),
        ("3.14159", "3.14"),
        (r"\sqrt{6}", "2.45"),
        (r"\frac13", "0.333"),
        ("12.6", "13"),
    ):
        assert equal(gold, guess, True) and not equal(gold, guess, False)
    refused = ["2.45|2.4", "2.45|2", "2.45|3", "1234|1200", r"\frac13|0.3", "2.45|-2.5", "0.04|0", "5|5.1"]
    for gold, guess in (pair.split("|") for pair in refused):
        assert not equal(gold, guess, True)


def test_examples_in_the_docstrings():
    assert doctest.testmod(numbers).failed == 0
