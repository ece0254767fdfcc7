"""MathVista by its own rules: what calculate_score.py of its repository says of an extracted answer."""

import pytest
from public_files import STRUCT, jsonl, parquet, png

from models.errors import InputError
from perl_jax.benchmarks import mathvista
from perl_jax.data import Rejected

PARTS = {
    "question_type": "multi_choice",
    "answer_type": "text",
    "answer": "8/11",
    "choices": ["3/11", "8/11", "6/11", "3/5"],
    "unit": None,
}
YES = {**PARTS, "answer": "No", "choices": ["Yes", "No"]}
TENTHS = {"answer_type": "float", "precision": 1.0, "unit": None}
HUNDREDTHS = {"answer_type": "float", "precision": 2, "answer": "0.2", "unit": None}
YEARS = {"answer_type": "list", "answer": "[2014, 2016]", "unit": None}


def row(**changes):
    return {**mathvista.EXAMPLE["row"], **changes}


def load(tmp_path, *rows):
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "1.jpg").write_bytes(png())
    jsonl(tmp_path / "testmini.jsonl", *rows)
    return list(mathvista.load(str(tmp_path), allow_partial=True))


def item(tmp_path, **changes):
    return load(tmp_path, row(**changes))[0]


def test_the_example(tmp_path):
    made, example = item(tmp_path), mathvista.EXAMPLE
    plain = made.row
    assert (plain.question, plain.choices, plain.answer) == (example["question"], example["choices"], example["answer"])
    assert plain.images[0]() == png() and made.category == "visual question answering"
    assert mathvista.prompt(made, "official")[0]["content"] == example["official"]
    assert mathvista.prompt(item(tmp_path, query=None), "official")[0]["content"] == example["official"]
    assert mathvista.score(made, example["right"], "official") == (1, "14")
    assert mathvista.score(made, example["wrong"], "official") == (0, None)


CASES = [
    ("B", PARTS, True),
    ("(B) 8/11", PARTS, True),
    ("8/11", PARTS, True),
    ("b", PARTS, False),
    ("B.", PARTS, False),
    ("", PARTS, False),
    ("E", PARTS, False),
    ("(c)", PARTS, False),
    ("14.0", {}, True),
    ("14.7", {}, True),
    ("14 apples", {}, False),
    ("1,000", {"answer": "1000"}, False),
    ("1.24", {**TENTHS, "answer": "1.2"}, True),
    ("1.25", {**TENTHS, "answer": "1.2"}, True),
    ("0.20", HUNDREDTHS, True),
    ("6", {**TENTHS, "answer": "6.0"}, True),
    ("50%", {**TENTHS, "answer": "0.5"}, False),
    ("[2014, 2016]", YEARS, True),
    ("[2014,2016]", YEARS, False),
    ("nan", {}, False),
    ("inf", {}, False),
]


@pytest.mark.parametrize(("text", "changes", "right"), CASES)
def test_official_rules(tmp_path, text, changes, right):
    """As a response and as what a judge has extracted from another."""
    made = item(tmp_path, **changes)
    assert mathvista.score(made, text, "official").correct == right
    assert mathvista.judged(made, "It is that.", text).correct == right


@pytest.mark.parametrize(
    ("text", "changes", "right"),
    [
        ("<think>A?</think> The answer is B", PARTS, True),
        (r"So it is \boxed{B}.", PARTS, True),
        ('The answer is "8/11".', PARTS, True),
        ("It is **quarter** past.\n\nThe answer is B.", PARTS, True),
        ("the correct answer is **(B) 8/11**.\n\nAs the angles at A and C meet at O", PARTS, True),
        ("Thus, the answer is B (8/11).", PARTS, True),
        ("The answer is C because most of it is of that colour, as one sees", PARTS, False),
        ("Adding them, the answer is 14.", {}, True),
        (r"First \boxed{3}, no: \boxed{14}", {}, True),
        ("Between [2014, 2016].", YEARS, True),
    ],
)
def test_rules_extract_before_a_judge_is_asked(tmp_path, text, changes, right):
    made = item(tmp_path, **changes)
    scored = mathvista.score(made, text, "official")
    assert scored.correct == right and scored.extracted
    assert mathvista.judge_messages(made, text) is None


@pytest.mark.parametrize(
    ("text", "changes", "reply", "right"),
    [
        ("There are fourteen of them.", {}, "Extracted answer: 14", True),
        ("B.", PARTS, "B", True),
        ("Not the first but the second one, or the third.", PARTS, "(C)", False),
        ("It cannot be told from this picture.", YES, "(Z)", True),  # nearest to a Z without its brackets
        ("(C) Yes\n(D) No", YES, "B", True),
        ("Zwischen 2014 und 2016.", YEARS, "[2014, 2016]", True),
        ("I cannot tell.", {}, "", False),
        ("I cannot tell.", PARTS, " ", False),
    ],
)
def test_what_is_left_is_the_judges(tmp_path, text, changes, reply, right):
    made = item(tmp_path, **changes)
    assert mathvista.score(made, text, "official") == (0, None)
    (message,) = mathvista.judge_messages(made, text)
    assert f"Model response: {text}" in message["content"] and "<image>" not in message["content"]
    assert mathvista.judged(made, text, reply).correct == right


@pytest.mark.parametrize("text", ['The answer is "".', 'The answer is " ".', "", " "])
@pytest.mark.parametrize(
    "changes", [PARTS, {**PARTS, "choices": ["8/11", "no"]}, {}, {**TENTHS, "answer": "1.2"}, YEARS]
)
def test_nothing_said_is_not_the_shortest_choice(tmp_path, text, changes):
    made = item(tmp_path, **changes)
    assert mathvista.score(made, text, "official") == (0, None)
    assert mathvista.judged(made, text, "Extracted answer: ") == (0, None)


def test_the_letter_of_an_empty_choice_does_not_choose_another(tmp_path):
    made = item(tmp_path, **{**YES, "choices": ["b", ""], "answer": "b"})
    assert [mathvista.score(made, text, "official").correct for text in ("(A)", "(B)", "", "b")] == [1, 0, 0, 1]


@pytest.mark.parametrize("precision", [None, float("nan"), "x"])
def test_a_decimal_without_a_precision_is_not_rounded_to_an_integer(tmp_path, precision):
    made = item(tmp_path, **{**TENTHS, "precision": precision, "answer": "1"})
    assert mathvista.score(made, "1.2", "official") == (0, None)
    assert mathvista.score(made, r"\boxed{1}", "boxed") == (1, "1")


def test_nothing_is_asked_of_an_empty_response(tmp_path):
    assert mathvista.judge_messages(item(tmp_path), " \n") is None


@pytest.mark.parametrize(
    ("text", "changes", "right"),
    [
        (r"<think>x</think>\boxed{B}", PARTS, True),
        (r"\boxed{8/11}", PARTS, True),
        (r"\boxed{14}", {}, True),
        (r"\boxed{14 \text{ years}}", {}, True),
        (r"\boxed{1.24}", {**TENTHS, "answer": "1.2"}, True),
        (r"\boxed{[2014, 2016]}", YEARS, True),
        ("14", {}, False),
        (r"\boxed{14", {}, False),
        ("", PARTS, False),
    ],
)
def test_boxed(tmp_path, text, changes, right):
    assert mathvista.score(item(tmp_path, **changes), text, "boxed").correct == right


def test_equal_choices_are_both_right(tmp_path):
    made = item(tmp_path, **{**PARTS, "choices": ["12", "15", "18", "18"], "answer": "18"})
    for protocol, form in (("official", "({})"), ("boxed", r"\boxed{{{}}}")):
        assert [mathvista.score(made, form.format(letter), protocol).correct for letter in "ABCD"] == [0, 0, 1, 1]


def test_bad_rows_are_rejected_one_by_one(tmp_path):
    bad = [
        row(**{**PARTS, "choices": "['3/11', '8/11']"}),
        row(**{**PARTS, "answer": "B"}),
        row(image=""),
        row(answer_type="word"),
        row(answer=None),
        b"[]",
        row(metadata=None),
        row(precision="x"),
        row(pid=3, answer=7),
    ]
    made = load(tmp_path, *bad)
    assert [one.reason for one in made if isinstance(one, Rejected)] == ["malformed row"] * 6 + ["duplicate id"]
    assert made[-1].row.id == "3" and made[-1].row.answer == "7"


def test_parquet_and_its_number_of_rows(tmp_path):
    import pyarrow

    text = pyarrow.string()
    names = ("pid", "question", "image", "unit", "answer", "question_type", "answer_type", "query")
    fields = [
        *((name, text) for name in names),
        ("decoded_image", STRUCT),
        ("choices", pyarrow.list_(text)),
        ("precision", pyarrow.float64()),
        ("metadata", pyarrow.struct([("task", text)])),
    ]
    shown = row(decoded_image={"bytes": png(3), "path": None}, **PARTS)
    parquet(tmp_path / "data" / "testmini-00000-of-00001.parquet", [shown], pyarrow.schema(fields))
    rows = mathvista.load(str(tmp_path))
    first = next(rows)
    assert first.row.images[0]() == png(3) and first.row.answer == "B" and first.category
    with pytest.raises(InputError, match="1 rows, and 1,000 are published"):
        next(rows)
