"""Canonical form of an answer, independent of its wording and of the image order, so that answers can be compared."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from models.errors import InputError
from perl_jax import permute, symbols
from perl_jax.answers import compare
from perl_jax.curation import references

LONG = 1000  # longest answer, in characters, that is parsed as a reference to a choice or an image

_NUMBER = re.compile(r"[-+]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?")


def meaning(record: Mapping, order: Sequence[int], sample: Mapping, extracted: str | None, correct: bool) -> str | None:
    """The meaning of an extracted answer in the record's original order; equal meanings are the same answer.

    Args:
        record: the question with symbols, in its original order.
        order: in which it was asked.
        sample: kind, choices and question as asked in that order (`permute.render`).
        extracted: the answer as given; None if none was extracted.
        correct: whether it is correct; correct answers have the same meaning whatever their wording.

    None if no answer was extracted, or only punctuation ("$$"). A wrong answer means the choice it selects, or the
    image it names if the answer is an image; a number means its value.
    """
    if extracted is None:
        return None
    count = len(order)
    if correct:
        return compare.normalized(symbols.words(record["answer"], count))
    text = compare.normalized(extracted)
    if not text or len(extracted) > LONG:
        return text or None
    try:
        if (reference_form := _in_form(record, sample, extracted)) or record.get("kind") == "order":
            return compare.normalized(permute.canonical_answer(reference_form or text, record, order))
        if _NUMBER.fullmatch(text) and record.get("kind") == "number":
            return f"{Decimal(text.replace(',', '')).normalize():f}"
        return symbols.words(symbols.move(references.to_symbols(text, count), order), count)
    except InputError:  # braces in the answer, or left and right among more than two
        return text


def _in_form(record: Mapping, sample: Mapping, extracted: str) -> str | None:
    """A wrong answer in the form of the reference answer, as a choice letter or words for an image; else None."""
    choices = sample.get("choices") or ()
    if sample.get("kind") == "choice":
        forms, kind = symbols.LETTERS[: len(choices) or None], "choice"
    else:
        forms, kind = _images(record), "text"
    candidate = {"kind": kind, "choices": choices, "question": sample["question"]}
    return next((form for form in forms if compare.is_correct({**candidate, "answer": form}, extracted)), None)


def _images(record: Mapping) -> list[str]:
    """The answer reworded for each image in turn; [] if it does not name exactly one image."""
    answer, count = record["answer"], len(record["images"])
    named = symbols.mentioned(answer)
    return [symbols.words(symbols.move(answer, [place] * count), count) for place in range(count * (len(named) == 1))]
