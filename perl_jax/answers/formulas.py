r"""Equivalence of mathematical answers in LaTeX or plain text: numbers with units, formulas, lists, points.

Structure is compared here: lists, points and intervals, names ("x = 5"), units and rounding. The remaining single
formulas go to math-verify. Its own time limits are off (they use signals, and would not stop a long integer power
anyway), so run `same` in a killable process: `perl_jax.grading`. On its own, math-verify reads "1 2" as 3, "5 m" as "5
cm", "3 = 2" as 2, and (1, 2) as the list 1, 2.
"""

import functools
import logging
import math
import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from perl_jax.answers import numbers, units

MAX_CHARACTERS = 256  # longer answers are not parsed
MAX_EXPONENT = 10_000  # limit on the product of a formula's integer exponents, and on the argument of a factorial
MAX_DEPTH = 12  # of nested brackets and braces

# Other commands are accepted only if the reference answer uses them.
_COMMANDS = r"""
\frac \sqrt \pi \times \cdot \div \pm \mp \le \leq \ge \geq \ne \neq \lt \gt \approx \infty \cup \in \emptyset
\varnothing \circ \angle \triangle \overline \overrightarrow \vec \hat \parallel \perp \{ \}
\sin \cos \tan \cot \sec \csc \arcsin \arccos \arctan \log \ln \lg \exp \min \max
\alpha \beta \gamma \delta \theta \lambda \mu \phi \varphi \omega \rho \sigma \tau \Delta \Omega
"""
_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan log exp min max sqrt"
# Rewrites of common notation to the commands and signs above; applied in this order.
_REPLACED = [(re.compile(pattern, re.DOTALL), new) for pattern, new in (
    (r"(^|[-=(\[{,;:^+*/<>]|\\(?:times|cdot|frac)(?![A-Za-z]))\s*–(?=\s*[0-9A-Za-z.\\(])", r"\1-"),
    (r"(?<=[A-Za-z)}\]])\s*–\s*(?=[0-9A-Za-z\\({])|(?<=[0-9])\s*–\s*(?=[A-Za-z\\({])", "-"),
    (r"\\[dtc]?frac\s*([0-9])\s+([0-9])(?![0-9.])", r"\\frac{\1}{\2}"), (r"\\log\s*_\s*([0-9])\s*", r"\\log_{\1}"),
    (r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)", r"\\times "),
    (r"\\varnothing(?![A-Za-z])", r"\\emptyset "), (r"\^\s*\{?\s*\\prime\s*\}?|[′’](?![A-Za-z])", "'"),
    (r"\\begin\{cases\}(.*?)\\end\{cases\}", lambda match: match[1].replace(r"\\", ",")),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(?:left|right)(?![A-Za-z])\.?|\\(?:displaystyle|limits|bigl?|bigr?)(?![A-Za-z])|\\!", ""),
    (r"\\number\s*\{([^{}]*)\}", r"\1"),
    (r"(?<=[0-9])\{,\}(?=[0-9])", ","),
    (r"(?<=[0-9])\\[,; ](?=[0-9]{3}(?![0-9]))", ","),
    (r"\\(?:text|mathrm|textrm|textbf|mathbf|mathit|textit|textnormal|mbox|rm|operatorname)\s*\{([^{}]*)\}", r"@\1 "),
    (r"\\(?:[,;:> ]|q?quad(?![A-Za-z]))|~", " "),
    (r"\\leqslant|≤|≦|<=", r"\\le "), (r"\\geqslant|≥|≧|>=", r"\\ge "), (r"≠", r"\\ne "), (r"≈", r"\\approx "),
    (r"×", r"\\times "), (r"÷", r"\\div "), (r"·|⋅", r"\\cdot "), (r"±", r"\\pm "), (r"∓", r"\\mp "),
    (r"∪", r"\\cup "), (r"^\s*[A-Za-z]\s*(?:∈|\\in(?![A-Za-z]))\s*(?=[(\[]|\\\{)", ""), (r"∈", r"\\in "),
    (r"∞|\binfinity\b|\boo\b", r"\\infty "), (r"π|(?<![A-Za-z\\])pi\b", r"\\pi "), (r"θ", r"\\theta "),
    (r"∠", r"\\angle "), (r"△|Δ", r"\\triangle "), (r"∅", r"\\emptyset "),
    (r"√\s*\(([^()]*)\)|(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)|√\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1\2\3}"),
    (r"[⁺⁻]?[⁰¹²³⁴-⁹]+", lambda match: f"^{{{unicodedata.normalize('NFKC', match[0])}}}"), (r"∶", ":"),
    (r"\^\s*\{?\s*\\circ\s*\}?|\{\s*\}\s*°|\\degree(?![A-Za-z])|\\?textdegree|º", "°"), (r"\{\s*\}\s*°", "°"),
    (r"([0-9]+)\s*°\s*([0-5]?[0-9])\s*'(?:\s*([0-5]?[0-9])\s*(?:''|\"|″))?(?!')", lambda match: _degrees(match)),
    (r"°\s*@?\s*([CF])(?![A-Za-z])", r"°\1"), (r"\\%", "%"), (r"µ", "μ"),
    (r"(?<![0-9.])([0-9]+) ([0-9]+)/([0-9]+)(?![0-9.])", r"\1\\frac{\2}{\3}"),
    (r"(?<![\w.,({\[])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9,])", lambda match: match[1].replace(",", "")),
)]  # fmt: skip
_READABLE = re.compile(r"[A-Za-z0-9\s+\-*/^_=<>|!.,;:()\[\]{}\\'%°℃℉μ$€£¥¢元@]*")
_SEVERAL = re.compile(r"[0-9]\s+[0-9]|[0-9]\.[0-9]*\.[0-9]|\(1\).*\(2\)|\([0-9]+\)\s*\(|\*\*|[^,]\n\s*\S", re.DOTALL)
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")
_RELATION = re.compile(r"<|>|\\(?:le|leq|ge|geq|ne|neq|lt|gt|cup)(?![A-Za-z])")
_SEPARATOR = re.compile(r"\s*(?:[,;]\s*(?:@?(?:and|or)(?![A-Za-z]))?|@?(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")
_EQUALS = re.compile(r"=|\\approx(?![A-Za-z])")
_NAME = re.compile(
    r"(?=[^=]*[A-Za-z])(?:\\angle\s*[0-9]|(?!\\sqrt)\\?[A-Za-z]|_(?:[0-9A-Za-z]|\{[^{}]*\})|[(){}|'°\s,])+"
)
_SYMBOL = r"\\?[A-Za-z]+(?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]+\}))?"
_QUOTIENT = re.compile(
    rf"\\[dt]?frac\s*\{{\s*({_SYMBOL})\s*\}}\s*\{{\s*({_SYMBOL})\s*\}}"
    rf"|(?<![\w\\])({_SYMBOL})[\s$]*(?:/|:|(?<=[\s$])to(?=[\s$]))[\s$]*({_SYMBOL})(?!\w)"
)
_ASKS_FOR = r"(?:find|compute|calculate|evaluate|determine|what is|value of) (?:the )?(?:exact )?(?:value of )?"
_POINT = re.compile(r"((?:[A-Z]\s*|\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\))?\s*=?)\s*(\([^=]*\))")
_COMPOUND = re.compile(
    r"([0-9]+(?:\.[0-9]+)?)\s*@?\s*([A-Za-z]+)\s*,?\s*(?:@?and(?![A-Za-z]))?\s*([0-9]+(?:\.[0-9]+)?)\s*@?\s*([A-Za-z]+)"
)
_CLOCK = re.compile(r"([0-9]{1,2})\s*:\s*([0-5][0-9])")
_LETTERS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]+")
_POWERED = re.compile(r"\^\s*(?:\{([^{}]*)\}|\(([^()]*)\)|-?([0-9]+))")
_TOWER = re.compile(r"\^[\s{(]*[0-9.]+[\s})]*\^|\^[\s{(]*[0-9.]+\s*!")
_FACTORIAL = re.compile(r"([0-9]+)\s*!|[)}!]\s*!")


_POINTS = 6  # at which two expressions are compared
_TINY = 1e-6  # numbers below it are compared as written where math-verify compares


class _How(NamedTuple):
    """What else decides: the question's text, and whether an answer may be rounded further than the reference."""

    question: str = ""
    rounding: bool = False


class _List(NamedTuple):
    """Items of a list; `brackets` is "" for a list without brackets."""

    brackets: str
    items: list[str]
    joined_by_or: bool


def same(answer: str, guess: str, question: str = "", rounding: bool = False) -> bool:
    r"""Whether `guess` equals the reference `answer`; False if either does not parse as exactly one answer.

    - A decimal answer with digits after the point matches a guess that rounds to it (half up) at its precision; any
      other answer must match exactly.
    - A unit missing from one side is taken to be the other's. If both have one, they must measure the same quantity and
      are converted. 50% equals 0.5, and also a plain 50 (but not a plain number of 1 or less).
    - With a `question`, a unit that the answer lacks must be one that the question may ask for (`units.scales`), and
      the name of the ratio that it asks for may stand before the value ("V_1/V_2 = 3/2").
    - With `rounding`, a guess may be rounded further than the answer (`numbers.equal`).
    - Lists without brackets or in braces are unordered; points and intervals are ordered.

    >>> same("3.14", "3.14159"), same("3.14", "3.1"), same("5 cm", "0.05 m"), same("5", r"5\text{ cm}")
    (True, False, True, True)
    >>> same("2", "2 or 3"), same("0.5", "50"), same(r"\frac{1}{2}", "x = 1/2")
    (False, False, True)
    """
    answer, guess = _cleaned(answer), _cleaned(guess)
    if answer is None or guess is None or _is_heavy(guess):
        return False
    if set(_COMMAND.findall(guess)) - set(_COMMANDS.split()) - set(_COMMAND.findall(answer)):
        return False
    return _same(answer, guess, _How(question, rounding))


# Parsing


def _cleaned(text: str) -> str | None:
    """One formula in the known commands, with `@` before text-mode parts; None if it is not exactly one formula."""
    if len(text) > MAX_CHARACTERS or "@" in text:
        return None
    text = _undelimited(text)
    if text is None:
        return None
    for pattern, new in _REPLACED:
        text = pattern.sub(new, text)
    text = re.sub(r"@\s*", "@", text.replace("−", "-").replace("\\$", "$")).strip()
    text = re.sub(r"@(?=[^A-Za-z%°μ]|$)", "", text).rstrip(" .").removeprefix("=").strip()
    text = re.sub(r"^\{([^{},;]*)\}$", r"\1", text)  # LaTeX braces, which math-verify would read as a set
    if not _READABLE.fullmatch(text) or _SEVERAL.search(text) or not text:
        return None
    if compound := _COMPOUND.fullmatch(text):
        return _sum_of_units(compound) or text
    return text


def _sum_of_units(match: re.Match) -> str | None:
    """A quantity in a unit and a smaller one, such as "1 h 30 min", in the first."""
    one, other = units.parse(match[2], nouns=False), units.parse(match[4], nouns=False)
    if not one or not other or one.powers != other.powers or not other.factor < one.factor:
        return None
    value = Fraction(match[1]) + Fraction(match[3]) * other.factor / one.factor
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}@{match[2]}"


def _degrees(match: re.Match) -> str:
    """An angle of degrees, minutes and seconds in degrees."""
    angle = int(match[1]) + Fraction(int(match[2]), 60) + Fraction(int(match[3] or 0), 3600)
    return rf"\frac{{{angle.numerator}}}{{{angle.denominator}}}°"


def _undelimited(text: str) -> str | None:
    """Removes maths delimiters; None for several formulas side by side, which would be multiplied."""
    text = re.sub(r"\\[()]|(?<!\\)\\[\[\]]", "$", text).replace("$$", "$")
    pieces = re.split(r"(?<!\\)\$", text)
    if len(pieces) == 2 and not pieces[0].strip():
        return "$" + pieces[1]  # money
    if len(pieces) % 2 == 0 or any(not piece.strip() for piece in pieces[2:-1:2]):
        return None
    return " ".join(pieces)


def _is_heavy(text: str) -> bool:
    """Whether parsing would only time out: towers of powers, large factorials, deep nesting."""
    depth = deepest = 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    exponents = [int(number) for groups in _POWERED.findall(text) for number in re.findall(r"[0-9]+", "".join(groups))]
    product = functools.reduce(lambda one, other: min(one * max(other, 1), MAX_EXPONENT + 1), exponents, 1)
    factorials = [int(number[:9] or MAX_EXPONENT + 1) for number in _FACTORIAL.findall(text)]
    return (
        deepest > MAX_DEPTH
        or product > MAX_EXPONENT
        or bool(_TOWER.search(text))
        or max(factorials, default=0) > MAX_EXPONENT
    )


def _listed(text: str) -> _List:
    """The top-level items of a text; a single item without brackets if it is not a list."""
    text, brackets = text.strip(), ""
    inner = re.fullmatch(r"([(\[]|\\?\{)(.*?)([)\]]|\\?\})", text, re.DOTALL)
    if inner and len(_cut(text)) == 1 and _closes_at_end(text) and len(_cut(inner[2])) > 1:
        text, brackets = inner[2], inner[1] + inner[3]
        brackets = "" if "{" in brackets else brackets
    items = [one for item in _cut(text) for one in _signed(item)]
    return _List(brackets, items, bool(re.search(r"(?<![A-Za-z])or(?![A-Za-z])", text)))


def _signed(item: str) -> list[str]:
    """Both values of an item with a plus-minus sign."""
    sign = re.search(r"\\(?:pm|mp)(?![A-Za-z])\s*", item)
    return [item[: sign.start()] + one + item[sign.end() :] for one in "+-"] if sign else [item]


def _cut(text: str) -> list[str]:
    """The text split at separators outside all brackets."""
    depths, depth = [], 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        depths.append(depth)
    items, start = [], 0
    for match in _SEPARATOR.finditer(text):
        if depths[match.start()] == 0:
            items.append(text[start : match.start()].strip())
            start = match.end()
    return [*items, text[start:].strip()]


def _closes_at_end(text: str) -> bool:
    """Whether the opening bracket of a text is closed by its last character."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "({[") - (character in ")}]")
        if depth == 0 and character in ")}]":
            return place == len(text) - 1
    return False


# Comparison


def _same(answer: str, guess: str, how: _How) -> bool:
    answer, guess = _unnamed(answer, guess), _unnamed(guess, answer)
    if "=" not in answer + guess and _joins(answer) | _joins(guess) == {"and", "or"}:
        return False
    one, other = _listed(answer), _listed(guess)
    if _RELATION.search(answer) or _RELATION.search(guess):
        if all(len(parsed.items) == 1 or parsed.brackets for parsed in (one, other)):
            return answer.count("=") == guess.count("=") and _agree(answer, guess)
        if one.joined_by_or != other.joined_by_or:
            return False
    if len(one.items) == len(other.items) == 1:
        return _same_one(answer, guess, how)
    if len(one.items) != len(other.items) or one.brackets != other.brackets:
        return False
    unnamed = any("=" in item for item in one.items) and not all("=" in item for item in other.items)
    if one.brackets or unnamed:
        return all(_same(*pair, how) for pair in zip(one.items, other.items))
    unmatched = list(other.items)
    for item in one.items:
        match = next((candidate for candidate in unmatched if _same(item, candidate, how)), None)
        if match is None:
            return False
        unmatched.remove(match)
    return True


def _unnamed(text: str, other: str) -> str:
    """A point without its name, where the other text has no name or the same: "(1,2)" for "A(1,2)", "(x,y)=(1,2)"."""
    one, two = _POINT.fullmatch(text.strip()), _POINT.fullmatch(other.strip())
    return one[2] if one and two and (not two[1] or "".join(one[1].split()) == "".join(two[1].split())) else text


def _joins(text: str) -> set[str]:
    return set(re.findall(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])", text))


def _same_one(answer: str, guess: str, how: _How) -> bool:
    """Compares two single answers, each possibly an equation."""
    (name, values), (other, guesses) = (_sides(answer, None), _sides(guess, how.question))
    if len(values) == 1 and not (name and other and name != other):
        if len(guesses) + bool(other) == 1 and name and not re.search(r"[0-9]|\\pi", values[0]):
            return False  # "BD" is not "AC = BD"
        if other and not name and _is_another(other, how.question):
            return False  # "a = 6" is not the value of "a + b"
        if name and not other and len(guesses) > 1:
            return False  # "3 = 3" is not "\\sin x = 3"
        return all(_same_value(values[0], side, how) for side in guesses)
    return len(guesses) + bool(other) == 2 and _agree(answer, guess)


def _sides(text: str, question: str | None) -> tuple[str, list[str]]:
    """("x", ["6/2", "3"]) for "x = 6/2 = 3"; without a leading name, all sides are values.

    A ratio of names is a name in the reference answer (`question` is None), or where the question asks for it.
    """
    first, *rest = (side.strip() for side in _EQUALS.split(text))
    named = rest and (_NAME.fullmatch(first) or (_ratio(first) if question is None else _is_asked(first, question)))
    return ("".join(first.split()), rest) if named else ("", [first, *rest])


def _is_asked(text: str, question: str) -> bool:
    r"""Whether the question asks for what the text names: "V_1/V_2" (also as "\frac{V_1}{V_2}"), the value of "a+b"."""
    question, letters = " ".join(question.replace("$", " ").split()), "".join(text.split())
    if re.search(r"[A-Za-z]", letters):
        spaced = r"\s*".join(map(re.escape, letters))
        if re.search(rf"{_ASKS_FOR}{spaced}(?!\s*[\w+\-*/^=(\\{{:])", question, re.IGNORECASE):
            return True
    ratio = _ratio(text)
    return bool(ratio and question and ratio in {_ratio(match[0]) for match in _QUOTIENT.finditer(question)})


def _is_another(name: str, question: str) -> bool:
    """Whether a name is a letter of the question, which asks for the value of another letter or of an expression."""
    asked = re.findall(_ASKS_FOR + r"\$([^$=]+)\$", question, re.IGNORECASE)
    if not asked or not re.fullmatch(_SYMBOL, name):
        return False
    letters = set(re.findall(_SYMBOL, " ".join(re.findall(r"\$([^$]+)\$", question))))
    wanted = "".join(asked[-1].split())
    return wanted != name and name in letters and bool(re.fullmatch(rf"{_SYMBOL}|.*[-+*/^].*", wanted))


def _ratio(text: str) -> tuple[str, str] | None:
    """The two names of a quotient or ratio, without braces and spaces."""
    match = _QUOTIENT.fullmatch(text.strip())
    if not match:
        return None
    above, below = (re.sub(r"[\s{}$]", "", part) for part in (match[1] or match[3], match[2] or match[4]))
    return above, below


def _same_value(answer: str, guess: str, how: _How) -> bool:
    if ":" in answer:
        guess = re.sub(r"(?<=[0-9])\s*@?to(?![A-Za-z])\s*(?=[0-9])", ":", guess)
    if ":" in answer + guess and max(answer.count(":"), guess.count(":")) > 1:
        return _same_ratio(answer.split(":"), guess.split(":"))
    if _is_time(answer, how.question):
        one, other = _CLOCK.fullmatch(answer), _CLOCK.fullmatch(guess)
        return bool(one and other and [int(part) for part in one.groups()] == [int(part) for part in other.groups()])
    answer, guess = (_quotient(text) for text in (answer, guess))
    value, unit = _split(answer)
    gold = numbers.read(value)
    guess_value, guess_unit = _split(guess, lenient=gold is not None and gold.digits > 0)
    if unit is None and guess_unit is not None and not gold and _equal(value, guess, Fraction(1), how):
        return True  # its letters are variables, not a unit
    scales = _scales(gold, unit, guess_unit, how)
    return any(_equal(value, guess_value, scale, how) for scale in scales)


def _is_time(text: str, question: str) -> bool:
    """Whether "9:30" is a time: the question is of one, or it is no ratio in its lowest terms."""
    match = _CLOCK.fullmatch(text)
    if not match or int(match[1]) > 24:
        return False
    if re.search(r"(?<![a-z])(?:times?|clock|o'clock|when|hour|watch)(?![a-z])", question, re.IGNORECASE):
        return not re.search(r"ratio", question, re.IGNORECASE)
    return math.gcd(int(match[1]), int(match[2])) > 1 and not re.search(r"ratio|:|scale|odds", question, re.IGNORECASE)


def _split(text: str, lenient: bool = False) -> tuple[str, units.Unit | None]:
    r"""A text's value and unit; the angle in "\sin 60°" is no unit."""
    return (text, None) if numbers.read(text) else units.split(text, lenient)


def _same_ratio(answer: list[str], guess: list[str]) -> bool:
    """Whether the parts are proportional; a part that is zero has to be zero in both."""
    if len(answer) != len(guess):
        return False
    golds, guesses = [[_value(part) for part in parts] for parts in (answer, guess)]
    if None in golds or None in guesses:
        return False
    empty = [_is_zero(part) for part in golds]
    if empty != [_is_zero(part) for part in guesses]:
        return False
    base = empty.index(False) if False in empty else 0
    return all(_same_expression(one * guesses[base], other * golds[base]) for one, other in zip(golds, guesses))


def _quotient(text: str) -> str:
    """A ratio of two parts as a fraction: "1:2"; any other text as it is."""
    one, colon, other = text.partition(":")
    if not colon or ":" in other or units.split(other)[1] or not (one.strip() and other.strip()):
        return text
    return rf"\frac{{{one}}}{{{other}}}"


def _scales(
    gold: numbers.Number | None, unit: units.Unit | None, guess_unit: units.Unit | None, how: _How
) -> list[Fraction]:
    """Factors by which a guess in its unit `guess_unit` may be multiplied to compare with the answer's unit."""
    if unit and guess_unit:
        return [guess_unit.factor / unit.factor] if unit.powers == guess_unit.powers else []
    if guess_unit:
        above_one = gold is not None and numbers.above_one(gold)
        return units.scales(guess_unit, how.question, above_one)
    if not unit or unit.powers != units.PERCENT:
        return [Fraction(1)]
    in_percent = (gold is not None and numbers.above_one(gold)) or re.search(r"percent|%", how.question, re.IGNORECASE)
    return [*([Fraction(1)] if in_percent else []), Fraction(100)]  # a bare 0.5 is 50%, not 0.5%


def _equal(answer: str, guess: str, scale: Fraction, how: _How) -> bool:
    """Compares values without units, the guess scaled by `scale`: numbers by their value, to the answer's precision."""
    gold, number = numbers.read(answer), numbers.read(guess)
    if gold and number:
        return numbers.equal(gold, number, scale, how.rounding)
    numeric = numbers.is_numeric(answer), numbers.is_numeric(guess)
    if all(numeric):  # "1/2\\pi": no value of its own, so it is nothing but itself
        return scale == 1 and "".join(answer.split()) == "".join(guess.split()) and _agree(answer, guess)
    if scale == 1 and not any(numeric):
        return _agree(answer, guess)
    one, other = _value(answer), _value(guess)
    return one is not None and other is not None and _same_expression(one, other * numbers.sympified(scale))


def _value(text: str):
    """A number or expression as a sympy expression; None if it is neither."""
    if number := numbers.read(text):
        return numbers.sympified(number.value)
    if numbers.is_numeric(text) or "'" in text:
        return None
    from sympy import Expr

    parsed = _parsed(text)
    return parsed if isinstance(parsed, Expr) else None


def _is_zero(expression) -> bool:
    from sympy import Integer

    return _same_expression(expression, Integer(0))


def _same_expression(one, other) -> bool:
    """Whether two expressions have the same value wherever both have one, judged at a few points to many digits."""
    from sympy import Rational

    if one == other:
        return True
    names = sorted(one.free_symbols | other.free_symbols, key=str)
    compared = 0
    try:
        for point in range(_POINTS):
            places = {
                name: Rational(37 + 29 * point + 17 * index, 53 + 7 * index + 2 * point) * (-1) ** (point * (index + 1))
                for index, name in enumerate(names)
            }
            values = [each.subs(places).doit().evalf(40) for each in (one, other)]
            if not all(value.is_number and value.is_finite for value in values):
                continue
            size = max(abs(value) for value in values)
            if size and abs(values[0] - values[1]) > size * Rational(1, 10**25):
                return False
            compared += 1
    except (AttributeError, TypeError, ValueError, ArithmeticError):
        return False
    return compared >= min(2, _POINTS)


def _agree(answer: str, guess: str) -> bool:
    """Compares single formulas with math-verify, which drops primes and reads words as products of letters."""
    if answer.count("'") != guess.count("'"):
        return False
    one, other = _parsed(answer), _parsed(guess)
    if one is None or other is None:
        return False
    import math_verify
    from sympy import Expr

    try:
        if isinstance(one, Expr) and isinstance(other, Expr):
            return _same_expression(one, other)
        equal = math_verify.verify(one, other, allow_set_relation_comp=True, timeout_seconds=None)
        written = _written(one) == _written(other)
        return equal and (written or (not _has_tiny(one, other) and _is_informative(one, other)))
    except Exception:  # sympy raises arbitrary exceptions; math-verify also treats them as unequal
        return False


def _has_tiny(*formulas) -> bool:
    """Whether a number in them is so near zero that math-verify, which compares to some decimal places, ignores it."""
    import sympy

    return any(0 < abs(number) < _TINY for each in formulas for number in each.doit().atoms(sympy.Number))


def _is_informative(one, other) -> bool:
    """Whether two formulas that math-verify calls equal are equal in content, rather than both empty or trivial.

    math-verify compares solution sets, which are equal for any two equations without solutions, and differences of
    sides, which are the same number in "1 < 2" and "x < x + 1". Called only for formulas already found equal, so it
    costs little.
    """
    from sympy import Eq, S, simplify, solve
    from sympy.core.relational import Relational

    relations = [*one.atoms(Relational), *other.atoms(Relational)]
    if relations and S.EmptySet in (one, other):
        return all(isinstance(each, Eq) and each.lhs.is_Symbol and each.rhs is S.EmptySet for each in relations)
    if isinstance(one, Relational) and _written(one.reversed) == _written(other):
        return True
    if not all(simplify(each.lhs - each.rhs).free_symbols for each in relations):
        return False
    if (
        isinstance(one, Eq)
        and isinstance(other, Eq)
        and simplify((one.lhs - one.rhs) / (other.lhs - other.rhs)).is_number
    ):
        return True  # terms were moved; math-verify saw that too, and so has solved what is solved below
    return all(solve(each, each.free_symbols) for each in relations if isinstance(each, Eq))


def _written(formula) -> tuple:
    """A formula as written, up to the order of its terms; a relation as its two sides, before sympy evaluates it."""
    from sympy.core.relational import Relational

    return (formula.func, formula.lhs.doit(), formula.rhs.doit()) if isinstance(formula, Relational) else (formula,)


@functools.lru_cache(256)  # the reference answer is parsed again for each response to a prompt
def _parsed(text: str):
    if any(_is_word(word) for word in _LETTERS.findall(text)):
        return None
    import math_verify  # takes 1 s to import; plain numbers never need it
    from latex2sympy2_extended import NormalizationConfig

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # silences its warning that its limits are off
    text = re.sub(r"([0-9]*)\.([0-9]+)", _exact, text.replace("@", " ").replace("°", r"^\circ "))
    normal = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    how = math_verify.LatexExtractionConfig(boxed_match_priority=-1, normalization_config=normal)
    parsed = math_verify.parse(
        f"${text}$", [how], fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None
    )
    return parsed[0] if len(parsed) == 1 else None


def _exact(decimal: re.Match) -> str:
    """A decimal as a fraction: floats compare equal if merely close."""
    return rf"(\frac{{{int(decimal[1] + decimal[2])}}}{{{10 ** len(decimal[2])}}})"


def _is_word(letters: str) -> bool:
    if len(letters) < 3:
        return letters in ("if", "is", "it", "no", "of", "so", "to")
    return letters[1:].islower() and letters.lower() not in _FUNCTIONS.split()
