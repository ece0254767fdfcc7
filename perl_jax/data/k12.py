r"""School mathematics with at most one image: MMK12 (FanqingM/MMK12), and the JSONL of MM-Eureka before it.

Reads `data/train-*.parquet` (`question, answer, image` struct), a JSON list of the same with `image_path`, and
MM-Eureka's rows of both branches: `conversations` with `image_urls`, or `message`, JSON text of messages. Answers are
as teachers wrote them; a row is kept if its answer reduces to one value that a rule can check.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from models.errors import InputError
from models.image_files import Encoded
from perl_jax import symbols
from perl_jax.answers.formulas import MAX_CHARACTERS
from perl_jax.data import ImageReader, Rejected, Row
from perl_jax.records import chat_messages, hub_files

SPLITS = ("train",)
REPOSITORY = "FanqingM/MMK12"
TEXT_WORDS = 2  # most words of a text answer, which is compared literally
PROSE_WORDS = 4  # an answer with this many words among its formulas is prose

EXAMPLE = {
    "id": "k12-1",
    "question": "<image:0>\nAs shown in the figure, $AB=AC$ and $\\angle A=40^{\\circ}$. Find $\\angle B$ = ___",
    "choices": [],
    "answer": "70^{\\circ}",
    "kind": "number",
    "order_effect": "invariant",
    "source": "k12",
    "accuracy": None,
    "movable": None,
}

_BLANK = (224, 224)  # MM-Eureka's placeholder image for rows without one, in a single colour
_WIDE = str.maketrans("，；：（）．。？", ",;:().." + "?")
_MANY = re.compile(r"not unique|\bacceptable\b|\(\s*or\b|\(?choose (?:any )?one", re.I)
_PARTS = re.compile(r"[\n;、→]|\\\\|\b(?:or|and)\b|\\text\s*\{\s*(?:or|and)\s*\}|\(\d\).*\(\d\)|^(?:\d\.){2,}$", re.I)
_BLOCK = re.compile(r"\$\$.+?\$\$|\$.+?\$", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_NOT_COUNTED = r"(?!percent|hundred|thousand|million|sin|cos|tan|log)"
_COUNTED = re.compile(rf"([-+]?[\d.,]*\d)\s+{_NOT_COUNTED}[a-z]{{3,}}(?: [a-z]+){{0,2}}", re.I)
_WORD = re.compile(r"(?<![A-Za-z])(?!(?:and|sin|cos|tan|cot|log|lim|max|min)(?![a-z]))[A-Za-z][a-z]{2,}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_SIGN = re.compile(r"[<>=]|\\[lg]t")
_COMPARED = re.compile(r"[<>≤≥]|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![a-z])")
_RELATED = re.compile(
    r"\\(?:in|perp|bot|parallel|cong|sim|backsim)(?![a-z])|[∈⊥∥≌∽]|"
    r"^(?:\\angle ?\w+|[A-Z]{2,}) ?= ?(?:\\angle ?\w+|[A-Z]{2,})$"
)
_NOTATION = re.compile(r"\\(?:ce|over(?:right)?arrow|vec|(?:wide)?hat)(?![a-z])")  # notation that graders cannot parse


def records(
    input: str | None = None, split: str = "train", seed: int = 0, *, download: bool = False
) -> Iterator[Row | Rejected]:
    """Yields the rows in file order.

    Args:
        input: a file, or a folder with `data/train-*.parquet`, `train-*.parquet`, `*.jsonl` or `*.json`.
        split: `train`.
        seed: unused.
        download: download MMK12 to the folder first (1.4 GB).

    Raises:
        InputError: no such file or folder, an unreadable file, or a failed download.
    """
    if input is None or split not in SPLITS:
        raise InputError(f"the source k12 needs --input=FOLDER and has the split train; got {input!r}, {split!r}")
    if download:
        hub_files.download(REPOSITORY, input, [f"data/{split}-*"])
    files, number = _files(Path(input), split), 0
    stores = {file.parent: hub_files.ImageStore(file.parent, sorted(file.parent.glob("*.zip"))) for file in files}
    for file in files:
        for _, row in hub_files.rows(file):
            number += 1
            try:
                if isinstance(row, InputError):
                    raise row
                yield _row(row, f"k12-{number}", stores[file.parent])
            except InputError as error:
                yield Rejected(f"k12-{number}", "malformed row", str(error))


def one_value(answer: str) -> tuple[str, str]:
    r"""Reduces an answer to (value, "number" or "text"), without `$`, final stop and counted noun.

    Raises:
        InputError: several values, alternative correct values, prose, or a relation instead of a value; its message is
            the reason.

    >>> [one_value(text) for text in (r"$$\number{32}$$", "70$textdegree$.", "360 sets", "rhombus.")]
    [('32', 'number'), ('70°', 'number'), ('360', 'number'), ('rhombus', 'text')]
    """
    answer = answer.translate(_WIDE).strip()
    if _MANY.search(answer):
        raise InputError("other answers are right too")
    if len(answer) > MAX_CHARACTERS or len(_WORD.findall(_COMMAND.sub(" ", answer))) >= PROSE_WORDS:
        raise InputError("prose")
    if _PARTS.search(answer) or _separate(answer):
        raise InputError("several answers")
    answer = re.sub(r"\$?\\?textdegree\$?", "°", answer)
    answer = re.sub(r"\\(?:number|unit|text)\s*\{(\d[^{}]*|[A-Za-z])\}", r"\1", answer)
    answer = re.sub(r"\\(left|right)\s+", r"\\\1", answer)  # math-verify cannot parse the space
    answer = " ".join(answer.replace("$", "").rstrip(". ").split())
    if counted := _COUNTED.fullmatch(answer):
        answer = counted[1]
    if _WORDS.fullmatch(answer):
        if len(answer.split()) > TEXT_WORDS:
            raise InputError("prose")
        return answer, "text"
    if _SIGN.fullmatch(answer):
        return answer, "text"
    without_commands = _COMMAND.sub(" ", answer)
    if (
        not re.search(r"[\dA-Za-z]|\\pi|π", answer)
        or _WORD.search(without_commands)
        or re.search(r"[?∵∴\"]", without_commands)
    ):
        raise InputError("prose")
    if _RELATED.search(answer) or _NOTATION.search(answer) or not _is_range(answer):
        raise InputError("a relation or notation that no rule compares")
    return answer, "number"


def _separate(answer: str) -> bool:
    """Whether it lists several values: adjacent formulas, adjacent numbers, or commas outside all brackets."""
    gaps = [gap.strip(" ,") for gap in _BLOCK.split(answer)[1:-1]]
    if "" in gaps or re.search(r"\d\s+[-+]?\d", _BLOCK.sub("$", answer)):
        return True
    depth, text = 0, re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", answer.replace("\\,", " "))
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth <= 0:
            return True
    return False


def _is_range(answer: str) -> bool:
    """Whether it has no comparison, or compares exactly one letter."""
    sides = _COMPARED.split(answer)
    return len(sides) == 1 or sum(re.fullmatch(r" ?[A-Za-z] ?", side) is not None for side in sides) == 1


def _files(path: Path, split: str) -> list[Path]:
    if path.is_file():
        return [path]
    for pattern in (f"data/{split}-*.parquet", f"{split}-*.parquet", "*.jsonl", "*.json"):
        if matches := sorted(path.glob(pattern)):
            return matches
    raise InputError(
        f"{path} holds no data/{split}-*.parquet, no .jsonl and no .json file: download it, with --option=download=True"
    )


def _row(row: dict, name: str, store: hub_files.ImageStore) -> Row | Rejected:
    if messages := row.get("conversations") or row.get("message"):
        question, embedded = chat_messages.question(messages)
        values = row.get("image_urls") or embedded
    else:
        question, values = hub_files.text(row.get("question"), "question"), row.get("image") or row.get("image_path")
    values = values if isinstance(values, list) else [values]
    images = [store.reader(value) for value in values if any(value.values() if isinstance(value, dict) else [value])]
    if messages:
        images = [image for image in images if not _is_blank(image)]
    question = question.replace(symbols.MARKER, "").strip()
    published = hub_files.text_or_number(row.get("answer"), "answer")
    try:
        answer, kind = one_value(published)
    except InputError as reason:
        return Rejected(name, f"answer: {reason}", published)
    if answer.strip("()") in chat_messages.option_letters(question):
        answer, kind = answer.strip("()"), "choice"
    given_id = row.get("id")
    return Row(
        id=hub_files.text(given_id, "id") if given_id else name,
        images=images,
        question=question,
        answer=answer,
        source="k12",
        kind=kind,
    )


def _is_blank(read_image: ImageReader) -> bool:
    try:
        decoded = Encoded(read_image(), "image")
        return (decoded.width, decoded.height) == _BLANK and all(
            low == high for low, high in decoded.decoded().getextrema()
        )
    except InputError:  # reported when the image is stored
        return False
