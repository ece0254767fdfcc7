"""Turns one row into a record: text rules, checkable answer, symbols, and the `order_effect` label.

A language model's annotation (`annotator.Annotation`), if any, replaces the rephrasing by rules; its label is used only
if the symbols in the text support it.
"""

import itertools
import re
from typing import NamedTuple

from models.errors import InputError
from perl_jax import permute, symbols
from perl_jax.curation import references, rules
from perl_jax.curation.annotator import NOT_CHECKABLE, Annotation
from perl_jax.curation.checkable import checkable
from perl_jax.data import Rejected, Row
from perl_jax.records import Record

TRUSTED = 0.7  # minimum confidence for a model's label to be used


class Decision(NamedTuple):
    """The label of a record with its origin and evidence: a line of decisions.jsonl."""

    id: str
    order_effect: str
    evidence: str
    confidence: float  # 0 to 1
    by: str  # given (by the source), rules, model
    original: dict | None  # question, choices and answer, if they were rephrased
    rules: dict | None = None  # order_effect, evidence and confidence by rules, if there is a model annotation too
    model: dict | None = None  # the same by the model


class Curated(NamedTuple):
    """A record whose images are not loaded yet, and its decision."""

    record: Record
    decision: Decision


def curate(row: Row, annotation: Annotation | None = None) -> Curated | Rejected:
    """The record of a row, without its images; or Rejected, with the rule that it breaks.

    >>> row = Row("1", [None] * 2, "Which image is brighter, and why?", "Image 2, because of its lamp.", "mine")
    >>> curate(row).record["question"], curate(row).record["answer"], curate(row).decision.order_effect
    ('<image:0><image:1>\\nWhich image is brighter? Answer with its number.', '{image:1}', 'rewrite')
    """
    if broken_rule := rules.check(row):
        return Rejected(row.id, *broken_rule)
    row = row._replace(question=_slots_in_front(row.question))
    if annotation is not None and annotation.reason == NOT_CHECKABLE:
        return Rejected(row.id, annotation.reason, annotation.detail)
    short = checkable(_with_annotation(row, annotation))
    return short if isinstance(short, Rejected) else _with_symbols(row, short, annotation)


def symbolic(row: Row) -> Curated | Rejected:
    """The record of a row with unchanged wording, without its images; Rejected if no order can be rendered.

    Used to ask benchmark questions in other orders: nothing is rephrased, and the rules for training data do not apply.
    """
    return _with_symbols(row, row._replace(kind=row.kind or "text"), None)


def _with_symbols(row: Row, short: Row, annotation: Annotation | None) -> Curated | Rejected:
    """The record of a row's checkable form `short`, with image references as symbols."""
    count = len(row.images)
    question, choices = _numbered(short.question, list(short.choices), count)
    row, short = _with_candidates(row, short, references.slot_letters(question, count), count)
    choices = choices or list(short.choices)
    answer = short.answer
    if not _has_symbols(row):
        if not (short.kind == "choice" and choices):  # the answer is the choice's letter, not an image's
            answer = references.answer_to_symbols(answer, question, count)
        question = references.to_symbols(question, count)
        choices = references.choices_to_symbols(choices, question, count)
    texts = "\n".join((short.question, *short.choices, short.answer))
    if count > 1 and (missing_image := references.missing_image(texts, count)):
        return Rejected(row.id, "names a missing image", f"{missing_image}, {count} images")
    try:
        decision = _decide(row, short, question, choices, answer, annotation)
    except InputError as error:
        return Rejected(row.id, "text and images do not fit", str(error))
    record = Record(
        id=row.id,
        images=[],
        question=question,
        choices=choices,
        answer=answer,
        kind=short.kind,
        order_effect=decision.order_effect,
        source=row.source,
        accuracy=None,
        movable=None if row.movable is None else list(row.movable),
    )
    fault = _fault(record, short, count)
    return Rejected(row.id, *fault) if fault else Curated(record, decision)


def _with_candidates(row: Row, short: Row, lettered: list[int] | None, count: int) -> tuple[Row, Row]:
    """Lets only the lettered images move where others come before them, and makes a letter as the answer a choice.

    As in "<image> is the reference. (A) <image> (B) <image> Which is closer to it?"
    """
    if not lettered or len(lettered) == count or row.movable is not None or row.order_effect is not None:
        return row, short
    letters = [symbols.letter(i) for i in range(len(lettered))]
    if not short.choices and short.answer.strip("(). ") in letters:
        short = short._replace(answer=short.answer.strip("(). "), choices=letters, kind="choice")
    return row._replace(movable=lettered), short


def _slots_in_front(question: str) -> str:
    """Moves slots at the start or end of a question to its first line."""
    body = re.sub(r"^(?:\s*<image>)+\s*|(?:\s*<image>)+\s*$", "", question)
    slots = question.count(symbols.MARKER)
    return question if not slots or symbols.MARKER in body else symbols.MARKER * slots + "\n" + body


def _with_annotation(row: Row, annotation) -> Row:
    if annotation is None or annotation.reason:
        return row
    return row._replace(
        question=annotation.question, answer=annotation.answer, choices=annotation.choices, kind=annotation.kind
    )


def _has_symbols(row: Row) -> bool:
    texts = (row.question, row.answer, *row.choices)
    return any(symbols.mentioned(text) or symbols.SLOT.search(text) for text in texts)


def _numbered(question: str, choices: list[str], count: int) -> tuple[str, list[str]]:
    """Replaces each `<image>` in question and choices by a numbered slot; without any, all slots come first."""
    places = itertools.count()
    texts = [re.sub(symbols.MARKER, lambda _: f"<image:{next(places)}>", text) for text in (question, *choices)]
    if count and not any(symbols.SLOT.search(text) for text in texts):
        texts[0] = "".join(f"<image:{i}>" for i in range(count)) + "\n" + texts[0].strip()
    return texts[0], texts[1:]


def _decide(row: Row, short: Row, question: str, choices: list[str], answer: str, annotation) -> Decision:
    label, by = references.label(question, choices, answer, len(row.images), row.movable), "rules"
    if label.order_effect == "rewrite" and _letter_without_choice(short, choices, answer):
        label = references.Label("fixed", f"the letter {answer}, whose choice is not in the text", references.UNSURE)
    labels = {}
    if annotation is not None and not annotation.reason:
        model_label = references.Label(annotation.order_effect, annotation.evidence, annotation.confidence)
        labels = {"rules": label._asdict(), "model": model_label._asdict()}
        if len(row.images) > 1 and model_label.confidence >= TRUSTED:
            mentioned = symbols.mentioned("\n".join((question, *choices, answer)))
            by, label = "model", _supported_label(model_label, label, mentioned)
    if row.order_effect is not None:
        label, by = references.Label(row.order_effect, row.reason or "given by the source", 1.0), "given"
    unchanged = (short.question, list(short.choices), short.answer) == (row.question, list(row.choices), row.answer)
    original = None if unchanged else {"question": row.question, "choices": list(row.choices), "answer": row.answer}
    return Decision(row.id, *label, by, original, **labels)


def _supported_label(
    model_label: references.Label, rule_label: references.Label, mentioned: list[int]
) -> references.Label:
    """The model's label if the text supports it: mentions always move, and `rewrite` needs mentions."""
    if model_label.order_effect == "invariant" and mentioned:
        return rule_label
    if model_label.order_effect == "rewrite" and rule_label.order_effect != "rewrite":
        evidence = f"{model_label.evidence}: to be rewritten, but the rules found {rule_label.evidence}"
        return references.Label("fixed", evidence, references.UNSURE)
    return model_label


def _letter_without_choice(short: Row, choices: list[str], answer: str) -> bool:
    return short.kind == "choice" and not choices and not symbols.mentioned(answer)


def _fault(record: Record, short: Row, count: int) -> tuple[str, str] | None:
    """Why the record does not render back to the row's text or cannot be permuted, as (reason, detail), or None."""
    sample = {**record, "images": list(range(count))}
    try:
        rendered = permute.render(sample)
        places = permute.movable_places(sample)
        order = list(range(count))
        for place, image in zip(places, reversed(places)):
            order[place] = image
        moved = permute.apply(sample, order)
        back = permute.apply(moved, permute.inverse(order))
        permute.render(moved)
    except InputError as error:
        return "text and images do not fit", str(error)
    if back != sample:
        return "an order and back is not the same", record["question"]
    expected = symbols.words("\n".join((short.question, *short.choices, short.answer)), count)
    actual = "\n".join((rendered["question"], *rendered["choices"], rendered["answer"]))
    if _without_slots(expected) != _without_slots(actual):
        return "references do not render back to the text", record["question"]
    return None


def _without_slots(text: str) -> str:
    return " ".join(symbols.SLOT.sub("", text).replace(symbols.MARKER, "").split())
