"""The rule filter: each rule is a function that returns why a row is excluded, or None.

Reports name a rule by its function. Text rules run first, being cheap; image rules see decoded images. (Paper: rule
filter.)
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence

from perl_jax import symbols
from perl_jax.curation import references
from perl_jax.data import Row

MAX_IMAGES = 10
MAX_CHARACTERS = 4000  # of a question with its choices and answer
MIN_SIDE = 14  # pixels: one patch of the vision tower

_BACK = re.compile(
    r"^(?:and|but|so|also|why|how so|what about|how about|if so|if not|then)\b(?=[^?]{0,40}\?)|"
    r"\b(?:you (?:said|mentioned|described|just)|your (?:previous|last|earlier) (?:answer|response)|as mentioned|"
    r"previous (?:question|answer)|mentioned (?:above|earlier|before)|above question)\b",
    re.I,
)
_PRONOUN = re.compile(
    r"^(?:(?:is|are|was|were|do|does|did|can|could|has|have|what|where|who|how|which)\b[^?]{0,12}?\b)"
    r"(?:it|they|them|he|she|him|his|her|this one|that one|these|those)\b",
    re.I,
)
_STATED_ANSWER = re.compile(r"\b(?:the )?(?:correct |right |final )?answer(?: is|:| =)\s*[\"'(\\$]*(.+)", re.I | re.S)
_DASH = re.compile("[\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}]")
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})")
_SIGNS = "_-*/%‰#&@′″"  # kept, although punctuation in Unicode
_MARKUP = "$`"  # dropped, although symbols in Unicode


def self_contained(row: Row) -> str | None:
    """A later question of a conversation must not depend on earlier turns.

    >>> self_contained(Row("1", [], "What colour is it?", "Red", "mine", turn=1))
    'What colour is it'
    >>> self_contained(Row("1", [], "What colour is it?", "Red", "mine"))
    """
    if not row.turn:
        return None
    text = re.sub(r"<image>|\s+", " ", row.question).strip()
    match = _BACK.search(text) or _PRONOUN.search(text)
    return match[0] if match else None


def length(row: Row) -> str | None:
    """Limits the total length of question, choices and answer.

    >>> length(Row("1", [], "why? " * 1000, "No", "mine"))
    '5002 characters, 4000 at most'
    """
    characters = sum(map(len, (row.question, row.answer, *row.choices)))
    return f"{characters} characters, {MAX_CHARACTERS} at most" if characters > MAX_CHARACTERS else None


def text(row: Row) -> str | None:
    """The text must be storable and renderable: no NUL, no lone surrogate, no special vision tokens.

    >>> text(Row("1", [], "Is it\\0?", "No", "mine"))
    'a NUL, a lone surrogate or a special token'
    """
    joined = "\n".join((row.id, row.question, row.answer, row.source, *row.choices))
    invalid = "\0" in joined or re.search("[\ud800-\udfff]", joined) or re.search(r"<\|[a-z_]+\|>", joined)
    return "a NUL, a lone surrogate or a special token" if invalid else None


def slots(row: Row) -> str | None:
    """The number of `<image>` must be that of the images, or zero.

    >>> slots(Row("1", [None], "<image><image>Which?", "2", "mine"))
    '2 slots, 1 images'
    """
    texts = "\n".join((row.question, *row.choices))
    count = texts.count(symbols.MARKER) + len(symbols.SLOT.findall(texts))
    return f"{count} slots, {len(row.images)} images" if count not in (0, len(row.images)) else None


def speaks_of_images(row: Row) -> str | None:
    """A text that speaks of images must have one.

    >>> speaks_of_images(Row("1", [], "Which of the two pictures is brighter?", "the first", "mine"))
    'Which of the two pictures, but it has no images'
    >>> speaks_of_images(Row("1", [], "He took 3 photos and lost one. How many are left?", "2", "mine"))
    """
    if row.images:
        return None
    words = references.speaks_of_images("\n".join((row.question, *row.choices)))
    return words and f"{words}, but it has no images"


def image_count(row: Row) -> str | None:
    """At most MAX_IMAGES images.

    >>> image_count(Row("1", [None] * 11, "Which?", "2", "mine"))
    '11 images, 10 at most'
    """
    return f"{len(row.images)} images, {MAX_IMAGES} at most" if len(row.images) > MAX_IMAGES else None


def leak(row: Row) -> str | None:
    """The question must not contain its answer.

    >>> leak(Row("1", [], "What is 2 + 2? (Answer: 4)", "4", "mine"))
    '(Answer: 4)'
    >>> leak(Row("1", [], "The answer is a letter. Which?", "B", "mine", choices=["cat", "dog"]))
    """
    match = _STATED_ANSWER.search(row.question)
    if match is None:
        return None
    stated, answer = " ".join(match[1].split()).casefold(), " ".join(row.answer.split()).casefold()
    leaks = stated.startswith(answer) and not re.match(r"\w", stated[len(answer) :])
    start = max(0, match.start() - 1)
    return row.question[start : start + 60].strip() if answer and leaks else None


TEXT_RULES: Sequence[Callable[[Row], str | None]] = (
    text,
    self_contained,
    length,
    speaks_of_images,
    image_count,
    slots,
    leak,
)


def image_size(size: tuple[int, int]) -> str | None:
    """Both sides of an image must have at least MIN_SIDE pixels.

    >>> image_size((200, 1))
    '200 x 1 pixels, 14 a side at least'
    """
    width, height = size
    return f"{width} x {height} pixels, {MIN_SIDE} a side at least" if min(size) < MIN_SIDE else None


class DuplicateFilter:
    """Detects repeated questions on the same images; the first is kept.

    >>> seen = DuplicateFilter()
    >>> seen("1", "Which  one?", [b"picture"]), seen("2", "which one", [b"picture"])
    (None, 'as 1')
    """

    def __init__(self):
        self._seen: dict[bytes, str] = {}

    def __call__(self, name: str, question: str, images: Sequence[bytes]) -> str | None:
        digest = hashlib.blake2b(normalized(question).encode(), digest_size=16)
        for data in images:
            digest.update(hashlib.blake2b(data, digest_size=16).digest())
        first = self._seen.setdefault(digest.digest(), name)
        return None if first == name else f"as {first}"


def normalized(question: str) -> str:
    """Normalizes a question for comparison: words, numbers and math signs, without case and plain punctuation.

    Without signs "x + 1" would equal "x - 1", and all questions made of signs would be equal. A dash is a minus, except
    within a word; text of punctuation only is unchanged.

    >>> normalized("<image:0> Which  ONE, of {image:1}?"), normalized("x²–1 = 0, half-open?")
    ('which one of image 1', 'x² - 1 = 0 half open')
    """
    text = symbols.SLOT.sub(" ", question).replace(symbols.MARKER, " ").casefold()
    marked = _HYPHEN.sub(" ", _DASH.sub("-", text).replace("**", " "))
    return " ".join(re.findall(r"\w+|[^\w\s]", "".join(map(_kept_or_space, marked)))) or " ".join(text.split())


def _kept_or_space(character: str) -> str:
    """The character, or a space for plain punctuation and invisible characters."""
    dropped = unicodedata.category(character)[0] in "PZC" and character not in _SIGNS
    return " " if dropped or character in _MARKUP else character


def check(row: Row) -> tuple[str, str] | None:
    """(rule, detail) of the first text rule that a row breaks; None if it breaks none."""
    for rule in TEXT_RULES:
        if detail := rule(row):
            return rule.__name__.replace("_", " "), detail
    return None
