"""Mantis-Eval (TIGER-Lab/Mantis-Eval): 217 human-written questions over several images; choices or short answers.

Prompt and rules of `official`: mantis/benchmark/eval.py of TIGER-AI-Lab/Mantis. It takes the first letter of a reply,
so "Both" chooses B and so does `\\boxed{A}`: for a model that thinks or boxes, use `boxed`. The authors' released
script asks no language model, so there is no judge.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from models.errors import InputError
from perl_jax import symbols
from perl_jax.benchmarks import Item, Score, _common
from perl_jax.data import Rejected, Row
from perl_jax.records import hub_files
from perl_jax.symbols import MARKER

REPOSITORY = "TIGER-Lab/Mantis-Eval"
PATTERNS = ("mantis_eval/test-*.parquet",)
PROTOCOLS = _common.PROTOCOLS
MACRO = False
ROWS = 217

EXAMPLE = {
    "row": {
        "id": "mantis_eval_0",
        "question_type": "multi-choice",
        "question": "Which picture has more cups? <image> <image>",
        "images": 2,
        "options": ["(A) the first", "(B) the second"],
        "answer": "B",
        "data_source": "made_up",
        "category": "counting",
    },
    "question": "Which picture has more cups? <image> <image>",
    "choices": ["the first", "the second"],
    "answer": "B",
    "official": "Which picture has more cups? <image> <image>\n (A) the first\n (B) the second\n"
    "Answer with the option's letter from the given choices directly.",
    "right": "The answer is (B).",
    "wrong": "A",
}

_ANSWER = re.compile("Answer: ([A-Z])")
# the first of these that occurs counts, at its first occurrence
_ANNOUNCEMENTS = ("final answer:", "the answer is", "answer:")


def load(directory: str, allow_partial: bool = False) -> Iterator[Item | Rejected]:
    """Loads the questions; `category` is the question type. See `perl_jax.benchmarks`."""
    paths = _common.files(directory, (*PATTERNS, "test-*.parquet", "*.parquet"), REPOSITORY)
    store = hub_files.ImageStore(Path(directory), ())
    return _common.read(paths, functools.partial(_item, store=store), ROWS, REPOSITORY, allow_partial)


def _item(row: dict, name: str, store: hub_files.ImageStore) -> Item:
    kind = _common.column(row, "question_type")
    if kind not in ("multi-choice", "short-answer"):
        raise InputError(f"question_type {kind!r}")
    choice = kind == "multi-choice"
    options = (
        [hub_files.text_or_number(option, "an option") for option in _common.column_list(row, "options")]
        if choice
        else []
    )
    choices = [_common.unlabelled(option, place) for place, option in enumerate(options)]
    images = [store.reader(image) for image in _common.column_list(row, "images")]
    shown = sum(option.count(MARKER) for option in choices)
    question = _common.with_slots(_common.column(row, "question"), len(images), shown)
    answer = _common.column(row, "answer").strip("()\n ")
    if not images or not answer:
        raise InputError("no image" if not images else "no answer")
    if choice:
        answer = _letter(answer, len(choices))
    fixed = _common.inside_sentences(question)
    return Item(
        Row(
            id=_common.column(row, "id", name),
            images=images,
            question=question,
            answer=answer,
            source="mantis_eval",
            choices=choices,
            kind="choice" if choice else None,
            order_effect="fixed" if fixed else None,
            reason="images stand inside its sentences" if fixed else "",
        ),
        kind,
        {"options": options, "category": row.get("category"), "data_source": row.get("data_source")},
    )


def _letter(answer: str, count: int) -> str:
    """The letter of the correct choice among `count`; of a longer answer, its first letter."""
    letter = answer if len(answer) == 1 else next(filter(str.isalpha, answer), "")
    if letter.upper() not in symbols.LETTERS[:count]:
        raise InputError(f"the answer {answer!r} is none of its {count} options")
    return letter.upper()


def prompt(item: Item, protocol: str) -> list[dict]:
    """Chat messages. `official` has the published options, with letters added if missing."""
    if protocol == "boxed":
        return _common.boxed_prompt(item.row)
    if item.category == "short-answer":
        return _common.user(
            f"Given the images, answer the following short answer vqa question:\nQ: {item.row.question}\n"
            'You can first give your analysis, and then give your final answer as "Final Answer:"'
        )
    lines = [item.row.question]
    for place, option in enumerate(item.columns["options"]):
        letter = symbols.letter(place)
        labelled = any(letter + mark in option.upper() for mark in "):.")
        lines.append(f" {option}" if labelled else f" ({letter}) {option}")
    return _common.user("\n".join([*lines, "Answer with the option's letter from the given choices directly."]))


def score(item: Item, text: str, protocol: str) -> Score:
    """Scores a response; in `official` a choice is the first letter, after an announcement if there is one."""
    if protocol == "boxed":
        return _common.boxed_score(item.row, text)
    answer_text = _announced(text)
    if item.category == "short-answer":
        return Score(float(answer_text.lower() == item.row.answer.lower()), answer_text or None)
    answer = item.row.answer
    marked = _ANSWER.match(answer_text)
    first = (marked[1] if marked else next(filter(str.isalpha, answer_text), "")).upper()
    if first in symbols.LETTERS[: len(item.row.choices)]:
        return Score(float(first == answer), first)
    gold = item.columns["options"][symbols.letter_place(answer)]
    label = next((mark for mark in (f"{answer}.", f"{answer}:", f"({answer})") if gold.startswith(mark)), "")
    right = text.strip() == gold[len(label) :].strip() != ""  # an option may consist of its label only
    return Score(float(right), answer if right else None)


def _announced(text: str) -> str:
    lower = text.lower()
    announcement = next((mark for mark in _ANNOUNCEMENTS if mark in lower), None)
    return text if announcement is None else text[lower.index(announcement) + len(announcement) :].strip()
