r"""The numeric value of a formula as MathVision's authors compute it, quirks included: latex2sympy2, then `eval`.

That parser cannot be installed beside math-verify's (which needs another ANTLR version), and its quirks decide which
answers are correct, so its handling of numbers is reimplemented here:

- a formula ends where no token can follow, and the rest is ignored: "5." and "5}, so" are 5, and "6 triangles" is 6,
  because "tr" is the parser's trace operator;
- adjacent factors are multiplied before any division: `3\frac{1}{2}` is 1.5, and `1/2\pi` is 1/(2 pi);
- `\frac` and `\sqrt` need their braces; a character that is not LaTeX ("°", "π", "√", a plain "%") makes it no number;
- letters, lists, relations, absolute values, natural logarithms and infinity have no value.

It differs from the original where the formula that sympy prints for `eval` is not equivalent (a minus before a division
by a fraction or a decimal, `-5:0.5`), which depends on sympy's version, and for comparisons (5<6 is 1 there). Time is
linear in the formula's length: formulas deeper or numbers larger than in any answer have no value either.
"""

import math
import re
from collections.abc import Iterator

MAX_DEPTH = 50  # of nested brackets, roots and fractions
MAX_BITS = 20_000  # of an integer
MAX_FACTORIAL = 200

_FUNCTIONS = {name: getattr(math, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
_INVERSES = {name: getattr(math, f"a{name}") for name in _FUNCTIONS}
_FUNCTIONS |= {f"arc{name}": inverse for name, inverse in _INVERSES.items()} | {"log": math.log10, "exp": math.exp}
_CALLS = frozenset("\\" + name for name in (*_FUNCTIONS, "sqrt")) | {"e"}
_BRACKETS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lfloor": "\\rfloor"}
_NAMES = (
    "ar(?:c?sinh|c?cosh|c?tanh)|gcd|lcm|floor|ceil|eye|zeros|ones|cols|rows|diag|norm|rank|tr|rref|hstack|vstack|"
    "orth|nullspace|eig|svd|[pbv]?matrix"
)
_ARROWS = "to|(?:left|long)?rightarrow|xrightarrow"
_END = re.compile(rf"(?:[.)\]}}&_^]|\\(?:[\\}}]|{_ARROWS}|right|rfloor|rceil)|{_NAMES})?")
_TOKEN = re.compile(
    r"(?:[0-9]*(?:,[0-9]{3})*\.[0-9]+|[0-9]+(?:,[0-9]{3})*)(?:\\%)?"
    r"|\\(?:sinh|sin|cosh|cos|tanh|tan|arc(?:sinh|sin|cosh|cos|tanh|tan)|log|exp|sqrt|frac|[dt]?binom|pi|times|cdot|div"
    rf"|over(?:line|rightarrow)?|lfloor|rfloor|rceil|{_ARROWS}|right|[\\{{}}])"
    rf"|!==?|{_NAMES}|[^ \t\r\n]"
)
_SPACE = re.compile(r"\\(?:displaystyle|q?quad|,)|[~$]")
_SIZED = re.compile(r"\\m?(?:left|right)(?=\s*(?:[()\[\]{}]|\\[{}]))")


def value(text: str) -> int | float | None:
    r"""The numeric value of a lower-case formula; None if it has none.

    >>> value(r"\frac{1}{2}"), value("2:3 of them"), value("24."), value("6 triangles"), value("6 cm")
    (0.5, None, 24, 6, None)
    >>> value(r"2 \sqrt{3}^2"), value("1,000"), value("50%"), value(r"50\%"), value("9^{9^9}")
    (5.999999999999999, 1000, None, 0.5, None)
    """
    if ")_{" in text:  # the original reads it as a number of permutations
        return None
    text = _SIZED.sub("", _SPACE.sub(" ", re.sub(r"\\[dt]frac", r"\\frac", text)))
    reader = _Reader(match[0] for match in _TOKEN.finditer(text))
    try:
        number = reader.sum()
        return number if _END.fullmatch(reader.next) and not isinstance(number, complex) else None
    except (_NoNumber, ArithmeticError, ValueError):
        return None


class _NoNumber(Exception):
    """The formula has no value."""


class _Reader:
    """A recursive-descent parser over the tokens; each method parses what its name says and returns its value."""

    def __init__(self, tokens: Iterator[str]):
        self._tokens, self._depth = tokens, 0
        self._advance()

    def _advance(self) -> None:
        self.next = next(self._tokens, "")

    def _take(self, *tokens: str) -> str | None:
        """Consumes and returns the next token if it is one of `tokens`, else None."""
        token = self.next if self.next in tokens else None
        if token is not None:
            self._advance()
        return token

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise _NoNumber(self.next)

    def sum(self) -> complex:
        total = self._product()
        while sign := self._take("+", "-"):
            total = total + self._product() if sign == "+" else total - self._product()
        return total

    def _product(self, calls: bool = True) -> complex:
        product = self._signed(calls)
        while sign := self._take("*", "\\times", "\\cdot", "/", ":", "\\div", "\\over"):
            other = self._signed(calls)
            product = _limited(product * other) if sign in ("*", "\\times", "\\cdot") else product / other
        return product

    def _signed(self, calls: bool) -> complex:
        """Adjacent factors with leading signs. `calls`: whether a function may be among the factors after the first."""
        sign = 1
        while mark := self._take("+", "-"):
            sign = -sign if mark == "-" else sign
        product = self._factor()
        while not (self._ends() or (self.next in _CALLS and not calls)):
            product = _limited(product * self._factor())
        return sign * product

    def _ends(self) -> bool:
        signs = ("+", "-", "*", "\\times", "\\cdot", "/", ":", "\\div", "\\over")
        return self.next in signs or bool(_END.fullmatch(self.next))

    def _factor(self) -> complex:
        value = self._atom()
        while self.next == "^":
            value = _power(value, self._script("^"))
            if self.next == "_":  # parsed and ignored
                self._script("_")
        while mark := self._take("!", "'"):  # "'" is a transpose, which leaves a number unchanged
            value = _factorial(value) if mark == "!" else value
        return value

    def _atom(self) -> complex:
        """A number, bracket, fraction, root or function value."""
        token = self.next
        if _is_number(token):
            return self._number()
        if token in _BRACKETS:
            value = self._group(*_BRACKETS)
            return math.floor(_real(value)) if token == "\\lfloor" else value
        self._advance()
        if token == "\\frac":
            return self._group("{") / self._group("{")
        if token.endswith("binom"):
            return _limited(math.comb(_integer(self._group("{")), _integer(self._group("{"))))
        if token == "\\sqrt":
            degree = self._group("[") if self.next == "[" else 2
            return _power(self._group("{"), 1 / degree)
        if token == "e":
            return _exponential(self._script("^"))
        if token[1:] in _FUNCTIONS and token.startswith("\\"):
            return self._call(token[1:])
        raise _NoNumber(token)

    def _number(self) -> complex:
        token = self.next
        self._advance()
        if token == "\\pi":
            return math.pi
        digits = token.removesuffix("\\%").replace(",", "")
        number = float(digits) if "." in digits else _limited(int(digits))
        number = number / 100 if token.endswith("%") else number
        return int(number) if isinstance(number, float) and number.is_integer() else number

    def _group(self, *openings: str) -> complex:
        opening = self._take(*openings)
        self._depth += 1
        if opening is None or self._depth > MAX_DEPTH:
            raise _NoNumber(self.next)
        value = self.sum()
        self._expect(_BRACKETS[opening])
        self._depth -= 1
        return value

    def _script(self, mark: str) -> complex:
        """A superscript or subscript: a number, or a formula in braces."""
        self._expect(mark)
        if self.next == "{":
            return self._group("{")
        if _is_number(self.next):
            return self._number()
        raise _NoNumber(self.next)

    def _call(self, name: str) -> complex:
        """A function's value; without brackets its argument is all following factors up to the next function."""
        scripts = {}
        while (mark := self.next) in ("_", "^") and mark not in scripts:
            scripts[mark] = self._script(mark)
        argument = self._group("(") if self.next == "(" else self._product(calls=False)
        power = scripts.get("^")
        if name in _INVERSES and power == -1:
            return _INVERSES[name](_real(argument))
        if name == "log" and "_" in scripts:
            value = math.log(_real(argument), _real(scripts["_"]))
        else:
            value = _exponential(argument) if name == "exp" else _FUNCTIONS[name](_real(argument))
        return _power(value, power) if power else value


def _is_number(token: str) -> bool:
    return token == "\\pi" or token.removesuffix("\\%")[-1:] in tuple("0123456789")


def _real(number: complex) -> int | float:
    if isinstance(number, complex):
        raise _NoNumber(number)
    return number


def _integer(number: complex) -> int:
    if not isinstance(number, int):
        raise _NoNumber(number)
    return number


def _limited(number: complex) -> complex:
    if isinstance(number, int) and number.bit_length() > MAX_BITS:
        raise _NoNumber("too large")
    return number


def _power(base: complex, exponent: complex) -> complex:
    integers = isinstance(base, int) and isinstance(exponent, int)
    if integers and base.bit_length() * abs(exponent) > MAX_BITS:
        raise _NoNumber("too large")
    return base**exponent


def _factorial(number: complex) -> int:
    if not 0 <= _integer(number) <= MAX_FACTORIAL:
        raise _NoNumber(number)
    return math.factorial(number)


def _exponential(exponent: complex) -> complex:
    """The original parser reads e^1 as a letter."""
    if exponent == 1:
        raise _NoNumber("e")
    return math.exp(_real(exponent)) if exponent else 1
