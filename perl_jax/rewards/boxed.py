r"""The paper's reward: 0.9 * accuracy of the boxed answer + 0.1 * format (PeRL, reward section).

Answers are compared by `answers.compare`, which may hang on hostile input, so run this in a killable process:
`perl_jax.grading`.
"""

import re
from collections.abc import Mapping

from perl_jax.answers import compare

_BOX = re.compile(r"\\boxed\{|\\.|[{}]", re.DOTALL)


def score(record: Mapping[str, object], text: str) -> dict[str, float]:
    r"""{"reward", "accuracy", "format"} of a whole response; `record` is rendered, with `answer` and optionally `kind`.

    With `rounding` in the record, an answer may be rounded further than the reference (`config.reward_rounding`).
    A response truncated at the length limit (`truncated` in the record) fails the format.

    >>> score({"answer": "B", "kind": "choice"}, r"<think>look</think> \boxed{B}")
    {'reward': 1.0, 'accuracy': 1.0, 'format': 1.0}
    >>> score({"answer": "B", "kind": "choice"}, r"\boxed{B}")
    {'reward': 0.9, 'accuracy': 1.0, 'format': 0.0}
    >>> score({"answer": "B", "kind": "choice"}, r"<think>look</think> \boxed{C}")
    {'reward': 0.1, 'accuracy': 0.0, 'format': 1.0}
    """
    prediction = extract_boxed(text)
    accuracy = float(prediction is not None and compare.is_correct(record, prediction))
    layout = float(has_format(text) and not record.get("truncated"))
    return {"reward": 0.9 * accuracy + 0.1 * layout, "accuracy": accuracy, "format": layout}


def has_format(text: str) -> bool:
    r"""Whether the whole response matches `<think>.*</think>.*\boxed{.*}.*`, with `.` matching any character.

    Implemented as left-to-right searches: the regular expression is cubic on hostile text.

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
    r"""Content of the last balanced `\boxed{...}` outside the thinking, stripped; None without one. Linear time.

    Thinking is everything up to the last `</think>`, and everything after an unclosed `<think>`.

    >>> extract_boxed(r"\boxed{1} then \boxed{\frac{1}{2}} and \boxed{3")
    '\\frac{1}{2}'
    >>> extract_boxed(r"<think>\boxed{1}</think> so 2") is None
    True
    """
    text = text.rpartition("</think>")[2].partition("<think>")[0]
    start, inside, opened = -1, None, []  # opened: content start of each open box, None for a plain brace
    for match in _BOX.finditer(text):
        if match[0] == "{":
            opened.append(None)
        elif match[0] == "\\boxed{":
            opened.append(match.end())
        elif match[0] == "}" and opened:
            opening = opened.pop()
            if opening is not None and opening > start:
                start, inside = opening, text[opening : match.start()]
    return None if inside is None else inside.strip()


def checkable(record: Mapping[str, object]) -> bool:
    r"""Whether the record's own answer, boxed, is graded correct; if not, no response can earn this reward.

    The record is rendered. Like all grading, it may hang on a hostile answer.

    >>> checkable({"answer": "5 cm", "kind": "number"}), checkable({"answer": "1 or so", "kind": "number"})
    (True, False)
    """
    return score(record, f"<think></think>\\boxed{{{record['answer']}}}")["accuracy"] == 1
