"""MathVerse: what rules decide as the benchmark's judge does, and what they leave to it."""

import pytest
from public_files import STRUCT, jsonl, parquet, png

from models.errors import InputError
from perl_jax.benchmarks import mathverse
from perl_jax.data import Rejected

FREE = {"question": "Find it.", "question_type": "free-form"}


def row(**changes):
    return {**mathverse.EXAMPLE["row"], **changes}


def load(tmp_path, *rows):
    (tmp_path / "images_version_1-4").mkdir(exist_ok=True)
    (tmp_path / "images_version_1-4" / "image_685.png").write_bytes(png())
    jsonl(tmp_path / "testmini.jsonl", *rows)
    return list(mathverse.load(str(tmp_path), allow_partial=True))


def item(tmp_path, **changes):
    (made,) = load(tmp_path, row(**changes))
    assert not isinstance(made, Rejected), made
    return made


def free(tmp_path, answer):
    return item(tmp_path, answer=answer, **FREE)


def test_the_example(tmp_path):
    made, example = item(tmp_path), mathverse.EXAMPLE
    plain = made.row
    assert (plain.question, plain.choices, plain.answer) == (example["question"], example["choices"], example["answer"])
    assert plain.images[0]() == png() and made.category == "Text Lite" and made.columns["subject"] == "Plane Geometry"
    assert mathverse.prompt(made, "official")[0]["content"] == example["official"]
    assert mathverse.prompt(item(tmp_path, query_wo=None), "official")[0]["content"] == example["official"]
    assert mathverse.score(made, example["right"], "official") == (1, "D")
    assert mathverse.score(made, example["wrong"], "official") == (0, "B")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("D", True),
        ("D.", True),
        ("(D)", True),
        ("140°", True),
        ("B:60°", False),
        ("D:140°", True),
        (r"<think>A or B</think> So \boxed{D}", True),
        ("It follows that the correct option is:\n\nD. 140°", True),
        ("As angles 1 and 2 are equal here, the right one of the four choices is D", True),
        (r"\boxed{C}", False),
        ("Answer: **D**", True),
        (r"\boxed{A} no, \boxed{D}", True),
        ("", False),
        ("null", False),
        ("选 D", True),
    ],
)
def test_choices(tmp_path, text, right):
    assert mathverse.score(item(tmp_path), text, "official").correct == right


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("(-2, 1)", "(-2,1]", False),
        ("Range: (-4, 1]", "domain: [-4, 0) and range: (-3, 1]", False),
        ("50cm", "0.5m", True),
        ("8", r"$x=8 \mathrm{~cm}$", True),
        ("22.3", "22.3 ", True),
        ("null", "3", False),
        (r"Thus the length is \boxed{300}.", "300", True),
        (r"\boxed{35^\circ}", "35掳", True),
        ("113.1", r"Area $=113.1 \mathrm{~cm}^{2}$", True),
        ("so the answer is 2.5", "2.5", True),
        ("the answer is 2.4", "2.5", False),
        ("True", "False", False),
    ],
)
def test_free_answers(tmp_path, text, answer, right):
    assert mathverse.score(free(tmp_path, answer), text, "official").correct == right


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("False", "False", True),
        ("(C)", "C", True),
        ("C\nD", "C and D", True),
        ("C\nD", "A and C", False),
        ("A\nC", r"\boxed{A, C}", True),
        (r"053 ^\circ T", r"053 ^\circ T", True),
    ],
)
def test_choices_whose_answer_is_no_letter(tmp_path, answer, text, right):
    made = item(tmp_path, answer=answer)
    assert mathverse.score(made, text, "official").correct == right
    if "boxed" not in text:
        assert mathverse.score(made, f"\\boxed{{{text}}}", "boxed").correct == right


@pytest.mark.parametrize(
    ("text", "answer", "reply", "right"),
    [
        ("(-2, 1)", "(-2,1]", "0", False),
        ("Half a metre and a bit less, I should say", "0.49 m", "Judgement: 1", True),
        ("It is long " * 40, "5", "0", False),
        ("no idea at all", "some area", "maybe", False),
    ],
)
def test_what_is_left_is_the_judges(tmp_path, text, answer, reply, right):
    made = free(tmp_path, answer)
    assert mathverse.score(made, text, "official") == (0, None)
    (message,) = mathverse.judge_messages(made, text)
    assert f"[Standard Answer]: {answer}\n" in message["content"] and message["content"].endswith("Judgement: ")
    assert len(message["content"]) < 2000, "of a long response its last words"
    scored = mathverse.judged(made, text, reply)
    assert scored.correct == right and (scored.extracted is None) == (reply == "maybe")


def test_what_is_decided_is_not_asked(tmp_path):
    made = item(tmp_path)
    assert [mathverse.judge_messages(made, text) for text in ("D", "A", "", "null")] == [None] * 4
    assert mathverse.judge_messages(made, "Neither of these two seems to me to be right here") is not None


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (r"<think>x</think>\boxed{8}", r"$x=8 \mathrm{~cm}$", True),
        (r"\boxed{50\text{ cm}}", "0.5m", True),
        (r"\boxed{(-2,1)}", "(-2,1]", False),
        ("8", "8", False),
        (r"\boxed{8", "8", False),
        ("", "8", False),
    ],
)
def test_boxed(tmp_path, text, answer, right):
    assert mathverse.score(free(tmp_path, answer), text, "boxed").correct == right


def test_a_question_that_only_the_image_has(tmp_path):
    made = item(tmp_path, problem_version="Vision Only", question="", query_wo=None, question_for_eval="Find angle 2.")
    assert made.row.question and made.row.choices == [] and mathverse.score(made, r"\boxed{D}", "boxed") == (1, "D")
    assert mathverse.prompt(made, "official")[0]["content"].startswith("<image>\nAccording to the question shown in")
    assert (
        "[Question]: Find angle 2.\n"
        in mathverse.judge_messages(made, "one of the last two of the choices")[0]["content"]
    )


def test_bad_rows_are_rejected_one_by_one(tmp_path):
    bad = [
        row(answer="F"),
        row(image=""),
        row(question=""),
        row(problem_version="Text Only"),
        row(answer=None),
        b"3",
        row(metadata=[1]),
        row(),
    ]
    made = load(tmp_path, *bad)
    assert [one.reason for one in made if isinstance(one, Rejected)] == ["malformed row"] * 6 + ["duplicate id"]


def test_parquet_and_its_number_of_rows(tmp_path):
    import pyarrow

    text = pyarrow.string()
    names = ("sample_index", "problem_version", "question", "answer", "question_type", "query_wo")
    shown = [
        row(sample_index=str(i), problem_version=version, image={"bytes": png(3), "path": "x.png"})
        for i, version in enumerate(mathverse.VERSIONS)
    ]
    schema = pyarrow.schema([*((name, text) for name in names), ("image", STRUCT)])
    parquet(tmp_path / "testmini.parquet", shown, schema)
    made = list(mathverse.load(str(tmp_path), allow_partial=True))
    assert [one.category for one in made] == list(mathverse.VERSIONS) and made[0].row.images[0]() == png(3)
    with pytest.raises(InputError, match="5 rows, and 3,940 are published"):
        list(mathverse.load(str(tmp_path)))
