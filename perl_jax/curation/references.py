"""Converts plain-text image references to symbols, and labels how reordering the images affects the question.

Uses rules only: patterns of how people refer to one of several images ("image 2", "the second picture", "Image (B)",
"images 1-3", "the left photo" of two; in Chinese "图2", "第二张图"). What the rules do not positively understand is
`fixed`, never permuted: another language, a lone number or letter ("1 or 2?"), words that may depend on the order
("next", "the other image"), text between images that may name them. (Paper: semantic label of a sample.)
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from perl_jax import symbols
from perl_jax.curation import chinese, language, order_words
from perl_jax.curation.order_words import NOUN, ORDINAL

_NUMERALS = "|".join(symbols.NUMERALS)
_AND = r"(?:,? and |,? or |,? and/or |, | ?& ?| ?/ ?| vs\.? | versus )"
_MARK = r"(?:[_-]|\.? ?| ?#| ?no\.? ?| number(?:ed)? | labell?ed | ?\(| ?\[)"  # between a noun and its number
_BETWEEN = r"(?:,|:|,? between|,? from| is \w+er,)?"

# One pattern per kind of reference, tried in this order. Group 1 is kept, group 2 is the reference.
_RANGE = re.compile(rf"\b({NOUN}s )(\d+)(-|–| to | through )(\d+)\b(?![.,:/-]?\d)", re.I)


def _list_of(item: str) -> str:
    """A pattern of several items, each perhaps with its own noun or mark: "1, (2) or no. 3"."""
    return rf"[#(]?{item}\)?(?:{_AND}(?:{NOUN} |no\. ?|[#(])?{item}\)?)+"


_LIST = re.compile(rf"\b({NOUN}s?{_BETWEEN} ?)({_list_of('[0-9]+')})(?!\w|[.,:/-]?\d| ?(?:-|–|to\b|through\b))", re.I)
_NUMBERED = re.compile(rf"\b({NOUN})( )(\d+)\b(?![.,:/-]?\d)", re.I)
_MARKED = re.compile(rf"\b({NOUN}s?{_MARK})(\d+)\b(?![.,:/-]?\d)", re.I)
_NUMERAL_LIST = re.compile(rf"\b({NOUN}s?{_BETWEEN} )({_list_of(f'(?:{_NUMERALS})')})\b(?! of\b)", re.I)
_NUMERAL = re.compile(rf"\b({NOUN} )({_NUMERALS})\b(?! of\b)", re.I)
_ROMAN_LIST = re.compile(rf"\b((?i:{NOUN})s? )([IVX]+(?:{_AND}[IVX]+)*)\b(?!['’.]\w)")
_LETTER_LIST = re.compile(rf"\b((?i:{NOUN})s?{_BETWEEN} )({_list_of('[A-Z]')})(?!\w|['’.]\w)")
_LETTER = re.compile(rf"\b({NOUN}(?:[_-]| ?[(\[]| ?#| labell?ed | ))([A-Z])\b(?!['’.]\w)", re.I)
_ORDINALS = re.compile(
    rf"\b()({ORDINAL}(?:{_AND}(?:the )?{ORDINAL})*)"
    rf"(?= (?:{NOUN}s?|one)\b(?! but\b)| of (?:the|these|those)(?: \w+)? {NOUN}s\b)",
    re.I,
)
_SIDE = re.compile(rf"\b()(left|right)(?=(?:-?hand)?(?:-side| side)? {NOUN}\b)", re.I)
_ON_SIDE = re.compile(rf"\b({NOUN} (?:on|to|at) the )(left|right)\b(?!-| (?:side|of|hand|edge|corner|half|part))", re.I)
_WORD = re.compile(ORDINAL, re.I)
_PLACED = re.compile(rf"(?:\b(?:{ORDINAL}|left|right)(?:-?hand)?|\x00) $", re.I)  # refers to the noun that follows

# An answer that is only a reference, to a question that asks for an image.
_ASKS_FOR_IMAGE = re.compile(
    rf"\b(?:(?:which|what)(?: (?:one|two|three|four|five|other))?"
    rf"|(?:which|what) (?:one |two |three )?of (?:the|these|those)(?: \w+)?"
    rf"|(?:choose|select|pick|identify|find|name) the(?: \w+)?) {NOUN}s?\b",
    re.I,
)
_HOW_MANY = re.compile(r"\bhow (?:many|much)\b", re.I)
_ASKS_FOR_ORDER = re.compile(r"\b(?:arrange|order|sort|rank|sequence)\b", re.I)
_BARE = re.compile(rf"((?:the )?)({ORDINAL}|left|right|\d+)((?: (?:one|{NOUN}))?\.?)", re.I)
_BARE_LETTER = re.compile(r"(\(?)([A-Z])(\)?\.?)")
_BARE_ITEM = re.compile(rf"[\s(]*(\d+|[A-Za-z]|{_NUMERALS})[\s).]*", re.I)
_ALTERNATIVES = re.compile(
    rf"\b{NOUN}s?{_BETWEEN} [#(]?(?:\d+|[A-Z])\b[^.?!]*? or (?:{NOUN} )?[#(]?(?:\d+|[A-Z])\b", re.I
)
_OPTION_MARK = re.compile(
    r"(?:^|(?<=\s))\(?([A-Z])[.:)、．]\)?\s+(?!or\b|and\b|than\b|is\b|has\b)(?=[^\W_]{2}|\d|[$@])", re.M
)
_ITEMS = re.compile(r"\d+|\b[A-Z]\b")
_SET = re.compile(rf"(?:{NOUN}s? )?(\d+)(?:{_AND}(?:{NOUN}s? )?\d+)+\.?", re.I)

_ENUMERATION = re.compile(r"\w,? (?:and|&) \w|\w[,;/] ?\w", re.I)
_JOINT = re.compile(r",? (?:and|&) |[,;/] ?")
_VERDICT = re.compile(r"(?:yes|no|true|false)\b", re.I)
_SEVERAL = re.compile(rf"\b(?:{NOUN}s|each|both|two|three|four)\b", re.I)
_OF_ORDERING = ("order", "sequence", "chronological", "chronologically", "temporal", "temporally")
_WHICH = re.compile(
    r"\b(?:which|who|where|choose|select|pick|identify|find the|odd one|what one|arrange|order|sort)\b", re.I
)
# An answer that is a number or letter is no image's name for these questions.
_NUMERIC = re.compile(
    r"\bhow (?:many|much|old|far|long|tall|high|fast|wide)\b|\bnumber of\b|=|"
    r"\b(?:count|total|sum|difference|value|area|length|perimeter|volume|probability|time|score|digit|ratio|percentage|"
    r"average|calculate|compute|solve|evaluate|equals?)\b|多少|几[个個只隻条條本位人辆輛朵颗棵块名件种種倍]|求|[计計]算",
    re.I,
)
_NAME_OF = re.compile(
    rf"\b(?:number|index|position|label|letter|name|id) of (?:the|an?) (?:\w+ ){{0,3}}{NOUN}\b(?!s)", re.I
)
_WRITTEN = re.compile(
    r"\b(?:letter|number|digit|character)s? (?:is|are|was)? ?(?:written|shown|printed|painted|on)\b", re.I
)

# What may stand before a slot to name it: "Image 2:", "(B)", "C.", "The first image is", "图1：".
_CAPTION = re.compile(
    rf"(?:\b(?P<noun>{NOUN}|figure|fig\.?|option|choice|candidate){_MARK}(?P<number>\d+|[A-Z]|{_NUMERALS})[)\]]?|"
    rf"(?P<bare>(?<![A-Za-z0-9.])\(?(?:[A-Z]|\d{{1,2}})[).:：、．\]]|\([A-Z]\)[.:]?)|"
    rf"\b(?P<ordinal>{ORDINAL}|left|right)(?:-?hand)? {NOUN}|"
    rf"[图圖][片像]?(?P<chinese>\d+|[A-Z]|[{''.join(symbols.CHINESE)}])|第(?P<nth>[{''.join(symbols.CHINESE)}\d])[张張幅][图圖]?片?)"
    r"(?: ?(?:is|[:：.=–—-]))?\s*$",
    re.I,
)
_ONLY_BETWEEN = re.compile(r"[\s,，、;；.&]*(?:and|和|与|與|及)?[\s,，、]*")

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
    patterns = _PATTERNS if _ROMAN_NAME.search(text) else [pair for pair in _PATTERNS if pair[0] is not _ROMAN_LIST]
    if slot_letters(text, count) == list(range(count)):
        patterns = [*patterns, (_BARE_NAME, _bare_name)]
    text, kept = _without_captions(text, count)
    for pattern, point in patterns:
        text = _outside_symbols(pattern, lambda match, point=point: point(match, place) or match[0], text)
    if count == 2:
        for pattern in (_SIDE, _ON_SIDE):
            text = _outside_symbols(pattern, lambda match: match[1] + _side(match[2]), text)
    text = chinese.to_symbols(text, place, count, _outside_symbols)
    return _KEPT.sub(lambda match: kept[int(match[1])], text)


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
    name = answer.strip("(). ")
    if name in _captions(question) and _own_captions(question, count) and not _quantity(question):
        at = place(_item(name) + 1) if re.fullmatch(r"\d+|[A-Z]", name) else None
        if at is not None and slot_letters(question, count) in (None, list(range(count))):
            return answer.replace(name, symbols.mention(at, _item_style(name)))
    if _ASKS_FOR_ORDER.search(question) and sorted(_items(answer)) == list(range(count)):
        return _ITEMS.sub(lambda item: symbols.mention(_item(item[0]), _item_style(item[0])), answer)
    if asks_for_image(question) or (_ALTERNATIVES.search(question) and not _quantity(question)):
        if pointed := chinese.bare(answer, place):
            return pointed
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
    missing = next((match[0] for match in matches if not 1 <= int(re.search(r"\d+", match[0])[0]) <= count), None)
    return missing or chinese.missing_image(text, count)


def asks_for_image(question: str) -> bool:
    """Whether the answer should name one or several of the images.

    >>> asks_for_image("Which of the two pictures is older?"), asks_for_image("What does image 2 show?")
    (True, False)
    """
    asks = _ASKS_FOR_IMAGE.search(question) or chinese.ASKS_FOR_IMAGE.search(question)
    return bool(asks) and not _HOW_MANY.search(question)


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


def speaks_of_images(text: str) -> str | None:
    """The first words that only make sense with an image to look at, or None.

    >>> speaks_of_images("Which of the two pictures is brighter?"), speaks_of_images("He took 3 photos. Why?")
    ('Which of the two pictures', None)
    """
    match = _SPEAKS.search(text)
    return match[0] if match else chinese.speaks_of_images(text)


def slot_letters(question: str, count: int) -> list[int] | None:
    """The places whose slots have a letter before them, in the order of the letters: all, or all but leading ones.

    None if there are none or they are not A, B, C, ... each directly before its slot.

    >>> slot_letters("(A) <image:0> (B) <image:1> Which is darker?", 2), slot_letters("<image:0><image:1> (A)?", 2)
    ([0, 1], None)
    """
    named = _captions(question)
    if not named:
        return None
    lettered = [place for place, name in enumerate(named) if name is not None]
    letters = [name for name in named if name is not None]
    whole = len(named) == count and lettered == list(range(count - len(lettered), count))
    return (
        lettered if whole and letters == [symbols.letter(i) for i in range(len(letters))] and len(letters) > 1 else None
    )


def label(
    question: str, choices: Sequence[str], answer: str, count: int, movable: Sequence[int] | None = None
) -> Label:
    """Labels a question whose references are symbols with its order_effect.

    `movable`: the places that move, if the source names them.

    >>> label("Is {image:1|lower} brighter?", [], "Yes", 2)
    Label(order_effect='rewrite', evidence='image 2', confidence=0.85)
    >>> label("What comes next?", [], "Nothing", 2)
    Label(order_effect='fixed', evidence='next', confidence=0.85)
    """
    if count < 2:
        return Label("invariant", "one image or none", 1.0)
    if not_read := language.unknown(question, (*choices, answer)):
        return Label("fixed", not_read, UNSURE)
    if between := _text_between_slots(question, count, movable):
        return Label("fixed", f"text at an image: {between}", UNSURE)
    asked = asks_for_image(question) or slot_letters(question, count) is not None
    question, _ = _without_captions(question, count)
    masked, *masked_choices = map(_masked, (question, *choices))
    masked_answer = _masked(answer)
    whole = "\n".join((masked, *masked_choices, masked_answer))
    ordering = len(symbols.mentioned(answer)) == count and _ASKS_FOR_ORDER.search(question)
    anchored = "@" in whole or asked
    time = [
        word for word in order_words.time_words(whole, anchored) if not ordering or word.lower() not in _OF_ORDERING
    ]
    if time:
        return Label("fixed", ", ".join(time), LIKELY)
    only_letters = _only_letters(choices)
    names = order_words.lone_names(_without_option_letters(_NAMED_CHOICES.sub("", masked)), count)
    if not only_letters:
        names += _names_alone(question, masked_choices, count)
    if not choices:
        names += _names_alone(question, [masked_answer], count) + order_words.place_words(masked_answer, count)
    words = order_words.place_words(whole, count) + names + chinese.order_words(whole, count)
    if words:
        return Label("fixed", ", ".join(dict.fromkeys(words)), UNSURE)
    lists = _ENUMERATION.search(answer) and (_SEVERAL.search(question) or len(_JOINT.split(answer)) == count)
    if lists and not symbols.mentioned(answer) and not choices and not _VERDICT.match(answer):
        return Label("fixed", f"the answer may list what images show, one after the other: {answer}", UNSURE)
    if only_letters:
        if asked and len(choices) == (count if movable is None else len(movable)):
            return Label("rewrite", "letters that name images", LIKELY)
        return Label("fixed", "choices that are only letters", UNSURE)
    text = "\n".join((question, *choices, answer))
    if mentioned := [*symbols.MENTION.finditer(text), *symbols.SET.finditer(text)]:
        return Label("rewrite", ", ".join(dict.fromkeys(symbols.words(match[0], count) for match in mentioned)), LIKELY)
    if len(symbols.SLOT.findall("\n".join(choices))) > 1:
        return Label("rewrite", "choices that are images", SURE)
    return Label("invariant", "no words that point at an image", LIKELY)


def _masked(text: str) -> str:
    return symbols.SET.sub("@", symbols.MENTION.sub("@", symbols.SLOT.sub("", text)))


def _without_option_letters(text: str) -> str:
    """The text without the letters of options within it: "A. 1 cm B. 2 cm", "A: a cat; B: a dog"."""
    marks = list(_OPTION_MARK.finditer(text))
    run = [mark[1] for mark in marks] == [symbols.letter(i) for i in range(len(marks[:26]))]
    return _OPTION_MARK.sub(" ", text) if run and len(marks) > 1 else text


def _only_letters(choices: Sequence[str]) -> bool:
    return bool(choices) and all(choice.strip(" ().:") in ("", symbols.letter(k)) for k, choice in enumerate(choices))


def _names_alone(question: str, texts: Sequence[str], count: int) -> list[str]:
    """Lone numbers and letters in choices or an answer; a bare one is no name if the question asks for a quantity."""
    which = _WHICH.search(question) or _NAME_OF.search(question) or chinese.ASKS_FOR_IMAGE.search(question)
    which = which or symbols.mentioned(question)
    names = []
    for text in texts:
        bare = _BARE_ITEM.fullmatch(text)
        if bare and (_quantity(question) or _WRITTEN.search(question)):
            continue
        if bare and bare[1].isdigit() and len(texts) == 1 and not which:
            continue
        names += [text] if bare and bare[1].lower() == "one" else order_words.lone_names(text, count)
    return names


def _quantity(question: str) -> bool:
    """Whether a question asks for a number that names no image."""
    return bool(_NUMERIC.search(question)) and not _NAME_OF.search(question)


def _captions(question: str) -> list[str | None]:
    """What stands before each slot of a question to name it, upper-case, or None; [] without slots or any name."""
    parts = symbols.SLOT.split(question)[:-1:2]
    matches = [_CAPTION.search(part) for part in parts]
    names = [match and next(filter(None, match.group(*match.re.groupindex)[1:])) for match in matches]
    names = [name and name.strip("().:：、．[] ").upper() for name in names]
    return names if any(names) else []


def _own_name(name: str | None, place: int, count: int) -> bool:
    """Whether a caption names its own place: "2", "B", "II", "TWO", "SECOND", "二" for place 1."""
    if name is None:
        return False
    if place >= count:  # a slot more than there are images
        return False
    own = {style(place, count).upper() for key, style in symbols.STYLES.items() if count == 2 or "ide" not in str(key)}
    return name in own | {f"第{symbols.CHINESE[place]}" if place < len(symbols.CHINESE) else ""}


def _own_captions(question: str, count: int) -> bool:
    """Whether each slot is named by its own place, or the last ones by A, B, C, ..."""
    named = _captions(question)
    own = len(named) == count and all(_own_name(name, place, count) for place, name in enumerate(named))
    return own or slot_letters(question, count) is not None


def _without_captions(text: str, count: int) -> tuple[str, list[str]]:
    """The text with each caption of a slot masked, and the captions: these name places, so they stay as they are."""
    if not _own_captions(text, count) and not (symbols.SLOT.fullmatch(text.strip()) or _in_a_choice(text, count)):
        return text, []
    kept = []

    def mask(match: re.Match) -> str:
        kept.append(match[0])
        return f"\x01{len(kept) - 1}\x01"

    pieces = symbols.SLOT.split(text)
    places = pieces[1::2]
    heads = [_CAPTION.sub(mask, piece) for piece in pieces[:-1:2]]
    return "".join(f"{head}<image:{place}>" for head, place in zip(heads, places)) + pieces[-1], kept


def _in_a_choice(text: str, count: int) -> bool:
    """Whether a choice shows one image, after its own name."""
    slots, named = symbols.SLOT.findall(text), _captions(text)
    return len(slots) == 1 and len(named) == 1 and _own_name(named[0], int(slots[0]), count)


def _text_between_slots(question: str, count: int, movable: Sequence[int] | None) -> str | None:
    """Text between the slots of a question that may tell them apart, or a mention right at a slot; None if all is well.

    Slots that follow each other, and slots under their own names, can be told apart by nothing but the images.
    """
    parts = symbols.SLOT.split(question)[::2]
    head, *between = parts[:-1] or [""]
    if len(parts) == 1:
        return None
    if _own_captions(question, count):
        letters = slot_letters(question, count)
        named = [_CAPTION.sub("", text) for text in parts[letters[0] + 1 if letters else 1 : -1]]
        return next((text.strip() for text in named if not _ONLY_BETWEEN.fullmatch(text)), None)
    if re.search(r"\}\)?(?: ?(?:is|[:：.=–—-]))?\s*$", head) or _CAPTION.search(head):
        return head.strip()[-60:]
    if re.match(rf"\s*[(\[](?:{{image|{NOUN})", parts[-1], re.I):
        return parts[-1].strip()[:60]
    if movable is not None:
        return None
    return next((text.strip() for text in between if not _ONLY_BETWEEN.fullmatch(text)), None)


Place = chinese.Place


def _place_of(count: int) -> Place:
    return lambda number: number - 1 if 1 <= number <= count else (count - 1 if number == -1 else None)


def _numbered(match: re.Match, place: Place) -> str | None:
    at = _number(match[3], place)
    style = {"Image": None, "image": "lower"}.get(match[1], "number")
    return None if at is None else ("" if style != "number" else match[1] + match[2]) + symbols.mention(at, style)


def _number(digits: str, place: Place) -> int | None:
    return None if digits.startswith("0") else place(int(digits))


def _marked(match: re.Match, place: Place) -> str | None:
    at = _number(match[2], place)
    return None if at is None else match[1] + symbols.mention(at, "number")


def _listed(match: re.Match, place: Place) -> str | None:
    """A list of numbers, letters, numerals or Roman numerals with a symbol for each; None if an image is missing.

    The last of "image 1 and 2 dogs" counts dogs, that of "images 1 and 2 show" does not.
    """
    items = list(_LISTED.finditer(match[2]))
    singular = not re.match(rf"{NOUN}s", match[1], re.I)
    if (
        singular
        and items
        and items[-1][0].isdigit()
        and order_words.counts_something(items[-1][0] + match.string[match.end() :])
    ):
        return None
    parsed = [_parsed(item[0], match.re is _ROMAN_LIST) for item in items]
    if any(number is None or place(number) is None for number, _ in parsed) or len({style for _, style in parsed}) > 1:
        return None
    mentions = iter(symbols.mention(place(number), style) for number, style in parsed)
    return match[1] + _LISTED.sub(lambda _: next(mentions), match[2])


_LISTED = re.compile(rf"\d+|\b(?:{_NUMERALS})\b|\b[IVX]+\b|\b[A-Z]\b")
_ROMAN_NAME = re.compile(rf"\b(?i:{NOUN})s? (?:II|III|IV|VI|VII|VIII|IX)\b")
_BARE_NAME = re.compile(r"()(?<![A-Za-z0-9'’.])([A-Z])(?![A-Za-z0-9'’]|\.[A-Za-z])")
_KEPT = re.compile("\x01(\\d+)\x01")
_NAMED_CHOICES = re.compile(r"\x01\d+\x01")
_SPEAKS = re.compile(
    rf"\b(?:{NOUN}|figure|fig\.)s? ?(?:#|no\. ?|\()?(?:\d+|(?-i:[A-H])(?![\w'’]))|"
    rf"\b(?:which|what|these|those|this|both|each)(?: one)?(?: of (?:the|these|those))?(?: (?:two|three|four|\d))? "
    rf"{NOUN}s?\b(?! (?:did|do|does|will|was taken|were taken|he|she|they|that|album|frame)\b)|"
    rf"\b(?:in|of|from|between|see|at) (?:the|this|these) "
    rf"(?:two |three |four |given |following |left |right |{ORDINAL} )?(?:{NOUN}|figure)s?\b|"
    rf"\b(?:{NOUN}|figure|diagram)s? (?:above|below)\b|"
    rf"\b(?:the|this) (?:following |given |{ORDINAL} )?(?:{NOUN}|figure)s? (?:shows?|depicts?|is|are)\b",
    re.I,
)


def _parsed(item: str, roman: bool) -> tuple[int | None, str]:
    """The number of a listed item, and its style."""
    if item.isdigit():
        return (None if item.startswith("0") else int(item)), "number"
    if item in symbols.NUMERALS:
        return symbols.NUMERALS.index(item) + 1, "numeral"
    if roman:
        return (symbols.ROMANS.index(item) + 1 if item in symbols.ROMANS else None), "roman_numeral"
    return (symbols.letter_place(item) + 1 if item in symbols.LETTERS else None), "letter"


def _bare_name(match: re.Match, place: Place) -> str | None:
    """A lone capital letter, of a question whose slots have letters."""
    if not order_words.lone_names(match.string[: match.end()] + match.string[match.end() :], 26):
        return None
    before, after = match.string[: match.start()], match.string[match.end() :]
    if match[2] in "AI" and re.match(r" [a-z]", after) and (not before.strip() or before.rstrip()[-1] in ".!?:\x01>"):
        return None
    at = place(_item(match[2]) + 1)
    return None if at is None else symbols.mention(at, "letter")


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
    (_NUMERAL_LIST, _listed),
    (_ROMAN_LIST, _listed),
    (_LETTER_LIST, _listed),
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
