"""The choices of a question in the forms of other people's files."""

import ast
import json
import re
from collections.abc import Mapping, Sequence

from models.errors import InputError
from perl_jax import symbols
from perl_jax.records import hub_files

_LETTERED_COLUMN = re.compile(r"(?:(?i:(?:option|choice|opt)s?)[ _.-]?)([A-Za-z]|\d)|([A-Z])")
_LABEL = re.compile(r"(?:\(([A-Za-z\d])\)|\[([A-Za-z\d])\]|([A-Za-z])[.:)、．]|(\d)[.:)、．](?=\s))\s*(?=\S)")
_KEYS = (("label", "text"), ("letter", "text"), ("key", "value"), ("id", "text"), ("label", "value"), ("id", "content"))
_LISTS = (("label", "text"), ("labels", "texts"), ("labels", "text"), ("label", "choices"))


def read(value: object, answer: str) -> tuple[list[str], str]:
    """(choices without letters, answer). A label of the file that is no capital letter becomes one in the answer.

    Args:
        value: a list of texts, with or without letters, or of `{label, text}`; an object of letters or numbers; an
            object with the lists `label` and `text`; the JSON or printed Python of these; or lines, or lettered text.
        answer: the answer of the file: a label, a choice's text, or another form that is kept as it is.

    Raises:
        InputError: another form; labels that do not count; an answer that is one choice's label and another one's text.

    >>> read({"A": "a cat", "B": "a dog", "C": None}, "B"), read("['a cat', 'a dog']", "a dog")
    ((['a cat', 'a dog'], 'B'), (['a cat', 'a dog'], 'a dog'))
    >>> read("(A) a cat (B) a dog", "B"), read({"1": "a cat", "2": "a dog"}, "2")
    ((['a cat', 'a dog'], 'B'), (['a cat', 'a dog'], 'B'))
    """
    labels, values = _pairs(value)
    texts = [hub_files.text_or_number(text, "choice") for text in values]
    if not texts:
        return [], answer
    if labels is None:
        labels, texts = _unlettered(texts)
    return texts, _with_letter(labels or symbols.LETTERS[: len(texts)], texts, answer)


def columns(names: Sequence[str]) -> list[str]:
    """The columns that hold one choice each: A, B, C, or option_a, option_b, or choice1, choice2; [] if there are none.

    >>> columns(["index", "A", "B", "C", "answer"]), columns(["optionA", "optionB", "A"]), columns(["A", "C"])
    (['A', 'B', 'C'], ['optionA', 'optionB'], [])
    """
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _LETTERED_COLUMN.fullmatch(name):
            label = (match[1] or match[2]).upper()
            groups.setdefault(name[: -len(label)], {})[label] = name
    for group in groups.values():
        if len(group) > 1 and _counts(sorted(group)):
            return [group[label] for label in sorted(group)]
    return []


def of_columns(values: Sequence[object], names: Sequence[str]) -> list:
    """The choices in such columns, up to the last one that is set; InputError for a gap."""
    values = [None if _empty(value) else value for value in values]
    while values and values[-1] is None:
        values.pop()
    if None in values:
        raise InputError(f"its choice {names[values.index(None)]} is empty, but {names[len(values) - 1]} is not")
    return values


def _empty(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _pairs(value: object) -> tuple[list[str] | None, list]:
    """(labels, choices) as the file has them; labels None: it has no labels beside the texts."""
    if isinstance(value, str):
        value = _from_text(value)
    if value is None:
        return None, []
    if isinstance(value, Mapping):
        for label, text in _LISTS:
            if isinstance(value.get(label), list) and isinstance(value.get(text), list):
                if len(value[label]) != len(value[text]):
                    raise InputError(f"its choices are {len(value[text])} texts with {len(value[label])} labels")
                return [str(one) for one in value[label]], value[text]
        items = [(str(key).strip("(). "), text) for key, text in value.items()]
        items = sorted(items, key=lambda item: (len(item[0]), item[0].upper()))
        texts = of_columns([text for _, text in items], [key for key, _ in items])
        return [key for key, _ in items[: len(texts)]], texts
    if not isinstance(value, list | tuple):
        raise InputError(f"choices is a {type(value).__name__}, not a list")
    if value and all(isinstance(one, Mapping) for one in value):
        return _from_objects(value)
    return None, list(value)


def _from_objects(values: Sequence[Mapping]) -> tuple[list[str] | None, list]:
    for label, text in _KEYS:
        if all(label in one and text in one for one in values):
            return [str(one[label]) for one in values], [one[text] for one in values]
    if all(len(one) == 1 for one in values):
        pairs = [next(iter(one.items())) for one in values]
        if all(key == pairs[0][0] for key, _ in pairs):  # [{"text": ...}, ...]
            return None, [text for _, text in pairs]
        return [str(key) for key, _ in pairs], [text for _, text in pairs]
    raise InputError(f"its choices are objects with {', '.join(map(str, values[0]))}; known are label and text")


def _from_text(text: str) -> object:
    """The list or object in a text; None of an empty one."""
    if not text.strip():
        return None
    if text.lstrip()[0] in "[{":
        for parse in (json.loads, ast.literal_eval):
            try:
                found = parse(text.strip())
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                continue
            if isinstance(found, list | tuple | dict):
                return found
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        return lines
    return _lettered(text)


def _lettered(text: str) -> list[str]:
    """The choices in one line of lettered text; InputError where it is not clear where they begin."""
    text = text.strip()
    places = [mark for mark in _LABEL.finditer(text) if mark.start() == 0 or text[mark.start() - 1] in " \t,;|"]
    found = [_label(mark).upper() for mark in places]
    if len(found) < 2 or not _counts(found) or places[0].start() != 0:
        raise InputError(f"choices is a str, {text[:60]!a}, not a list: give a list, or a line for each")
    ends = [mark.start() for mark in places[1:]] + [len(text)]
    texts = [text[mark.end() : end].strip() for mark, end in zip(places, ends)]
    separators = {text[-1:] for text in texts[:-1]}
    return [text.rstrip(",;|").strip() if separators <= set(",;|") and len(separators) == 1 else text for text in texts]


def _unlettered(texts: list[str]) -> tuple[list[str] | None, list[str]]:
    """(labels, texts without them), where each text begins with the letter of its place; (None, texts) otherwise."""
    marks = [_LABEL.match(text.strip()) for text in texts]
    if len(texts) < 2 or not all(marks):
        return None, texts
    labels = [_label(mark) for mark in marks]
    if not _counts([label.upper() for label in labels]):
        return None, texts
    return labels, [text.strip()[mark.end() :].strip() for mark, text in zip(marks, texts)]


def _label(mark: re.Match) -> str:
    return next(filter(None, mark.groups()))


def _counts(labels: Sequence[str]) -> bool:
    """Whether the labels are A, B, C, ... or count from 0 or 1."""
    numbers = [str(number) for number in range(len(labels) + 1)]
    return list(labels) in ([*symbols.LETTERS[: len(labels)]], numbers[:-1], numbers[1:])


def _with_letter(labels: Sequence[str], texts: Sequence[str], answer: str) -> str:
    upper = [label.strip().upper() for label in labels]
    if not _counts(upper):
        raise InputError(f"its choices are labelled {', '.join(labels)}, which does not count A, B, C or 1, 2, 3")
    said = answer.strip().strip("().").upper()
    named = upper.index(said) if said in upper else None
    equal = [place for place, text in enumerate(texts) if text.strip().casefold() == answer.strip().casefold()]
    if named is None:
        mark = _LABEL.match(answer.strip())  # label and text: "2. a dog"
        place = upper.index(_label(mark).upper()) if mark and _label(mark).upper() in upper else None
        both = place is not None and answer.strip()[mark.end() :].strip().casefold() == texts[place].strip().casefold()
        return symbols.letter(place) if both else answer
    if equal and equal != [named]:
        raise InputError(f"its answer {answer!r} is the label of one choice and the text of another")
    return symbols.letter(named)
