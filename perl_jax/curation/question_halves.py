"""A question's first half: what is left without a second question, which its short answer does not settle.

"Which image is older, and what does it show?" asks two things, and "Image 2" answers one of them.
"""

import re

from perl_jax import symbols
from perl_jax.curation import references

_NOUN = references.NOUN
_AUXILIARY = r"(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might)"
_BY = r"(?:in|for|with|from|to|by|on|at|of|under|through|about)"

# The words that ask for an image: their place in a question.
_ASK = re.compile(
    rf"\b(?:{_BY} )?(?:(?:which|what)(?: (?:one|two|three|four|five|other))*(?: of (?:the|these|those)(?: \w+)?)?"
    rf"|(?:choose|select|pick|identify|find|name) the(?: \w+)?) {_NOUN}s?\b",
    re.I,
)
_VERDICT_ASK = re.compile(rf"(?:^|>\s*|\n\s*|[,.;:!?]\s+|\bthen )({_AUXILIARY}(?:n['’]t)?)\b", re.I)
_AGAIN = re.compile(rf"\b(?:which|what)(?: (?:one|other|two|three))* (?:{_NOUN}s?|ones?)\b|\bwhich other\b", re.I)

_TELL = r"(?:describe|explain(?:ing)?|discuss|justify|elaborate|summari[sz]e|briefly|please)"
_TELL_OR_SHOW = (
    r"(?:state|tell|give|list|name|mention|specify|provide|support|say|point out|compare)"  # images may, too
)
_SECOND = rf"""(?:
    (?:if\ so|if\ not|if\ yes|if\ any)\b
  | (?:{_BY}\ )?(?:why|how|what(?!\ (?:looks|seems|appears)\b)|whose|whom)\b
  | (?:{_BY}\ )which\ (?!{_NOUN})\w+
  | (?:where|when|who)\ {_AUXILIARY}\b
  | {_AUXILIARY}\ (?:it|they|this|that|these|those|there|you)\b
  | which\ (?!{_NOUN}|ones?\b|of\b|other\b|two\b|three\b|{_AUXILIARY}\b)(?:[\w-]+\ ){{1,4}}?{_AUXILIARY}\b
)"""
_JOINED = r"(?:[\s,;:—–-]*[\s—–-](?:and|or|but)[\s,]+(?:also\s|then\s|please\s)?)"
_NEW_SENTENCE = r"(?:\s*[.?!]\s+(?:(?:and|or|but|also|then|please)\b,?\s+)*)"
_TAIL = re.compile(
    rf"""{_JOINED}{_SECOND} | {_NEW_SENTENCE}{_SECOND} | {_NEW_SENTENCE}(?:{_TELL}|{_TELL_OR_SHOW})\b
    | {_JOINED}(?<=\w[\s,]){_TELL}\b | [,;:—–]\s*(?:(?:and|or)\s+)?(?:why|how|what|{_TELL}|if\ so)\b""",
    re.I | re.X,
)
_REASON = re.compile(
    rf"(?:{_JOINED}|{_NEW_SENTENCE}|[,;:—–]\s*)(?:why(?: or why not| so)?|how (?:so|come|do you know|can you tell)"
    rf"|for what reason|(?:{_TELL}|{_TELL_OR_SHOW}) (?:\w+ ){{0,2}}(?:why|answer|reason(?:ing|s)?|choice)"
    r"|explain|justify)\s*[.?!]*\s*$",
    re.I,
)
_LEFT = re.compile(
    rf"\b(?:and|or|but),? (?:also )?(?:{_BY} )?(?:which|what|how|why|where {_AUXILIARY}|when {_AUXILIARY})\b"
    rf"|\b(?:and|while|whereas|but),? (?:(?:the )?other|another)\b|\?.*\w"
    rf"|\band (?:{_TELL}|{_TELL_OR_SHOW} (?:the|an?|its|their|it|them|your|some|what|why|how)\b)",
    re.I | re.S,
)
_SECOND_HALF = re.compile(r"\b(?:and|or|then),?\s*$", re.I)  # the words before an image is asked for
_WITHIN = re.compile(r"\b(?:why|how|what|whether)\b", re.I)


def asking_part(question: str) -> str:
    """What comes after the words that ask for an image, in a question's first half; the whole question if none do.

    >>> asking_part("If it could rain, which image would fit?")
    ' would fit?'
    """
    match = _ASK.search(question)
    return question[match.end() :] if match else question


def asked_image(question: str) -> str | None:
    """The half of a question that asks for an image or a set of them, if it comes first; None if more is asked.

    >>> asked_image("Which image is older, and what does it show?")
    'Which image is older?'
    >>> asked_image("What is red, and which image shows it?"), asked_image("Which image is new and which is old?")
    (None, None)
    """
    question = question.strip()
    if (ask := _ASK.search(question)) is None:
        return question
    before = question[: ask.start()].replace(symbols.MARKER, "").lstrip()
    if "?" in before or _SECOND_HALF.search(before) or re.match(r"(?:what|who|why|how)\b", before, re.I):
        return None
    return _without_tail(question, ask.end())


def asked_verdict(question: str) -> str | None:
    """The half of a question that yes, no, true or false answers; None if it cannot be told.

    >>> asked_verdict("Could the cat of image 1 reach it, and if so, what might it do?")
    'Could the cat of image 1 reach it?'
    >>> asked_verdict("What does the cat do?")
    """
    question = question.strip()
    if re.search(r"\b(?:yes or no|yes/no|true or false|true/false)\b", question, re.I):
        return question
    ask = _VERDICT_ASK.search(question)
    return _without_tail(question, ask.end(), also_images=True) if ask else None


def without_reason(question: str) -> str:
    """The question without "and why?" or "Explain your answer." at its end.

    >>> without_reason("How many dogs are there? Explain."), without_reason("Why?")
    ('How many dogs are there?', 'Why?')
    """
    match = _REASON.search(question)
    return _closed(question[: match.start()]) if match and question[: match.start()].strip() else question


def two_questions(question: str) -> bool:
    """Whether a question asks for two things in one sentence.

    >>> two_questions("What animal is it, and how many legs has it?"), two_questions("What is between A and B?")
    (True, False)
    """
    last = re.split(r"(?<=[.?!])\s+", question.strip())[-1]
    how = r"how (?:many|much|old|long|far|big|large|tall|high|wide|often|fast)"
    asked = rf"(?:{_BY} )?(?:what|which|who|where|when|{how})\b"
    return bool(re.search(rf"^(?:.*[,;:] )?{asked}.*(?:,|;|\band)\s(?:and )?{asked}(?! is\b[^?]*,)", last, re.I))


def _without_tail(question: str, start: int, also_images: bool = False) -> str | None:
    """The question up to the second question after `start`; None if the two cannot be told apart."""
    half = question
    for tail in _TAIL.finditer(question, start):
        head = question[start : tail.start()]
        if re.search(rf"{_TELL}$", tail[0], re.I) and len(head.split()) < 2 and not re.search("[.?!]", tail[0]):
            continue
        if _WITHIN.search(head) or (_AGAIN.search(question, tail.start()) and not also_images):
            return None
        half = _closed(question[: tail.start()])
        break
    if also_images and (again := re.search(rf"{_JOINED}(?:{_BY} )?which\b", half[start:], re.I)):
        half = _closed(half[: start + again.start()])
    rest = half[start:].strip().rstrip("?.! ")
    return None if _LEFT.search(rest) or _AGAIN.search(rest) else half


def _closed(half: str) -> str:
    return half.rstrip(" ,;:.?!—–-") + "?"
