"""User data: a JSONL, JSON or Parquet file with one question per row.

Columns: `question`, `answer`, `images` (paths relative to the file, base64, or bytes), and optionally `id`, `choices`,
`order_effect`, `kind`, `movable`, `source`. Images are placed by `<image>` in the text, else they come first.
References are plain text ("image 2") or symbols (`{image:1}`). Other column names are given by `map`. Files for other
trainers are read unchanged: EasyR1 and veRL (`problem` or `prompt`, `reward_model.ground_truth`), PeRL's own rows with
their `change_needed`, and TRL (`prompt` of messages; the answer in `solution` or `ground_truth`).
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from models.errors import InputError
from perl_jax import records as records_lib
from perl_jax import symbols
from perl_jax.data import Rejected, Row
from perl_jax.records import chat_messages, hub_files
from perl_jax.rewards.boxed import extract_boxed

SPLITS = ("train",)

EXAMPLE = {
    "id": "1",
    "question": "<image:0><image:1>\nWhich image shows a cat?",
    "choices": [],
    "answer": "{image:1}",
    "kind": "text",
    "order_effect": "rewrite",
    "source": "mine",
    "accuracy": None,
    "movable": None,
}

COLUMNS = ("id", "images", "question", "choices", "answer", "order_effect", "kind", "movable", "source")
_NAMES = {  # other names of our columns; a dotted name is a field of a struct
    "images": ("images", "image"),
    "question": ("question", "problem", "prompt"),
    "answer": ("answer", "solution", "ground_truth", "reward_model.ground_truth"),
    "source": ("source", "data_source"),
}
_LOOKED_AT = 100  # rows searched for a column's name
_ANSWER_TAG = re.compile(r"<answer>(.*)</answer>", re.DOTALL)


def records(
    input: str | None = None, split: str = "train", seed: int = 0, *, map: Mapping[str, str] | None = None
) -> Iterator[Row | Rejected]:
    """Yields the rows of a file in file order.

    Args:
        input: a file whose name ends in .jsonl, .json or .parquet.
        split: `train`.
        seed: unused.
        map: {our column: its name in the file}, for columns with other names.

    Raises:
        InputError: no such file, or a missing column.
    """
    if input is None or split not in SPLITS:
        raise InputError(f"the source jsonl needs --input=FILE and has the split train; got {input!r}, {split!r}")
    rows = hub_files.rows(input)
    first = list(itertools.islice(rows, _LOOKED_AT))
    names = _names(input, {key: None for _, row in first if isinstance(row, dict) for key in _paths(row)}, map or {})
    store, source = hub_files.ImageStore(Path(input).parent), Path(input).stem
    for number, row in itertools.chain(first, rows):
        try:
            if isinstance(row, InputError):
                raise row
            yield _row({ours: _value(row, name) for ours, name in names.items()}, row, number, source, store)
        except InputError as error:
            yield Rejected(str(number), "malformed row", str(error))


def _names(file: str, columns: Mapping[str, None], mapped: Mapping[str, str]) -> dict[str, str]:
    """{our column: its name in the file}, for the columns present."""
    known = ", ".join(name for name in columns if "." not in name) or "none"
    for ours, name in mapped.items():
        if ours not in COLUMNS:
            raise InputError(f"--map: {ours!r} is none of the columns {', '.join(COLUMNS)}")
        if name not in columns:
            raise InputError(f"{file} has no column {name!r} for {ours}; it has {known}")
    names = {ours: next((name for name in _NAMES.get(ours, (ours,)) if name in columns), None) for ours in COLUMNS}
    names |= mapped
    for needed in ("question", "answer"):
        if names[needed] is None:
            raise InputError(f"{file} has no column {needed}; it has {known}: name it by --map {needed}=NAME")
    return {ours: name for ours, name in names.items() if name is not None}


def _paths(row: Mapping) -> Iterator[str]:
    """The names of the row's columns and, dotted, of the fields of its structs."""
    for name, value in row.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{field}" for field in value)


def _value(row: Mapping, name: str) -> object:
    if name in row:
        return row[name]
    column, _, field = name.partition(".")
    return row[column].get(field) if isinstance(row.get(column), dict) else None


def _row(values: Mapping, row: Mapping, number: int, source: str, store: hub_files.ImageStore) -> Row:
    question, value = values["question"], values.get("images")
    images = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(question, list):  # chat messages
        question, embedded = chat_messages.question(question)
        if embedded and images:
            raise InputError("it has images both in its messages and in a column")
        images = images or embedded
    question = hub_files.text(question, "question")
    choices = [hub_files.text_or_number(choice, "choice") for choice in _listed(values.get("choices"), "choices")]
    slots = sum(text.count(symbols.MARKER) for text in (question, *choices))
    if slots not in (0, len(images)):
        raise InputError(f"its text has {slots} {symbols.MARKER}, but it has {len(images)} images")
    perl_fields = _perl(row, len(images))
    return Row(
        id=hub_files.text_or_number(values["id"], "id") if values.get("id") not in (None, "") else str(number),
        images=[store.reader(image) for image in images],
        question=question,
        answer=_final(hub_files.text_or_number(values["answer"], "answer")),
        source=hub_files.text_or_number(values.get("source") or source, "source"),
        choices=choices,
        kind=_one_of(values.get("kind"), records_lib.KINDS, "kind"),
        **{**perl_fields, **_order_effect(values, len(images))},
    )


def _order_effect(values: Mapping, count: int) -> dict:
    """The row's own fields about other orders; {} if it has none."""
    fields = {}
    if effect := _one_of(values.get("order_effect"), records_lib.ORDER_EFFECTS, "order_effect"):
        fields = {"order_effect": effect, "reason": "given in the file"}
    if values.get("movable") is not None:
        movable = _listed(values["movable"], "movable")
        if not all(isinstance(place, int) and 0 <= place < count for place in movable):
            raise InputError(f"movable {movable!r} are not places of its {count} images, counted from 0")
        fields["movable"] = movable
    return fields


def _perl(row: Mapping, count: int) -> dict:
    """What `change_needed` means in PeRL's released rows: whether the answer letter moves with the images.

    The words never change.
    """
    if not isinstance(row.get("change_needed"), bool):
        return {}
    name = re.search(r"nlvr2|dreamsim|iconqa", str(row.get("data_source")))
    reference = bool(name) and name[0] != "nlvr2"  # image 0 stays: it is the reference, or the question's own image
    if not name or (row["change_needed"] and not reference):
        return {"order_effect": "fixed", "reason": "change_needed, and nothing says how"}
    effect = "rewrite" if row["change_needed"] else "invariant"
    return {"order_effect": effect, "reason": "change_needed", "movable": list(range(1, count)) if reference else None}


def _final(answer: str) -> str:
    r"""The final answer of a worked solution: in its answer tags or last box; else the text.

    >>> _final(r"<think>1 + 1</think><answer> 2 </answer>"), _final(r"So it is \boxed{2}."), _final("2")
    ('2', '2', '2')
    """
    if tagged := _ANSWER_TAG.search(answer):
        answer = tagged[1].strip()
    return extract_boxed(answer) or answer


def _listed(value: object, name: str) -> Sequence:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} is a {type(value).__name__}, not a list")
    return list(value)


def _one_of(value: object, known: Sequence[str], name: str) -> str | None:
    if value in (None, ""):
        return None
    if value not in known:
        raise InputError(f"{name} {value!r} is none of {', '.join(known)}")
    return value
