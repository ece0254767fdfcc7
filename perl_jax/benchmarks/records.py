"""The user's own record sets (`perl_jax.records`): held-out questions as a benchmark, with the `boxed` protocol.

The directory is that of the record set, optionally with a colon and the name of a split ("runs/photos:eval"). The
default is `eval` if there is such a split, else the only one. `category` is the record's source. Other orders are
rendered from its symbols.
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence

from models.errors import InputError
from perl_jax import permute, records
from perl_jax.benchmarks import Item, Score, _common
from perl_jax.data import Rejected, Row

REPOSITORY = None
PATTERNS = ()
PROTOCOLS = ("boxed",)
MACRO = False

EXAMPLE = {
    "row": {
        "id": "1",
        "question": "<image:0><image:1>Is the cat in {image:1|lower}?",
        "choices": [],
        "answer": "yes",
        "kind": "text",
        "order_effect": "rewrite",
        "source": "mine",
        "accuracy": None,
        "movable": None,
    },
    "question": "<image><image>Is the cat in image 2?",
    "choices": [],
    "answer": "yes",
    "right": r"\boxed{Yes}",
    "wrong": r"\boxed{no}",
}


def load(directory: str, allow_partial: bool = False) -> Iterator[Item | Rejected]:
    """Loads the records of a split; a record set is never partial. See `perl_jax.benchmarks`."""
    del allow_partial
    directory, name = str(directory), ""
    if not os.path.isdir(directory):
        directory, _, name = directory.partition(":")
    known = records.splits(directory)
    if not name:
        if "eval" not in known and len(known) > 1:
            raise InputError(f"{directory} has the splits {', '.join(known)}: name one, as {directory}:{known[0]}")
        name = "eval" if "eval" in known else known[0]
    split = records.open_split(directory, name)
    return (_item(split, number) for number in range(len(split)))


def _item(split: Sequence[Mapping], number: int) -> Item:
    stored = split[number]
    record = {**stored, "images": list(range(len(stored["images"])))}
    rendered = permute.render(record)
    row = Row(
        id=record["id"],
        images=[functools.partial(_image, split, number, image) for image in rendered["images"]],
        question=rendered["question"],
        answer=rendered["answer"],
        source=record["source"],
        choices=rendered["choices"],
        kind=record["kind"],
        order_effect=record["order_effect"],
        movable=record["movable"],
    )
    return Item(row, record["source"], {"record": record})


def _image(split: Sequence[Mapping], number: int, image: int) -> bytes:
    return split[number]["images"][image]


def prompt(item: Item, protocol: str) -> list[dict]:
    """Chat messages with the question as in training."""
    del protocol
    return _common.boxed_prompt(item.row)


def score(item: Item, text: str, protocol: str) -> Score:
    """Scores a response; may hang on a hostile one."""
    del protocol
    return _common.boxed_score(item.row, text)
