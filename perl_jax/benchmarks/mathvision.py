r"""MathVision, or MATH-V (MathLLMs/MathVision): 3040 problems of mathematics competitions, one image each.

The panels of a problem are merged into one image, with the names that its text uses (`<image1>`). The rules of the
official protocol (github.com/mathllm/MATH-V, evaluation/) are followed exactly, quirks included: units are not removed,
numbers are compared after rounding to two decimals, a choice is correct by its letter or by its value, and the value of
a formula is that of `perl_jax.benchmarks._latex_value`.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from models.errors import InputError
from perl_jax import symbols
from perl_jax.benchmarks import Item, Score, _common, _latex_value
from perl_jax.data import Rejected, Row
from perl_jax.records import hub_files
from perl_jax.rewards.boxed import extract_boxed
from perl_jax.symbols import MARKER

REPOSITORY = "MathLLMs/MathVision"
PATTERNS = ("data/test-*",)
PROTOCOLS = _common.PROTOCOLS
MACRO = False
ROWS = 3040

EXAMPLE = {
    "row": {
        "id": "4",
        "question": "How many digits can you find?\n<image1>",
        "options": [],
        "image": "images/4.jpg",
        "answer": "60",
        "solution": None,
        "level": 1,
        "subject": "counting",
    },
    "question": "How many digits can you find?",
    "choices": [],
    "answer": "60",
    "official": '<image>\nPlease solve the problem and put your answer in one "\\boxed{}". If it is a multiple choice '
    'question, only one letter is allowed in the "\\boxed{}".\nHow many digits can you find?\n<image1>\n',
    "right": "It is 60.",
    "wrong": "So we get 60 apples",
}

_FILES = ("data/test-*.parquet", "test-*.parquet", "data/test.jsonl", "test.jsonl", "test_*.jsonl")
_INSTRUCTION = (
    'Please solve the problem and put your answer in one "\\boxed{}". If it is a multiple choice question, only one '
    'letter is allowed in the "\\boxed{}".\n'
)
_PANEL = re.compile(r"<image\d+>")
_FRACTION = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")
_FLAGS = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
_REPLACED = (  # applied in this order
    (" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"), ("\n", ""), ("\\text", ""),
    ("\\mbox", ""), ("bmatrix", "pmatrix"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""),
    ("{m}^3", ""), ("m^3", ""), ("{units}", ""), ("units", ""), ("{km}", ""), ("km", ""), ("\\!", ""), ("\\\\", "\\"),
    ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""),
    ("\\$", ""), ("$", ""), ("\\%", ""), ("{.", "{0."),
)  # fmt: skip


def load(directory: str, allow_partial: bool = False) -> Iterator[Item | Rejected]:
    """Loads the test split: Parquet from Hugging Face, or test.jsonl with images/; `category` is the subject."""
    paths = _common.files(directory, _FILES, REPOSITORY)
    store = hub_files.ImageStore(directory, sorted(Path(directory).glob("images*.zip")))
    return _common.read(paths, functools.partial(_item, store=store), ROWS, REPOSITORY, allow_partial)


def _item(row: dict, name: str, store: hub_files.ImageStore) -> Item:
    question, answer = _common.column(row, "question").strip(), _common.column(row, "answer").strip()
    options = [hub_files.text_or_number(option, "an option") for option in _common.column_list(row, "options")]
    image = row.get("decoded_image") or row.get("image")
    if not (image and question and answer):
        raise InputError("no image" if not image else "no question or no answer")
    if options and answer not in symbols.LETTERS[: len(options)]:
        raise InputError(f"the answer {answer!r} is none of its {len(options)} options")
    panels = _PANEL.findall(" ".join([question, *options]))
    unlabelled = [option.strip("() ") for option in options] == [*symbols.LETTERS[: len(options)]]
    new_row = Row(
        id=_common.column(row, "id", name),
        images=[store.reader(image)],
        question=_PANEL.sub("", question).strip() if len(panels) == 1 else question,
        answer=answer if options else extract_boxed(answer) or answer,
        source="mathvision",
        choices=[] if unlabelled else [option.strip() for option in options],
        kind="choice" if options else None,
    )
    columns = {
        "question": _common.column(row, "question"),
        "options": options,
        "level": row.get("level"),
        "answer": answer if options else _common.column(row, "answer"),
    }
    return Item(new_row, _common.column(row, "subject", ""), columns)


def prompt(item: Item, protocol: str) -> list[dict]:
    """Chat messages; `official` is the authors' prompt for one merged image, after the image."""
    if protocol == "boxed":
        return _common.boxed_prompt(item.row)
    options = item.columns["options"]
    lines = [f"({symbols.letter(place)}) {option}\n" for place, option in enumerate(options)]
    choices = "" if "".join(options) == "ABCDE" else "".join(lines)
    return _common.user(f"{MARKER}\n{_INSTRUCTION}{item.columns['question']}\n{choices}")


def score(item: Item, text: str, protocol: str) -> Score:
    """Scores a response; may hang on a hostile box. `official` uses the box, or without one the text in its place.

    Nothing counts as extracted if a response of several words was compared as a whole without a match.
    """
    if protocol == "boxed":
        return _common.boxed_score(item.row, text)
    answer, options = item.columns["answer"], item.columns["options"]
    extracted, separated = _extracted(text)
    value = options[symbols.letter_place(answer)] if options else ""
    correct = _equal(answer, extracted) or _equal(value, extracted)
    return Score(float(correct), extracted if correct or separated or len(text.split()) == 1 else None)


def _extracted(text: str) -> tuple[str, bool]:
    """(the answer without irrelevant LaTeX, whether it was separated from the rest of the response)."""
    text = full = text.strip()
    for letter in "ABCDE":
        if text.endswith((f" {letter}.", f" ({letter}).")) or text.startswith(
            (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        ):
            text = letter
    last = text.split("is ")[-1].rstrip(".")
    if _is_number(last):
        text = last
    if "oxed{" not in text:
        for flag in (form for lower in _FLAGS for form in (lower, lower.replace("the", "The"))):
            announced = flag in text
            text = text.split(flag)[-1].strip()
            if announced:
                text = text.split("\n")[0].split(". ")[0]
    elif text.count("oxed{") > 1:
        text = "\\boxed{" + text.split("oxed{")[-1]
    cleaned = _cleaned(text)
    for bare in "abcde":
        cleaned = cleaned.replace(f"({bare})", bare)
    for bare in "abcde":
        cleaned = cleaned.replace(f"{{{bare}}}", bare)
    return cleaned.rstrip(".").lstrip(":").strip(), text != full or "oxed{" in text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cleaned(text: str) -> str:
    text = text.lower().replace("{}", "")
    start, end = text.find("oxed{"), text.rfind("}")
    if 0 <= start < end:
        text = text[start + len("oxed{") : end]
    if 0 <= text.find("}") < (text.find("{") if "{" in text else len(text)):
        text = text.partition("}")[0]
    text = text.split("=")[-1].split("\\approx")[-1]
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = re.sub(r"^\.", "0.", text)
    if "sqrt" in text:
        head, *roots = text.split("\\sqrt")
        roots = [f"{{{root[0]}}}{root[1:]}" if root and root[0] != "{" else root for root in roots]
        text = _braced("\\sqrt".join([head, *roots]))
    if text == "0.5":
        return r"\frac{1}{2}"
    fraction = _FRACTION.fullmatch(text)
    return rf"\frac{{{fraction[1]}}}{{{fraction[2]}}}" if fraction else text


def _braced(text: str) -> str:
    r"""Adds braces: \frac12 as \frac{1}{2}; unchanged if the text ends within one."""
    head, *parts = text.split("\\frac")
    if any(len(part) < 2 and not part.startswith("{") for part in parts):
        return text
    for part in parts:
        if part[0] == "{":
            head += "\\frac" + part
        else:
            below = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            head += f"\\frac{{{part[0]}}}{below}"
    return head


def _equal(answer: str, guess: str) -> bool:
    answer, guess = answer.lower(), guess.lower()
    if not answer.strip(" ") or not guess.strip(" "):
        return False
    if answer.strip() == guess.strip() or _rounded_items(answer) == _rounded_items(guess):
        return True
    value = _rounded(answer)
    return value is not None and value == _rounded(guess)


def _rounded_items(text: str) -> str:
    """A point, interval or list with its items rounded to two decimals; any other text unchanged."""
    parts = text[1:-1].split(",")
    if len(parts) < 2 or text[0] + text[-1] not in ("()", "[]"):
        return text
    values = [part if "infty" in part or part in ("a", "-a") else _rounded(part) for part in parts]
    return text if None in values else f"{text[0]}{','.join(map(str, values))}{text[-1]}"


def _rounded(text: str) -> float | int | None:
    """The value of a formula rounded to two decimals, as the authors compute it; None if it has none."""
    number = _latex_value.value(text)
    return number if number is None else round(number, 2)
