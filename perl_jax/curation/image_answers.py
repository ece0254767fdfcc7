"""The image, or the set of images, that a long answer gives to "which image ...?", if it gives one for sure.

What an answer says of other images, in a contrast, a denial or a later sentence, is no part of it. Where the source
itself is not sure, or where another careful person may choose other images, there is a reason instead of an answer.
"""

import re
from collections.abc import Sequence, Set

from perl_jax import symbols
from perl_jax.curation import named_images, question_halves, references
from perl_jax.curation.named_images import Sentence
from perl_jax.data import Row

ASKS_TWO = "asks for two things"
TASTE = "a matter of taste"
HEDGED = "the source is not sure"
UNCLEAR = "the images that are meant are not clear"

_NOUN = references.NOUN
_OF_THESE = r"(?: of (?:the|these|those)(?: \w+)?)?"
_COUNTED = re.compile(rf"\b(?:which|what) (two|three|four|five){_OF_THESE} {_NOUN}s\b", re.I)
_SEVERAL = re.compile(rf"\b(?:which|what)(?: (?:two|three|four|five){_OF_THESE})? {_NOUN}s\b", re.I)
_SEVERAL_ONES = re.compile(r"\bwhich (?:two|three|four|five|ones)\b(?P<asked>.*)", re.I | re.S)
_GROUPS = re.compile(rf"\b{_NOUN} (?:pairs?|sets?|combinations?|groups?)\b", re.I)
_EACH = re.compile(r"\b(?:each|respectively)\b", re.I)  # asks to match images with things, not for a set
_OTHER = re.compile(rf"\b(?:other|another) {_NOUN}s?$", re.I)
_COMPARED = re.compile(
    r"\b(?:compar\w+|between|consider\w+|given|based on|among\w*)\b[^?]*?‹.*?,|‹[\d,]*\|", re.I | re.S
)
_NOT_ASKED = re.compile(  # the question asks which image does not
    r"\s*(?:that |which )?(?:(?:do|does|did|is|are|was|were|has|have|can)(?: not|n['’]t)\b|cannot\b|lacks?\b"
    r"|(?:has|have|shows?|contains?) no\b|(?:is|are) without\b)",
    re.I,
)

# Several sets of images may be correct for these questions, and a source gives only one.
_COULD = re.compile(
    r"\b(?:would|could|might|may|should"
    r"|can be (?:used|associated|considered|seen|viewed|interpreted|combined|paired))\b",
    re.I,
)
_CAN = re.compile(r"\b(?:would|could|might|may|should|can)\b", re.I)
_TASTE = re.compile(
    r"\b(?:best|better|ideal(?:ly)?|suit(?:ed|able)|appropriate|fitting|perfect|appealing|attractive|inspir\w+"
    r"|recommend\w*|prefer\w*|useful)\b",
    re.I,
)

_SURE = r"(?:explicit|direct|necessar|specif|entire|clear|certain|sure)\w*"
_HEDGED = re.compile(
    rf"\b(?:(?:al)?though,? (?:\w+ ){{0,2}}not|(?:not|(?:do|does|is|are|was|were)n['’]t) (?:\w+ )?{_SURE}"
    r"|without (?:more|further|additional|specific) (?:\w+ )?(?:context|information|details?)"
    r"|somewhat|to (?:some|a certain|an) extent|in part|part(?:ly|ially)|loosely|arguably|theoretically|hypothetically"
    r"|by implication|implicit\w*|depend(?:s|ing)?(?: up)?on|assuming|provided that|hard to (?:say|tell)"
    r"|difficult to|impossible to|unclear|uncertain|cannot be (?:determined|known|said)|may or may not)\b",
    re.I,
)
_DOUBT = r"(?:may|might|could|possibly|perhaps|maybe|probably|potentially|presumably|conceivably)\b"
_DOUBTED_IMAGE = re.compile(rf"‹[^›]*›(?: \w+){{0,2}} {_DOUBT}|^{_DOUBT}", re.I)
_DOUBTED_VERDICT = re.compile(rf"^\w+,? [^,.;]*\b{_DOUBT}", re.I)

_BARE = re.compile(rf"{_NOUN} \d+\.?", re.I)
_BARE_LIST = re.compile(rf"(?:{_NOUN}s? )?[1-9]\d?(?:(?:,? and |, | ?& ?)(?:{_NOUN}s? )?[1-9]\d?)+\.?", re.I)
_FIRST = re.compile(
    r"(?:(?:the )?(?:correct )?answer(?: is|:) |(?:it|that|this) is |it['’]s |in |from )?(?:the )?‹\d+›", re.I
)
_LEAD = re.compile(  # "While image 1 is dim, image 2 ...": what comes before the answer
    r"(?:while|whereas|whilst|although|(?:even )?though|unlike|(?:when |as )?compared|(?:in|by) (?:contrast|comparison)"
    r" to)\b[^‹]*‹[^‹]*[,;] (?=(?:in |the )*‹)",
    re.I,
)
_IN_PASSING = re.compile(r"\b(?:in|from|of|with|to|on|at|by|for|like) (?:the )?$", re.I)  # before a mention
_ALSO = re.compile(
    r"\b(?:also|too|as well|likewise|similar(?:ly)?|alternatively|however|both|another|equally|even|same|or)\b", re.I
)
_REASON = re.compile(
    r"\b(?:because|since|as|due|while|whereas|whilst|although|though|unlike|compared|rather|than|(?:as )?opposed)\b",
    re.I,
)
_COMPARATIVE = re.compile(
    r"\b(?:(?:more|less|most|least|fewer) [\w-]+|better|best|worse|worst|\w{3,}(?:er|est))\b", re.I
)
_COMMON = re.compile(
    r"the|and|are|was|has|for|not|its|images?|pictures?|photos?|shows?|with|that|this|these|those|there|their|them|they"
    r"|have|from|which|where|would|could|might|should|some|into|depicts?|features?|contains?|displays?|includes?|being"
    r"|most|more|such"
)


def requested(row: Row, answer: str) -> dict | str | None:
    """The row's new fields if its question asks for images; or why the answer does not tell them; None if it does not.

    >>> row = Row("1", [None] * 3, "Which images fit, and why?", "Images 2 and 3 do, as opposed to image 1.", "mine")
    >>> requested(row, row.answer)
    {'question': 'Which images fit? Answer with their numbers.', 'answer': '2 and 3', 'kind': 'order'}
    """
    if not references.asks_for_image(row.question):
        ones = _SEVERAL_ONES.search(row.question)
        return TASTE if ones and _COULD.search(ones["asked"]) and _BARE_LIST.fullmatch(answer) else None
    question, count = question_halves.asked_image(row.question), len(row.images)
    if question is None:
        return None if re.match(r"(?:yes|no)\b", answer, re.I) else ASKS_TWO
    several, asked = _SEVERAL.search(question), question_halves.asking_part(question)
    if several and (_COULD if _COUNTED.search(question) else _CAN).search(asked):
        return TASTE
    if image_set := bare_set(question, answer):
        return {"question": question, "answer": image_set, "kind": "order"}
    if _BARE.fullmatch(answer) and not several:
        return {"question": question, "answer": answer.rstrip("."), "kind": "text"}
    said = named_images.sentences(answer, count)
    if said is None:
        return UNCLEAR
    if not any(sentence.images for sentence in said):
        return None
    if _GROUPS.search(question) or _EACH.search(question):
        return UNCLEAR
    if several and _TASTE.search(asked):
        return TASTE
    if _HEDGED.search(answer) or (_DOUBTED_IMAGE.search(said[0].text) and not _CAN.search(question)):
        return HEDGED
    if _NOT_ASKED.match(asked) and any(sentence.denied for sentence in said):
        said = [sentence._replace(named=sentence.denied, denied=sentence.named) for sentence in said]
    if not several:
        image = _one_image(question, asked, said, count)
        fields = {"question": f"{question} Answer with its number.", "answer": f"Image {image}", "kind": "text"}
        return fields if image else UNCLEAR
    if images := _several_images(question, asked, said, count):
        return {"question": f"{question} Answer with their numbers.", "answer": _in_words(images), "kind": "order"}
    return UNCLEAR


def bare_set(question: str, answer: str) -> str | None:
    """A bare list of images, "3, 1" or "Images 1 and 3", as a set in words ("1 and 3"), if several are asked for."""
    numbers = {int(number) for number in re.findall(r"\d+", answer)} if _BARE_LIST.fullmatch(answer) else ()
    return _in_words(numbers) if len(numbers) > 1 and _SEVERAL.search(question) else None


def hedged(question: str, answer: str) -> bool:
    """Whether a source is not sure of its own yes or no.

    >>> hedged("Does it fit?", "Yes, it would somewhat fit."), hedged("Does it fit?", "Yes, it does.")
    (True, False)
    """
    doubted = _DOUBTED_VERDICT.search(answer) and not _CAN.search(question)
    return bool(_HEDGED.search(answer) or doubted)


def matter_of_taste(question: str) -> bool:
    """Whether a question asks for what would be suitable, ideal or the like.

    >>> matter_of_taste("Would it be a fitting gift?"), matter_of_taste("Could it fit into the box?")
    (True, False)
    """
    return bool(_CAN.search(question) and re.search(rf"{_TASTE.pattern}|\bgood\b", question, re.I))


def _in_words(images: Set[int]) -> str:
    return symbols.words(symbols.mention_set([number - 1 for number in images], "and"), max(images))


def _one_image(question: str, asked: str, said: Sequence[Sentence], count: int) -> int | None:
    """The one image that an answer names as what is asked; None if it is not one for sure."""
    given = named_images.mentioned(question, count)
    compared = len(given) > 1 and (_COMPARED.search(named_images.masked(question, count)) or len(given) == count)
    only_given = set() if compared else given - set().union(*map(_subjects, said))
    if _OTHER.search(question[: len(question) - len(asked)]):
        compared, only_given = False, given  # "which other image": one that the question does not name
    said = [_without(sentence, only_given) for sentence in said]
    first, images = said[0], set().union(*(sentence.images for sentence in said))
    denied = set().union(*(sentence.denied for sentence in said))
    if any(sentence.unclear for sentence in said) or first.of_all:
        return None
    if denied and images == denied:  # all images but one are denied, or given
        left = set(range(1, count + 1)) - denied - only_given
        return left.pop() if len(left) == 1 else None
    if len(first.named) != 1 or first.named & denied:
        return None
    (image,) = first.named
    begins = _FIRST.match(_without_lead(first.text))
    if image in given and not (compared and begins):
        return None
    return image if images - denied == {image} or (begins and _told_apart(asked, said, image)) else None


def _several_images(question: str, asked: str, said: Sequence[Sentence], count: int) -> set[int] | None:
    """The set of images that an answer names as what is asked; None if it is not one for sure."""
    wanted = _COUNTED.search(question)
    first, later = said[0], set().union(*(sentence.named for sentence in said[1:]))
    denied = set().union(*(sentence.denied for sentence in said))
    beside = set().union(*(sentence.beside for sentence in said)) - first.named - later
    if any(sentence.unclear for sentence in said):
        return None
    named = set(first.named | later)
    if wanted:
        number = symbols.NUMERALS.index(wanted[1].lower()) + 1
        named = named if len(named) >= number else named | beside
        if len(named) != number:
            return None
    elif len(first.named | first.beside) > 1:
        named = set(first.named | first.beside)
        if (later | beside) - named or not _listed(asked, first.text, named):
            return None
    elif beside or not _each_first(asked, said):
        return None
    return named if len(named) > 1 and not named & (denied | named_images.mentioned(question, count)) else None


def _listed(asked: str, text: str, images: Set[int]) -> bool:
    """Whether a sentence gives these images in one list, or one by one and says of each what is asked."""
    marks, seen = [], set()
    for mark in named_images.MENTION.finditer(text):
        numbers = named_images.numbers(mark[0])
        if numbers <= images and numbers - seen:
            marks.append(mark)
        seen |= numbers
    if len(marks) == 1:
        return True
    parts = [text[mark.end() : end] for mark, end in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)])]
    return all(len(named_images.numbers(mark[0])) == 1 for mark in marks) and all(
        _echoes(asked, part, 1) for part in parts
    )


def _each_first(asked: str, said: Sequence[Sentence]) -> bool:
    """Whether each sentence that names an image begins with it, and says of it what is asked, without a "not"."""
    naming = [sentence for sentence in said if sentence.images]
    return all(
        _FIRST.match(s.text)
        and len(s.named) == 1
        and _echoes(asked, s.text, 1)
        and not named_images.NEGATION.search(s.text)
        for s in naming
    )


def _told_apart(asked: str, said: Sequence[Sentence], image: int) -> bool:
    """Whether an answer says of the first image what is asked, and nothing like it of those that it names later."""
    first, rest = said[0], _without_lead(said[0].text)
    main = _main_part(rest)
    if first.named != {image} or not _echoes(asked, main, 2):
        return False
    comparatives = _comparatives(asked)
    others = [first.text.replace(main, " ")] if first.images - {image} else []
    others += [sentence.text for sentence in said[1:] if sentence.images - {image}]
    if comparatives and not comparatives & _comparatives(main):
        return False
    return not any(_ALSO.search(text) or comparatives & _comparatives(text) for text in others)


def _echoes(asked: str, text: str, at_least: int) -> bool:
    """Whether a text repeats so many of the words that a question asks with; all, if there are fewer."""
    wanted = _content(asked)
    return len(wanted & _content(text)) >= min(at_least, max(1, len(wanted)))


def _content(text: str) -> set[str]:
    """The beginnings of a text's words that carry meaning."""
    words = re.findall(r"[^\W\d_]{3,}", text.casefold())
    return {word[:5].rstrip("s") for word in words if not _COMMON.fullmatch(word)}


def _comparatives(text: str) -> set[str]:
    return {word.lower() for word in _COMPARATIVE.findall(text)}


def _without_lead(sentence: str) -> str:
    return _LEAD.sub("", sentence, count=1) if _LEAD.match(sentence) else sentence


def _main_part(sentence: str) -> str:
    """A sentence up to its reason or comparison."""
    match = _REASON.search(sentence, 1)
    return sentence[: match.start()] if match else sentence


def _subjects(sentence: Sentence) -> set[int]:
    """The images that a sentence names otherwise than in passing, as in "the man from image 5"."""
    text = sentence.text
    marks = [mark for mark in named_images.MENTION.finditer(text) if not _IN_PASSING.search(text[: mark.start()])]
    return set().union(*(named_images.numbers(mark[0]) for mark in marks))


def _without(sentence: Sentence, images: Set[int]) -> Sentence:
    return sentence._replace(**{kind: getattr(sentence, kind) - images for kind in named_images.KINDS})
