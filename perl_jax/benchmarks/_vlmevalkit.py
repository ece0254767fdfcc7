"""Extracts the chosen option from a response by the rules of VLMEvalKit (`can_infer` of utils/matching_util.py).

VLMEvalKit uses the same rules for BLINK, MathVista and MathVision.
"""

import re
from collections.abc import Sequence

from perl_jax import symbols

NONE = "Z"  # the letter for "none of them"
LAST_WORDS = 4  # a single letter is the answer if among this many last words

_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANNOUNCED = re.compile(r"answer is[\s*]*\(?([A-D])(?![A-Za-z])")


def chosen_letter(text: str, choices: Sequence[str]) -> str | None:
    r"""The letter of the choice that a response names, `NONE` if it says so, or None if the rules cannot decide.

    >>> [chosen_letter(text, ["a cat", "a dog"]) for text in (r"\boxed{B}", "It is a dog", "b", "A or B")]
    ['B', 'B', None, None]
    """
    words = text.translate(_PUNCTUATION).split()
    letters = symbols.LETTERS[: len(choices)]
    named = [letter for letter in letters if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - LAST_WORDS:
        return named[0]
    if not named and NONE in words:
        return NONE
    if (match := _ANNOUNCED.search(text)) and match[1] in letters:
        return match[1]
    if len(text) > 2 * sum(map(len, choices)):
        return None
    named = [letter for letter, choice in zip(letters, choices) if choice.strip() and choice.lower() in text.lower()]
    return named[0] if len(named) == 1 else None
