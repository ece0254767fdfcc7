r"""Exact values of numbers in LaTeX or plain text: decimals, fractions, powers, roots, \pi, logarithms, sines.

A value is a Fraction, or a sympy number where it is irrational. What can be read in two ways has no value: "1/2\pi",
"\sqrt12", "2 3". Limits on sizes keep each step short.
"""

import functools
import math
import re
from fractions import Fraction
from typing import Any, NamedTuple

MAX_DIGITS = 10_000  # of a power or a factorial
DIGITS = 60  # to which irrational values are computed
_SAME = Fraction(1, 10**40)  # relative difference below which two irrational values are the same

_EXPONENT = (
    r"10\s*\^\s*(?:\{\s*(?P<braces>[-+]?[0-9]{1,4})\s*\}"
    r"|\(\s*(?P<brackets>[-+]?[0-9]{1,4})\s*\)|(?P<bare>[-+]?[0-9]{1,4}))"
)
_LITERAL = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<digits>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    rf"(?:[eE](?P<e>[-+]?[0-9]{{1,4}})|\s*(?:\\times|\\cdot|\*)\s*{_EXPONENT})?"
)
_DIGITS = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4}(?![0-9A-Za-z.]))?")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FRACTION = re.compile(r"\\frac\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))")
_FUNCTIONS = ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "ln", "lg", "log", "exp")
_SYNONYMS = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log"}
_KNOWN = {"\\frac", "\\sqrt", "\\pi", "\\times", "\\cdot", "\\div", *("\\" + name for name in _FUNCTIONS)}
_CHARACTERS = re.compile(r"[-+*/^(){}\[\]!_°0-9.\s]*")


class Number(NamedTuple):
    """A value; `step` is the place of the last digit of a decimal, and None for what is exact."""

    value: Any  # Fraction or a real sympy number
    step: Fraction | None
    digits: int = 0  # significant digits of a plain decimal, from its first non-zero one; 0 for others


class _Unreadable(Exception):
    pass


def is_numeric(text: str) -> bool:
    r"""Whether a text is made of what numbers are written with, so that nothing else may read it.

    >>> is_numeric(r"2\sqrt{3}"), is_numeric("2 3"), is_numeric("2x"), is_numeric("6.0e-7")
    (True, True, False, True)
    """
    rest = _COMMAND.sub(" ", text)
    rest = re.sub(r"(?<=[0-9.])[eE](?=[-+]?[0-9])", "", rest)
    return bool(_CHARACTERS.fullmatch(rest)) and set(_COMMAND.findall(text)) <= _KNOWN and bool(text.strip())


@functools.lru_cache(1024)
def read(text: str) -> Number | None:
    r"""The number that a text is, else None.

    >>> read(r"1\frac12").value, read("6.0e-7").step, read(r"2\frac{1}{2}") == read("5/2"), read(r"1/2\pi")
    (Fraction(3, 2), Fraction(1, 100000000), True, None)
    """
    text = text.strip()
    if not is_numeric(text):
        return None
    if match := _LITERAL.fullmatch(text):
        power = Fraction(10) ** int(match["e"] or match["braces"] or match["brackets"] or match["bare"] or 0)
        places = len(match["digits"].partition(".")[2])
        value = Fraction(match["digits"].rstrip(".") or 0) * power * (-1 if match["sign"] == "-" else 1)
        significant = max(1, len(match["digits"].replace(".", "").lstrip("0")))
        return Number(value, power / 10**places if places else None, significant)
    try:
        value = _Reader(text).whole()
        if not isinstance(value, Fraction) and not (value.is_number and value.is_real and _close(value) is not None):
            return None
        return Number(_simple(value), None)
    except (_Unreadable, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def equal(gold: Number, guess: Number, scale: Fraction = Fraction(1), rounding: bool = False) -> bool:
    """Whether `guess` times `scale` is `gold`, or rounds to it (half up) where `gold` is a decimal.

    With `rounding`, also where `gold` rounds to a guess of fewer decimal places: two digits at least, three for an
    exact gold.
    """
    if isinstance(gold.value, Fraction) and isinstance(guess.value, Fraction):
        one, other = gold.value, guess.value * scale
        if one == other:
            return True
    else:
        exact, near = _close(gold.value), _close(guess.value)
        if exact is None or near is None:
            return False
        one, other = exact, near * scale
        if one == other or abs(one - other) <= _SAME * max(abs(one), abs(other)):
            return True
    if gold.step and _rounded(other, gold.step) == one:
        return True
    step = (guess.step or (Fraction(1) if guess.digits else 0)) * scale
    coarser = step > gold.step if gold.step else not isinstance(one, Fraction) or one.denominator != 1
    least = 2 if gold.step else 3
    return bool(rounding and step and coarser and guess.digits >= least and _rounded(one, step) == other)


def above_one(number: Number) -> bool:
    """Whether a number is greater than 1 or less than -1."""
    value = _close(number.value)
    return value is not None and abs(value) > 1


def sympified(value: Any) -> Any:
    """The value as a sympy number."""
    import sympy

    return sympy.Rational(value.numerator, value.denominator) if isinstance(value, Fraction) else value


def _rounded(value: Fraction, step: Fraction) -> Fraction:
    """The multiple of `step` nearest to the value; halves go away from zero."""
    return math.floor(abs(value) / step + Fraction(1, 2)) * step * (-1 if value < 0 else 1)


def _close(value: Any) -> Fraction | None:
    """The value to many digits; None if it is not real and finite."""
    if isinstance(value, Fraction):
        return value
    number = value.evalf(DIGITS)
    return Fraction(str(number)) if number.is_Float or number.is_Rational else None


def _simple(value: Any) -> Any:
    return Fraction(int(value.p), int(value.q)) if not isinstance(value, Fraction) and value.is_Rational else value


def _operands(one: Any, other: Any) -> tuple[Any, Any]:
    """Two values that can be combined: Fractions, else sympy numbers."""
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one, other
    return sympified(one), sympified(other)


def _product(one: Any, other: Any) -> Any:
    one, other = _operands(one, other)
    return one * other


def _quotient(one: Any, other: Any) -> Any:
    one, other = _operands(one, other)
    if other == 0 or (not isinstance(other, Fraction) and other.is_zero is not False and _close(other) == 0):
        raise ZeroDivisionError
    return one / other


def _sum(one: Any, other: Any) -> Any:
    one, other = _operands(one, other)
    return one + other


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = max(abs(base.numerator), base.denominator).bit_length() * abs(exponent.numerator)
        if size > 4 * MAX_DIGITS:
            raise _Unreadable
        return base**exponent.numerator
    base, exponent = sympified(base), sympified(exponent)
    if abs(_close(exponent) or 0) > 1000 or (base == 0 and exponent <= 0):
        raise _Unreadable
    return _simple(base**exponent)


class _Reader:
    """Reads one number from left to right."""

    def __init__(self, text: str):
        self.text, self.at, self.in_function = text, 0, 0

    def whole(self) -> Any:
        value = self.sum()
        if self.next():
            raise _Unreadable
        return value

    def next(self) -> str:
        """The next command or character; "" at the end."""
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        match = _COMMAND.match(self.text, self.at)
        return match[0] if match else self.text[self.at : self.at + 1]

    def skip(self, *tokens: str) -> str:
        token = self.next()
        if token not in tokens or not token:
            return ""
        self.at += len(token)
        return token

    def need(self, token: str) -> None:
        if not self.skip(token):
            raise _Unreadable

    def sum(self) -> Any:
        sign = self.skip("-", "+")
        value = self.product()
        value = -value if sign == "-" else value
        while sign := self.skip("-", "+"):
            term = self.product()
            value = _sum(value, -term if sign == "-" else term)
        return value

    def product(self) -> Any:
        value, slash = self.factor(), False
        while True:
            if sign := self.skip("*", "\\times", "\\cdot", "/", "\\div"):
                negative = self.skip("-")
                other = self.factor()
                other = -other if negative else other
                value = _product(value, other) if sign in ("*", "\\times", "\\cdot") else _quotient(value, other)
                slash = sign in ("/", "\\div")
            elif self.juxtaposed():
                if slash:
                    raise _Unreadable  # 1/2\pi
                value = _product(value, self.factor())
            else:
                return value

    def juxtaposed(self) -> bool:
        token = self.next()
        if token.isdigit():  # "2^{3} 5^2", but not "2 3"
            return bool(re.search(r"\^\s*\{[^{}]*\}\s*$", self.text[: self.at]))
        return token == "(" or (token in _KNOWN and token not in ("\\times", "\\cdot", "\\div"))

    def factor(self) -> Any:
        value = self.base()
        while self.skip("!"):
            if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 1000:
                raise _Unreadable
            value = Fraction(math.factorial(value.numerator))
        if self.skip("^"):
            value = _power(value, self.exponent())
        if self.skip("°"):
            if not self.in_function:
                raise _Unreadable
            import sympy

            value = sympified(value) * sympy.pi / 180
        if self.next() in ("^", "!", "°", "_"):
            raise _Unreadable
        return value

    def exponent(self) -> Any:
        sign = self.skip("-", "+")
        match = re.compile(r"[0-9]+").match(self.text, self.at)
        if match:
            self.at = match.end()
            value = Fraction(match[0])
        elif self.next() in ("{", "("):
            value = self.group()
        elif self.next() == "\\frac" and not sign:
            value = self.base()
        else:
            raise _Unreadable
        return -value if sign == "-" else value

    def group(self) -> Any:
        close = {"(": ")", "{": "}", "[": "]"}[self.skip("(", "{", "[") or self.fail()]
        value = self.sum()
        self.need(close)
        return value

    def fail(self) -> str:
        raise _Unreadable

    def argument(self) -> Any:
        r"""An argument of a command: {...}, one digit, or one command: "\frac12", "\frac 1 2", "\sqrt\pi"."""
        token = self.next()
        if token == "{":
            return self.group()
        if token.isdigit():
            self.at += 1
            return Fraction(token)
        if token in ("\\pi", "\\sqrt", "\\frac"):
            return self.base()
        raise _Unreadable

    def base(self) -> Any:
        token = self.next()
        if match := _DIGITS.match(self.text, self.at):
            self.at = match.end()
            number = read(match[0])
            assert number is not None
            return self.mixed(number.value, plain=match[0].isdigit())
        if token in ("(", "{", "["):
            return self.group()
        if not self.skip(token) or token not in _KNOWN:
            raise _Unreadable
        if token == "\\pi":
            import sympy

            return sympy.pi
        if token == "\\frac":
            above = self.argument()
            return self.followed(_quotient(above, self.argument()))
        if token == "\\sqrt":
            return self.followed(self.root())
        if token.removeprefix("\\") in _FUNCTIONS:
            return self.function(token.removeprefix("\\"))
        raise _Unreadable

    def followed(self, value: Any) -> Any:
        r"""A value that no digit may follow: "\sqrt12", "\frac123"."""
        if self.next().isdigit() or self.next() == ".":
            raise _Unreadable
        return value

    def mixed(self, whole: Fraction, plain: bool) -> Any:
        r"""A whole number with the fraction after it: "1\frac12"."""
        self.next()
        match = _FRACTION.match(self.text, self.at)
        if not match:
            return whole
        above, below = int(match[1] or match[2]), int(match[3] or match[4])
        if not plain or not 0 < above < below:
            raise _Unreadable
        self.at = match.end()
        return self.followed(whole + Fraction(above, below))

    def root(self) -> Any:
        degree = Fraction(2)
        if self.next() == "[":
            degree = self.group()
        value = self.argument()
        if not isinstance(degree, Fraction) or degree.denominator != 1 or not 2 <= degree <= 100:
            raise _Unreadable
        if isinstance(value, Fraction):
            size = max(abs(value.numerator), value.denominator).bit_length()
            if size > 128:  # sympy would factor it
                raise _Unreadable
        import sympy

        if degree % 2 and (_close(value) or 0) < 0:
            return -sympy.root(-sympified(value), int(degree))
        return _simple(sympy.root(sympified(value), int(degree)))

    def function(self, name: str) -> Any:
        import sympy

        base = power = None
        if name == "log":
            self.need("_")  # without its base it may be decimal or natural
            base = self.argument() if self.next() != "(" else self.group()
        if self.skip("^"):
            power = self.exponent()
            if power == -1:
                raise _Unreadable  # 1/sin or arcsin
        self.in_function += 1
        value = self.factor() if self.next() in ("(", "{") else self.chain()
        self.in_function -= 1
        value = sympified(value)
        if name in ("ln", "lg", "log") and (_close(value) or 0) <= 0:
            raise _Unreadable
        if name in ("lg", "log"):
            result = sympy.log(value) / sympy.log(sympified(base) if base is not None else 10)
        elif name == "exp":
            if abs(_close(value) or 0) > 1000:
                raise _Unreadable
            result = sympy.exp(value)
        else:
            result = getattr(sympy, _SYNONYMS.get(name, name))(value)
        return _power(result, power) if power is not None else result

    def chain(self) -> Any:
        r"""A function's argument without brackets: "2\pi" in "\sin 2\pi"."""
        value = self.factor()
        while self.juxtaposed() and self.next() in ("\\pi", "\\sqrt"):
            value = _product(value, self.factor())
        if self.next() in ("/", "("):
            raise _Unreadable
        return value
