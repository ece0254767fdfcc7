"""Which images a long answer names, and how: as what was asked, beside it in a contrast, or denied.

"Image 2 is brighter, whereas image 1 does not show the sun" names image 2 and denies image 1. An image that rules
cannot place is `unclear`, and so is the answer: a wrong image in an answer does more harm than a question left out.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from perl_jax import symbols
from perl_jax.curation import references

# A mention is masked as ‹2›, a list of them as ‹1,3›, and alternatives, of which no one is named, as ‹1|3›.
_MASK = r"‹[\d,|]+›"
MENTION = re.compile(_MASK)
_SYMBOL = re.compile(rf"(?:\b{references.NOUN}s? )?(\{{images?:[^{{}}]*\}})(?: {references.NOUN}s?\b)?", re.I)
_LIST = re.compile(rf"{_MASK}(?:(?:, (?:in )?{_MASK})*,? (?:and|&|nor) (?:in |from |the |also )*{_MASK})+")
_ALTERNATIVES = re.compile(rf"{_MASK}(?:, (?:in )?{_MASK})*,? (?:and/)?or (?:in |from |the )*{_MASK}")
_OPENING = re.compile(  # "Unlike image 3, images 1 and 2 ...", which is no list of three
    rf"((?:^|[.!?] )(?:unlike|while|whereas|whilst|although|though|(?:as )?compared|in contrast)\b[^‹.!?]*{_MASK}"
    rf"(?: (?:and|or|&) {_MASK})?), "
    rf"(?={_MASK}(?:, {_MASK})*,? (?:and|&) {_MASK}(?!,))",
    re.I,
)
_UNREAD = re.compile(
    rf"\b{references.NOUN}s?\b[ #(]*(?:\d|[A-H]\b)|{_MASK}(?:,|/| and| or| &|-|–| to) ?\d|\b(?:former|latter)\b"
    rf"|{_MASK}(?:-|–|/| to | through ){_MASK}",
    re.I,
)
_DIGITS = re.compile(r"\d+")
_SENTENCES = re.compile(r"(?<=[\w›)\"”’%][\w›)\"”’%][.!?])\s+|(?<=[.!?][\"”])\s+|\n+")

_NOT = r"(?:not(?! (?:only|just|merely|simply|to mention))|no(?! doubt)|never|neither|nor|none|nothing|nobody|nowhere)"
NEGATION = re.compile(rf"\b(?:{_NOT}|cannot|hardly|barely|lack(?:s|ing)?|absen(?:t|ce)|fails?)\b|n['’]t\b", re.I)
_DOES_NOT = re.compile(  # right after a mention
    rf"(?:['’]s)?,?(?: \w+,?){{0,2}}? (?:(?:do|does|did|is|are|was|were|has|have|had|can|could|would|will|should|may"
    rf"|might)(?: \w+ly| also)* {_NOT}\b|\w+n['’]t\b(?! (?:only|just))|cannot\b|lacks?\b|fails? to\b|never\b|neither\b"
    rf"|(?:shows?|contains?|depicts?|features?|includes?|displays?|offers?|provides?|gives?|holds?) {_NOT}\b"
    rf"|(?:is|are) (?:without|devoid of|free of|missing))",
    re.I,
)
_APART = re.compile(  # what follows is compared with the answer, or excepted from it
    r"\b(?:(?:as )?opposed to|unlike|rather than|instead of|(?:when |as )?compared (?:to|with)|comparing|relative to"
    r"|(?:in|by) (?:contrast|comparison) (?:to|with)|contrast(?:s|ing|ed)? (?:to|with)|differ(?:s|ing|ent)? from|versus"
    r"|vs\b\.?|than|except(?:ing)?(?: for)?|exceptions?|exclud(?:es?|ed|ing)|contrary to|in place of|distinct from"
    r"|leaving out|omitting|not including|against|save for|but for|other than|apart from|aside from|besides|without"
    r"|(?:all|any(?:thing)?|each|every\w*|nothing|none|only|no \w+)(?: (?:of )?(?:the|these|those))?(?: \w+)? but)\b",
    re.I,
)
_BESIDE = re.compile(r"\b(?:while|whereas|whilst)\b", re.I)
_ASIDE = re.compile(
    r"\b(?:although|(?:even )?though|despite|(?:in|by) (?:contrast|comparison)|on the other hand|conversely|however"
    r"|yet|nevertheless|otherwise|if|unless)\b",
    re.I,
)
_ASIDE_AFTER = re.compile(r",? (?:on the other hand|however|(?:in|by) contrast|conversely|though|meanwhile),", re.I)
_BUT = re.compile(r"\bbut\b(?! also\b)", re.I)
_CLAUSE_ENDS = re.compile(
    r"[,;:—(]|\b(?:because|as|since|due|which|who|whose|that|where|with|while|whereas|but|although|though)\b", re.I
)
_CLAUSE_STARTS = re.compile(r"[,;:—)]|\b(?:because|since|but|while|whereas|although|though)\b", re.I)
_ALL = re.compile(
    rf"\b(?:both|all|every|each|neither|none|any|either)(?: of)?(?: the| these| those)?(?: \w+)? "
    rf"(?:{references.NOUN}s?|them|scenes?)\b",
    re.I,
)


KINDS = ("named", "beside", "apart", "denied", "unclear")  # fields of `Sentence`: how it names an image


class Sentence(NamedTuple):
    """The images of one sentence of an answer, counted from 1, by how it names them."""

    text: str  # with mentions masked as ‹2›
    named: frozenset[int] = frozenset()
    beside: frozenset[int] = frozenset()  # after "while" or "whereas": added, or a contrast
    apart: frozenset[int] = frozenset()  # compared or excepted: "unlike", "as opposed to", "than"
    denied: frozenset[int] = frozenset()  # said not to be, show or have what was asked
    unclear: frozenset[int] = frozenset()  # none of these for sure
    of_all: bool = False  # speaks of all, both or none of the images

    @property
    def images(self) -> frozenset[int]:
        """All images of the sentence."""
        return frozenset().union(*(getattr(self, kind) for kind in KINDS))


def sentences(answer: str, count: int) -> list[Sentence] | None:
    """The sentences of an answer about `count` images; None if a reference to an image is not understood.

    >>> [(s.named, s.denied) for s in sentences("Image 1 does not show it, but image 2 and image 3 do.", 3)]
    [(frozenset({2, 3}), frozenset({1}))]
    >>> [(s.named, s.apart) for s in sentences("Images 2 and 3 fit, as opposed to the park of Image 1.", 3)]
    [(frozenset({2, 3}), frozenset({1}))]
    """
    if references.missing_image(answer, count):
        return None
    text = masked(answer, count)
    return None if _UNREAD.search(text) else [_read(sentence) for sentence in _SENTENCES.split(text)]


def mentioned(text: str, count: int) -> set[int]:
    """The images that a text mentions in any way, counted from 1."""
    return {place + 1 for place in symbols.mentioned(references.to_symbols(text, count))}


def masked(text: str, count: int) -> str:
    """The text with each mention of images as ‹2›, a list of mentions as ‹1,3›, and alternatives as ‹1|3›.

    >>> masked("Is image 1 or image 3 like images 2 and 3?", 3)
    'Is ‹1|3› like ‹2,3›?'
    """
    plain = re.sub("[‹›]", "'", " ".join(text.split()))
    text = _SYMBOL.sub(lambda match: f"‹{_numbers(match[1])}›", references.to_symbols(plain, count))
    text = _OPENING.sub(r"\1; ", text)
    for pattern, between in ((_ALTERNATIVES, "|"), (_LIST, ",")):
        text = pattern.sub(lambda match, between=between: f"‹{between.join(_DIGITS.findall(match[0]))}›", text)
    return text


def numbers(mention: str) -> set[int]:
    """The images of a masked mention, counted from 1."""
    return {int(number) for number in _DIGITS.findall(mention)}


def _numbers(symbol: str) -> str:
    return ",".join(str(place + 1) for place in symbols.mentioned(symbol))


def _read(sentence: str) -> Sentence:
    found: dict[str, set[int]] = {kind: set() for kind in KINDS}
    for kind, images in _kinds(sentence):
        found[kind] |= images
    return Sentence(sentence, **{kind: frozenset(found[kind]) for kind in found}, of_all=bool(_ALL.search(sentence)))


def _kinds(sentence: str) -> Iterator[tuple[str, set[int]]]:
    """How the sentence names the images of each mention: one of `KINDS`."""
    only_denied = True
    for mention in MENTION.finditer(sentence):
        before, after = sentence[: mention.start()], sentence[mention.end() :]
        kind = _kind(before, after, only_denied)
        if kind == "named" and "|" in mention[0]:
            kind = "unclear"
        only_denied = only_denied and kind == "denied"
        yield kind, numbers(mention[0])


def _kind(before: str, after: str, only_denied: bool) -> str:
    """How a mention between two parts of a sentence is meant, if all mentions before it are denied or not."""
    clause = _CLAUSE_STARTS.split(before)[-1]
    if _DOES_NOT.match(after):
        return "denied"
    if _APART.search(clause) or (before.rstrip().endswith("but") and _APART.search(before)):
        return "apart"
    if NEGATION.search(clause):
        return "denied"
    if NEGATION.search(_CLAUSE_ENDS.split(after)[0]):
        return "unclear"
    if (apart := _APART.search(before)) and apart.start() > 0:
        return "unclear"  # how far "as opposed to" reaches past a comma is not known
    if _ASIDE_AFTER.match(after):
        return "apart"
    for pattern, kind in ((_BESIDE, "beside"), (_ASIDE, "apart")):
        if marks := [*pattern.finditer(before)]:
            opens = not before[: marks[-1].start()].strip()  # "While image 1 is dark, image 2 ..."
            passed = re.search(r"‹[^,;]*[,;]|,.*\w+.*,", before[marks[-1].end() :])
            return "named" if opens and passed and "," not in before[marks[-1].end() :][:2] else kind
    if _BUT.search(before):
        return "named" if only_denied and re.search("‹", before) else "unclear"
    return "named"
