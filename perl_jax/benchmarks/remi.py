"""ReMI (mehrankazemi/ReMI): 2,600 questions over 2 to 6 images shown within the text, 200 in each of 13 tasks.

Prompt and rules of `official`: the authors' notebook, which requires JSON. A box is compared by the same rules of the
task (an angle within 3%, a time within 10 minutes), and by `compare.is_correct`.
"""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

from models.errors import InputError
from perl_jax.benchmarks import Item, Score, _common
from perl_jax.data import Rejected, Row
from perl_jax.records import hub_files
from perl_jax.rewards.boxed import extract_boxed
from perl_jax.symbols import MARKER

REPOSITORY = "mehrankazemi/ReMI"
PATTERNS = ("test*.parquet", "*/test*.parquet")
PROTOCOLS = _common.PROTOCOLS
MACRO = True

EXAMPLE = {
    "row": {
        "task": "EmojiAlgebra",
        "question": "Compute the expression in <image1> using the equations in <image2> and <image3>.",
        "label": "92",
        "images": 3,
    },
    "question": "Compute the expression in <image> using the equations in <image> and <image>.",
    "answer": "92",
    "right": '{"explanation": "they add up", "answer": 92}',
    "wrong": "The answer is 92",
}

_NUMERIC = "contains the numeric value corresponding to your final answer."
_STRING = "contains a string corresponding to your final answer."
_EITHER = "contains a string or {} value corresponding to your final answer."
_FIELD = {  # description of the field `answer` in the task's prompt
    "Collisions": f"{_NUMERIC} If it is a yes or no question, the answer field must be 0 for no and 1 for yes.",
    "Clocks": _NUMERIC,
    "Schedule": _STRING,
    "EmojiAlgebra": _NUMERIC,
    "Charts": _EITHER.format("numerical"),
    "CodeEdit": "contains the line of code corresponding to your final answer.",
    "GeomShape": _NUMERIC,
    "GeomCost": _NUMERIC,
    "FuncRead": _EITHER.format("numeric"),
    "RefCoco": _NUMERIC,
    "IQ": "contains the a string corresponding to your final choice.",
    "Isomorphism": "must be 1 if the two graphs are isomorphic and 0 otherwise.",
    "Maps": _STRING,
}
ROWS = dict.fromkeys(_FIELD, 200)

_KINDS = {"Charts": None, "FuncRead": None} | dict.fromkeys(("Schedule", "CodeEdit", "RefCoco", "IQ", "Maps"), "text")
_TAG = re.compile(r"<image(\d+)>")


def load(directory: str, allow_partial: bool = False) -> Iterator[Item | Rejected]:
    """Loads the questions of the test split; `category` is the task. See `perl_jax.benchmarks`."""
    paths = _common.files(directory, PATTERNS, REPOSITORY)
    store = hub_files.ImageStore(Path(directory), ())
    return _common.read(paths, functools.partial(_item, store=store), ROWS, REPOSITORY, allow_partial)


def _item(row: dict, name: str, store: hub_files.ImageStore) -> Item:
    task = _common.column(row, "task")
    if task not in _FIELD:
        raise InputError(f"unknown task {task!r}")
    images = _common.numbered_images(row, store, 6)
    published, label = _common.column(row, "question"), _common.column(row, "label")
    if not label.strip():
        raise InputError("no answer")
    question = _with_slots(published, len(images))
    fixed = _common.inside_sentences(question)
    return Item(
        Row(
            id=f"{task}.{name}",
            images=images,
            question=question,
            answer=label,
            source="remi",
            kind=_KINDS.get(task, "number"),
            order_effect="fixed" if fixed else None,
            reason="images stand inside its sentences" if fixed else "",
        ),
        task,
        {"question": published},
    )


def _with_slots(question: str, count: int) -> str:
    """The question with a slot for the first `<image1>`, `<image2>`, ...; repeated tags become mentions."""
    _around(question, count)
    seen = set()

    def slot(match: re.Match) -> str:
        if not 1 <= int(match[1]) <= count:
            raise InputError(f"{match[0]}, {count} images")
        first = match[1] not in seen
        seen.add(match[1])
        return MARKER if first else f"image {match[1]}"

    if MARKER in question:
        raise InputError(f"an {MARKER} without a number")
    return _TAG.sub(slot, question)


def _around(text: str, count: int) -> list[str]:
    """The texts around the images, split as by the authors: text after an image's second tag is lost."""
    parts = []
    for number in range(1, count + 1):
        before, *after = text.split(f"<image{number}>")
        if not after:
            raise InputError(f"no <image{number}> where it is due, {count} images")
        parts.append(before)
        text = after[0]
    return [*parts, text]


def prompt(item: Item, protocol: str) -> list[dict]:
    """Chat messages; `official` asks for JSON with the fields `explanation` and `answer`."""
    if protocol == "boxed":
        return _common.boxed_prompt(item.row)
    text = (
        f'Question: {item.columns["question"]} Output only a valid JSON string with two fields: "explanation" and '
        '"answer". Do not output anything else. The explanation field contains your reasoning. The answer field '
        f"{_FIELD[item.category]}"
    )
    return _common.user(MARKER.join(_around(text, len(item.row.images))))


def score(item: Item, text: str, protocol: str) -> Score:
    """Scores a response; in `official` 0, with nothing extracted, if it is not JSON with an `answer`."""
    label = item.row.answer.lower().replace("\\", "").split("%")[0].strip()
    if protocol == "official":
        answer = _json_answer(text)
        return Score(float(answer is not None and _is_right(item.category, label, answer)), answer)
    answer = extract_boxed(text)
    if answer and _is_right(item.category, label, _cleaned(answer.replace("\\", ""))):
        return Score(1.0, answer)
    any_of = [part.strip() for part in item.row.answer.split(",")] if item.category == "RefCoco" else ()
    return _common.boxed_score(item.row, text, any_of)


def _cleaned(answer: str) -> str:
    return answer.lower().split("%")[0].strip()


def _json_answer(text: str) -> str | None:
    start, end = max(text.find("{"), 0), text.rfind("}") + 1
    try:
        answer = json.loads(text[start:end].replace('\\"', "").replace("\\", ""))["answer"]
        return None if answer is None else _cleaned(str(answer)) or None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _is_right(task: str, label: str, answer: str) -> bool:
    """Compares by the authors' rules; their tolerance is empty for negative labels. An empty answer is incorrect."""
    if not label or not answer:
        return False
    if task == "RefCoco":
        return answer in label.split(",")
    if task in ("GeomShape", "GeomCost"):
        return _within(label, answer, 0.03)
    if task == "Clocks":
        true, guess = _number(label), _number(answer)
        return true is not None and guess is not None and true - 10 <= guess <= true + 10
    return _same(label, answer) or _within(label, answer, 0.01)


def _same(label: str, answer: str) -> bool:
    number = _number(label)
    return (
        label == answer
        or (number is not None and number == _number(answer))
        or (label in ("f", "g", "h") and answer == f"{label}(x)")
        or label == f"({answer})"
        or answer == f"({label})"
        or answer.replace(" ", "") == label
        or label.replace(" ", "") == answer
    )


def _within(label: str, answer: str, share: float) -> bool:
    true, guess = _number(label), _number(answer)
    return true is not None and guess is not None and (1 - share) * true <= guess <= (1 + share) * true


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
