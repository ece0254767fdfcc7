"""MV-MATH: what rules decide as the benchmark's judge does, what they leave to it, and what permutation needs."""

import json

import pytest
from public_files import png, zipped

from models.errors import InputError
from perl_jax.benchmarks import mv_math
from perl_jax.curation.curate import curate
from perl_jax.data import Rejected

TWO = r"$\frac{3}{2}$ or $\frac{15}{2}$."
FREE = {"question": "Of <image_1> and <image_2>, how long?", "answer_type": "single-step", "input_image": ["1.jpg"] * 2}
PARTS = {**FREE, "answer_type": "multi-step", "answer": "(1) 12 (2) 30"}
WORDS = {**FREE, "answer_type": "choice", "question": "Of <image_1> and <image_2>?\nA. 6.0\nB. 8.0\nC. 9.0\nD. 10.0"}


def row(**changes):
    return {**mv_math.EXAMPLE["row"], **changes}


def load(tmp_path, *rows, partial=True):
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "MV-MATH.json").write_text(json.dumps(rows))
    zipped(tmp_path / "images.zip", {f"images/a_{i}.jpg": png(i) for i in range(1, 5)})
    return list(mv_math.load(str(tmp_path), allow_partial=partial))


def item(tmp_path, **changes):
    (made,) = load(tmp_path, row(**changes))
    assert not isinstance(made, Rejected), made
    return made


def test_the_example(tmp_path):
    made, example = item(tmp_path), mv_math.EXAMPLE
    plain = made.row
    assert (plain.question, plain.choices, plain.answer) == (example["question"], example["choices"], example["answer"])
    assert [image() for image in plain.images] == [png(i) for i in range(1, 5)]
    assert made.category == "Solid Geometry" and plain.id == "1"
    assert mv_math.prompt(made, "official")[0]["content"] == example["official"]
    assert mv_math.prompt(made, "boxed")[0]["content"].endswith("\nC. <image>\nD. <image>")
    assert mv_math.score(made, example["right"], "official") == (1, "B")
    assert mv_math.score(made, example["wrong"], "official") == (0, None)


@pytest.mark.parametrize(
    ("text", "changes", "right"),
    [
        ("Step 1 ...\nAnswer: {B}", {}, 1),
        (r"\boxed{B}", {}, 1),
        ("Answer: {}", {}, 0),
        ("Answer: {A}", {}, 0),
        ("The answer is C", {**WORDS, "answer": "9.000"}, 1),
        ("Answer:D", {**WORDS, "answer": "10.000"}, 1),
        ("The answer is B", {**WORDS, "answer": "6.000"}, 0),
        ("9.0", {**WORDS, "answer": "C"}, 1),
        ("<think>{A}</think>Answer: **{B}**", {}, 1),
        ("", {}, 0),
        ("Answer: {E}", {}, 0),
        ("Answer: 3/2 or 15/2", {**FREE, "answer": TWO}, 1),
        ("Answer: 3/2", {**FREE, "answer": TWO}, 0),
        ("(3)(1)", {**FREE, "answer": r"(1)(3)\#\#(3)(1)"}, 1),
        ("（3）（1）", {**FREE, "answer": "(1)(3)##(3)(1)"}, 1),
        ("17", {**FREE, "answer": "17 m"}, 1),
        ("Answer: 16", {**FREE, "answer": "17"}, 0),
        (r"First \boxed{3}, then \boxed{17}", {**FREE, "answer": "17"}, 1),
        ("Answer: 平行", {**FREE, "answer": "平行"}, 1),
        ("(1) 12 (2) 30", PARTS, 1),
        ("(1) 12 (2) 31", PARTS, 0.5),
        ("Answer: (1) 12; (2) 30.", PARTS, 1),
        ("(1) The side is 12.\n(2) So the area is 30.", PARTS, 1),
        ("(1) 12", PARTS, 0.5),
        (r"\boxed{(1) 1 (2) 2}", PARTS, 0),
    ],
)
def test_official_rules(tmp_path, text, changes, right):
    assert mv_math.score(item(tmp_path, **changes), text, "official").correct == right


@pytest.mark.parametrize(
    ("text", "changes", "reply", "right"),
    [
        ("Neither of them, and the fifth would be too large", {}, "false", 0),
        ("Answer: {the net}", {}, "True.", 1),
        ("They are each as long as the other one is, twice", {**FREE, "answer": "$2a$"}, "true", 1),
        ("(1) a dozen (2) thirty", PARTS, "2/2", 1),
        ("(1) a dozen (2) more", PARTS, "1/2", 0.5),
        ("No parts were found in this text of mine.", PARTS, "3/2", 0),
        ("No parts found.", PARTS, "", 0),
    ],
)
def test_what_is_left_is_the_judges(tmp_path, text, changes, reply, right):
    made = item(tmp_path, **changes)
    assert mv_math.score(made, text, "official") == (0, None)
    _, user = mv_math.judge_messages(made, text)
    assert f"Standard answer: {made.row.answer}\nModel's response: {text}" in user["content"]
    scored = mv_math.judged(made, text, reply)
    assert scored.correct == right and (scored.extracted is None) == (reply in ("", "3/2"))


def test_what_is_decided_is_not_asked(tmp_path):
    made = item(tmp_path)
    assert [mv_math.judge_messages(made, text) for text in ("Answer: {B}", "Answer: {A}", "")] == [None] * 3


@pytest.mark.parametrize(
    ("text", "changes", "right"),
    [
        (r"<think>x</think>\boxed{B}", {}, 1),
        (r"\boxed{8.0}", {**WORDS, "answer": "B"}, 1),
        ("B", {}, 0),
        (r"\boxed{\frac{3}{2} or \frac{15}{2}}", {**FREE, "answer": TWO}, 1),
        (r"\boxed{3/2}", {**FREE, "answer": TWO}, 0),
        (r"\boxed{(3)(1)}", {**FREE, "answer": "(1)(3)##(3)(1)"}, 1),
        (r"\boxed{(1) 12 (2) 31}", PARTS, 0.5),
        (r"\boxed{B", {}, 0),
        (r"\boxed{}", {}, 0),
        (r"\boxed{A} or \boxed{C}", {}, 0),
    ],
)
def test_boxed(tmp_path, text, changes, right):
    assert mv_math.score(item(tmp_path, **changes), text, "boxed").correct == right


@pytest.mark.parametrize(
    ("text", "scored"), [("I do", (0, None)), ("Answer: B", (1, "B")), ("one sees that it must be C", (0, "C"))]
)
def test_choices_that_only_the_images_have(tmp_path, text, scored):
    made = item(tmp_path, question="Which of <image_1> and <image_2>?", input_image=["1.jpg", "2.jpg"])
    assert made.row.choices == [] and mv_math.score(made, text, "official") == scored


def test_letters_that_are_images_can_move(tmp_path):
    """Nothing is fixed by the benchmark, and the rules of curation find what must be rewritten."""
    made = item(tmp_path).row
    assert made.order_effect is None and made.kind == "choice"
    curated = curate(made)
    assert curated.decision.order_effect == "rewrite"
    assert curated.record["choices"] == [f"<image:{i}>" for i in range(4)] and curated.record["answer"] == "B"


def test_an_image_without_a_slot_stands_in_front(tmp_path):
    made = item(tmp_path, question="Of <image_1>, <image_2> and <image_4>?", answer_type="single-step")
    assert made.row.question == "<image>Of <image>, <image> and <image>?"
    assert [image() for image in made.row.images] == [png(i) for i in (3, 1, 2, 4)]


def test_bad_rows_are_rejected_one_by_one(tmp_path):
    bad = [
        row(answer="E"),
        row(answer="none"),
        row(input_image="a_1.jpg"),
        row(input_image=["a_1.jpg"]),
        row(question=FREE["question"] + "<image_1>"),
        row(answer_type="proof"),
        row(answer=" "),
        7,
        row(),
        row(),
        row(problem_id=2, input_image=["b.jpg"] * 4),
    ]
    made = load(tmp_path, *bad)
    assert [one.reason for one in made if isinstance(one, Rejected)] == ["malformed row"] * 8 + ["duplicate id"]
    with pytest.raises(InputError, match=r"b\.jpg"):
        made[-1].row.images[0]()


def test_its_number_of_rows(tmp_path):
    with pytest.raises(InputError, match="1 rows, and 2,009 are published"):
        load(tmp_path, row(), partial=False)
