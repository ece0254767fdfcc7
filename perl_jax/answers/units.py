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
1 K: K kelvin               | 1 mol: mol mole                 | 1 Hz: Hz hertz  | 1000 Hz: kHz
1 C: C coulomb              | 1 eV: eV
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
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|rm)\s*\{([^{}]*)\}")


# What a question may ask for: its words, and the units that its answer may have (a base unit is enough).
_LENGTH, _MONEY = "m unit grid square", "dollar euro £ yuan"
_QUANTITIES = [(re.compile(rf"(?<![a-z])(?:{words})", re.IGNORECASE), allowed) for words, allowed in (
    (r"angles?(?![a-z])|\\?∠|\\(?:meas)?angle|bearing|rotat(?:ed|ion)|inclination", "° rad"),
    (r"areas?(?![a-z])|面积", "m^2 unit^2 grid square"),
    (r"volumes?(?![a-z])|capacity|体积|容积", "m^3 unit^3 cube"),
    (r"lengths?(?![a-z])|distances?(?![a-z])|height|altitude|width|depth|perimeter|circumference|radius|diameter"
     r"|hypotenuse|thickness|displacement|wavelength|how (?:far|tall|high|wide|deep)|周长|长度|半径|距离", _LENGTH),
    (r"how long", _LENGTH + " s month"), (r"sides?(?![a-z])", _LENGTH),
    (r"times?(?![a-z])|duration|period|how old|ages?(?![a-z])|when", "s month time"),
    (r"mass|weights?(?![a-z])|weighs?|how heavy|质量|重量", "kg N"), (r"forces?(?![a-z])|tension", "N"),
    (r"speeds?(?![a-z])|velocity|how fast", "m*s^-1"), (r"accelerations?(?![a-z])", "m*s^-2"),
    (r"prices?(?![a-z])|costs?(?![a-z])|money|profit|salary|revenue|价格", _MONEY),
    (r"how much (?:do|does|did|will|would)(?![a-z])", f"{_MONEY} kg m^3"),
    (r"temperatures?(?![a-z])", "°C °F K °"), (r"energy|(?:net )?work(?![a-z])|heat(?![a-z])", "J"),
    (r"power(?![a-z])", "W"), (r"voltage", "V"), (r"current(?![a-z])", "A"), (r"pressure", "Pa"),
    (r"frequency", "Hz %"),
    (r"slope|gradient|coefficient|exponent|quotient|remainder|(?:co)?sine(?![a-z])|\\(?:sin|cos|tan)", "number"),
    (r"percent|%|probability|chance|likel|fraction|rates?(?![a-z])|ratio|proportion|share|discount|increase|decrease"
     r"|growth|margin|percentile|efficiency|百分", "%"),
)]  # fmt: skip
_ASKS = re.compile(r"what|find|how (?=[a-z])|calculate|determine|compute|evaluate|求", re.IGNORECASE)
_NAMED = (
    r"(?:(?:square|cubic|sq|cu) )?[A-Za-zμ°]+(?:\s*\^\s*\{?[23]\}?|[²³]| squared| cubed)?"
    r"(?:\s*/\s*[A-Za-z]+|(?: per [a-z]+))?"
)
_ASKED_UNIT = re.compile(
    rf"(?:(?<![A-Za-z])(?i:in|how many|number of|units? of|units?:)\s+|_{{2,}}\s*|\(\s*(?i:in |unit:? )?)(?:the )?"
    rf"(?:(?P<unit>{_NAMED}|%)(?![A-Za-z]))"
)
_COUNT = re.compile(r"(?:(?<![a-z])how many|number of|多少个|几个)(?P<what>(?:[ -]+[\w-]+){0,3})", re.IGNORECASE)
_GENERIC = ("item", "object", "thing", "piece", "time", "unit")  # what any counted thing may be called
_LETTERS = r"(?!(?:is|of|in|it|an?|to|we|he|do|so)(?![A-Za-z]))[A-Za-z]{1,2}(?![A-Za-z])"  # a name such as x or BC
_AMBIGUOUS = ("second", "minute", "degree", "foot", "pound", "mole", "day", "week", "yard", "mi", "cent", "in")
_MENTIONED = re.compile(rf"[0-9}}]\s*\\?[,;~ ]?\s*(?P<unit>{_NAMED}|°|\^\s*\{{?\\circ\}}?)(?![A-Za-z])")


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
        if words and len(words[0]) == 1 and match["unit"][0] != "°" and not (is_number and (has_space or lenient)):
            known = None
    return (value, known) if (at or match) and value and known else (text, None)


PERCENT = (("%", 1),)


def scales(unit: Unit, question: str, above_one: bool) -> list[Fraction]:
    """Factors by which a number in `unit` may be multiplied to compare with an answer that is a number without a unit.

    None, where the question asks for another quantity or it is open which unit the answer has. The unit that the
    question asks for is the answer's; else the one unit of that quantity that it mentions; else the guess's own, as
    after any question that names no quantity. A percentage is also its number of hundredths, for an answer
    `above_one`, unless the question has no word for a share.

    >>> cm = parse("cm")
    >>> scales(parse("m"), "How long is it, in cm?", True), scales(cm, "What is the volume?", True)
    ([Fraction(100, 1)], [])
    >>> scales(parse("%"), "", True), scales(parse("%"), "What is the angle ABC?", True)
    ([Fraction(1, 100), Fraction(1, 1)], [])
    """
    question = _TEXT_COMMAND.sub(r" \1 ", question).replace("$", " ")
    if asked := _asked_unit(question):
        return [unit.factor / asked.factor] if asked.powers == unit.powers else []
    if _counts(unit) and unit.powers:
        noun = unit.powers[0][0]
        if re.search(rf"(?<![a-z])(?:which|what) {re.escape(noun)}(?![a-z])", question, re.IGNORECASE):
            return []  # "44 layers" is not the layer 44
        if _COUNT.search(question):
            named = re.search(rf"(?<![a-z]){re.escape(noun)}", question, re.IGNORECASE)
            return [Fraction(1)] if named or noun in _GENERIC else []
    elif counted := _COUNT.search(_asking_clause(question)[1]):
        measures = (parse(word, nouns=False) for word in re.findall(r"[A-Za-z]{3,}", counted["what"]))
        same = [measure for measure in measures if measure and measure.powers == unit.powers]
        return [unit.factor / same[0].factor] if same else []  # people are not counted in cm
    allowed, shares = _allowed(question), not question or bool(_QUANTITIES[-1][0].search(question))
    if unit.powers == PERCENT:
        if allowed and "%" not in allowed and not re.search(r"percent(?:age)? (?:of|in|de)", question, re.IGNORECASE):
            return []
        return [Fraction(1, 100), *([Fraction(1)] if above_one and shares else [])]
    if allowed and not _is_allowed(unit, allowed, question):
        return []
    mentioned = _mentioned(unit, question)
    if len(mentioned) == 1:
        return [unit.factor / mentioned.pop()]
    return [Fraction(1)] if not mentioned or unit.factor in mentioned else []


def _asked_unit(question: str) -> Unit | None:
    """The unit that a question asks for by name, such as in "how many minutes" and "(in cm)"; the last one."""
    found = None
    for match in _ASKED_UNIT.finditer(question):
        name = " ".join(match["unit"].split())
        unit = parse(name, nouns=False)
        if unit and name not in _AMBIGUOUS and (len(name) > 1 or name in "%°"):
            found = unit
    return found


def _allowed(question: str) -> set[str]:
    """Units of the quantity that is named first in what a question asks; empty if it names none.

    Where a letter is asked for ("find x"), the quantities named in the sentence are all possible.
    """
    rest, clause = _asking_clause(question)
    found = [(match.start(), units) for words, units in _QUANTITIES if (match := words.search(clause))]
    letter = rest and re.match(rf"\W*(?:is )?(?:the )?(?:value of )?\W*{_LETTERS}", rest)
    first = min(found, default=(0, ""))[0]
    return {unit for place, units in found if letter or rest is None or place == first for unit in units.split()}


def _asking_clause(question: str) -> tuple[str | None, str]:
    """(the text after a question's last asking word, the sentence from that word); (None, the first) without one."""
    starts = [match.end() for match in _ASKS.finditer(question)]
    begin = question[max(0, starts[-1] - 4) :] if starts else question  # with "how" or the end of the verb
    return (question[starts[-1] :] if starts else None), re.split(r"(?<=[?？])|(?<=[a-z$])\.\s", begin)[0]


def _is_allowed(unit: Unit, allowed: set[str], question: str) -> bool:
    written = "*".join(base + (f"^{power}" if power != 1 else "") for base, power in unit.powers)
    if unit.powers == (("rad", 1),) and not re.search(r"(?<![a-z])rad(?:ian)?s?(?![a-z])", question, re.IGNORECASE):
        return False
    word = unit.powers[0][0]
    noun = _counts(unit) and bool(re.search(rf"(?<![a-z]){re.escape(word)}", question, re.IGNORECASE))
    return written in allowed or (noun and len(unit.powers) == 1)


def _counts(unit: Unit) -> bool:
    """Whether a unit is a counted noun."""
    return unit.factor == 1 and all(
        base not in _UNITS or _UNITS[base].powers != ((base, 1),) for base, _ in unit.powers
    )


def _mentioned(unit: Unit, question: str) -> set[Fraction]:
    """Factors of the units after a number in the question that measure the same quantity, or its base quantity."""
    found = set()
    for match in _MENTIONED.finditer(question):
        other = parse(re.sub(r"\^\s*\{?\\circ\}?", "°", match["unit"]), nouns=False)
        if other is None or match["unit"] in ("in", "a", "A", "K"):
            continue
        if other.powers == unit.powers:
            found.add(other.factor)
        elif len(other.powers) == len(unit.powers) == 1 and other.powers[0] == (unit.powers[0][0], 1):
            found.add(other.factor ** unit.powers[0][1])
    return found


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
