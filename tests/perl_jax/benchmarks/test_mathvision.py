"""MathVision by its own rules: each case is what evaluation/evaluate.py of its repository says."""

import pytest
from public_files import STRUCT, jsonl, parquet, png

from models.errors import InputError
from perl_jax.benchmarks import mathvision
from perl_jax.data import Rejected

DEGREES = [f"${angle}^{{\\circ}}$" for angle in (10, 15, 20, 25, 30)]
PLAIN = ["1", "2", "3", "4", "5"]


def row(**changes):
    return {**mathvision.EXAMPLE["row"], **changes}


def load(tmp_path, *rows):
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "4.jpg").write_bytes(png())
    jsonl(tmp_path / "test.jsonl", *rows)
    return list(mathvision.load(str(tmp_path), allow_partial=True))


def score(tmp_path, text, answer, options=(), protocol="official"):
    (item,) = load(tmp_path, row(answer=answer, options=list(options)))
    return mathvision.score(item, text, protocol)


def test_the_example(tmp_path):
    (item,) = load(tmp_path, row())
    example = mathvision.EXAMPLE
    made = item.row
    assert (made.question, made.choices, made.answer) == (example["question"], example["choices"], example["answer"])
    assert made.images[0]() == png() and item.category == "counting" and made.order_effect is None
    assert mathvision.prompt(item, "official")[0]["content"] == example["official"]
    assert mathvision.prompt(item, "boxed")[0]["content"] == f"<image>\n{example['question']}"
    assert mathvision.score(item, example["right"], "official") == (1, "60")
    assert mathvision.score(item, example["wrong"], "official") == (0, None)


@pytest.mark.parametrize(
    ("text", "answer", "options", "right"),
    [
        (r"\boxed{B}", "B", DEGREES, True),
        (r"\boxed{(B)}", "B", DEGREES, True),
        (r"\boxed{\text{B}}", "B", DEGREES, True),
        (r"\boxed{b}", "B", DEGREES, True),
        ("The answer is (B).", "B", DEGREES, True),
        ("(B) B\nfor it is 15", "B", DEGREES, True),
        (r"\boxed{15^\circ}", "B", DEGREES, False),  # the option keeps its sign
        (r"\boxed{15}", "B", DEGREES, False),
        (r"\boxed{2}", "B", PLAIN, True),
        (r"\boxed{B. 2}", "B", PLAIN, False),
        (r"first \boxed{3} then \boxed{60}", "60", (), True),
        (r"\boxed{60.0}", "60", (), True),
        (r"\boxed{x=60}", "60", (), True),
        ("It is 60.", "60", (), True),
        (r"\boxed{60\text{ cm}}", "60", (), False),
        (r"\boxed{60 cm^2}", "60", (), False),
        (r"\boxed{60 km}", "60", (), True),
        ("So we get 60 apples", "60", (), False),
        (r"\boxed{0.33}", r"$\frac{1}{3}$", (), True),
        (r"\boxed{0.3}", r"$\frac{1}{3}$", (), False),
        (r"\boxed{12.566}", r"$4 \pi$", (), True),
        (r"\boxed{0.5}", "1:2", (), True),
        (r"\boxed{(3,-4)}", "(3,-4)", (), True),
        (r"\boxed{(3.0,-4)}", "(3,-4)", (), True),
        (r"\boxed{(3.501,-4)}", "(3.5,-4)", (), True),
        (r"\boxed{1,000}", "1000", (), True),
        (r"\boxed{\frac{16}7}", "16/7", (), False),
        (r"\boxed{\sqrt3/2}", r"$\frac{\sqrt{3}}{2}$", (), True),
        (r"\boxed{2\frac{1}{2}}", "2.5", (), False),  # their parser multiplies
        (r"\boxed{50\%}", "50", (), True),
        ("", "60", (), False),
        (r"\boxed{", "60", (), False),
        (r"\boxed{}", "60", (), False),
        (r"\boxed{60", "60", (), False),
        ("答案是 60。", "60", (), False),
        ("60. It has 60 minutes", "60", (), True),  # what follows a whole formula at its stop is not read
        (r"so \boxed{\frac{17}{2}}$.The answer is: \frac{17}{2}", r"$\frac{17}{2}$", (), True),
        ("6 triangles", "6", (), True),  # their parser knows "tr"
        ("6 apples", "6", (), False),
        (r"\(3\frac{1}{2}\)", "1.5", (), False),
        (r"= \boxed {16}$$", "16", (), False),
        (r"\boxed{ m\angle J+m\angle H =180\degree. }", "180", (), False),
        (r"Therefore, the length is $\boxed{10.}$", "10", (), True),
        (r"$$\boxed{=18\pi}$$", r"$18 \pi$", (), True),
        (r"\boxed{\textbf{D). }\frac{1}{3}}", "D", DEGREES, False),
        ("A\nfor it is no B.", "A", DEGREES, True),
        ("B\nas it is not A.", "A", DEGREES, True),  # letter by letter
        ("The answer is 75.\r\nSo", "75", (), True),
        (r"\boxed{(1,2)}", "(1, 2) ", (), False),  # an answer that ends in a blank is no point
        (r"\boxed{1:\sqrt{2}}", "0.71", (), True),
        ("The answer is 24/25.", "0.96", (), True),
    ],
)
def test_official_rules(tmp_path, text, answer, options, right):
    assert score(tmp_path, text, answer, options).correct == right


@pytest.mark.parametrize(
    ("text", "extracted"),
    [(r"\boxed{61}", "61"), ("C", "c"), ("I cannot see it", None), ("", None), ("The answer is (C).", "c")],
)
def test_a_failure_to_extract_is_told_from_a_wrong_answer(tmp_path, text, extracted):
    assert score(tmp_path, text, "B", PLAIN) == (0, extracted)


@pytest.mark.parametrize(
    ("text", "answer", "options", "right"),
    [
        (r"<think>x</think>\boxed{B}", "B", DEGREES, True),
        (r"\boxed{15^{\circ}}", "B", DEGREES, True),  # by value too
        (r"\boxed{60\text{ cm}}", "60", (), True),
        (r"\boxed{D}", "D", list("ABCDE"), True),
        (r"\boxed{\frac{16}{7}}", r"$\boxed{\frac{16}{7}}$", (), True),
        ("The answer is B", "B", DEGREES, False),
        (r"\boxed{A} or \boxed{C}", "B", DEGREES, False),
    ],
)
def test_boxed(tmp_path, text, answer, options, right):
    assert score(tmp_path, text, answer, options, "boxed").correct == right


def test_choices_that_are_drawn_are_not_told_twice(tmp_path):
    text = "Which?\n<image1>\nOf these?\n<image2>"
    items = load(
        tmp_path,
        *(
            row(id=str(i), question=text, answer="C", options=options)
            for i, options in enumerate((list("ABCDE"), [f"({letter})" for letter in "ABCDE"], PLAIN))
        ),
    )
    assert [item.row.choices for item in items] == [[], [], PLAIN]
    assert items[0].row.question == text  # panels have their names in the one image
    assert [mathvision.prompt(item, "official")[0]["content"].count("(A)") for item in items] == [0, 2, 1]


def test_bad_rows_are_rejected_one_by_one(tmp_path):
    bad = [
        row(options="['1', '2']", answer="B"),
        row(options=PLAIN, answer="F"),
        row(options=PLAIN, answer="3"),
        row(image=None),
        row(question=" "),
        row(answer=None),
        b"{",
        row(),
        row(),
    ]
    made = load(tmp_path, *bad)
    assert [one.reason for one in made if isinstance(one, Rejected)] == ["malformed row"] * 7 + ["duplicate id"]
    (item,) = load(tmp_path, row(image="images/5.jpg"))
    with pytest.raises(InputError, match=r"5\.jpg"):
        item.row.images[0]()


def test_parquet_and_its_number_of_rows(tmp_path):
    import pyarrow

    fields = [
        ("id", pyarrow.string()),
        ("question", pyarrow.string()),
        ("options", pyarrow.list_(pyarrow.string())),
        ("image", pyarrow.string()),
        ("decoded_image", STRUCT),
        ("answer", pyarrow.string()),
        ("level", pyarrow.int64()),
        ("subject", pyarrow.string()),
    ]
    shown = row(decoded_image={"bytes": png(3), "path": None}, options=PLAIN, answer="E")
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [shown], pyarrow.schema(fields))
    parquet(tmp_path / "data" / "testmini-00000-of-00001.parquet", [shown], pyarrow.schema(fields))
    rows = mathvision.load(str(tmp_path))
    assert next(rows).row.images[0]() == png(3)
    with pytest.raises(InputError, match="1 rows, and 3,040 are published"):
        next(rows)
