"""Choices in the forms of other people's files come down to texts and a letter, or it is said why not."""

import doctest
import json
import string

import pytest
from hypothesis import given, strategies

from models.errors import InputError
from perl_jax.records import choices

TEXTS = strategies.lists(
    strategies.text(string.ascii_lowercase, min_size=2, max_size=6), min_size=2, max_size=6, unique=True
)
FORMS = {
    "list": lambda texts: texts,
    "tuple": tuple,
    "letters": lambda texts: dict(zip("ABCDEF", texts)),
    "reversed letters": lambda texts: dict(reversed([*zip("ABCDEF", texts)])),
    "small letters": lambda texts: dict(zip("abcdef", texts)),
    "struct of Parquet": lambda texts: dict.fromkeys("ABCDEFGH") | dict(zip("ABCDEF", texts)),
    "labels and texts": lambda texts: {"text": texts, "label": [*"ABCDEF"[: len(texts)]]},
    "objects": lambda texts: [{"label": label, "text": text} for label, text in zip("ABCDEF", texts)],
    "one each": lambda texts: [{label: text} for label, text in zip("ABCDEF", texts)],
    "lettered list": lambda texts: [f"({label}) {text}" for label, text in zip("ABCDEF", texts)],
    "JSON": json.dumps,
    "JSON of letters": lambda texts: json.dumps(dict(zip("ABCDEF", texts))),
    "Python": repr,
    "lines": "\n".join,
    "lettered lines": lambda texts: "\n".join(f"{label}. {text}" for label, text in zip("ABCDEF", texts)),
    "lettered text": lambda texts: " ".join(f"({label}) {text}" for label, text in zip("ABCDEF", texts)),
    "bracketed text": lambda texts: " ".join(f"[{label}] {text}" for label, text in zip("ABCDEF", texts)),
    "with semicolons": lambda texts: "; ".join(f"{label}: {text}" for label, text in zip("ABCDEF", texts)),
}


def test_doctests():
    assert doctest.testmod(choices).failed == 0


@pytest.mark.parametrize("form", FORMS)
@given(texts=TEXTS, data=strategies.data())
def test_every_form_gives_the_same_choices(form, texts, data):
    place = data.draw(strategies.integers(0, len(texts) - 1))
    for answer in ("ABCDEF"[place], f"({'ABCDEF'[place]})"):
        assert choices.read(FORMS[form](texts), answer) == (texts, "ABCDEF"[place])
    assert choices.read(FORMS[form](texts), texts[place]) == (texts, texts[place])
    assert choices.read(FORMS[form](texts), "no choice") == (texts, "no choice")


@pytest.mark.parametrize("start", [0, 1])
@given(texts=TEXTS, data=strategies.data())
def test_numbers_as_labels(start, texts, data):
    place = data.draw(strategies.integers(0, len(texts) - 1))
    named = {str(start + number): text for number, text in enumerate(texts)}
    lines = [f"{label}. {text}" for label, text in named.items()]
    for form in (named, lines, "\n".join(lines)):
        for answer in (str(start + place), f"({start + place})", f"{start + place}. {texts[place]}"):
            assert choices.read(form, answer) == (texts, "ABCDEF"[place])
        assert choices.read(form, f"{start + place}. another") == (texts, f"{start + place}. another")


def test_decimals_are_no_labels():
    assert choices.read(["1.5", "2.5"], "2.5") == (["1.5", "2.5"], "2.5")
    assert choices.read("0.5\n1.5", "B") == (["0.5", "1.5"], "B")


@pytest.mark.parametrize("value", [None, "", " ", [], {}, "[]"])
def test_there_may_be_none(value):
    assert choices.read(value, "a dog") == ([], "a dog")


@pytest.mark.parametrize(
    ("value", "answer", "words"),
    [
        ("a, b", "a", "choices is a str"),
        ("A. a plan B. another B. third", "A", "choices is a str"),
        (7, "a", "int"),
        ([None, "a"], "a", "NoneType"),
        ({"A": "a", "B": None, "C": "c"}, "A", "B is empty, but C is not"),
        ({"A": "a", "C": "c"}, "A", "A, C, which does not count"),
        ({"cat": "true", "dog": "false"}, "cat", "does not count"),
        ({"text": ["a", "b"], "label": ["A"]}, "A", "2 texts with 1 labels"),
        ([{"bytes": b"a", "path": "b"}], "A", "objects with bytes, path"),
        (["B", "A"], "A", "label of one choice and the text of another"),
        ({"1": "2", "2": "1"}, "1", "label of one choice and the text of another"),
    ],
)
def test_what_is_not_clear_is_said(value, answer, words):
    with pytest.raises(InputError, match=words):
        choices.read(value, answer)


def test_a_label_that_is_its_own_text():
    assert choices.read(["A", "B"], "B") == (["A", "B"], "B")
    assert choices.read({"1": "1", "2": "2"}, "2") == (["1", "2"], "B")
    assert choices.read(["3", "1"], "1") == (["3", "1"], "1")  # a list has no numbers: it is the text


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["index", "question", *"ABCD", "answer"], [*"ABCD"]),
        (["option_b", "option_a", "option_c"], ["option_a", "option_b", "option_c"]),
        (["OptionA", "OptionB"], ["OptionA", "OptionB"]),
        (["choice1", "choice2"], ["choice1", "choice2"]),
        (["opt 0", "opt 1"], ["opt 0", "opt 1"]),
        (["A", "C"], []),
        (["B", "C"], []),
        (["A"], []),
        (["a", "b"], []),  # small letters may be anything
        (["answer_a", "answer_b", "x1", "x2"], []),
    ],
)
def test_columns(names, found):
    assert choices.columns(names) == found


def test_choices_of_columns():
    assert choices.of_columns(["a", 2, None, float("nan"), " "], "ABCDE") == ["a", 2]
    assert choices.of_columns([None, ""], "AB") == []
    with pytest.raises(InputError, match="B is empty, but C is not"):
        choices.of_columns(["a", None, "c"], "ABC")
