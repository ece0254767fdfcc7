"""Converts plain-text image references to symbols, and labels how reordering the images affects the question.

Uses rules only: patterns of how people refer to one of several images ("image 2", "the second picture", "Image (B)",
"images 1-3", "the left photo" of two). Words that may depend on the order and that no rule can rewrite ("next", "the
other image", "before") make a question `fixed`, never permuted. (Paper: semantic label of a sample.)
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from perl_jax import symbols

NOUN = r"(?:image|picture|photograph|photo|pic)"
_NUMERALS = "|".join(symbols.NUMERALS)
_ORDINAL = rf"(?:{'|'.join(symbols.ORDINALS)}|\d+(?:st|nd|rd|th)|last|final)"
_AND = r"(?:,? and |,? or |, | ?& ?| ?/ ?)"

# One pattern per kind of reference, tried in this order. Group 1 is kept, group 2 is the reference.
_RANGE = re.compile(rf"\b({NOUN}s )(\d+)(-|–| to | through )(\d+)\b(?![.,:/-]?\d)", re.I)
_LIST = re.compile(rf"\b({NOUN}s )(\d+(?:{_AND}\d+)+)\b(?![.,:/-]?\d| ?(?:-|–|to\b|through\b))", re.I)
_NUMBERED = re.compile(rf"\b({NOUN})( )(\d+)\b(?![.,:/-]?\d)", re.I)
_MARKED = re.compile(rf"\b({NOUN} ?(?:#|no\. ?|number ))(\d+)\b(?![.,:/-]?\d)", re.I)
_NUMERAL = re.compile(rf"\b({NOUN} )({_NUMERALS})\b(?! of\b)", re.I)
_LETTER = re.compile(rf"\b({NOUN} \(?)([A-Z])\b(?!['’.]\w)", re.I)
_ORDINALS = re.compile(rf"\b()({_ORDINAL}(?:{_AND}(?:the )?{_ORDINAL})*)(?= (?:{NOUN}s?|one)\b)", re.I)
_SIDE = re.compile(rf"\b()(left|right)(?=(?:-?hand)?(?:-side| side)? {NOUN}\b)", re.I)
_ON_SIDE = re.compile(rf"\b({NOUN} (?:on|to|at) the )(left|right)\b(?!-| (?:side|of|hand|edge|corner|half|part))", re.I)
_WORD = re.compile(_ORDINAL, re.I)
_PLACED = re.compile(rf"(?:\b(?:{_ORDINAL}|left|right)(?:-?hand)?|\x00) $", re.I)  # refers to the noun that follows

# An answer that is only a reference, to a question that asks for an image.
_ASKS_FOR_IMAGE = re.compile(
    rf"\b(?:(?:which|what)(?: (?:one|two|three|four|five|other))?"
    rf"|(?:which|what) (?:one |two |three )?of (?:the|these|those)(?: \w+)?"
    rf"|(?:choose|select|pick|identify|find|name) the(?: \w+)?) {NOUN}s?\b",
    re.I,
)
_HOW_MANY = re.compile(r"\bhow (?:many|much)\b", re.I)
_ASKS_FOR_ORDER = re.compile(r"\b(?:arrange|order|sort|rank|sequence)\b", re.I)
_BARE = re.compile(rf"((?:the )?)({_ORDINAL}|left|right|\d+)((?: (?:one|{NOUN}))?\.?)", re.I)
_BARE_LETTER = re.compile(r"(\(?)([A-Z])(\)?\.?)")
_ITEMS = re.compile(r"\d+|\b[A-Z]\b")
_SET = re.compile(rf"(?:{NOUN}s? )?(\d+)(?:{_AND}(?:{NOUN}s? )?\d+)+\.?", re.I)

# If these remain after references became symbols, the question may depend on the order.
_LISTED = rf"(?:{NOUN}s|options|choices|statements|questions)"
_LATER = rf"(?<!of the )following(?! (?:\w+ ){{0,2}}{_LISTED}\b)"  # "which of the following images" only lists them
_TIME = re.compile(
    rf"\b(?:next|previous|preceding|{_LATER}|before|after(?:wards)?|earlier|later|sequence|order(?! to\b)|"
    r"chronological(?:ly)?|temporal(?:ly)?|frames?|changed?|changes|appeared|disappeared|becomes?|became|initial(?:ly)?|"
    r"eventual(?:ly)?|at the (?:start|beginning|end))\b",
    re.I,
)
_PLACE = re.compile(
    rf"\b(?:left|right|last|final|former|latter|respectively|{'|'.join(symbols.ORDINALS)}|\d+(?:st|nd|rd|th)|"
    rf"(?:middle|top|bottom|upper|lower|cent(?:er|re)|leftmost|rightmost) {NOUN}|leftmost|rightmost|"
    rf"(?:{NOUN}|figure|fig\.|panel)s?[ #(]*(?:\d+|[A-H]\b)|{NOUN}s? (?:{_NUMERALS}))\b",
    re.I,
)
_SEVERAL = re.compile(rf"\b(?:{NOUN}s|each|both|two|three|four)\b", re.I)
_ENUMERATION = re.compile(r"\w,? (?:and|&) \w|\w[,;/] ?\w", re.I)
_LONE_NUMBER = re.compile(r"(?<![\w.,:/$-])\d(?![\w:/%-]|[.,]\d)")
_OF_ORDERING = ("order", "sequence", "chronological", "chronologically", "temporal", "temporally")

SURE, LIKELY, UNSURE = 0.95, 0.85, 0.5  # confidence: nothing could move; explicit words; ambiguous words


class Label(NamedTuple):
    """How reordering the images affects a question, with evidence."""

    order_effect: str
    evidence: str
    confidence: float  # 0 to 1


def to_symbols(text: str, count: int) -> str:
    """Replaces references to one of `count` images by symbols; a reference to a missing image is left unchanged.

    >>> to_symbols("Is image 2 like the first picture? See images 1 and 3, or images 1-3.", 3)
    'Is {image:1|lower} like the {image:0|ordinal} picture? See images {image:0|number} and {image:2|number}, or images {images:0,1,2}.'
    >>> to_symbols("Is the dog on the left in the right photo, or in Image B?", 2)
    'Is the dog on the left in the {image:1|side} photo, or in Image {image:1|letter}?'
    """  # noqa: E501
    if count < 2:
        return text
    place = _place_of(count)
    for pattern, point in _PATTERNS:
        text = _outside_symbols(pattern, lambda match, point=point: point(match, place) or match[0], text)
    if count == 2:
        for pattern in (_SIDE, _ON_SIDE):
            text = _outside_symbols(pattern, lambda match: match[1] + _side(match[2]), text)
    return text


def answer_to_symbols(answer: str, question: str, count: int) -> str:
    """As `to_symbols`, but if the question asks for an image or an order, a bare "2", "B", "the second one" or "2, 1,
    3" is a reference too.

    >>> answer_to_symbols("the second one", "Which image shows a cat?", 3)
    'the {image:1|ordinal} one'
    >>> answer_to_symbols("2", "How many cats are there?", 3), answer_to_symbols("2→1", "Arrange the images.", 2)
    ('2', '{image:1|number}→{image:0|number}')
    """
    place = _place_of(count)
    if count < 2 or symbols.mentioned(answer):
        return answer
    if _ASKS_FOR_ORDER.search(question) and sorted(_items(answer)) == list(range(count)):
        return _ITEMS.sub(lambda item: symbols.mention(_item(item[0]), _item_style(item[0])), answer)
    if asks_for_image(question):
        if match := _BARE.fullmatch(answer):
            return match[1] + (_pointer(match[2], place) or match[2]) + match[3]
        if (match := _BARE_LETTER.fullmatch(answer)) and place(_item(match[2]) + 1) is not None:
            return match[1] + symbols.mention(_item(match[2]), "letter") + match[3]
        if _SET.fullmatch(answer) and (named := set(_items(answer))) <= set(range(count)) and len(named) > 1:
            return symbols.mention_set(named, "and")
    return to_symbols(answer, count)


def missing_image(text: str, count: int) -> str | None:
    """The first numbered reference to a missing image, or None.

    >>> missing_image("Is image 3 darker than image 1?", 2)
    'image 3'
    """
    matches = (match for pattern in (_NUMBERED, _MARKED) for match in pattern.finditer(text))
    return next((match[0] for match in matches if not 1 <= int(re.search(r"\d+", match[0])[0]) <= count), None)


def asks_for_image(question: str) -> bool:
    """Whether the answer should name one or several of the images.

    >>> asks_for_image("Which of the two pictures is older?"), asks_for_image("What does image 2 show?")
    (True, False)
    """
    return bool(_ASKS_FOR_IMAGE.search(question)) and not _HOW_MANY.search(question)


def choices_to_symbols(choices: Sequence[str], question: str, count: int) -> list[str]:
    """As `to_symbols` for each choice, but if the question asks for an image, a bare "the first" or "left" is a
    reference too, and so are numbers if there is one for each image.

    >>> choices_to_symbols(["the first", "The second one", "both"], "Which image is darker?", 2)
    ['the {image:0|ordinal}', 'The {image:1|ordinal} one', 'both']
    >>> choices_to_symbols(["1", "2"], "Which image is darker?", 3)
    ['1', '2']
    """
    bare = [_BARE.fullmatch(choice) for choice in choices]
    points = [match and _pointer(match[2], _place_of(count)) for match in bare]
    pointers = [point for match, point in zip(bare, points) if match]
    numbers = any(match and match[2].isdigit() for match in bare)
    if count < 2 or not asks_for_image(question) or None in pointers or (numbers and len({*pointers}) < count):
        points = [None] * len(choices)
    return [
        match[1] + point + match[3] if point else to_symbols(choice, count)
        for choice, match, point in zip(choices, bare, points)
    ]


def label(question: str, choices: Sequence[str], answer: str, count: int) -> Label:
    """Labels a question whose references are symbols with its order_effect.

    >>> label("Is {image:1|lower} brighter?", [], "Yes", 2)
    Label(order_effect='rewrite', evidence='image 2', confidence=0.85)
    >>> label("What happens next?", [], "Nothing", 2)
    Label(order_effect='fixed', evidence='next', confidence=0.85)
    """
    if count < 2:
        return Label("invariant", "one image or none", 1.0)
    text = symbols.SLOT.sub("", "\n".join((question, *choices, answer)))
    masked = symbols.SET.sub("@", symbols.MENTION.sub("@", text))
    ordering = len(symbols.mentioned(answer)) == count and _ASKS_FOR_ORDER.search(question)
    for pattern, confidence in ((_TIME, LIKELY), (_PLACE, UNSURE)):
        words = [match[0] for match in pattern.finditer(masked) if not ordering or match[0].lower() not in _OF_ORDERING]
        if words:
            return Label("fixed", ", ".join(dict.fromkeys(words)), confidence)
    question_text = symbols.MENTION.sub("@", symbols.SLOT.sub("", "\n".join((question, *choices))))
    # A single small number may be an image's ("which image, 1 or 3, ..."), but not if it is the answer.
    lone = sorted(set(_LONE_NUMBER.findall(question_text)) & set(map(str, range(1, count + 1))))
    if lone and asks_for_image(question):
        return Label("fixed", ", ".join(lone), UNSURE)
    if not symbols.mentioned(answer) and not choices and _ENUMERATION.search(answer) and _SEVERAL.search(question):
        return Label("fixed", f"the answer {answer} may list what images show, one after the other", UNSURE)
    if choices and all(choice.strip(" ().:") in ("", symbols.letter(k)) for k, choice in enumerate(choices)):
        if asks_for_image(question) and len(choices) == count:
            return Label("rewrite", "letters that name images", LIKELY)
        return Label("fixed", "choices that are only letters", UNSURE)
    if mentioned := [*symbols.MENTION.finditer(text), *symbols.SET.finditer(text)]:
        return Label("rewrite", ", ".join(dict.fromkeys(symbols.words(match[0], count) for match in mentioned)), LIKELY)
    if len(symbols.SLOT.findall("\n".join(choices))) > 1:
        return Label("rewrite", "choices that are images", SURE)
    return Label("invariant", "no words that point at an image", LIKELY)


Place = Callable[[int], int | None]  # index of an image by its number in the text, None past the last image


def _place_of(count: int) -> Place:
    return lambda number: number - 1 if 1 <= number <= count else (count - 1 if number == -1 else None)


def _numbered(match: re.Match, place: Place) -> str | None:
    at = place(int(match[3]))
    style = {"Image": None, "image": "lower"}.get(match[1], "number")
    return None if at is None else ("" if style != "number" else match[1] + match[2]) + symbols.mention(at, style)


def _marked(match: re.Match, place: Place) -> str | None:
    at = place(int(match[2]))
    return None if at is None else match[1] + symbols.mention(at, "number")


def _listed(match: re.Match, place: Place) -> str | None:
    if None in (places := [place(int(number)) for number in re.findall(r"\d+", match[2])]):
        return None
    numbers = iter(places)
    return match[1] + re.sub(r"\d+", lambda _: symbols.mention(next(numbers), "number"), match[2])


def _ranged(match: re.Match, place: Place) -> str | None:
    first, last = place(int(match[2])), place(int(match[4]))
    if first is None or last is None or first >= last:
        return None
    style = next(style for style, between in symbols.SET_STYLES.items() if between == match[3].lower())
    return match[1] + symbols.mention_set(range(first, last + 1), style)


def _numeral(match: re.Match, place: Place) -> str | None:
    at = place(symbols.NUMERALS.index(match[2].lower()) + 1)
    return None if at is None or match[2] != match[2].lower() else match[1] + symbols.mention(at, "numeral")


def _lettered(match: re.Match, place: Place) -> str | None:
    at = place(_item(match[2]) + 1)
    if at is None or not match[2].isupper() or _PLACED.search(match.string[: match.start()]):
        return None  # "in the first image B. ...": the letter is that of the next choice
    return match[1] + symbols.mention(at, "letter")


def _ordinals(match: re.Match, place: Place) -> str | None:
    mentions = [_pointer(word[0], place) for word in _WORD.finditer(match[2])]
    if None in mentions:
        return None
    replacements = iter(mentions)
    return _WORD.sub(lambda _: next(replacements), match[2])


_PATTERNS = (
    (_RANGE, _ranged),
    (_LIST, _listed),
    (_NUMBERED, _numbered),
    (_MARKED, _marked),
    (_NUMERAL, _numeral),
    (_LETTER, _lettered),
    (_ORDINALS, _ordinals),
)


def _pointer(word: str, place: Place) -> str | None:
    """The symbol for a single word of reference: "2", "second", "Second", "2nd", "last", "left"."""
    low = word.lower()
    if low in ("left", "right"):
        return _side(word) if place(3) is None and place(2) is not None else None
    if low in ("last", "final"):
        return symbols.mention(place(-1), low) if word == low else None
    if low in symbols.ORDINALS:
        at, style = place(symbols.ORDINALS.index(low) + 1), "ordinal" if word == low else "Ordinal"
    else:
        at, style = place(int(re.match(r"\d+", word)[0])), "number" if word.isdigit() else "nth"
    return None if at is None or word not in (low, low.capitalize()) else symbols.mention(at, style)


def _side(word: str) -> str:
    style = {"l": "side", "r": "side", "L": "Side", "R": "Side"}[word[0]]
    return symbols.mention("lr".index(word[0].lower()), style) if word[1:].islower() else word


def _items(text: str) -> list[int]:
    """The indices of a bare list: numbers from 1 or letters from A."""
    return [_item(item) for item in _ITEMS.findall(text)]


def _item(item: str) -> int:
    return int(item) - 1 if item.isdigit() else symbols.letter_place(item)


def _item_style(item: str) -> str:
    return "number" if item.isdigit() else "letter"


def _outside_symbols(pattern: re.Pattern, replace: Callable[[re.Match], str], text: str) -> str:
    """`pattern.sub`, except for matches that would touch a symbol."""

    def safe(match: re.Match) -> str:
        return match[0] if "{image" in match[0] else replace(match)

    parts = re.split(r"(\{images?:[^{}]*\})", text)
    if "\x00" in text:
        return text  # not text, so it has no references
    if len(parts) == 1:
        return pattern.sub(safe, text)
    # Each symbol is masked by one character, so that patterns see the text on both sides.
    kept = parts[1::2]
    masked = "\x00".join(parts[::2])
    replacements = iter(kept)
    return re.sub("\x00", lambda _: next(replacements), pattern.sub(safe, masked))
