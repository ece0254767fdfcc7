r"""MathVerse (AI4Math/MathVerse): 788 problems in five versions, from text only to image only.

The authors let a language model extract the answer (from the last 30 words) and then judge it against the reference
answer (evaluation/ of ZrrSkywalker/MathVerse). Here rules extract it, and decide where letters, numbers or equal texts
are compared; a judge is asked once about the rest. The few-shot examples are ours, with verdicts like theirs.
"""

import functools
import re
from collections.abc import Iterator, Mapping
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

REPOSITORY = "AI4Math/MathVerse"
PATTERNS = ("testmini.parquet",)
PROTOCOLS = _common.PROTOCOLS
MACRO = False
VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
ROWS = dict.fromkeys(VERSIONS, 788)
LAST_WORDS = 30  # of a response without an announced answer, passed to the judge

_DIRECTLY = "Please directly answer the question and provide the correct option letter, e.g., A, B, C, D."
_VALUE = "Please directly answer the question and provide the final value, e.g., 1, 2.5, 300."
EXAMPLE = {
    "row": {
        "sample_index": "3421",
        "problem_index": "685",
        "problem_version": "Text Lite",
        "question": "Find angle 2.\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°",
        "image": "images_version_1-4/image_685.png",
        "answer": "D",
        "question_type": "multi-choice",
        "metadata": {"split": "testmini", "source": "GeoQA", "subject": "Plane Geometry", "subfield": "Angle"},
        "query_wo": f"{_DIRECTLY}\nQuestion: Find angle 2.\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°",
        "query_cot": "Please first conduct reasoning ...",
    },
    "question": "Find angle 2.",
    "choices": ["40°", "60°", "120°", "140°"],
    "answer": "D",
    "official": f"<image>\n{_DIRECTLY}\nQuestion: Find angle 2.\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°",
    "right": "(D)",
    "wrong": "B:60°",
}

_FILES = (*PATTERNS, "testmini-*.parquet", "data/testmini-*.parquet", "testmini.jsonl", "testmini.json")
_SHOWN = "Answer the question that is shown in the image."
_ANNOUNCED = re.compile(r"(?:answer|option)(?: is|:)[:\s*]*([^\n]+)", re.I)
_LETTER_FIRST = re.compile(r"\(?([A-F])\)?(?:[.:](?!\d)|\s*$|\)\s)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_UNIT = re.compile(r"(?<=\d)(?=(?:[cmk]?m|k?g|s)$)")  # "0.5m"
_QUANTITY = re.compile(r"^[A-Z][a-z]+ (?=\$=)")  # "Area $=113.1$"
_SEVERAL = re.compile(r"[A-F](?:(?:\s|,|and)+[A-F])+")
_LETTERS_ALONE = ("",) * 6  # choices whose text is unknown
_FEW_WORDS = 6  # a response of at most this many words is itself the answer
_TASK = (
    "Judge whether a model's answer to a mathematical question agrees with the standard answer. An option must be the "
    "same option, by its letter or its text; any other answer must mean the same (0.5 m is 50 cm) and be complete. "
    "Write 1 if it agrees and 0 if not, and nothing else."
)
_DEMONSTRATIONS = (
    ("Which numbers are marked? Use interval notation.", "(-2,1]", "(-2, 1)", 0),
    ("Give the domain and the range of the function.", "domain: [-4, 0) and range: (-3, 1]", "Range: (-4, 1]", 0),
    ("Is this relation a function?\nChoices:\nA:It is\nB:It is not", "B", "It is not", 1),
    ("How long is the rod?", "0.5m", "50cm", 1),
)


def load(directory: str, allow_partial: bool = False) -> Iterator[Item | Rejected]:
    """Loads the five versions of testmini; `category` is the version. See `perl_jax.benchmarks`."""
    paths = _common.files(directory, _FILES, REPOSITORY)
    store = hub_files.ImageStore(directory, sorted(Path(directory).glob("images*.zip")))
    return _common.read(paths, functools.partial(_item, store=store), ROWS, REPOSITORY, allow_partial)


def _item(row: dict, name: str, store: hub_files.ImageStore) -> Item:
    version, kind = _common.column(row, "problem_version"), _common.column(row, "question_type")
    question, answer = _common.column(row, "question", "").strip(), _common.column(row, "answer").strip()
    if version not in VERSIONS or kind not in ("multi-choice", "free-form"):
        raise InputError(f"problem_version {version!r}, question_type {kind!r}")
    if not row.get("image") or not answer or not (question or version == "Vision Only"):
        raise InputError("no question, no answer or no image")
    answer = _UNIT.sub(" ", _QUANTITY.sub("", answer.replace("掳", "°")))  # "掳" is a mis-decoded °
    letter = re.fullmatch(r"\(?([A-F])\)?", answer) if kind == "multi-choice" else None
    head, choices = split_choices(question) if letter else (question, [])
    if letter and choices and letter[1] not in symbols.LETTERS[: len(choices)]:
        raise InputError(f"the answer {answer!r} is none of its {len(choices)} choices")
    new_row = Row(
        id=_common.column(row, "sample_index", name),
        images=[store.reader(row["image"])],
        question=head or _SHOWN,
        answer=letter[1] if letter else answer,
        source="mathverse",
        choices=choices,
        kind="choice" if letter else _kind(answer),
    )
    metadata = row.get("metadata")
    columns = {
        "question": question,
        "query": _common.column(row, "query_wo", ""),
        "question_type": kind,
        "asked": _common.column(row, "question_for_eval", question),
        **(metadata if isinstance(metadata, Mapping) else {}),
    }
    return Item(new_row, version, columns)


def _kind(answer: str) -> str:
    try:
        return one_value(answer)[1]
    except InputError:
        return "text"


def prompt(item: Item, protocol: str) -> list[dict]:
    """Chat messages; `official` is the published query for a direct answer, after the image."""
    if protocol == "boxed":
        return _common.boxed_prompt(item.row)
    return _common.user(f"{MARKER}\n{item.columns['query'] or _query(item)}")


def _query(item: Item) -> str:
    """The query for a row without one."""
    request = _DIRECTLY if item.columns["question_type"] == "multi-choice" else _VALUE
    if not item.columns["question"]:
        return request.replace("Please", "According to the question shown in the image, please")
    return f"{request}\nQuestion: {item.columns['question']}"


def score(item: Item, text: str, protocol: str) -> Score:
    """Scores a response; may hang on a hostile one. In `official` nothing is extracted if the judge must decide."""
    if protocol == "boxed":
        return _common.boxed_score(item.row, text, _golds(item.row))
    answer = _extracted(item, text)
    return Score(0.0, None) if answer is None else _decided(item, answer)


def judge_messages(item: Item, text: str) -> list[dict] | None:
    """Messages that ask a judge about a response; None if the rules decided or there is nothing to judge."""
    if text.strip().lower() in ("", "null") or score(item, text, "official").extracted is not None:
        return None
    demonstrations = [_question(*demonstration) for demonstration in _DEMONSTRATIONS]
    question = item.columns["asked"] or "(It is shown in an image.)"
    return _common.user(
        "\n\n".join([_TASK, *demonstrations, _question(question, item.row.answer, _answer_or_last_words(item, text))])
    )


def judged(item: Item, text: str, reply: str) -> Score:
    """The score given by a judge's reply; a reply other than 0 or 1 counts as no answer."""
    verdict = reply.strip().removeprefix("Judgement:").strip()
    return Score(float(verdict == "1"), _answer_or_last_words(item, text) if verdict in ("0", "1") else None)


def _question(question: str, answer: str, response: str, verdict: int | str = "") -> str:
    return f"[Question]: {question}\n[Standard Answer]: {answer}\n[Model_answer]: {response}\nJudgement: {verdict}"


def _answer_or_last_words(item: Item, text: str) -> str:
    return _extracted(item, text) or " ".join(text.split()[-LAST_WORDS:])


def _extracted(item: Item, text: str) -> str | None:
    """The answer extracted by rules: the box, the announced answer, the letter named, or all of a short response."""
    tail = text.rpartition("</think>")[2].strip()
    answer = extract_boxed(text)
    if answer is None and (announced := _ANNOUNCED.findall(tail)):
        answer = announced[-1].strip("* ")
    if answer is None and len(tail.split()) <= _FEW_WORDS:
        answer = tail
    if answer is None and item.row.kind == "choice":
        answer = _vlmevalkit.chosen_letter(tail, item.row.choices or _LETTERS_ALONE)
    return answer if answer and answer.strip(". ").lower() != "null" else None


def _decided(item: Item, answer: str) -> Score:
    """Scores by rules if they can decide; a differing text may still mean the same, which only the judge can tell."""
    row, undecided = item.row, Score(0.0, None)
    if row.kind == "choice":
        named = _LETTER_FIRST.match(answer) or _vlmevalkit.chosen_letter(answer, row.choices or _LETTERS_ALONE)
        letter = named if named is None or isinstance(named, str) else named[1]
        same = [symbols.letter(place) for place, choice in enumerate(row.choices) if choice == answer.strip()]
        letter = same[0] if len(same) == 1 else letter
        return Score(float(letter == row.answer), letter) if letter else undecided
    record = {"answer": row.answer, "kind": row.kind}
    if answer.strip() == row.answer or any(
        compare.is_correct({**record, "answer": gold}, answer) for gold in _golds(row)
    ):
        return Score(1.0, answer)
    numbers = _NUMBER.fullmatch(answer.strip(" .$")) and _NUMBER.fullmatch(row.answer.strip(" .$"))
    lists = _SEVERAL.fullmatch(answer) and _SEVERAL.fullmatch(row.answer)
    return Score(0.0, answer) if numbers or lists else undecided


def _golds(row: Row) -> list[str]:
    """All spellings of the answer; several letters may be written "C, D", "C and D", ..."""
    several = re.findall(r"[A-F]", row.answer) if _SEVERAL.fullmatch(row.answer) else []
    return [joint.join(several) for joint in (", ", " and ", " ", ",", "")] if several else [row.answer]
