"""The image orders in which a benchmark question is asked, and its text in each.

A question is converted to symbols by the rules of `perl_jax.curation`, without changing its words, so that any other
order is an exact rewriting of question, choices and answer. A question that no rule can rewrite is asked in its
original order only, with the reason. No image is opened here.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from perl_jax import permute, symbols
from perl_jax.benchmarks import Item, _common
from perl_jax.curation import curate
from perl_jax.data import Rejected, Row
from perl_jax.evaluation import meaning as meanings
from perl_jax.symbols import MARKER

FIXED = "the order matters"
INSIDE = "images stand inside its sentences"
UNBOUND = "its letters may be those of images"


class OrderedQuestion(NamedTuple):
    """A benchmark question in one order of its images."""

    item: Item  # in this order: its row has the images in this order, and the reference answer for it
    order: permute.Order
    shown: list[int]  # the images, as indices into the published row's `images`
    place: int | None  # of the one image that decides the answer; None: there is none
    record: Mapping | None  # with symbols, in original order, images as numbers; None: asked in no other order
    fixed: str | None  # why it is asked in no other order; None: it is, or no other was requested

    @property
    def is_original(self) -> bool:
        return self.order == permute.original_order(len(self.order))


def in_orders(item: Item, count: int, seed: int) -> list[OrderedQuestion]:
    """The question in its original order and wording, then in `count` others, or in all others if there are fewer.

    Other orders are drawn uniformly without replacement, by (seed, id).
    """
    original = permute.original_order(len(item.row.images))
    record = movable(item) if count else None
    if not isinstance(record, Mapping):
        return [OrderedQuestion(item, original, list(original), None, None, record)]
    others = math.factorial(len(permute.movable_places(record))) - 1
    _, *orders = permute.draw_orders(record, min(count, others), 1.0, seed=seed, epoch=0, step=0)
    unmoved = _in_order(item, record, original)._replace(item=item, shown=list(original))
    return [unmoved, *(_in_order(item, record, order) for order in orders)]


def movable(item: Item) -> Mapping | str:
    """The question as a record whose images are their indices in the row; or why its images cannot be permuted."""
    count = len(item.row.images)
    if count < 2:
        return "one image" if count else "no image"
    record = item.columns.get("record")
    if record is None:
        if _common.inside_sentences(item.row.question) and not any(MARKER in choice for choice in item.row.choices):
            return INSIDE  # if choices show images, only those move
        curated = curate.symbolic(item.row)
        if isinstance(curated, Rejected):
            return curated.reason
        if _unbound(item.row):
            return UNBOUND
        if curated.decision.order_effect == "fixed":
            return FIXED
        record = {**curated.record, "images": list(range(count))}
    if record["order_effect"] == "fixed":
        return FIXED
    return record if permute.movable_places(record) else "fewer than two images can move"


def _unbound(row: Row) -> bool:
    """Whether the answer is a letter that the text does not define: it may name an image by its position."""
    defined = rf"(?<![A-Za-z]){re.escape(row.answer)}\s*[.:)、．：）]"
    return row.kind == "choice" and not row.choices and not re.search(defined, row.question)


def _in_order(item: Item, record: Mapping, order: permute.Order) -> OrderedQuestion:
    original, moved = permute.render(record)["images"], permute.apply(record, order)
    sample = permute.render(moved)
    shown = [original.index(image) for image in sample["images"]]
    row = item.row._replace(
        images=[item.row.images[place] for place in shown],
        question=sample["question"],
        choices=sample.get("choices") or (),
        answer=sample["answer"],
    )
    place = decisive_place(moved)
    place = None if place is None else sample["images"].index(moved["images"][place])
    return OrderedQuestion(item._replace(row=row), order, shown, place, record, None)


def decisive_place(record: Mapping) -> int | None:
    """The place of the one image that decides the answer of a record with symbols; None if there is no single one.

    It is the image that the answer names or shows; else the only one that the question names.

    >>> record = {"question": "Which image is brighter?", "answer": "{image:1}", "kind": "text", "images": [0, 1]}
    >>> decisive_place(record | {"order_effect": "rewrite"})
    1
    """
    answer, choices, count = record["answer"], list(record.get("choices") or ()), len(record["images"])
    choice = _letter_place(answer) if record.get("kind") == "choice" else None
    if choice is not None and record["order_effect"] == "rewrite" and permute.choices_are_images(record):
        movable = sorted(record.get("movable") or ())
        place = movable[choice] if len(choices) == len(movable) < count and choice < len(movable) else choice
        return place if place < count else None
    if choice is not None and choice < len(choices):
        answer = choices[choice]
    slots = map(int, symbols.SLOT.findall(answer))
    for named in ({*symbols.mentioned(answer), *slots}, {*symbols.mentioned(record["question"])}):
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def _letter_place(answer: str) -> int | None:
    letter = answer.strip("() .").upper()
    return symbols.letter_place(letter) if letter in symbols.LETTERS else None


def meaning(question: OrderedQuestion, extracted: str | None, correct: bool) -> str | None:
    """The meaning of an extracted answer in the question's original order; None if it is asked in no other order."""
    if question.record is None:
        return None
    row = question.item.row
    sample = {"kind": row.kind, "choices": row.choices, "question": row.question}
    return meanings.meaning(question.record, question.order, sample, extracted, correct)
