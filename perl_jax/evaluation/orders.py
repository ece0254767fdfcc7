"""In which orders of its pictures a benchmark's question is asked, and what it then says.

A question is taken to symbols by the rules of `perl_jax.curation`, without a change of its words, so another order is
an exact rewriting of question, choices and answer; what no rule can rewrite is asked in its own order alone, with the
reason. Nothing here opens a picture.
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


class Asked(NamedTuple):
    """A benchmark's question in one order of its pictures."""

    item: Item  # in this order: its row shows the pictures so, and its answer is the true one here
    order: permute.Order
    shown: list[int]  # the pictures, as places in the published row's `images`
    place: int | None  # of the one picture on which the answer hangs; None: there is no such one
    record: Mapping | None  # the question in its own order, with symbols, pictures as numbers; None: asked in no other
    fixed: str | None  # why it is asked in no other order; None: it is, or was not to be

    @property
    def own(self) -> bool:
        return self.order == tuple(range(len(self.order)))


def in_orders(item: Item, count: int, seed: int) -> list[Asked]:
    """The question in its own order and its own words, then in `count` others, or in all others if there are no more.

    Others are drawn uniformly, without one twice, by (seed, id).
    """
    own = tuple(range(len(item.row.images)))
    record = movable(item) if count else None
    if not isinstance(record, Mapping):
        return [Asked(item, own, list(own), None, None, record)]
    others = math.factorial(len(permute.movable_places(record))) - 1
    _, *orders = permute.draw_orders(record, min(count, others), 1.0, seed=seed, epoch=0, step=0)
    first = _moved(item, record, own)._replace(item=item, shown=list(own))
    return [first, *(_moved(item, record, order) for order in orders)]


def movable(item: Item) -> Mapping | str:
    """The question as a record whose pictures are the numbers of the row's; or why they cannot change places."""
    count = len(item.row.images)
    if count < 2:
        return "one picture" if count else "no picture"
    record = item.columns.get("record")
    if record is None:
        if _common.inside_sentences(item.row.question) and not any(MARKER in choice for choice in item.row.choices):
            return INSIDE  # where choices show pictures, they alone move
        curated = curate.symbolic(item.row)
        if isinstance(curated, Rejected):
            return curated.reason
        if curated.decision.order_effect == "fixed":
            return FIXED
        if _unbound(item.row):
            return UNBOUND
        record = {**curated.record, "images": list(range(count))}
    if record["order_effect"] == "fixed":
        return FIXED
    return record if permute.movable_places(record) else "fewer than two pictures can move"


def _unbound(row: Row) -> bool:
    """Whether the answer is a letter of which the text says nothing: it may name an image by its place."""
    own = rf"(?<![A-Za-z]){re.escape(row.answer)}\s*[.:)、．：）]"
    return row.kind == "choice" and not row.choices and not re.search(own, row.question)


def _moved(item: Item, record: Mapping, order: permute.Order) -> Asked:
    own, moved = permute.render(record)["images"], permute.apply(record, order)
    sample = permute.render(moved)
    shown = [own.index(image) for image in sample["images"]]
    row = item.row._replace(
        images=[item.row.images[place] for place in shown],
        question=sample["question"],
        choices=sample.get("choices") or (),
        answer=sample["answer"],
    )
    place = decisive_place(moved)
    place = None if place is None else sample["images"].index(moved["images"][place])
    return Asked(item._replace(row=row), order, shown, place, record, None)


def decisive_place(record: Mapping) -> int | None:
    """The place of the one picture on which the answer of a record with symbols hangs; None where there is no such one.

    It is the picture that the answer names or shows; else the only one that the question names.

    >>> record = {"question": "Which image is brighter?", "answer": "{image:1}", "kind": "text", "images": [0, 1]}
    >>> decisive_place(record | {"order_effect": "rewrite"})
    1
    """
    answer, choices, count = record["answer"], list(record.get("choices") or ()), len(record["images"])
    letter = _letter_place(answer) if record.get("kind") == "choice" else None
    if letter is not None and record["order_effect"] == "rewrite" and permute.choices_are_images(record):
        movable = sorted(record.get("movable") or ())
        place = movable[letter] if len(choices) == len(movable) < count and letter < len(movable) else letter
        return place if place < count else None
    if letter is not None and letter < len(choices):
        answer = choices[letter]
    shown = map(int, symbols.SLOT.findall(answer))
    for named in ({*symbols.mentioned(answer), *shown}, {*symbols.mentioned(record["question"])}):
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def _letter_place(answer: str) -> int | None:
    letter = answer.strip("() .").upper()
    return symbols.letter_place(letter) if letter in symbols.LETTERS else None


def meaning(asked: Asked, extracted: str | None, correct: bool) -> str | None:
    """What an extracted answer means in the question's original order; None where it is asked in no other order."""
    if asked.record is None:
        return None
    row = asked.item.row
    told = {"kind": row.kind, "choices": row.choices, "question": row.question}
    return meanings.meaning(asked.record, asked.order, told, extracted, correct)
