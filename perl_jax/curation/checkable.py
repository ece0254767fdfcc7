"""Makes answers checkable by rules: extracts a question's choices, and the short answer within a long one.

Uses rules only (paper: rephrasing to checkable questions). Options are removed from the question; an answer that starts
with a verdict becomes the verdict; one that names the requested image becomes that image; the question then states the
expected format. A row without a short answer is rejected with a reason.
"""

import re

from perl_jax import symbols
from perl_jax.curation import references
from perl_jax.data import Rejected, Row

SHORT_WORDS = 3  # longest answer in words, without its article, that is compared as text
GIVEN_CHARACTERS = 200  # limit for answers whose kind the source specifies

_OPTIONS_HEAD = re.compile(r"\n?\s*\b(?:options|choices)\s*:\s*$", re.I)
_OPTION = re.compile(r"(?:^|(?<=\n)|(?<=\s))\(?([A-Z])(?:\)|[.:、．])(?!\w\.)\s*", re.M)
_LETTER = re.compile(r"(?:(?:the )?(?:correct )?(?:answer|option)(?: is)?:? )?\(?([A-Za-z])(?:\)?[.:)]?)$", re.I)
_LETTER_AND_TEXT = re.compile(r"(?:answer:? )?(?:\(([A-Z])\)[.:]?|([A-Z])[.:)])\s+(.+)", re.S | re.I)
_ANSWER_HEAD = re.compile(r"^(?:the (?:correct )?)?answer(?: is|:)\s*", re.I)
_VERDICT = re.compile(r"(yes|no|true|false)\b(?=[,.;!:]|$)", re.I)
_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\s*%?")
_FORMULA = re.compile(r"[\d\s.,+\-−*/^=<>≤≥()\[\]{}|:%°π√∞_a-zA-Z\\$′']+")
_COUNTED = re.compile(rf"\b(?:which|what) (two|three|four|five) {references.NOUN}s\b", re.I)
_SEVERAL = re.compile(rf"\b(?:which|what)(?: (?:two|three|four|five))? {references.NOUN}s\b", re.I)
_EACH = re.compile(r"\b(?:each|respectively)\b", re.I)  # asks to match images with things, not for a set
# Several sets of images may be correct for these questions, and a source gives only one.
_TASTE = re.compile(r"\b(?:would|could|might|should|can|do) (?:you|i|we|one|they)\b", re.I)
_MODAL = re.compile(r"\b(?:would|could|might|may|should|can)\b", re.I)
_BARE_LIST = re.compile(
    rf"(?:{references.NOUN}s? )?[1-9]\d?(?:(?:,? and |, | ?& ?)(?:{references.NOUN}s? )?[1-9]\d?)+\.?", re.I
)
_WHY = re.compile(r",? and (?:why|how|what|for what|in what)\b[^?]*\?\s*$", re.I)
_IMAGE_NUMBERS = re.compile(rf"\b{references.NOUN}s? (\d+)((?:(?:,? and |, | ?& ?)\d+)*)\b", re.I)


def checkable(row: Row) -> Row | Rejected:
    """The row with `kind`, `choices` and a short checkable `answer`, and options removed from its question.

    >>> row = Row("1", [None] * 2, "Which image is brighter, and why?", "Image 2, because of its lamp.", "mine")
    >>> new = checkable(row)
    >>> new.question, new.answer, new.kind
    ('Which image is brighter? Answer with its number.', 'Image 2', 'text')
    """
    answer = row.answer.strip()
    if not answer or not row.question.strip():
        return Rejected(row.id, "empty question or answer")
    question, choices = (row.question, list(row.choices)) if row.choices else split_choices(row.question)
    if row.kind not in (None, "choice"):
        if len(answer) > GIVEN_CHARACTERS or "\n" in answer:
            return Rejected(row.id, "answer too long to check", answer)
        return row._replace(answer=_set(row.question, answer) or answer)
    if choices or row.kind == "choice":
        return _choice(row._replace(question=question, choices=choices), answer)
    for rule in (_images, _number, _verdict, _short):
        if fields := rule(row, answer):
            return row._replace(**fields)
    return Rejected(row.id, "answer cannot be checked by a rule", answer)


def split_choices(question: str) -> tuple[str, list[str]]:
    """(question without its options, options without their letters); unchanged, and [], if there are none.

    Options are at the end, lettered from A, at least two, each on its own line or after a bracketed letter.

    >>> split_choices("Which is red?\\nOptions:\\n(A) the cat\\n(B) the dog")
    ('Which is red?', ['the cat', 'the dog'])
    >>> split_choices("Vitamin C. is one; what is A. then?")[1]
    []
    """
    marks = list(_OPTION.finditer(question))
    for start in [i for i, mark in enumerate(marks) if mark[1] == "A"][::-1]:
        run = marks[start:]
        lettered = [mark[1] for mark in run] == [*symbols.LETTERS[: len(run)]]
        separate = all("(" in mark[0] or mark.start() == 0 or question[mark.start() - 1] == "\n" for mark in run)
        if len(run) > 1 and lettered and separate:
            ends = [mark.start() for mark in run[1:]] + [len(question)]
            choices = [question[mark.end() : end].strip().rstrip(";") for mark, end in zip(run, ends)]
            head = _OPTIONS_HEAD.sub("", question[: run[0].start()].rstrip()).rstrip()
            if all(choices) and head:
                return head, choices
    return question, []


def _choice(row: Row, answer: str) -> Row | Rejected:
    """Replaces the answer by its letter, whether the source gives letter, text or both."""

    def letter(index: int) -> Row:
        return row._replace(answer=symbols.letter(index), kind="choice")

    if not row.choices:
        match = _LETTER.fullmatch(answer)
        if match is None:
            return Rejected(row.id, "a choice without choices", answer)
        return row._replace(answer=match[1].upper(), kind="choice")
    texts = [_folded(choice) for choice in row.choices]
    distinct = [text for text in texts if text not in ("", symbols.MARKER)]  # the other choices differ only by letter
    if len(set(distinct)) < len(distinct):
        return Rejected(row.id, "two choices are equal", " | ".join(row.choices))
    if (answer_text := _folded(answer)) and texts.count(answer_text) == 1:
        return letter(texts.index(answer_text))
    if match := _LETTER.fullmatch(answer):
        index = symbols.letter_place(match[1])
        return letter(index) if index < len(texts) else Rejected(row.id, "answer is not a choice", answer)
    if match := _LETTER_AND_TEXT.fullmatch(answer):
        index = symbols.letter_place(match[1] or match[2])
        answer_text = _folded(match[3])
        if index < len(texts) and (texts[index] == answer_text or (texts[index] == "" and answer_text not in texts)):
            return letter(index)
    head = _folded(_ANSWER_HEAD.sub("", answer))
    if head and texts.count(head) == 1:
        return letter(texts.index(head))
    return Rejected(row.id, "answer is not a choice", answer)


def _number(row: Row, answer: str) -> dict | None:
    short = _ANSWER_HEAD.sub("", answer).rstrip(".")
    if _NUMBER.fullmatch(short):
        return {"answer": short, "kind": "number"}
    formula = _FORMULA.fullmatch(short) and re.search(r"\d|\\", short)
    words = re.search(r"[A-Za-z]{3}", re.sub(r"\\[A-Za-z]+", "", short))
    return {"answer": short, "kind": "number"} if formula and not words and len(short) <= GIVEN_CHARACTERS else None


def _verdict(row: Row, answer: str) -> dict | None:
    match = _VERDICT.match(answer)
    if match is None:
        return None
    verdict = match[1].capitalize()
    if answer.rstrip(".").lower() == verdict.lower():
        return {"answer": verdict, "kind": "text"}
    pair = "yes or no" if verdict in ("Yes", "No") else "true or false"
    return {"question": f"{_without_why(row.question)} Answer {pair}.", "answer": verdict, "kind": "text"}


def _images(row: Row, answer: str) -> dict | None:
    """The requested image or images, if the answer names them and none that the question itself mentions."""
    if not references.asks_for_image(row.question) or len(re.findall(r"\bwhich\b", row.question, re.I)) > 1:
        return None
    if image_set := _set(row.question, answer):
        return {"answer": image_set, "kind": "order"}
    named = _numbers(answer)
    if named & _numbers(row.question) or not named or not named <= set(range(1, len(row.images) + 1)):
        return None
    question = _without_why(row.question)
    if _SEVERAL.search(row.question):
        wanted = _COUNTED.search(row.question)
        if len(named) < 2 or _EACH.search(row.question) or _TASTE.search(row.question):
            return None
        if not wanted and _MODAL.search(row.question):
            return None
        if len(named) != (symbols.NUMERALS.index(wanted[1].lower()) + 1 if wanted else len(_numbers(_start(answer)))):
            return None
        answer = symbols.words(symbols.mention_set([number - 1 for number in named], "and"), max(named))
        return {"question": f"{question} Answer with their numbers.", "answer": answer, "kind": "order"}
    if len(named) > 1:
        return None
    if re.fullmatch(rf"{references.NOUN} \d+\.?", answer, re.I):
        return {"answer": answer.rstrip("."), "kind": "text"}
    return {"question": f"{question} Answer with its number.", "answer": f"Image {named.pop()}", "kind": "text"}


def _set(question: str, answer: str) -> str | None:
    """A bare list of images, "3, 1" or "Images 1 and 3", as a set in words ("1 and 3"), if several are asked for."""
    numbers = {int(number) for number in re.findall(r"\d+", answer)} if _BARE_LIST.fullmatch(answer) else ()
    if len(numbers) < 2 or not _SEVERAL.search(question):
        return None
    return symbols.words(symbols.mention_set([number - 1 for number in numbers], "and"), max(numbers))


def _short(row: Row, answer: str) -> dict | None:
    short = re.sub(r"^(?:an?|the) ", "", answer.rstrip("."), flags=re.I)
    return {"answer": answer.rstrip("."), "kind": "text"} if 0 < len(short.split()) <= SHORT_WORDS else None


def _numbers(text: str) -> set[int]:
    """The image numbers that a text names."""
    return {int(number) for match in _IMAGE_NUMBERS.finditer(text) for number in re.findall(r"\d+", match[0])}


def _start(text: str) -> str:
    """The first sentence, ending at a stop that is not within a number or a name."""
    return re.split(r"(?<=\w\w[.!?])\s", text, maxsplit=1)[0]


def _without_why(question: str) -> str:
    """The question without its second part that asks for reasons, which a rule cannot check."""
    return _WHY.sub("?", question.strip())


def _folded(text: str) -> str:
    return " ".join(text.split()).strip(" .").casefold()
