r"""The paper's reward: 0.9 * accuracy of the boxed answer + 0.1 * format (PeRL, reward section).

Letters, yes/no, image names, texts and orders are compared by exact rules: a grader of mathematics takes words for
products of letters. Numbers and formulas go to math-verify with its own time limits off (they are signals, and would
not stop a long integer power anyway), so this must run where it can be killed: `perl_jax.grading`.
"""

import logging
import re
from collections.abc import Mapping
from decimal import Decimal

from models.errors import InputError

MAX_CHARACTERS = 256  # a longer mathematical answer counts as wrong and is never parsed

_BOX = re.compile(r"\\boxed\{|\\.|[{}]", re.DOTALL)
_PLAIN_NUMBER = re.compile(r"[-+]?([0-9]{1,3}(,[0-9]{3})+|[0-9]+)(\.[0-9]+)?|[-+]?\.[0-9]+")
_TEXT_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox)\s*\{([^{}]*)\}")
_MATH_DELIMITER = re.compile(r"\$|\\[()\[\]]")
_LETTER = re.compile(r"\(([a-z])\)[.:]?|([a-z])[.:)]?")
_LETTER_AND_TEXT = re.compile(r"(?:\(([a-z])\)[.:]?|([a-z])[.:)])\s+(.+)")
_FURTHER_LETTER = re.compile(r"(?:^|[\s,;(])[a-z](?:[.:)]|$)")
_ARROW_OR_SPACE = re.compile(r"(?:\\(?:[Ll]ong)?[Rr]ightarrow|\\to(?![a-z])|\\[,; ]|[-=–—]*>|[→⟶⇒➔➡,;\s\[\](){}–—-])+")


def score(record: Mapping[str, object], text: str) -> dict[str, float]:
    r"""{"reward", "accuracy", "format"} of a whole response; `record` is rendered, with `answer` and maybe `kind`.

    A response that its limit has cut (`truncated` in the record) fails the format.

    >>> score({"answer": "B", "kind": "choice"}, r"<think>look</think> \boxed{B}")
    {'reward': 1.0, 'accuracy': 1.0, 'format': 1.0}
    >>> score({"answer": "B", "kind": "choice"}, r"\boxed{B}")
    {'reward': 0.9, 'accuracy': 1.0, 'format': 0.0}
    >>> score({"answer": "B", "kind": "choice"}, r"<think>look</think> \boxed{C}")
    {'reward': 0.1, 'accuracy': 0.0, 'format': 1.0}
    """
    prediction = extract_boxed(text)
    accuracy = float(prediction is not None and is_correct(record, prediction))
    layout = float(has_format(text) and not record.get("truncated"))
    return {"reward": 0.9 * accuracy + 0.1 * layout, "accuracy": accuracy, "format": layout}


def has_format(text: str) -> bool:
    r"""Whether the whole response matches `<think>.*</think>.*\boxed{.*}.*`, any character counting as `.`.

    Written as searches from left to right: the regular expression itself is cubic in a hostile text.

    >>> has_format("<think>a\nb</think>so \\boxed{3}."), has_format(" <think></think>\\boxed{3}")
    (True, False)
    """
    if not text.startswith("<think>"):
        return False
    end = len("<think>")
    for part in ("</think>", "\\boxed{", "}"):
        start = text.find(part, end)
        if start < 0:
            return False
        end = start + len(part)
    return True


def extract_boxed(text: str) -> str | None:
    r"""What the last balanced `\boxed{...}` holds, stripped; None without one. Linear in the text.

    >>> extract_boxed(r"\boxed{1} then \boxed{\frac{1}{2}} and \boxed{3")
    '\\frac{1}{2}'
    >>> extract_boxed("no box") is None
    True
    """
    start, inside, opened = -1, None, []  # opened: where each open brace's box starts, None for a plain brace
    for match in _BOX.finditer(text):
        if match[0] == "{":
            opened.append(None)
        elif match[0] == "\\boxed{":
            opened.append(match.end())
        elif match[0] == "}" and opened:
            begin = opened.pop()
            if begin is not None and begin > start:
                start, inside = begin, text[begin : match.start()]
    return None if inside is None else inside.strip()


def is_correct(record: Mapping[str, object], prediction: str) -> bool:
    r"""Whether a boxed answer is the record's, by the rule of its kind (guessed from the answer without one).

    An empty answer or prediction, and a mathematical answer that cannot be parsed, are never correct.

    >>> is_correct({"answer": "B", "kind": "choice", "choices": ["a cat", "a dog"]}, "(B) a dog")
    True
    >>> is_correct({"answer": "Image 2", "kind": "text"}, "image  2")
    True
    >>> is_correct({"answer": "2→1→3", "kind": "order"}, r"2, 1, 3")
    True
    >>> is_correct({"answer": "1,000", "kind": "number"}, "1000.0")
    True
    """
    answer, prediction = str(record["answer"]).strip(), prediction.strip()
    choices = [str(choice) for choice in record.get("choices") or ()]
    kind = record.get("kind") or _guess_kind(answer, choices)
    if not normalized(answer) or not normalized(prediction):
        return False
    if kind == "choice":
        return _same_choice(answer, prediction, choices)
    if kind == "text":
        return normalized(answer) == normalized(prediction)
    if kind == "order":
        return _places(answer) == _places(prediction) != []
    if kind == "number":
        return _same_value(answer, prediction)
    raise InputError(f"record {record.get('id')!r}: unknown kind {kind!r} (choice, number, text or order)")


def normalized(text: str) -> str:
    r"""The text without case, LaTeX text commands, maths delimiters, outer quotes, a final stop, repeated spaces.

    >>> normalized(r"\text{The  red} Car.")
    'the red car'
    """
    text = _MATH_DELIMITER.sub("", _TEXT_COMMAND.sub(r"\1", text)).replace("\\ ", " ")
    return " ".join(text.split()).strip("\"'`“”‘’ ").rstrip(".!").strip().casefold()


def _guess_kind(answer: str, choices: list[str]) -> str:
    if choices or _LETTER.fullmatch(normalized(answer)):
        return "choice"
    words = re.search(r"[A-Za-z]{2}", re.sub(r"\\[A-Za-z]+", " ", answer))
    return "number" if not words and re.search(r"[0-9\\]", answer) else "text"


def _same_choice(answer: str, prediction: str, choices: list[str]) -> bool:
    """By letter where both name one (a letter past the last choice names none), else by text, if only one has it."""
    texts = [normalized(choice) for choice in choices]
    gold, guess = normalized(answer), normalized(prediction)
    if guess == gold:
        return True
    wanted, chosen = _choice_index(gold, texts), _choice_index(guess, texts)
    return wanted is not None and wanted == chosen


def _choice_index(text: str, texts: list[str]) -> int | None:
    """Which choice a normalized text names: its letter, its letter and its text, or its text alone."""
    match = _LETTER.fullmatch(text)
    if match:
        index = ord(match[1] or match[2]) - ord("a")
        if not texts or index < len(texts):
            return index
    match = _LETTER_AND_TEXT.fullmatch(text)
    if match:
        index, rest = ord(match[1] or match[2]) - ord("a"), normalized(match[3])
        # The choices may stand in the question alone: then any text may follow that does not name a second letter.
        if (index < len(texts) and rest == texts[index]) or not (texts or _FURTHER_LETTER.search(rest)):
            return index
    return texts.index(text) if texts.count(text) == 1 else None


def _places(text: str) -> list[str]:
    text = _TEXT_COMMAND.sub(r" \1 ", _MATH_DELIMITER.sub(" ", text)).casefold().rstrip(". ")
    return [part for part in _ARROW_OR_SPACE.split(text) if part and part not in ("image", "images")]


def _same_value(answer: str, prediction: str) -> bool:
    answer, prediction = _formula(answer), _formula(prediction)
    if _PLAIN_NUMBER.fullmatch(answer) and _PLAIN_NUMBER.fullmatch(prediction):
        return Decimal(answer.replace(",", "")) == Decimal(prediction.replace(",", ""))
    if len(prediction) > MAX_CHARACTERS:
        return False
    import math_verify  # 1.6 s to import, and plain numbers never need it

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it would warn that its limits are off
    gold, guess = (
        math_verify.parse(f"${text}$", fallback_mode="no_fallback", parsing_timeout=None)
        for text in (answer, prediction)
    )
    return bool(gold) and math_verify.verify(gold, guess, timeout_seconds=None)


def _formula(text: str) -> str:
    """One line without delimiters of its own: a second formula beside the first would be a second guess."""
    text = re.sub(r"(?<!\\)\$|\\[()\[\]]", " ", text).replace("°", r"^\circ ").replace("−", "-")
    return " ".join(text.split()).rstrip(".")
