"""Units of measure at the end of a number: "5 cm", "60°", "$3", "50%", "360 sets".

A unit is a factor and powers of base units, so that equal quantities compare equal. A word in no table is its own base
unit: a counted noun. A small table instead of a units library, whose thousands of prefixed names would parse cats as
centi-atmospheres.
"""

import collections
import math
import re
from fractions import Fraction
from typing import NamedTuple

# each entry: factor and base unit, then names; case matters only in names of up to two letters
_TABLE = """
1 m: m meter metre          | 1000 m: km kilometer kilometre  | 1/100 m: cm centimeter centimetre
1/10 m: dm decimeter decimetre                                | 1/1000 m: mm millimeter millimetre
1/1000000 m: μm micrometer micrometre                         | 1/1000000000 m: nm nanometer nanometre
127/5000 m: in inch inches  | 381/1250 m: ft foot feet        | 1143/1250 m: yd yard
201168/125 m: mi mile       | 10000 m^2: ha hectare           | 316160658/78125 m^2: acre
1/1000 m^3: l L liter litre | 1/1000000 m^3: ml mL milliliter millilitre cc
1 kg: kg kilogram kilo      | 1/1000 kg: g gram               | 1/1000000 kg: mg milligram
1000 kg: t ton tonne        | 45359237/100000000 kg: lb pound | 45359237/1600000000 kg: oz ounce
1 s: s sec second           | 1/1000 s: ms millisecond        | 60 s: min minute
3600 s: h hr hour           | 86400 s: day                    | 604800 s: week
1 month: month              | 12 month: yr year
1 °: ° deg degree           | 1 rad: rad radian               | 1 °C: °C ℃ celsius | 1 °F: °F ℉ fahrenheit
1 dollar: $ dollar usd      | 1/100 dollar: ¢ cent            | 1 euro: € euro eur | 1 £: £ gbp
1 yuan: ¥ 元 yuan rmb cny   | 1/10 yuan: jiao                 | 1 %: % percent
1 N: N newton               | 1 J: J joule | 1000 J: kJ       | 1 W: W watt | 1000 W: kW
1 V: V volt                 | 1 A: A ampere amp               | 1 Pa: Pa pascal | 1000 Pa: kPa
"""
CURRENCY = "$€£¥"
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}

# Words that change or negate the number, so they are not counted nouns.
_NO_NOUN = """
and but not nor except versus negative minus plus times over than more less fewer least most about around almost between
wrong incorrect false correct right true maybe perhaps either neither both none never otherwise else instead only
zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand million
billion trillion dozen half halves third thirds fourth fourths quarter quarters fifth fifths sixth sixths seventh
sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths factorial first point
power root sqrt log sin cos tan cot sec csc exp lim mod gcd lcm image picture photo figure
"""
_ATOM = r"(?:[A-Za-zμ元]+|°[CF]?|[℃℉%¢$€£¥])"
_POWER = r"(?:\s*\^\s*(?:\{\s*-?[1-9]\s*\}|-?[1-9]))?"
_FACTOR = re.compile(rf"\s*(?P<per>/)?[\s·*]*(?P<name>{_ATOM})(?P<power>{_POWER})")
_TAIL = re.compile(
    r"(?P<value>.*?(?:[^\s\\A-Za-zμ·*/^]|\\[A-Za-z]+(?=\s)))(?P<space>\s*)"
    rf"(?P<unit>{_ATOM}{_POWER}(?:(?:\s*[/·*]\s*|\s+){_ATOM}{_POWER})*)",
    re.DOTALL,
)
_PLAIN = re.compile(r"[-+]?[0-9.,]+")
_WORD = re.compile(r"[A-Za-z]+")


class Unit(NamedTuple):
    """A unit as `factor` times the product of the base units, each to its power."""

    factor: Fraction
    powers: tuple[tuple[str, int], ...]  # sorted by name, without zero powers


def parse(text: str, nouns: bool = True) -> Unit | None:
    """The unit that the whole text names, else None; with `nouns`, counted nouns are units too.

    >>> parse("km/h") == parse("kilometers per hour"), parse("km/h").powers
    (True, (('m', 1), ('s', -1)))
    >>> parse("sets") == parse("set"), parse("or six")
    (True, None)
    """
    text, end = re.sub(r"\bper\b", "/", text).strip(), 0
    factors, next_power = [], 1  # [(unit, power)]; next_power: the power of "square" or "cubic" for the next unit
    while end < len(text):
        match = _FACTOR.match(text, end)
        if not match:
            return None
        end, name = match.end(), match["name"].lower()
        if name in _POWERS and name.endswith("ed") and factors:  # "cm squared": applies to the previous unit
            factors[-1] = factors[-1][0], factors[-1][1] * _POWERS[name]
        elif name in _POWERS:
            next_power = _POWERS[name]
        else:
            unit = _known(match["name"]) or (_counted(name) if nouns else None)
            if unit is None:
                return None
            power = next_power * int(re.sub(r"[\s^{}]", "", match["power"]) or 1)
            factors.append((unit, -power if match["per"] else power))
            next_power = 1
    powers = collections.Counter()
    for unit, power in factors:
        powers.update({base: exponent * power for base, exponent in unit.powers})
    if not factors or next_power != 1:
        return None
    factor = math.prod((unit.factor**power for unit, power in factors), start=Fraction(1))
    return Unit(factor, tuple(sorted((base, power) for base, power in powers.items() if power)))


def split(text: str, lenient: bool = False) -> tuple[str, Unit | None]:
    """Splits a text into its value and its trailing unit (leading for money); (text, None) without one.

    `@` marks what was in text mode in LaTeX. A single letter counts as a unit if it was in text mode or is separated by
    a space from a plain number; with `lenient`, also directly after a plain number: "2m" may be two times m. Up to two
    words in no table count as a noun if separated by a space from a plain number.

    >>> split("5 cm^2")[0], split("2m"), split("12 blue cars")[0]
    ('5', ('2m', None), '12')
    """
    text = text.strip()
    if text and text[0] in CURRENCY:
        return text[1:].strip(), parse(text[0])
    value, at, unit = text.partition("@")
    match = _TAIL.fullmatch(text)
    if at:
        known, value = parse(unit.replace("@", " ")), value.strip()
    elif match:
        value, words = match["value"], _WORD.findall(match["unit"])
        is_number, has_space = bool(_PLAIN.fullmatch(value)), bool(match["space"])
        known = parse(match["unit"], nouns=is_number and has_space and len(words) <= 2)
        if words and len(words[0]) == 1 and not (is_number and (has_space or lenient)):
            known = None
    return (value, known) if (at or match) and value and known else (text, None)


def _known(name: str) -> Unit | None:
    """A unit of the table; the exact case is tried first."""
    names = [name, name.lower()] if len(name) > 1 else [name]
    names += [word.removesuffix("s") for word in names if len(word) > 3]
    return next((_UNITS[word] for word in names if word in _UNITS), None)


def _counted(word: str) -> Unit | None:
    if len(word) < 3 or not word.isascii() or word in _NO_NOUN.split():
        return None
    return Unit(Fraction(1), ((word.removesuffix("s"), 1),))


def _read_table() -> dict[str, Unit]:
    units = {}
    for line in _TABLE.replace("\n", "|").split("|"):
        if line.strip():
            measure, names = line.split(":")
            factor, base = measure.split()
            name, _, power = base.partition("^")
            units |= dict.fromkeys(names.split(), Unit(Fraction(factor), ((name, int(power or 1)),)))
    return units


_UNITS = _read_table()
