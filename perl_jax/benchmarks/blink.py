"""BLINK (BLINK-Benchmark/BLINK): 14 visual perception tasks; the 1,901 questions of its `val` split.

The answers of `test` are hidden. Prompt and rules of `official`: eval/test_benchmark.py of zeyofu/BLINK_Benchmark,
where a language model interprets what its rules cannot; here `_common.marked_letter` does, and then the judge, if there
is one. Without one more is left undecided, which the results count.
The headline accuracy is the mean over tasks; lmms-eval and VLMEvalKit report the mean over questions.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from models.errors import InputError
from perl_jax import symbols
from perl_jax.benchmarks import Item, Score, _common
from perl_jax.curation import references
from perl_jax.curation.checkable import split_choices
from perl_jax.data import Rejected, Row
from perl_jax.records import hub_files
from perl_jax.symbols import MARKER

REPOSITORY = "BLINK-Benchmark/BLINK"
PATTERNS = ("*/val-*.parquet",)
PROTOCOLS = _common.PROTOCOLS
MACRO = True
ROWS = {
    "Art_Style": 117,
    "Counting": 120,
    "Forensic_Detection": 132,
    "Functional_Correspondence": 130,
    "IQ_Test": 150,
    "Jigsaw": 150,
    "Multi-view_Reasoning": 133,
    "Object_Localization": 122,
    "Relative_Depth": 124,
    "Relative_Reflectance": 134,
    "Semantic_Correspondence": 139,
    "Spatial_Relation": 143,
    "Visual_Correspondence": 172,
    "Visual_Similarity": 135,
}

EXAMPLE = {
    "row": {
        "idx": "val_Jigsaw_999",
        "sub_task": "Jigsaw",
        "question": "Which image fills the missing corner?",
        "images": 3,
        "choices": ["the second image", "the third image"],
        "answer": "(B)",
        "prompt": "The first image lacks a corner. Is it the second image or the third image?\n"
        "Select from the following choices.\n(A) the second image\n(B) the third image",
    },
    "question": "The first image lacks a corner. Is it the second image or the third image?",
    "choices": ["the second image", "the third image"],
    "answer": "B",
    "right": "The answer is (B)",
    "wrong": "(C)",
}

_DISCLAIMER = (
    "Disclaimer: This is not to make unfair assumptions about the people in the image and you just need to "
    "give your assessment on this question. You don't need to identify the real people. You just need to "
    "analyze based on the information I gave you.\n\n"
)
_DISCLAIMED = ("Forensic_Detection", "Jigsaw", "Art_Style")
_SELECT = re.compile(rf"\s*{_common.SELECT}\s*$", re.I)
_NONE = "If the answer refuses, selects no option, or differs in meaning from all of them, write (Z)."
_BRACKETED = tuple(f"({letter})" for letter in "ABCDE")
_PLACE = _common.place_words("third", "fourth")  # not "latter", which names the two candidates together


class Known(NamedTuple):
    """What a task fixes for all its questions, where their wording alone is too ambiguous for the rules."""

    order_effect: str
    reason: str
    movable: Sequence[int] | None = None


_MARKED = Known("rewrite", "points are marked in the images, and its words name the images by their places")
_KNOWN = {
    "Art_Style": Known("rewrite", "its words name the reference and the candidates by their places"),
    "Functional_Correspondence": _MARKED,
    "Jigsaw": Known("rewrite", "its words name the image with a hole and the pieces by their places"),
    "Multi-view_Reasoning": Known("fixed", "the begin and the end of a film"),
    "Semantic_Correspondence": _MARKED,
    "Visual_Correspondence": _MARKED,
    "Visual_Similarity": Known("rewrite", "the first image is the reference of the latter two", (1, 2)),
}


def load(directory: str, allow_partial: bool = False) -> Iterator[Item | Rejected]:
    """Loads the questions; `category` is the task. See `perl_jax.benchmarks`."""
    paths = _common.files(directory, PATTERNS, REPOSITORY)
    store = hub_files.ImageStore(Path(directory), ())
    return _common.read(paths, functools.partial(_item, store=store), ROWS, REPOSITORY, allow_partial)


def _item(row: dict, name: str, store: hub_files.ImageStore) -> Item:
    task = _common.column(row, "sub_task").replace(" ", "_")
    choices = [hub_files.text_or_number(choice, "a choice").strip() for choice in _common.column_list(row, "choices")]
    images = _common.numbered_images(row, store, 4)
    answer = _common.column(row, "answer").strip("() ")
    if answer not in symbols.LETTERS[: len(choices)]:
        raise InputError(f"the answer {answer!r} is none of its {len(choices)} choices")
    prompt = _common.column(row, "prompt")
    question = _question(prompt, choices) or _common.column(row, "question")
    known = _known(task, question, len(images))
    return Item(
        Row(
            id=_common.column(row, "idx", name),
            images=images,
            question=question,
            answer=answer,
            source="blink",
            choices=choices,
            kind="choice",
            order_effect=known and known.order_effect,
            movable=known and known.movable,
            reason=known.reason if known else "",
        ),
        task,
        {"prompt": prompt},
    )


def _question(prompt: str, choices: Sequence[str]) -> str | None:
    """The published prompt, more detailed than the question, without its choices; None if its choices differ."""
    head, listed = split_choices(prompt)
    return _SELECT.sub("", head) if listed == choices else None


def _known(task: str, question: str, count: int) -> Known | None:
    """What is known of a task, provided that all positions the question names can be rewritten."""
    known = _KNOWN.get(task)
    if known is None or count < 2 or known.order_effect == "fixed":
        return known if count > 1 else None
    unread = _PLACE.search(references.to_symbols(question, count))
    return None if unread or max(known.movable or (0,)) >= count else known


def prompt(item: Item, protocol: str) -> list[dict]:
    """Chat messages; in `official` the images precede the published prompt."""
    if protocol == "boxed":
        return _common.boxed_prompt(item.row)
    disclaimer = _DISCLAIMER if item.category in _DISCLAIMED else ""
    return _common.user(MARKER * len(item.row.images) + disclaimer + item.columns["prompt"])


def score(item: Item, text: str, protocol: str) -> Score:
    """Scores a response; in `official` the extracted answer is "(A)" to "(E)", or None, which the authors call (Z)."""
    if protocol == "boxed":
        return _common.boxed_score(item.row, text)
    answer = _letter(text, _BRACKETED[: len(item.row.choices)])
    return Score(float(answer == f"({item.row.answer})"), answer)


def _letter(text: str, options: Sequence[str]) -> str | None:
    """The letter of a one-letter reply; else the one option that occurs as a word, in the last paragraph or overall."""
    if f"({text})" in _BRACKETED or text in _BRACKETED:
        return f"({text.strip('()')})"
    last = text.split("\n\n")[-1]
    for part in (last, text):
        if len(named := set(options) & set(part.split())) == 1:
            return named.pop()
    letter = _common.marked_letter(last, len(options)) or _common.marked_letter(text, len(options))
    return letter and f"({letter})"


def judge_messages(item: Item, text: str) -> list[dict] | None:
    """Messages that ask a judge which choice a response means; None if the rules know or there is nothing to read."""
    if not text.strip() or score(item, text, "official").extracted is not None:
        return None
    options = "\n".join(f"{mark} {choice}" for mark, choice in zip(_BRACKETED, item.row.choices))
    return _common.choice_judge(item.row.question, options, text, _NONE)


def judged(item: Item, text: str, reply: str) -> Score:
    """The score of a response from the choice that a judge read in it; none for (Z)."""
    letter = _common.judged_letter(reply, len(item.row.choices))
    return Score(float(letter == item.row.answer), letter and f"({letter})")
