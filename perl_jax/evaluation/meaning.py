"""What an answer means, whatever its words and the order that it was given in: so that two can be the same."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from models.errors import InputError
from perl_jax import permute, symbols
from perl_jax.answers import compare
from perl_jax.curation import references

LONG = 1000  # characters of an answer, beyond which it is a text, and no reference to a choice or an image

_NUMBER = re.compile(r"[-+]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?")


def meaning(record: Mapping, order: Sequence[int], asked: Mapping, extracted: str | None, correct: bool) -> str | None:
    """What an extracted answer means in the record's original order: equal meanings are the same answer.

    Args:
        record: the question with symbols, in its original order.
        order: that it was asked in.
        asked: what was asked in that order: kind, choices, question (`permute.render`).
        extracted: the answer as it was given; None: none was found.
        correct: whether it is right: what is right means the same however it is worded.

    None where nothing was found, or nothing but marks ("$$"). A wrong answer means the choice that it chooses, or the
    image that it names where the answer is an image; a number means its value.
    """
    if extracted is None:
        return None
    count = len(order)
    if correct:
        return compare.normalized(symbols.words(record["answer"], count))
    said = compare.normalized(extracted)
    if not said or len(extracted) > LONG:
        return said or None
    try:
        if (form := _in_form(record, asked, extracted)) or record.get("kind") == "order":
            return compare.normalized(permute.canonical_answer(form or said, record, order))
        if _NUMBER.fullmatch(said) and record.get("kind") == "number":
            return f"{Decimal(said.replace(',', '')).normalize():f}"
        return symbols.words(symbols.move(references.to_symbols(said, count), order), count)
    except InputError:  # braces of its own, or left and right among more than two
        return said


def _in_form(record: Mapping, asked: Mapping, extracted: str) -> str | None:
    """A wrong answer in the right one's form: the letter of a choice, or words for an image; None if it is neither."""
    choices = asked.get("choices") or ()
    if asked.get("kind") == "choice":
        forms, kind = symbols.LETTERS[: len(choices) or None], "choice"
    else:
        forms, kind = _images(record), "text"
    told = {"kind": kind, "choices": choices, "question": asked["question"]}
    return next((form for form in forms if compare.is_correct({**told, "answer": form}, extracted)), None)


def _images(record: Mapping) -> list[str]:
    """What the answer would be if it were each of the images in turn; [] where it does not name a single one."""
    answer, count = record["answer"], len(record["images"])
    named = symbols.mentioned(answer)
    return [symbols.words(symbols.move(answer, [place] * count), count) for place in range(count * (len(named) == 1))]
