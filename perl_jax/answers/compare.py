r"""Answer equivalence by kind: choice, text, order or number.

Letters, verdicts, images, texts and orders are compared by exact rules, because math-verify reads words as products of
letters. Numbers and formulas go to `answers.formulas`, which can hang on hostile input, so run this in a killable
process: `perl_jax.grading`. When in doubt the answer counts as wrong; a prediction that names two answers is wrong.
"""

import re
import unicodedata
from collections.abc import Mapping

from models.errors import InputError
from perl_jax import symbols
from perl_jax.answers import formulas

MAX_CHARACTERS = 256  # of a sentence that is parsed as a verdict

_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|bb)|bold(?:symbol)?|bm|mbox|emph|underline)\s*\{([^{}]*)\}"
)
_BOLD = re.compile(r"(?<![\w)}*])\*\*([^*\n]+)\*\*(?![\w(*])")
_EMPHASIS = re.compile(r"^\s*(\*|__)([^*_]+)\1\s*$")
_SPACE = re.compile(r"\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~")
_MATH_DELIMITER = re.compile(r"\\?\$|\\[()\[\]]")
_QUOTES, _STOPS = "\"'`“”‘’„«»「」『』《》", ".!。｡।۔．"
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_NUMBERS = {word: str(number) for number, word in enumerate(("zero", *symbols.NUMERALS, "eleven", "twelve"))}
_OPTION = r"(?:(?:the )?(?:option|choice)[ :]*(?=\(?[a-z](?![a-z])))?"
_LETTER = re.compile(rf"{_OPTION}(?:\(([a-z])\)[.:]?|([a-z])[.:)]?)")
_LETTER_AND_TEXT = re.compile(rf"{_OPTION}(?:\(([a-z])\)[.:]?|([a-z])[.:)])\s*(.+)", re.IGNORECASE | re.DOTALL)
_GOLD_PREFIX = re.compile(
    r".*####\s*|\W*(?:the )?(?:final |correct )?answer(?: is)?\s*[:：]\s*|\s*the (?:final |correct )?answer is\s+",
    re.IGNORECASE | re.DOTALL,
)
_MARK_AFTER_DIGIT = re.compile(
    r"[0-9]\s*['\"!’”]\s*\$?\s*$(?<![\"”'’])|^[^'\"“‘]*[0-9]\s*['\"’”]"
)  # 5! and 5' are not 5
_MATHEMATICAL = re.compile(r"[0-9\\^=+*/]")
_FURTHER_LETTER = re.compile(r"(?:^|[\s,;(])[a-z](?:[.:)]|$)")
_ARROW_OR_SPACE = re.compile(
    r"(?:\\(?:[Ll]ong)?[Rr]ightarrow|\\to(?![a-z])|\\[,; {}]|[-=–—]{0,9}>|[→⟶⇒➔➡,;\s\[\](){}–—-])+"
)
_RANGE = re.compile(r"[0-9]\s*[-–—]\s*[0-9]")

_NOUN = r"(?:image|picture|photo|photograph|figure|panel)"
_IMAGE = re.compile(
    rf"(?:the )?(?:(?P<word>{'|'.join(symbols.ORDINALS)})|(?P<digits>[0-9]{{1,3}})(?:st|nd|rd|th))(?: (?:{_NOUN}|one))?"
    rf"|(?:{_NOUN} ?)?(?:number |no\. ?|#)?\(?(?P<number>[0-9]{{1,3}})\)?"
)
_ARTICLE = re.compile(r"(?:a|an|the) (?=[^\W\d_]{2})")
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x")
_LABEL = re.compile(
    rf"(?:the )?(?P<noun>[a-z]{{3,}})(?: (?:number |no\. ?)?|(?=\())#?"
    rf"\(?(?P<name>[a-z]|[0-9]{{1,12}}|{'|'.join(symbols.NUMERALS)}|{'|'.join(n for n in _ROMAN if len(n) > 1)})\)?"
)
_BARE = re.compile(r"\(?([a-z]|[0-9]{1,12})\)?")
# What a number or letter may label, whatever the question is.
_LABELLED = """
image picture photo photograph figure panel layer region row column step level floor line curve graph group case point
shape block zone cell frame position area part section room box team player question
"""
_SIGNS = {
    "=": "=,equal,equals,equal to,is equal to,are equal,they are equal,they're equal,both are equal,the same,same",
    ">": ">,\\gt,greater than,is greater than,greater,larger than,larger,more than",
    "<": "<,\\lt,less than,is less than,less,smaller than,smaller",
}
_SIDE = re.compile(rf"(?:the )?(left|right|middle|top|bottom|last|both|neither|all)(?: (?:{_NOUN}s?|one))?")
_VERDICT = re.compile(r"(yes|no|true|false)(?:\s*[,.;:!(–—-](.*))?", re.DOTALL)
_DOUBT = "or not nor isn't aren't doesn't don't wrong incorrect maybe perhaps unknown either neither except never"
_CONTRARY = {
    "yes": "no not nope nor false incorrect wrong never cannot isn't aren't doesn't don't didn't wasn't weren't can't",
    "no": "yes yeah yep true correct right",
}
_CONTRARY |= {"true": _CONTRARY["yes"], "false": _CONTRARY["no"]}
_HEDGE = "or maybe perhaps but unless neither"


def is_correct(record: Mapping[str, object], prediction: str) -> bool:
    r"""Whether a prediction matches the record's answer, by the rule of its kind (guessed from the answer if absent).

    The record is rendered (`permute.render`), with `answer` and optionally `kind`, `choices` and `question`. Never
    correct: an empty answer or prediction, one with invisible or look-alike characters, and a mathematical one that
    does not parse as exactly one answer.

    - choice: its letter, its text, or both; also its value in another notation, if no other choice has it.
    - text: equal ignoring case, articles, quotes and final stop; an image by its number or letter ("Image 2", "2", "the
      second image", "image B"); yes, no,
      true or false also as the first word of a sentence that does not name the other one.
    - order: positions as digits, letters or ordinals. An answer joined by "and" is a set; any other is ordered.
    - number: `formulas.same`, or the image or other thing with that number ("layer 44"). With `rounding` in the record,
      an answer may be rounded further than the reference.
    - A reference may begin with "Answer:" or end with "#### 5"; a number of JSON is its exact value.

    >>> is_correct({"answer": "B", "kind": "choice", "choices": ["a cat", "a dog"]}, "(B) a dog")
    True
    >>> is_correct({"answer": "Image 2", "kind": "text"}, "the second image")
    True
    >>> is_correct({"answer": "2→1→3", "kind": "order"}, "Image 2, Image 1, Image 3")
    True
    >>> is_correct({"answer": "1,000", "kind": "number"}, "1000.0")
    True
    """
    answer, prediction = clean_text(_written(record["answer"])), clean_text(prediction)
    if answer is None or prediction is None:
        return False
    answer, prediction = (_EMPHASIS.sub(r"\2", _BOLD.sub(r"\1", text)) for text in (answer, prediction))
    if _GOLD_PREFIX.match(answer):
        bare = _GOLD_PREFIX.sub("", answer, count=1)
        answer, prediction = bare, bare if normalized(prediction) == normalized(answer) else prediction
    if not normalized(answer) or not normalized(prediction):
        return False
    choices = [str(choice) for choice in record.get("choices") or ()]
    kind, question = record.get("kind") or _guess_kind(answer, choices), str(record.get("question") or "")
    if kind == "choice":
        return _same_choice(answer, prediction, choices, question)
    if kind == "text":
        return _same_text(normalized(answer), normalized(prediction), question)
    if kind == "order":
        return _same_places(answer, prediction)
    if kind == "number":
        answer, prediction = (_NUMBERS.get(normalized(text), text) for text in (answer, prediction))
        number, guess = normalized(answer), normalized(prediction)
        return formulas.same(answer, prediction, question, record.get("rounding") is True) or (
            (number in _SIGNS or number.isdecimal())
            and not any(map(_MARK_AFTER_DIGIT.search, (answer, prediction)))
            and "\\$" not in prediction
            and _same_text(number, guess, question)
        )
    raise InputError(f"record {record.get('id')!r}: unknown kind {kind!r} (choice, number, text or order)")


def clean_text(text: str) -> str | None:
    """The text with full-width letters, digits and signs mapped to ASCII; None if it has deceptive characters.

    Deceptive are: NUL and other control characters, zero-width and direction marks, lone surrogates, digits of other
    scripts, and characters that Unicode maps to a Latin letter or digit they resemble.

    >>> clean_text("Ｂ：１２"), clean_text("1\u200b2"), clean_text("𝟐"), clean_text("\u0663")
    ('B:12', None, None, None)
    """
    text = "".join(chr(ord(c) - 0xFEE0) if "！" <= c <= "～" else c for c in unicodedata.normalize("NFC", text))
    return None if any(_deceives(character) for character in set(text)) else text


def _deceives(character: str) -> bool:
    if character.isascii():
        return not (character.isprintable() or character in "\t\r\n")
    look = unicodedata.normalize("NFKC", character)
    alike = look.isascii() and look.isalnum() and character not in _SUPERSCRIPTS
    return alike or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Nd")


def normalized(text: str) -> str:
    r"""The casefolded text without LaTeX text commands, maths delimiters, outer quotes, final stop and repeated spaces.

    >>> normalized(r"\text{The  red} Car."), normalized("“Don’t。”")
    ('the red car', "don't")
    """
    return _readable(text).casefold()


def _readable(text: str) -> str:
    """As `normalized`, in the case in which it was written."""
    text = _MATH_DELIMITER.sub("", _TEXT_COMMAND.sub(r"\1", _SPACE.sub(" ", text)))
    text = re.sub("[‘’ʼ]", "'", text)
    return " ".join(text.split()).strip(_QUOTES + " ").rstrip(_STOPS).strip(_QUOTES + " ")


def _written(answer: object) -> str:
    """A reference answer as text; a whole number of JSON, such as 3.0, without its decimal point."""
    whole = isinstance(answer, float) and answer.is_integer() and abs(answer) < 1e15
    return str(int(answer)) if whole else str(answer)


def image_number(text: str) -> int | None:
    """The number of the single image that a normalized text names: "image 2", "#2", "2", "the second one"; else None.

    >>> image_number("the 2nd picture"), image_number("image 1, 2")
    (2, None)
    """
    match = _IMAGE.fullmatch(text)
    if not match:
        return None
    return symbols.ORDINALS.index(match["word"]) + 1 if match["word"] else int(match["digits"] or match["number"])


def _guess_kind(answer: str, choices: list[str]) -> str:
    if choices or _LETTER.fullmatch(normalized(answer)):
        return "choice"
    words = re.search(r"[A-Za-z]{2}", re.sub(r"\\[A-Za-z]+", " ", answer))
    return "number" if not words and re.search(r"[0-9\\]", answer) else "text"


# Text


def _same_text(answer: str, prediction: str, question: str = "") -> bool:
    if answer == prediction or _ARTICLE.sub("", answer, count=1) == _ARTICLE.sub("", prediction, count=1):
        return True
    if answer in _CONTRARY:
        return _verdict(prediction) == answer
    if answer in _SIGNS:
        return prediction in _SIGNS[answer].split(",")
    if (side := _SIDE.fullmatch(answer)) and (other := _SIDE.fullmatch(prediction)):
        return side[1] == other[1]
    return _same_image(answer, prediction) or _same_label(answer, prediction, question)


def _same_image(answer: str, prediction: str) -> bool:
    """Whether two normalized texts name the same image; False if one names none."""
    number = _image(answer)
    return number is not None and number == _image(prediction)


def _image(text: str) -> int | None:
    """The number of an image in any words: "the third image", "image three", "image iii"."""
    label = _label(text, "")
    return int(label[1]) if label and label[0] == "image" and label[1].isdecimal() else image_number(text)


def _same_label(answer: str, prediction: str, question: str) -> bool:
    """Whether two normalized texts name the same thing by a letter or number: "image b", "b", "layer 44", "44"."""
    one, other = _label(answer, question), _label(prediction, question)
    if one is None or other is None or one[1] != other[1]:
        return False
    return one[0] == other[0] or not (one[0] and other[0])


def _label(text: str, question: str) -> tuple[str, str] | None:
    """(noun, letter or digits) of a label, the noun empty for a bare one and "image" for all names of images."""
    if bare := _BARE.fullmatch(text):
        return "", bare[1]
    match = _LABEL.fullmatch(text)
    if not match:
        return None
    noun, name = match["noun"], match["name"]
    asked = rf"(?<![a-z])(?:which|what)(?: [a-z]+)?(?: (?:number|letter) of)?(?: the)? {noun}(?![a-z])"
    if noun not in _LABELLED.split() and not re.search(asked, normalized(question)):
        return None
    for names in (symbols.NUMERALS, _ROMAN):
        if len(name) > 1 and name in names:
            name = str(names.index(name) + 1)
    return "image" if re.fullmatch(_NOUN, noun) else noun, name


def _verdict(text: str) -> str | None:
    """Yes, no, true or false if a short text starts with it and neither names the opposite nor hedges; else None."""
    match = _VERDICT.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if not match:
        return None
    contrary = {*_CONTRARY[match[1]].split(), *_HEDGE.split()}
    return None if contrary & _words(match[2] or "") or "?" in text else match[1]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.replace("’", "'")))


# Choices


def _same_choice(answer: str, prediction: str, choices: list[str], question: str) -> bool:
    """Compares by letter if both name one (a letter past the last choice is invalid), else by text if it is unique."""
    if normalized(answer) == normalized(prediction) and not choices:
        return True
    texts = [_readable(choice) for choice in choices]
    wanted, chosen = (_choice_index(_readable(text), texts, question) for text in (answer, prediction))
    return wanted is not None and wanted == chosen


def _choice_index(text: str, choices: list[str], question: str) -> int | None:
    """Index of the choice that a readable text names by letter, by letter and text, or by text, value or verdict."""
    name, texts = text.casefold(), [choice.casefold() for choice in choices]
    if len(name) > 4 and texts.count(name) == 1:
        return texts.index(name)
    if match := _LETTER.fullmatch(name):
        index = symbols.letter_place(match[1] or match[2])
        if not texts or index < len(texts):
            return index
    if match := _LETTER_AND_TEXT.fullmatch(text):
        letter, rest = (match[1] or match[2]).casefold(), _readable(match[3])
        index = symbols.letter_place(letter)
        # The choices may be in the question only: then any text may follow that does not name a second letter.
        if not texts and not _takes_back(letter, rest.casefold(), question):
            return index
        if index < len(texts) and (_named(texts[index], rest.casefold()) or _same_value(choices[index], rest)):
            return index
    if not texts and (label := _label(name, question)) and label[0]:
        return symbols.letter_place(label[1]) if label[1].isalpha() and name not in normalized(question) else None
    for same in (
        lambda choice: choice.casefold() == name,
        lambda choice: _named(choice.casefold(), name),
        lambda choice: _same_value(choice, text),
    ):
        equal = [index for index, choice in enumerate(choices) if same(choice)]
        if equal:
            return equal[0] if len(equal) == 1 else None
    verdict = _verdict(name)
    return texts.index(verdict) if verdict and texts.count(verdict) == 1 else None


def _named(choice: str, guess: str) -> bool:
    """Whether a normalized guess is a choice, also after an article that the choice lacks, or with "two" for 2."""
    bare = _ARTICLE.sub("", guess, count=1)
    return choice in (guess, bare) or _NUMBERS.get(choice, choice) == _NUMBERS.get(guess, guess)


def _same_value(choice: str, guess: str) -> bool:
    """Whether a choice and a guess are formulas of one exact value, neither rounded to the other."""
    if not (_MATHEMATICAL.search(choice) and _MATHEMATICAL.search(guess)):
        return False
    return formulas.same(choice, guess) and formulas.same(guess, choice)


def _takes_back(letter: str, rest: str, question: str) -> bool:
    """Whether text after a letter names another one or hedges, and is not that letter's choice in the question."""
    if not _FURTHER_LETTER.search(rest) and not set(_DOUBT.split()) & _words(rest):
        return False
    labelled_text = rf"(?<![a-z])\(?{letter}[.:)]+\s*{re.escape(rest[:MAX_CHARACTERS])}(?![a-z])"
    return len(rest) > MAX_CHARACTERS or not re.search(labelled_text, normalized(question))


# Orders


def _same_places(answer: str, prediction: str) -> bool:
    gold, guess = _places(answer), _places(prediction)
    spans = bool(_RANGE.search(prediction))  # "1-3" may mean 1 to 3
    if re.search(r"\band\b|&", answer.casefold()):
        return sorted(gold) == sorted(guess) != [] and not spans
    return gold == guess != [] and not (spans and len(guess) == 2)


def _places(text: str) -> list[str]:
    text = _TEXT_COMMAND.sub(r" \1 ", _MATH_DELIMITER.sub(" ", text)).casefold().rstrip(". ")
    text = re.sub(rf"\b{_NOUN}s?\b|\bthe\b|\band\b|\bthen\b|[#&]", " ", text)
    parts = [part for part in _ARROW_OR_SPACE.split(text) if part]
    return [str(image_number(part) or part) for part in parts]
