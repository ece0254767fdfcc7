"""Makes answers checkable by rules: extracts a question's choices, and the short answer within a long one.

Uses rules only (paper: rephrasing to checkable questions). Options are removed from the question, and so is a second
half that the answer does not settle; an answer that starts with a verdict becomes the verdict; one that names the
requested image becomes that image; the question then states the expected format. A row is rejected with a reason if its
answer is not short, not sure, or one of several that would be right.
"""

import re

from perl_jax import symbols
from perl_jax.curation import image_answers, question_halves
from perl_jax.curation.image_answers import ASKS_TWO, HEDGED, TASTE
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

UNCHECKABLE = "answer cannot be checked by a rule"


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
        return row._replace(answer=image_answers.bare_set(row.question, answer) or answer)
    if choices or row.kind == "choice":
        return _choice(row._replace(question=question, choices=choices), answer)
    for rule in (image_answers.requested, _number, _verdict, _short):
        if found := rule(row, answer):
            return Rejected(row.id, found, answer) if isinstance(found, str) else row._replace(**found)
    return Rejected(row.id, UNCHECKABLE, answer)


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


def _number(row: Row, answer: str) -> dict | str | None:
    short = _ANSWER_HEAD.sub("", answer).rstrip(".")
    fields = {"question": question_halves.without_reason(row.question), "answer": short, "kind": "number"}
    if _NUMBER.fullmatch(short):
        return ASKS_TWO if question_halves.two_questions(fields["question"]) else fields
    formula = _FORMULA.fullmatch(short) and re.search(r"\d|\\", short)
    words = re.search(r"[A-Za-z]{3}", re.sub(r"\\[A-Za-z]+", "", short))
    return fields if formula and not words and len(short) <= GIVEN_CHARACTERS else None


def _verdict(row: Row, answer: str) -> dict | str | None:
    match = _VERDICT.match(answer)
    if match is None:
        return None
    verdict, question = match[1].capitalize(), question_halves.asked_verdict(row.question)
    if answer.rstrip(".").lower() == verdict.lower():
        return {"question": row.question if question is None else question, "answer": verdict, "kind": "text"}
    if question is None:
        return ASKS_TWO
    if image_answers.matter_of_taste(question):
        return TASTE
    if image_answers.hedged(question, answer):
        return HEDGED
    pair = "yes or no" if verdict in ("Yes", "No") else "true or false"
    return {"question": f"{question} Answer {pair}.", "answer": verdict, "kind": "text"}


def _short(row: Row, answer: str) -> dict | str | None:
    short = re.sub(r"^(?:an?|the) ", "", answer.rstrip("."), flags=re.I)
    if not 0 < len(short.split()) <= SHORT_WORDS:
        return None
    question = question_halves.without_reason(row.question)
    if question_halves.two_questions(question):
        return ASKS_TWO
    return {"question": question, "answer": answer.rstrip("."), "kind": "text"}


def _folded(text: str) -> str:
    return " ".join(text.split()).strip(" .").casefold()
