"""Each value is what latex2sympy2 1.9.1 and Python's eval give, rounded to two decimals."""

import doctest

import pytest

from perl_jax.benchmarks import _latex_value


def test_its_examples():
    assert not doctest.testmod(_latex_value).failed


@pytest.mark.parametrize(("text", "value"), [
    ("24", 24), ("05", 5), ("5.0", 5), (".5", 0.5), ("1,000", 1000), ("1,0000", 0), ("5.5.5", 2.75), ("5 000", 0),
    (r"\frac{1}{3}", 0.33), (r"\dfrac{6}{2}", 3), (r"\frac12", None), ("1/2", 0.5), ("6/2(1+2)", 1), ("2/3*4", 2.67),
    ("2:3:4", 0.17), (r"1:\sqrt{2}", 0.71), (r"1/2\pi", 0.16), (r"5\over2", 2.5), (r"7\div2\times3", 10.5),
    (r"3\frac{1}{2}", 1.5), (r"2\sqrt{3}", 3.46), (r"\sqrt2", None), (r"\sqrt[3]{8}", 2), (r"\sqrt{-4}", None),
    ("-2^2", -4), ("(-2)^2", 4), ("2^3^2", 64), ("2^{-2}", 0.25), ("2^-2", None), ("2^{3}_{2}", 8), ("--5", 5),
    ("2*-3", -6), ("5+", None), ("(5", None), (r"\left[5\right]", 5), ("{5}{3}", 15), ("(6)(10)", 60), (r"\{5\}", 5),
    (r"40+30\pi", 134.25), (r"\frac{36\sqrt{3}-58}{7}", 0.62), (r"\frac{2}{\sqrt{3}}", 1.15), ("5!", 120), ("5'", 5),
    (r"\sin30", -0.99), (r"\sin30\cdot2", -0.3), (r"\sin(30)^2", 0.98), (r"\sin^{2}30", 0.98), (r"\sin^{-1}1", 1.57),
    (r"\sin30\cos60", 0.94), (r"\log8", 0.9), (r"\log_{2}{8}", 3), (r"\ln2", None), ("e^2", 7.39), ("e", None),
    (r"\binom{4}{2}", 6), (r"\lfloor2.5\rfloor", 2), (r"50\%", 0.5), ("50%", None), (r"100\%", 1), ("2.675", 2.67),
])  # fmt: skip
def test_what_a_formula_is(text, value):
    result = _latex_value.value(text)
    assert (result if result is None else round(result, 2)) == value


@pytest.mark.parametrize(
    "rest",
    [
        ".",
        "...",
        ".therefore",
        "}",
        "}so",
        ")",
        "]",
        r"\}",
        "_",
        "&",
        r"\\",
        r"\rightarrow6",
        r"\to6",
        "triangles",
        "diagonals",
        "floors",
        "rows",
        "ones",
    ],
)
def test_what_is_not_read_after_it(rest):
    assert _latex_value.value("5" + rest) == 5


@pytest.mark.parametrize("rest", [
    "cm", "apples", "x", "°", "π", "√2", "%", r"\pm1", r"\circ", r"^{\circ}", r"\text{cm}", r"\mathrm{~cm}", r"\degree",
    ",", ",6", ";6", "=5", "<6", "|", r"\)", r"\ ", "个", "(", "^", "and6", r"\mod3", r"\infty", "½",
])  # fmt: skip
def test_what_makes_it_no_number(rest):
    assert _latex_value.value("5" + rest) is None


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "|5|", "(1,2)", "(5)_{2}", r"\text{5}", "１", "²", "\0", "\ud800", "5/0", "(-8)^{1/3}", "(1/2)!"],
)
def test_what_is_none(text):
    assert _latex_value.value(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^9}",
        "999!",
        "9!!",
        "9" * 100_000,
        "9 " * 50_000,
        "(" * 100_000,
        r"\frac{" * 20_000,
        "200!" * 25_000,
        "9^99*" * 20_000 + "9",
        "-" * 100_000 + "9",
        "1,111" * 20_000,
        r"\sqrt{" * 20_000,
        "9^9" * 33_000,
        "\\" * 100_000,
    ],
)
def test_hostile_formulas_are_read(text):
    """Or are not, which is None: what would not end is not begun."""
    assert isinstance(_latex_value.value(text), int | float | None)
