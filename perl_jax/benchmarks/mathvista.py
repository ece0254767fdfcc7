r"""MathVista (AI4Math/MathVista): the 1000 questions of testmini, one image each; choices, integers, decimals, lists.

The authors let a language model extract the answer and compare it by rules (evaluation/calculate_score.py of
lupantech/MathVista): a choice by its letter, or as the choice with the least edit distance; an integer is truncated, a
decimal is rounded. Here rules extract first, and the judge does the rest; an empty response, which selects the shortest
choice there, is wrong.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from models.errors import InputError
from perl_jax import symbols
from perl_jax.benchmarks import Item, Score, _common, _vlmevalkit
from perl_jax.data import Rejected, Row
from perl_jax.records import hub_files
from perl_jax.rewards.boxed import extract_boxed
from perl_jax.symbols import MARKER

REPOSITORY = "AI4Math/MathVista"
PATTERNS = ("data/testmini-*",)
PROTOCOLS = _common.PROTOCOLS
MACRO = False
ROWS = 1000
MAX_CHARACTERS = 256  # longest answer compared by edit distance

_HINT = (
    "Hint: Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, "
    "at the end."
)
EXAMPLE = {
    "row": {
        "pid": "1",
        "question": "How many cups are there?",
        "image": "images/1.jpg",
        "choices": None,
        "unit": "years",
        "precision": None,
        "answer": "14",
        "question_type": "free_form",
        "answer_type": "integer",
        "metadata": {"split": "testmini", "language": "english", "task": "visual question answering"},
        "query": f"{_HINT}\nQuestion: How many cups are there? (Unit: years)",
    },
    "question": "How many cups are there? (Unit: years)",
    "choices": [],
    "answer": "14",
    "official": f"<image>\n{_HINT}\nQuestion: How many cups are there? (Unit: years)",
    "right": "14.7",
    "wrong": "14 apples",
}

_FILES = ("data/testmini-*.parquet", "testmini-*.parquet", "testmini.jsonl", "testmini.json")
_LETTER = re.compile(r"\(([a-zA-Z])\)")
_ANNOUNCED = re.compile('[Tt]he answer is "')
_LAST_WORD = re.compile(r"(?:answer|value) (?:is|:)\s*\$?(-?\d+(?:\.\d+)?)\$?\.?\s*$", re.I)
_LIST = re.compile(r"\[[^\[\]]*\]")
_DEMONSTRATIONS = (
    ("Give an integer at the end.\nQuestion: How many stairs has it?", "There are twelve (12) stairs in it.", "12"),
    (
        "Give a number with one decimal place at the end.\nQuestion: What share of the bar is red?",
        "Six tenths of the bar are red, so 0.6 of it.",
        "0.6",
    ),
    (
        "Give a number with two decimal places at the end.\nQuestion: What do both fruits cost? (Unit: $)",
        "They cost $0.80 and $0.65: together $1.45.",
        "1.45",
    ),
    (
        "Give a Python list at the end.\nQuestion: Between which two years is the peak?",
        "The line is highest between 2007 and 2008.",
        "[2007, 2008]",
    ),
    (
        "Give the letter of the right option at the end.\nQuestion: What part is blue?\nChoices:\n(A) 3/11\n(B) 8/11",
        "The right one is (B) 8/11.",
        "B",
    ),
)


def load(directory: str, allow_partial: bool = False) -> Iterator[Item | Rejected]:
    """Loads the split testmini; `category` is the task. See `perl_jax.benchmarks`."""
    paths = _common.files(directory, _FILES, REPOSITORY)
    store = hub_files.ImageStore(directory, sorted(Path(directory).glob("images*.zip")))
    return _common.read(paths, functools.partial(_item, store=store), ROWS, REPOSITORY, allow_partial)


def _item(row: dict, name: str, store: hub_files.ImageStore) -> Item:
    question, answer = _common.column(row, "question").strip(), _common.column(row, "answer")
    kind, image = _common.column(row, "answer_type"), row.get("decoded_image") or row.get("image")
    choices = [hub_files.text_or_number(choice, "a choice") for choice in _common.column_list(row, "choices")]
    is_choice = _common.column(row, "question_type") == "multi_choice"
    if not (image and question and answer.strip()):
        raise InputError("no image" if not image else "no question or no answer")
    if is_choice and answer not in choices:
        raise InputError(f"the answer {answer!r} is none of its {len(choices)} choices")
    if not is_choice and kind not in ("integer", "float", "list"):
        raise InputError(f"answer_type {kind!r}")
    precision, metadata = row.get("precision"), row.get("metadata")
    if not isinstance(precision, int | float | None) or precision != precision:
        precision = None
    unit = _common.column(row, "unit", "")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    new_row = Row(
        id=_common.column(row, "pid", name),
        images=[store.reader(image)],
        question=f"{question} (Unit: {unit})" if unit else question,
        answer=symbols.letter(choices.index(answer)) if is_choice else answer,
        source="mathvista",
        choices=choices if is_choice else [],
        kind="choice" if is_choice else "number",
    )
    columns = {
        "query": _common.column(row, "query", ""),
        "answer": answer,
        "answer_type": "text" if is_choice else kind,
        "precision": None if precision is None else int(precision),
        **metadata,
    }
    return Item(new_row, str(metadata.get("task") or ""), columns)


def prompt(item: Item, protocol: str) -> list[dict]:
    """Chat messages; `official` is the published query, after the image."""
    if protocol == "boxed":
        return _common.boxed_prompt(item.row)
    return _common.user(f"{MARKER}\n{item.columns['query'] or _query(item)}")


def _query(item: Item) -> str:
    """The query for a row without one."""
    kind, precision = item.columns["answer_type"], item.columns["precision"]
    places = {1: "one decimal place", 2: "two decimal places"}.get(precision, "decimal places")
    numbers = "1.23, 1.34, 1.45" if precision == 2 else "1.2, 1.3, 1.4"
    asks = {
        "text": "and provide the correct option letter, e.g., A, B, C, D",
        "integer": "requiring an integer answer and provide the final value, e.g., 1, 2, 3",
        "float": f"requiring a floating-point number with {places} and provide the final value, e.g., {numbers}",
        "list": "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4]",
    }[kind]
    lines = [f"({symbols.letter(place)}) {choice}" for place, choice in enumerate(item.row.choices)]
    head = [f"Hint: Please answer the question {asks}, at the end.", f"Question: {item.row.question}"]
    return "\n".join([*head, *(["Choices:"] if lines else []), *lines])


def score(item: Item, text: str, protocol: str) -> Score:
    """Scores a response; in `official` nothing is extracted if only the judge can."""
    if protocol == "boxed":
        answer = item.columns["answer"]
        equal = [symbols.letter(place) for place, choice in enumerate(item.row.choices) if choice == answer]
        return _common.boxed_score(item.row, text, equal)
    return _compared(item, _extracted(item, text.strip()))


def judge_messages(item: Item, text: str) -> list[dict] | None:
    """Messages that ask a judge to extract the answer; None if the rules did or there is nothing to extract."""
    if not text.strip() or score(item, text, "official").extracted is not None:
        return None
    demonstrations = [
        f"{query}\n\nModel response: {response}\n\nExtracted answer: {answer}"
        for query, response, answer in _DEMONSTRATIONS
    ]
    task = "Read these examples. Then extract the answer from the last model response, and write nothing but it."
    query = item.columns["query"] or _query(item)
    return _common.user(
        "\n\n".join([task, *demonstrations, f"{query}\n\nModel response: {text}\n\nExtracted answer: "])
    )


def judged(item: Item, text: str, reply: str) -> Score:
    """The score of a response from the answer that a judge extracted."""
    return _compared(item, reply.strip().removeprefix("Extracted answer:").strip() or None)


def _extracted(item: Item, text: str) -> str | None:
    """The answer extracted by rules; None if they cannot decide."""
    kind, choices = item.columns["answer_type"], item.row.choices
    if text in choices:
        return text
    if (quoted := _quoted(text)) is not None:
        return quoted
    box = extract_boxed(text)
    tail = text.rpartition("</think>")[2].strip() if box is None else box
    if kind == "text":
        if box is None and len(tail.split()) == 1:  # the authors do not accept "b" and "B." as letters
            return tail if _chosen(tail) in symbols.LETTERS[: len(choices)] else None
        if (named := _vlmevalkit.chosen_letter(tail, choices)) and named != _vlmevalkit.NONE:
            return named
        return tail if box and tail in choices else None
    if kind == "list":
        lists = _LIST.findall(tail)
        return lists[0] if len(lists) == 1 else None
    if match := _LAST_WORD.search(tail):
        return match[1]
    return tail or None


def _quoted(text: str) -> str | None:
    """The quoted text after "The answer is", up to the last `".` of its line."""
    for line in text.split("\n"):
        if (match := _ANNOUNCED.search(line)) and '".' in line[match.end() :]:
            quoted = line[match.end() :].rpartition('".')[0]
            return quoted if quoted.strip() else None
    return None


def _chosen(text: str) -> str:
    """The first letter in brackets, whether or not it is a choice; else the text."""
    letters = _LETTER.findall(text)
    return letters[0].upper() if letters else text


def _compared(item: Item, extracted: str | None) -> Score:
    """Compares by the authors' rules; text that does not parse as the required answer type counts as no answer."""
    if not extracted or not extracted.strip() or len(extracted) > MAX_CHARACTERS:
        return Score(0.0, None)
    kind, choices, answer = item.columns["answer_type"], item.row.choices, item.columns["answer"]
    try:
        if kind == "text":
            chosen = _chosen(extracted)
            by_letter = dict(zip(symbols.LETTERS[: len(choices)], choices))
            near = min(choices, key=lambda choice: _distance(chosen, choice))
            value = by_letter.get(chosen, near)
        elif kind == "integer":
            value = str(int(float(extracted)))
        elif kind == "float" and item.columns["precision"] is None:
            return Score(0.0, None)  # rounding to None digits would make it an integer
        elif kind == "float":
            value = str(round(float(extracted), item.columns["precision"]))
        else:
            value = extracted
    except (ValueError, OverflowError):
        return Score(0.0, None)
    return Score(float(value == answer), value)


def _distance(one: str, other: str) -> int:
    """Edit distance (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        above, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]
