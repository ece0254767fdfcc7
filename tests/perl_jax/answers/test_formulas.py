r"""Formulas: what is the same answer, what is not, and what is no answer at all."""

import doctest
import string
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perl_jax.answers import formulas
from perl_jax.answers.formulas import same

# prediction|answer
EQUAL = r"""
5 cm|5
5\text{ cm}|5
60^\circ|60
60°|60
60|60°
60^{\circ}|60°
60 degrees|60^\circ
50\%|50
50\%|50\%
50\%|0.5
0.5|50\%
50|50\%
1/2|\frac12
0.5|\frac12
\dfrac{3}{4}|\frac34
3.0|3
2\sqrt3|\sqrt{12}
x=5|5
AB=5|5
5|AB=5
1,000|1000
1{,}000|1000
1\,000|1000
\$5|5
$5|\$5
5 dollars|\$5
$5$|5
\(5\)|5
5.|5
−5|-5
1\frac12|1.5
1 1/2|1.5
x^2+2x+1|(x+1)^2
1,2|2,1
[2,\infty)|[2,+\infty)
a(b+c)|ab+ac
1.5\times10^3|1500
1:2|1/2
2:3|2:3
\ln e|1
12\pi|12π
12pi|12\pi
sqrt(2)|\sqrt2
√2|\sqrt2
3.14159|3.14
3.140|3.14
\pi|3.14
\sqrt{2}|1.41
1/3|0.33
0.05 m|5 cm
500 mm^2|5 cm^2
5cm|5 cm
5m|5 m
5m|5
2 hours|120 minutes
72 km/h|20 m/s
360 sets|360 sets
360|360 sets
360 sets|360
\number{32}|32
32|\number{32}
70$textdegree$|70
70°|70$textdegree$
30${}^\circ $|30
50{}^\circ |50°
x=\frac{10}{2}=5|5
2\times 3 = 6|6
y=18-3x|y=-3x+18
-3x+18|y=-3x+18
3y=x+24|x-3y+24=0
x>2|(2,\infty)
(2,\infty)|x>2
2<x|x>2
x≥3|x\geqslant 3
1<x<6|1 < x < 6
x<-\sqrt2 or 0<x<1|x<−√2 or 0<x<1
0<x<1 or x<-\sqrt2|x<−√2 or 0<x<1
\pm 2|2,-2
x=\pm2|x=2 or x=-2
2, 6, 10|6 or 2 or 10
(3,\frac32)|\left( 3,\frac{3}{2} \right)
(3, 1.5)|\left( 3,\frac{3}{2} \right)
x=-4, y=-2|$$x=-4$$,$$y=-2$$
y=-2, x=-4|$$x=-4$$,$$y=-2$$
-4, -2|$$x=-4$$,$$y=-2$$
\frac{6n+3}{n(n+1)}|$\frac{6n+3}{n\left( n+1 \right)}$
3·2^{n-2}|3\times {{2}^{n-2}}
\sqrt{2}\pi+4\sqrt{2}|$\sqrt{2}$π+4$\sqrt{2}$
\{2,1\}|\{1,2\}
{1,2}|1,2
\frac{\pi}{4}|\frac{1}{4}\pi
6a^2|$6{{a}^{2}}$
[-4,3]|$$[-4,3]$$
1:3:2|1:3:2
BD=AC|AC=BD
y=\frac{9}{x}|$y=\frac{9}{x}$
9/x|y=\frac{9}{x}
\text{5}|5
5\mathrm{~cm}|5 cm
5 \mathrm{cm}^2|5\text{ cm}^2
\angle A=60^\circ|60
x \in [1,2]|[1,2]
\frac{a}{2}\text{ cm}|\frac{a}{2}
(-\infty,1)\cup(2,3)|(2,3)\cup(-\infty,1)
2n+1|2n+1.
f(x)=2\sin(2x-\frac{\pi}{6})|$2\sin (2x-\frac{\pi }{6})$
1/4|.25
(7, 3)|(7,3)
\frac{1}{4(2n-1)}|$\frac{1}{4\left( 2\text{n}-1 \right)}$
\sqrt{2^n}|$$\sqrt{2^{n}}$$
\begin{cases}x=1\\y=2\end{cases}|x=1,y=2
\hat{y}=10.25-1.05x|$$\hat {y}=10.25-1.05x$$
5¥|5
8~cm<AB\le10~cm|$$8~cm< AB\leqslant 10~cm$$
180° - 2x|180^\circ-2x
1.000|1
"""

DIFFERENT = r"""
3.14|\pi
0.333|1/3
0.333333|1/3
1.41421356|\sqrt2
(1,2)|[1,2]
(1,2)|(2,1)
(1,2)|1,2
1,2|(1,2)
120^\circ|2\pi/3
k>1|x>1
1,2|2
1 or 2|2
1$ or $2|2
\(1\) \(2\)|2
2, 3, 4|3
12|2
0.30|3
A|2
5|\frac{
5|
|5
x|x \frac{
3.1|3.14
3.2|3.14
3.145|3.14
360.4|360
360|360.4
5 m|5 cm
5 cm|5 m^2
50|0.5
0.5\%|0.5
5 cats|5 dogs
5 hundred|5
5 or six|5
5 six|5
5 not|5
not 5|5
\pm 2|2
2,-2|2
\{1,2,3\}|2
{1,2,3}|2
(-\infty,\infty)|2
(-oo,oo)|2
x=2 or x=3|2
3=2|2
2=3|2
x=1=2|2
2x=5|5
1 2|3
$1$ $2$|3
$1$ $2$|2
1.2.3|1.2
(1)$$-2$$ (2)$$3$$|-6
5+5i|5
٢|2
２|3
[1,3]|2
\infty|5
2 \ldots|2
\sum_{i=1}^{2}1|2
\int_0^2 1 dx|2
9^{9^{9}}|5
9^{999999999}|5
9999999!|5
\frac{1}{0}|5
\frac{0}{0}|5
nan|5
x|5
BD|AC=BD
AC|AC=BD
2|2m
the answer is 5|5
Answer: 5|5
5 is wrong|5
5, not 6|5
5?|5
~5|6
\{5|5
2,3|2.3
1,00|100
x=2,y=3|x=3,y=2
3,2|x=2,y=3
x>1 and x<3|x>1 or x<3
1:2:3|1:3:2
5^\circ C|5^\circ F
7+8|7
2:1|1:2
5\boxed{6}|5
2/|2
2^|2
-|5
=|5
x=|5
$5 cm|5 m
"""


def pairs(table: str) -> list[list[str]]:
    return [line.split("|") for line in table.strip().splitlines()]


@pytest.mark.parametrize("prediction, answer", pairs(EQUAL))
def test_equal(prediction, answer):
    assert same(answer, prediction)


@pytest.mark.parametrize("prediction, answer", pairs(DIFFERENT))
def test_different_or_no_single_answer(prediction, answer):
    assert not same(answer, prediction)


def test_a_true_answer_that_is_not_one_formula_is_met_by_nothing_not_even_itself():
    for answer in (
        "$$7$$ $$10$$",
        "(1)$$-2$$ (2)$$3$$",
        "254.4\n267.12",
        "1.3.4.",
        "(1)(3)(4)",
        "169 555 671 105",
        r"$$\dfrac{35}{4}$$(or fill in $$8.75$$)",
        "K<10?",
        "arithmetic",
        "BD=CE (not unique)",
        r"\frac{",
        "5@m",
        "x" * 300,
        "=",
        r"\ce{H_2O}^",
        "$",
        "$$",
        "1 or",
        "5 no",
        "",
    ):
        assert not same(answer, answer), answer


NOTHING = (  # of each two of them neither has a solution, or both hold whatever their letters are
    "x^2=-1", "x^2=-2", "1=2", "3=3", "a=a+1", "(a+b)^2=a^2+2ab+b^2", "(a-b)^2=a^2-2ab+b^2", r"\sin^2 x+\cos^2 x=1",
    r"\frac{1}{x}=0", r"\sqrt{x}=-1", "1<2", "5>3", r"1 \ne 2", r"y \ne y", "x<x+1", "1<2<3", "4<5<6", r"\emptyset",
    "(x^2=-1, y>2)", "(x^2=-2, y>2)",
)  # fmt: skip


@pytest.mark.parametrize("answer", NOTHING)
def test_two_relations_that_say_nothing_do_not_say_the_same(answer):
    assert same(answer, answer)
    assert [guess for guess in NOTHING if same(answer, guess)] == [answer]


@pytest.mark.parametrize(
    ("answer", "guess"),
    [
        ("x+y=3", "2x+2y=6"),
        ("x^2=-1", "x^2+1=0"),
        ("x^2+y^2=-1", "2x^2+2y^2=-2"),
        ("(a+b)^2=a^2+2ab+b^2", "2ab+a^2+b^2=(b+a)^2"),
        ("1<2", "2>1"),
        (r"3\sqrt{2}>2\sqrt{3}", r"3\sqrt{2}>\sqrt{12}"),
        (r"\emptyset", r"\{\}"),
        (r"\emptyset", r"x\in\emptyset"),
    ],
)
def test_a_relation_without_solutions_is_met_by_itself(answer, guess):
    assert same(answer, guess) and same(guess, answer)


@pytest.mark.parametrize(
    ("answer", "guess", "met"),
    [
        ("a:b:c", "0:0:0", False),
        ("1:3:2", "0:0:0", False),
        ("a:b:c", "a-a:b-b:c-c", False),
        ("0:1:2", "0:5:7", False),
        ("0:1:2", "1:1:2", False),
        ("0:0:0", "0:0:0", True),
        ("0:1:2", "0:1:2", True),
        ("1:0:2", "1:0:2", True),
        ("a:b:c", "2a:2b:2c", True),
    ],
)
def test_a_ratio_of_nothing_is_no_other_ratio(answer, guess, met):
    assert same(answer, guess) == met


def test_the_same_formula_by_any_delimiters():
    for text in (
        r"\frac{1}{2}",
        r"$\frac{1}{2}$",
        r"$$\frac{1}{2}$$",
        r"\(\frac{1}{2}\)",
        r"\[\frac{1}{2}\]",
        r"$\displaystyle\frac{1}{2}$",
        r"\dfrac{1}{2}",
        r" \frac { 1 } { 2 } . ",
    ):
        assert same(text, "0.5") and same("0.5", text), text


HOSTILE = [
    "9^{9^{9}}", "10^{10^{10}}", "9^9^9^9", "9^{999999999}", "7^{99999999}", "10^(10^10)", "2^{2^{2^{2^{9}}}}",
    "9999999!", "(10^7)!", "3!!!!", "{" * 128 + "5" + "}" * 120, r"\frac{1}{" * 20 + "5" + "}" * 20,
    r"\sqrt{" * 30 + "5" + "}" * 30, "(" * 200, "[" * 250, r"\int_0^1 x dx", r"\sum_{i=1}^{10^{10}} i", r"\prod",
    r"\input{/etc/passwd}", r"\lim_{x\to 0}x", "__import__('os').getpid()", "().__class__", r"\boxed{5}",
    r"\begin{matrix}1&2\\3&4\end{matrix}", "5\\\\5", "\\", "5\\", "9" * 256, "1" + "0" * 300, "5" + "+0" * 100_000,
    "1," * 128, "1, " * 80, "," * 256, "= " * 100, "x=" * 100, "-" * 200, "^" * 100, "_" * 100, "5" + " " * 250 + "5",
    "@" * 50, "$" * 100, "|" * 100, "'" * 100, "5" + "'" * 10, "!" * 99, "°" * 99, r"\pm" * 60, r"\pm 1 " * 30,
    "or " * 80, "1 or " * 50, "a" * 99 + "+ = 5", "\ud800", "5\x00", "\u202e5",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_refused(text):
    """Without a worker's limit: what is plainly heavy, and would not end, is not begun."""
    for answer in ("5", "0.5", r"\frac{1}{2}", "x+1", "2,3"):
        assert not same(answer, text)


NUMBERS = st.integers(-10_000, 10_000).map(str) | st.decimals(-1000, 1000, places=2, allow_nan=False).map(str)
FORMS = ("{}", "${}$", "${}.$", r"\({}\)", "x = {}", r"\text{{{}}}", "{} cm", "{} sets", "{{{}}}", " {} ")
TWO = (
    "{} or {}", "{}, {}", "{} and {}", "{}; {}", "{{{}, {}}}", "({}, {})", "[{}, {}]", r"\{{{}, {}\}}", "{} = {}",
    r"{} \approx {}", "x = {} or x = {}", "x = {} = {}", "{} {}", "{}\n{}", r"{} \text{{ or }} {}", "${}$ ${}$",
    "{}/{}/", "{} not {}", r"{} \neq {}", "{} cm or {} cm", "{} instead of {}", "{}→{}", r"{} \cup {}", "{} < {}",
    "x > {}, x < {}", "{} (or {})", "{}? {}", "{}|{}", "$x={}$, $x={}$", "{}\\\\{}", "{} & {}", "{} maybe {}",
)  # fmt: skip


@given(NUMBERS)
def test_a_number_is_itself_in_many_forms(number):
    for form in (*FORMS, "{}00" if "." in number else "{}.0"):
        assert same(number, form.format(number)), form


@given(NUMBERS, NUMBERS, st.sampled_from(TWO))
@settings(max_examples=60, deadline=None)
def test_two_different_numbers_are_neither(one, other, form):
    if Fraction(one) != Fraction(other) and not (form == "{} {}" and Fraction(other) < 0):  # "1 -2" is a difference
        guess = form.format(one, other)
        assert not same(one, guess) and not same(other, guess)


@given(st.integers(-500, 500), st.integers(1, 3), st.fractions(-1, 1, max_denominator=1000))
@settings(max_examples=60, deadline=None)
def test_a_decimal_is_met_by_what_rounds_to_it_and_by_nothing_else(whole, places, near):
    answer = f"{whole / 10**places:.{places}f}"
    guess = Fraction(answer) + near / 10**places
    met = same(answer, rf"\frac{{{guess.numerator}}}{{{guess.denominator}}}") if guess else same(answer, "0")
    if abs(near) != Fraction(1, 2):
        assert met == (abs(near) < Fraction(1, 2))
    assert same(str(whole), f"{whole}.{'0' * places}") and not same(str(whole), f"{whole}.{'0' * places}1")


@given(st.text(string.printable + "\\{}$^_°πАé２\u200b", max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_is_read_without_an_error(text):
    assert same("5", text) in (True, False) and same(text, "5") in (True, False)


def test_examples_in_the_docstrings():
    assert doctest.testmod(formulas).failed == 0
