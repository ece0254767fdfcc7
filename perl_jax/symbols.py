"""Symbols for image references in a record's text, and their rendering as words. i is a place counted from 0:

    <image:i>       the slot where image i is shown
    {image:i}       a mention, "Image 2"; with a style of STYLES after `|`, {image:i|ordinal}, "second"
    {images:i,j}    a set of images, "1-3", or a list if its places are not consecutive; see SET_STYLES

Words count places, not occurrences: a text should number its slots in the order in which they appear.
"""

import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from models import MARKER as MARKER  # a slot in rendered text
from models.errors import InputError

SLOT = re.compile(r"<image:(\d+)>")
MENTION = re.compile(r"\{image:(\d+)(?:\|(\w+))?\}")
SET = re.compile(r"\{images:(\d+(?:,\d+)+)(?:\|(\w+))?\}")

_Style = TypeVar("_Style")

LETTERS = tuple(string.ascii_uppercase)  # of places and of choices; "AB" is not one
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
NUMERALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ROMANS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")
CHINESE = ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十")


def letter(place: int, total: int = 26) -> str:
    """The capital letter of a place; InputError past Z."""
    if place >= len(LETTERS):
        raise InputError(f"the letter style ends at place 25, got place {place}")
    return LETTERS[place]


def letter_place(letter: str) -> int:
    """The place of a Latin letter of either case: 0 for A and for a."""
    return LETTERS.index(letter.upper())


def _nth(place: int, total: int) -> str:
    number = place + 1
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _ordinal(place: int, total: int) -> str:
    return ORDINALS[place] if place < len(ORDINALS) else _nth(place, total)


def _listed(words: Sequence[str]) -> Callable[[int, int], str]:
    """The word of a place; its number past the end."""
    return lambda place, total: words[place] if place < len(words) else str(place + 1)


def _side(left: str, right: str) -> Callable[[int, int], str]:
    def side(place: int, total: int) -> str:
        if total != 2:
            raise InputError(f"left and right are places of two images, not of {total}")
        return (left, right)[place]

    return side


def _last(word: str, others: Callable[[int, int], str]) -> Callable[[int, int], str]:
    return lambda place, total: word if place == total - 1 else others(place, total)


def _capital(style: Callable[[int, int], str]) -> Callable[[int, int], str]:
    return lambda place, total: style(place, total).capitalize()


# style: the words for a place among `total` images
STYLES: dict[str | None, Callable[[int, int], str]] = {
    None: lambda place, total: f"Image {place + 1}",
    "lower": lambda place, total: f"image {place + 1}",
    "number": lambda place, total: str(place + 1),
    "ordinal": _ordinal,
    "Ordinal": _capital(_ordinal),
    "nth": _nth,
    "numeral": _listed(NUMERALS),
    "roman_numeral": _listed(ROMANS),
    "letter": letter,
    "last": _last("last", _ordinal),
    "final": _last("final", _ordinal),
    "side": _side("left", "right"),
    "Side": _side("Left", "Right"),
    # as in 第二张图, 最后一张图 and 左图
    "chinese": _listed(CHINESE),
    "chinese_nth": _last("最后一", lambda place, total: f"第{_listed(CHINESE)(place, total)}"),
    "chinese_side": _side("左", "右"),
}
# style: separator of the first and last of a range; None: always a list
SET_STYLES = {None: "-", "dash": "–", "to": " to ", "through": " through ", "and": None}


def mention(place: int, style: str | None = None) -> str:
    """The symbol that mentions an image."""
    return f"{{image:{place}{_after(style)}}}"


def mention_set(places: Iterable[int], style: str | None = None) -> str:
    """The symbol that mentions a set of images, at least two."""
    return f"{{images:{','.join(map(str, sorted(places)))}{_after(style)}}}"


def mentioned(text: str) -> list[int]:
    """The images that a text mentions, singly or in sets, in order of appearance.

    >>> mentioned("{image:2} or {images:0,1|to}")
    [2, 0, 1]
    """
    matches = [*MENTION.finditer(text), *SET.finditer(text)]
    return [place for match in sorted(matches, key=re.Match.start) for place in _places(match)]


def move(text: str, place_of: Sequence[int]) -> str:
    """The text with each mention of image i changed to place `place_of[i]`. InputError for a missing image.

    >>> move("{image:0} and {images:1,2}", (2, 0, 1))
    '{image:2} and {images:0,1}'
    """

    def new(match: re.Match) -> list[int]:
        return [place_of[_inside(place, len(place_of))] for place in _places(match)]

    text = MENTION.sub(lambda match: mention(new(match)[0], match[2]), text)
    return SET.sub(lambda match: mention_set(new(match), match[2]), text)


def words(text: str, total: int) -> str:
    """The text with its mentions, of `total` images, as words. InputError for an unknown image or style.

    >>> words("Is the {image:1|side} one like {image:0|lower}? See {images:0,1|to}.", 2)
    'Is the right one like image 1? See 1 to 2.'
    """

    def one(match: re.Match) -> str:
        return _style(STYLES, match)(_inside(int(match[1]), total), total)

    def several(match: re.Match) -> str:
        return _range([_inside(place, total) + 1 for place in _places(match)], _style(SET_STYLES, match))

    return SET.sub(several, MENTION.sub(one, text))


def _range(numbers: Sequence[int], between: str | None) -> str:
    numbers = sorted(numbers)
    if between and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}{between}{numbers[-1]}"
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _style(styles: Mapping[str | None, _Style], match: re.Match) -> _Style:
    if match[2] not in styles:
        raise InputError(f"unknown style in {match[0]} (known: {', '.join(style for style in styles if style)})")
    return styles[match[2]]


def _places(match: re.Match) -> list[int]:
    return [int(place) for place in match[1].split(",")]


def _inside(place: int, total: int) -> int:
    if not 0 <= place < total:
        raise InputError(f"a reference to image {place}, but it has {total} images (counted from 0)")
    return place


def _after(style: str | None) -> str:
    return f"|{style}" if style else ""
