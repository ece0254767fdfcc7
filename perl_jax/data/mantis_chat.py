"""Conversations over several images in Mantis-Instruct's form: a folder with train.json, rows of `id`, `images`
(relative paths), `conversation` (`role`, `content`) and `source`. One record for each (user, assistant) pair whose
answer comes down to something that a rule can check; everything else is rejected with its reason.
"""

import functools
import json
import os
import re
from collections.abc import Iterator

from models.errors import InputError
from perl_jax import permute, symbols
from perl_jax import records as records_lib
from perl_jax.data import Rejected
from perl_jax.records import Record

SPLITS = ("train",)
SHORT_WORDS = 2  # an answer of at most so many words is compared as it is

EXAMPLE = {
    "id": "0.1-a",
    "question": "<image:0><image:1>\nWhich image shows more people than {image:0|lower} does?",
    "choices": [],
    "answer": "{image:1}",
    "kind": "text",
    "order_effect": "rewrite",
    "source": "synthetic_from_caption",
    "accuracy": None,
    "movable": None,
}

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NOUN = r"(?:image|picture|photo|photograph)"
_NUMBERED = re.compile(r"\b(image) (\d+)\b", re.I)
_LISTED = re.compile(rf"\b{_NOUN}s (\d+(?:(?:, (?:and |or )?| and | or )\d+)*)\b(?!\s*(?:-|–|to\b|through\b))", re.I)
_ORDINAL = re.compile(rf"\b({'|'.join(_ORDINALS)})(?= {_NOUN}\b)")
# What is left of these after the references became symbols may depend on the order in a way that no rule rewrites.
_DOUBTFUL = re.compile(
    rf"\b(?:left|right|next|previous|preceding|following|before|after|earlier|later|last|final|former|latter|other|"
    rf"another|remaining|opposite|sequence|order|chronological|frames?|middle|{'|'.join(_ORDINALS)}|"
    rf"{_NOUN}s?\s*#?\d+|\d+(?:st|nd|rd|th))\b",
    re.I,
)
_LONE_NUMBER = re.compile(r"(?<![\w.,:/-])\d(?![\w:/%-]|[.,]\d)")
_WHICH = re.compile(r"\bwhich\b", re.I)
_WHICH_IMAGE = re.compile(r"\bwhich (?:other )?(?:image|picture|photo)\b", re.I)
_YES_NO = re.compile(r"(yes|no)\b(?=[,.;!]|$)", re.I)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def records(input: str | None = None, split: str = "train", seed: int = 0) -> Iterator[Record | Rejected]:
    """The pairs of `input`/train.json in its order; `seed` is not used.

    Raises:
        InputError: no such folder or file, or one that is not a JSON list.
    """
    if input is None or split not in SPLITS:
        raise InputError(f"the source mantis_chat needs --input=FOLDER with train.json and has the split train; "
                         f"got input {input!r}, split {split!r}")
    for number, row in enumerate(_rows(os.path.join(input, f"{split}.json"))):
        try:
            paths, turns = list(row["images"] or ()), [(turn["role"], turn["content"]) for turn in row["conversation"]]
            name, source = row["id"], row["source"]
            "".join([name, source, *paths, *(text for turn in turns for text in turn)])  # raises if one is no text
        except (KeyError, TypeError) as error:
            yield Rejected(str(number), "malformed row", repr(error))
            continue
        read = functools.cache(functools.partial(_read_pictures, input, tuple(paths)))
        for turn, (user, assistant) in enumerate(zip(turns[::2], turns[1::2])):
            # The id of a row is not unique in the public files, so its number goes in front.
            yield _pair(f"{number}.{turn}-{name}", source, len(paths), user, assistant, read)


def _pair(name, source, count, user, assistant, read) -> Record | Rejected:
    if (user[0], assistant[0]) != ("user", "assistant"):
        return Rejected(name, "turns are not user, assistant", f"{user[0]}, {assistant[0]}")
    placed = _place_slots(user[1], count)
    if placed is None:
        return Rejected(name, "slots differ from images", f"{user[1].count('<image>')} slots, {count} images")
    if beyond := [match[0] for match in _NUMBERED.finditer(placed + assistant[1]) if not 1 <= int(match[2]) <= count]:
        return Rejected(name, "names an image that is not there", f"{beyond[0]}, {count} images")
    checkable = _checkable(placed, assistant[1])
    if checkable is None:
        return Rejected(name, "answer cannot be checked by a rule", assistant[1])
    plain_answer, kind = checkable
    question, answer = to_symbols(placed, count), to_symbols(plain_answer, count)
    record = Record(id=name, images=[], question=question, choices=[], answer=answer, kind=kind,
                    order_effect=_order_effect(question, answer, count), source=source, accuracy=None, movable=None)
    try:
        record["images"] = read()
    except InputError as error:
        return Rejected(name, "picture", str(error))
    try:
        records_lib.validate(record)
    except InputError as error:
        return Rejected(name, "text and images do not fit", str(error))
    shown = permute.render(record)
    if (shown["question"], shown["answer"]) != (symbols.SLOT.sub(symbols.MARKER, placed), plain_answer):
        return Rejected(name, "references do not render back to the text", question)
    return record


def to_symbols(text: str, count: int) -> str:
    """Text with its references to one of `count` images as symbols; one that points past them stays as it is.

    >>> to_symbols("Is image 2 like the first image? See images 1 and 3.", 3)
    'Is {image:1|lower} like the {image:0|ordinal} image? See images {image:0|number} and {image:2|number}.'
    """
    def symbol(number: int, style: str, plain: str) -> str:
        return f"{{image:{number - 1}{style}}}" if 1 <= number <= count else plain

    def listed(match: re.Match) -> str:
        start = match.start(1) - match.start()
        numbers = re.sub(r"\d+", lambda digits: symbol(int(digits[0]), "|number", digits[0]), match[1])
        return match[0][:start] + numbers

    def numbered(match: re.Match) -> str:
        style = {"Image": "", "image": "|lower"}.get(match[1])
        return match[0] if style is None else symbol(int(match[2]), style, match[0])

    text = _LISTED.sub(listed, _NUMBERED.sub(numbered, text))
    return _ORDINAL.sub(lambda match: symbol(_ORDINALS.index(match[1]) + 1, "|ordinal", match[0]), text)


def _order_effect(question: str, answer: str, count: int) -> str:
    text = symbols.SLOT.sub("", question) + "\n" + answer
    plain = symbols.MENTION.sub("@", text)
    # A small number alone may be an image's ("which image, 1 or 3, ..."), but not where it is the answer.
    lone = {int(number) for number in _LONE_NUMBER.findall(plain.rsplit("\n", 1)[0])}
    if _DOUBTFUL.search(plain) or lone & set(range(1, count + 1)):
        return "fixed"
    return "rewrite" if symbols.MENTION.search(text) else "invariant"


def _checkable(question: str, answer: str) -> tuple[str, str] | None:
    """(short answer, kind) of an answer that a rule can check, else None."""
    answer = answer.strip()
    short = answer.rstrip(".")
    if _NUMBER.fullmatch(short):
        return short, "number"
    if short and len(short.split()) <= SHORT_WORDS:
        return short, "text"
    if verdict := _YES_NO.match(answer):
        return verdict[1].capitalize(), "text"  # what follows is the explanation
    asked = {int(match[2]) for match in _NUMBERED.finditer(question)}
    named = {int(match[2]) for match in _NUMBERED.finditer(answer)} | {
        int(number) for match in _LISTED.finditer(answer) for number in re.findall(r"\d+", match[1])}
    # One image asked for and one named, not one that the question mentions: that image is the answer.
    if len(_WHICH.findall(question)) == 1 and _WHICH_IMAGE.search(question) and len(named) == 1 and not named & asked:
        return f"Image {named.pop()}", "text"
    return None


def _place_slots(text: str, count: int) -> str | None:
    """The text with numbered slots: where its own are, if inside it, else all in front; None if they do not fit."""
    body = re.sub(r"^(?:\s*<image>)+\s*|\s*(?:<image>\s*)+$", "", text.strip())
    if "<image>" in body:
        parts = text.split("<image>")
        if len(parts) - 1 != count:
            return None
        return "".join(f"<image:{i - 1}>{part}" if i else part for i, part in enumerate(parts))
    if text.count("<image>") not in (0, count):
        return None
    slots = "".join(f"<image:{i}>" for i in range(count))
    return f"{slots}\n{body}" if slots else body


def _read_pictures(folder: str, paths: tuple[str, ...]) -> list[bytes]:
    pictures, root = [], os.path.realpath(folder)
    for path in paths:
        full = os.path.realpath(os.path.join(root, path))
        if os.path.commonpath([root, full]) != root:
            raise InputError(f"picture {path!r} lies outside {folder}")
        try:
            with open(full, "rb") as file:
                data = file.read()
        except OSError as error:
            raise InputError(f"picture {path!r} cannot be read ({error.strerror})") from error
        pictures.append(records_lib.stored_picture(data, f"picture {path!r}"))
    return pictures


def _rows(path: str) -> list:
    try:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); give the folder that holds train.json") from error
    if not isinstance(rows, list):
        raise InputError(f"{path} holds a {type(rows).__name__}, not a list of rows")
    return rows
