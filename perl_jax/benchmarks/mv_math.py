r"""MV-MATH (PeijieWang/MV-MATH): 2009 school mathematics problems with two to eight images each.

The authors let a language model judge each response: true or false, or k/n for a problem of n parts (evaluation/ of
eternal8080/MV-MATH). Here rules decide where letters, numbers or equal texts are compared, and the judge is asked about
the rest. `correct` of a problem with parts is k/n; the published overall accuracy counts only full marks. The worked
examples of the official prompt are omitted, and the instructions to model and judge are in our words.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from models.errors import InputError
from perl_jax import symbols
from perl_jax.answers import compare
from perl_jax.benchmarks import Item, Score, _common, _vlmevalkit
from perl_jax.curation.checkable import split_choices
from perl_jax.data import Rejected, Row
from perl_jax.data.k12 import one_value
from perl_jax.records import hub_files
from perl_jax.rewards.boxed import extract_boxed
from perl_jax.symbols import MARKER

REPOSITORY = "PeijieWang/MV-MATH"
PATTERNS = ("*MV-MATH.json", "*images*")
PROTOCOLS = _common.PROTOCOLS
MACRO = False
ROWS = 2009

EXAMPLE = {
    "row": {
        "problem_id": 1,
        "question": "Which net folds to a cube?\nA.\n\n<image_1>\nB.\n\n<image_2>\nC.\n\n<image_3>\nD.\n\n<image_4>",
        "input_image": ["a_1.jpg", "a_2.jpg", "a_3.jpg", "a_4.jpg"],
        "is_multi_img": True,
        "answer": "B",
        "answer_type": "choice",
        "difficulty": "Low",
        "grade": "Junior",
        "subject": "Solid Geometry",
        "image_relavance": "0",
        "analysis": "...",
    },
    "question": "Which net folds to a cube?",
    "choices": ["<image>", "<image>", "<image>", "<image>"],
    "answer": "B",
    "official": "<image><image><image><image>\nWhich net folds to a cube?\nA.\n\n<image_1>\nB.\n\n<image_2>\nC.\n\n"
    "<image_3>\nD.\n\n<image_4>\nReason step by step, each step on a new line, as: Step X (theorem or basis used): "
    "detailed solution. End with: Answer: {X}, where X is one of A, B, C and D.",
    "right": "Step 1: it has six squares.\nAnswer: {B}",
    "wrong": "Answer: {}",
}

_FILES = ("MV-MATH.json", "data/MV-MATH.json", "*.json", "data/*.json")
_SLOT = re.compile(r"<image_(\d+)>")
_PART = re.compile(r"[(（](\d)[)）]")
_OR_ELSE = re.compile(r"\s*\\?#\\?#\s*")
_BRACES = re.compile(r"[Aa]nswer:?\**\s*\{([^{}]*)\}")
_ANNOUNCED = re.compile(r"[Aa]nswer(?:\s+is|:)[:\s*]*([^\n]+)")
_LETTER = re.compile(r"\(?([A-Z])(?:[).:,]|\s*$|\s(?=where|because|since))")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_VALUE = re.compile(r"(?:=|\bis\b|:)\s*([^=:]+?)[.。;；\s]*$")
_LETTERS_ALONE = ("",) * 4  # choices whose text is unknown
_FEW_WORDS = 6  # a response of at most this many words is itself the answer
_STEPS = "Reason step by step, each step on a new line, as: Step X (theorem or basis used): detailed solution."
_END = {
    "choice": "End with: Answer: {X}, where X is one of A, B, C and D.",
    "single-step": "End with: Answer: X",
    "multi-step": "Answer each part, as (1) ..., (2) ..., and end with: Answer: (1) X (2) Y",
}
_TASKS = {
    "choice": "Given a question, a model's answer and the standard answer, say whether the model chooses the right "
    "option. A letter is right where its option has the standard answer's value. Write only true or false.",
    "single-step": "Say whether the final answer of a model's response matches the standard answer. Write only true "
    "or false.",
    "multi-step": "Say how many parts of a question a model answers as the standard answer does. Write only the number "
    "of right parts/the number of parts, as 2/3 or 0/3.",
}


def load(directory: str, allow_partial: bool = False) -> Iterator[Item | Rejected]:
    """Loads the problems of MV-MATH.json; `category` is the subject. See `perl_jax.benchmarks`."""
    paths = _common.files(directory, _FILES, REPOSITORY)[:1]
    folder = Path(directory) if list(Path(directory).glob("*images*")) else paths[0].parent
    store = hub_files.ImageStore(folder, sorted(folder.glob("*images*.zip")))
    return _common.read(paths, functools.partial(_item, store=store), ROWS, REPOSITORY, allow_partial)


def _item(row: dict, name: str, store: hub_files.ImageStore) -> Item:
    published, answer = _common.column(row, "question"), _common.column(row, "answer").strip()
    kind, names = _common.column(row, "answer_type"), _common.column_list(row, "input_image")
    if kind not in _END:
        raise InputError(f"answer_type {kind!r}")
    if not (names and answer and published.strip()):
        raise InputError("no question, no answer or no image")
    shown = [int(number) - 1 for number in _SLOT.findall(published)]
    if len(set(shown)) < len(shown) or not set(shown) <= set(range(len(names))):
        raise InputError(f"slots {[place + 1 for place in shown]} of {len(names)} images")
    order = [place for place in range(len(names)) if place not in shown] + shown  # images without a slot come first
    question = _common.with_slots(_SLOT.sub(MARKER, published).strip(), len(names))
    question, choices = split_choices(question) if kind == "choice" else (question, [])
    if kind == "choice" and answer not in symbols.LETTERS[: len(choices) or 4]:
        answer = _letter_of(answer, choices)
    new_row = Row(
        id=_common.column(row, "problem_id", name),
        images=[store.reader(names[place]) for place in order],
        question=question,
        answer=answer,
        source="mv_math",
        choices=choices,
        kind="choice" if kind == "choice" else _kind(answer),
    )
    columns = {key: row.get(key) for key in ("difficulty", "grade", "image_relavance")}
    return Item(new_row, _common.column(row, "subject", ""), {**columns, "question": published, "answer_type": kind})


def _letter_of(answer: str, choices: list[str]) -> str:
    """The letter of the one choice with the answer's value; InputError if there is not exactly one."""

    def value(text: str) -> str | float:
        return float(text) if _NUMBER.fullmatch(text) else text

    same = [symbols.letter(place) for place, choice in enumerate(choices) if value(choice) == value(answer)]
    if len(same) != 1:
        raise InputError(f"the answer {answer!r} is none of its {len(choices)} choices")
    return same[0]


def _kind(answer: str) -> str:
    try:
        return one_value(_OR_ELSE.split(answer)[0])[1]
    except InputError:
        return "number" if re.search(r"\d|\\", answer) and not _PART.search(answer) else "text"


def prompt(item: Item, protocol: str) -> list[dict]:
    """Chat messages; `official` has all images first, and asks for steps."""
    if protocol == "boxed":
        return _common.boxed_prompt(item.row)
    front = MARKER * len(item.row.images)
    return _common.user(f"{front}\n{item.columns['question']}\n{_STEPS} {_END[item.columns['answer_type']]}")


def score(item: Item, text: str, protocol: str) -> Score:
    """Scores a response; may hang on a hostile one. In `official` nothing is extracted if the judge must decide."""
    answer = extract_boxed(text) or None if protocol == "boxed" else _extracted(item, text)
    if answer is None:
        return Score(0.0, None)
    kind = item.columns["answer_type"]
    if kind == "choice" and protocol == "boxed":
        return _common.boxed_score(item.row, text)
    scored = {"choice": _choice, "single-step": _value, "multi-step": _parts}[kind](item.row, answer)
    return scored or Score(0.0, answer if protocol == "boxed" else None)


def judge_messages(item: Item, text: str) -> list[dict] | None:
    """Messages that ask a judge about a response; None if the rules decided or there is nothing to judge."""
    if not text.strip() or score(item, text, "official").extracted is not None:
        return None
    kind = item.columns["answer_type"]
    question = f"Question: {item.columns['question']}\n" if kind == "choice" else ""
    request = f"{question}Standard answer: {item.row.answer}\nModel's response: {text}"
    return [{"role": "system", "content": _TASKS[kind]}, *_common.user(request)]


def judged(item: Item, text: str, reply: str) -> Score:
    """The score given by a judge's reply; a reply in another format counts as no answer."""
    reply = reply.strip().lower().rstrip(".")
    if item.columns["answer_type"] != "multi-step":
        return Score(float(reply == "true"), reply if reply in ("true", "false") else None)
    match = re.fullmatch(r"(\d{1,3})\s*/\s*(\d{1,3})", reply)
    if not match or not 0 < int(match[2]) >= int(match[1]):
        return Score(0.0, None)
    return Score(int(match[1]) / int(match[2]), reply)


def _extracted(item: Item, text: str) -> str | None:
    """The answer extracted by rules: a box, `Answer: {X}`, the last announced answer, parts, or a short response."""
    tail = text.rpartition("</think>")[2].strip()
    for answer in (extract_boxed(text), *_BRACES.findall(tail)[-1:], *_ANNOUNCED.findall(tail)[-1:]):
        if answer is not None:
            return answer.strip("* ") or None
    short = len(tail.split()) <= _FEW_WORDS or (item.columns["answer_type"] == "multi-step" and _PART.search(tail))
    if short or item.row.kind != "choice":
        return tail if short and tail else None
    return _vlmevalkit.chosen_letter(tail, item.row.choices or _LETTERS_ALONE)


def _choice(row: Row, answer: str) -> Score | None:
    match = _LETTER.match(answer)
    choices = row.choices or _LETTERS_ALONE
    letter = match[1] if match else _vlmevalkit.chosen_letter(answer, choices)
    known = letter in symbols.LETTERS[: len(choices)]
    return Score(float(letter == row.answer), letter) if known else None


def _value(row: Row, answer: str) -> Score | None:
    golds = _OR_ELSE.split(row.answer)
    if any(_same(gold, answer, row.kind) for gold in golds):
        return Score(1.0, answer)
    numbers = all(_NUMBER.fullmatch(one.strip(" .$")) for one in [*golds, answer])
    return Score(0.0, answer) if numbers else None


def _parts(row: Row, response: str) -> Score | None:
    """k/n for the parts "(1) ... (2) ..."; None if a part that differs from the reference may still mean the same."""
    golds, answers = _numbered(row.answer), _numbered(response)
    if not golds or not answers:
        return None
    right = 0
    for number, gold in golds.items():
        guess = answers.get(number, "")
        value = match[1] if (match := _VALUE.search(guess)) else guess
        same = any(_same(gold, one, _kind(gold)) for one in (guess, value) if one)
        right += same
        if guess and not same and not (_NUMBER.fullmatch(gold.strip("$ .")) and _NUMBER.fullmatch(value.strip("$ ."))):
            return None
    return Score(right / len(golds), f"{right}/{len(golds)}")


def _numbered(text: str) -> dict[str, str]:
    """{number: text} of "(1) ... (2) ..."; for a repeated number, the last."""
    pieces = _PART.split(text)
    return {number: piece.strip(" \n;；,，.。") for number, piece in zip(pieces[1::2], pieces[2::2])}


def _same(gold: str, guess: str, kind: str | None) -> bool:
    if compare.is_correct({"answer": gold, "kind": kind}, guess):
        return True
    texts = [re.sub(r"[\s$.。]", "", compare.clean_text(one) or "") for one in (gold, guess)]
    return texts[0] == texts[1] != ""
