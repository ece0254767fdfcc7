"""Mantis-Eval: published rows, the authors' prompts, and their rules, case by case."""

import pyarrow
import pytest
from public_files import STRUCT, parquet, png

from models.errors import InputError
from perl_jax.benchmarks import Item, mantis_eval
from perl_jax.curation.curate import curate
from perl_jax.data import Rejected

TEXT = pyarrow.string()
SCHEMA = pyarrow.schema(
    [
        ("id", TEXT),
        ("question_type", TEXT),
        ("question", TEXT),
        ("images", pyarrow.list_(STRUCT)),
        ("options", pyarrow.list_(TEXT)),
        ("answer", TEXT),
        ("data_source", TEXT),
        ("category", TEXT),
    ]
)


def row(**changes):
    new = {**mantis_eval.EXAMPLE["row"], **changes}
    if isinstance(new["images"], int):
        new["images"] = [{"bytes": png(i), "path": None} for i in range(new["images"])]
    return new


def publish(tmp_path, *rows):
    parquet(tmp_path / "mantis_eval" / "test-00000-of-00001.parquet", list(rows), SCHEMA)
    return str(tmp_path)


def load(tmp_path, *rows):
    return list(mantis_eval.load(publish(tmp_path, *rows), allow_partial=True))


def item(tmp_path, **changes) -> Item:
    (made,) = load(tmp_path, row(**changes))
    return made


def content(item, protocol):
    (message,) = mantis_eval.prompt(item, protocol)
    return message["content"]


def test_the_example(tmp_path):
    made, example = item(tmp_path), mantis_eval.EXAMPLE
    assert (made.row.question, made.row.choices, made.row.answer) == tuple(
        example[key] for key in ("question", "choices", "answer")
    )
    assert [image() for image in made.row.images] == [png(0), png(1)]
    assert content(made, "official") == example["official"]
    assert mantis_eval.score(made, example["right"], "official") == (1, "B")
    assert mantis_eval.score(made, example["wrong"], "official") == (0, "A")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("(B)", 1),
        ("b", 1),
        ("The answer is (B) right.", 1),
        ("The first is A. Final Answer: B", 1),
        ("right", 1),  # R is no choice, and the text is compared
        (r"\boxed{B}", 1),
        ("<think>x</think> B", 0),
        ("The correct option is B", 0),
        ("D", 0),
        ("", 0),
        ("Both of them", 1),
        ("答案是B", 0),
        ("A", 0),
        ("Answer: B. The answer is A", 0),
        ("ßB", 0),
        ("Final Answer: Answer: B", 1),
        ("The answer is Answer: A", 0),
        ("**Answer:** B", 1),
        ("Option B", 0),
    ],
)
def test_official_choices(tmp_path, text, right):
    made = item(tmp_path, options=["(A) left", "(B) right", "(C) both"])
    assert mantis_eval.score(made, text, "official").correct == right


def test_official_reads_any_box_as_b(tmp_path):
    """The published rule takes the b of `boxed`: known, and why there is another protocol."""
    made = item(tmp_path, options=["(A) left", "(B) right", "(C) both"])
    assert mantis_eval.score(made, r"\boxed{A}", "official") == (1, "B")
    assert mantis_eval.score(made, r"\boxed{A}", "boxed") == (0, "A")


def test_official_compares_texts_without_their_letter(tmp_path):
    made = item(tmp_path, options=["(A) 1", "(B) 2"])
    assert mantis_eval.score(made, "2", "official").correct == 1
    assert mantis_eval.score(made, "1", "official").correct == 0
    made = item(tmp_path, options=["A) 1", "B) 2"])  # a letter in another form is left on
    assert mantis_eval.score(made, "2", "official").correct == 0


@pytest.mark.parametrize("options", [["(A)", "(B)"], ["A.", "B."], ["A: ", "B: "]])
def test_an_empty_response_is_not_an_option_that_is_its_label_alone(tmp_path, options):
    made = item(tmp_path, options=options)
    for protocol in mantis_eval.PROTOCOLS:
        assert [mantis_eval.score(made, text, protocol) for text in ("", " \n", "()")] == [(0, None)] * 3
    assert mantis_eval.score(made, "(B)", "official") == (1, "B")
    assert mantis_eval.score(made, r"\boxed{B}", "boxed") == (1, "B")


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("yes", "Final Answer: Yes", 1),
        ("Yes", "yes", 1),
        ("yes", "Yes.", 0),
        ("4", "The answer is 4.", 0),
        ("3", "three", 0),
        ("4", "It is 3. Final answer: 4", 1),
        ("4", "", 0),
    ],
)
def test_official_short_answers(tmp_path, gold, text, right):
    made = item(tmp_path, question_type="short-answer", options=[], answer=gold)
    assert mantis_eval.score(made, text, "official").correct == right


@pytest.mark.parametrize(
    ("text", "right", "extracted"),
    [
        (r"<think>A?</think> \boxed{B}", 1, "B"),
        (r"\boxed{the second}", 1, "the second"),
        (r"\boxed{(B) the second}", 1, "(B) the second"),
        (r"\boxed{A} or \boxed{B}", 1, "B"),
        (r"\boxed{B} or \boxed{A}", 0, "A"),
        (r"\boxed{A, B}", 0, "A, B"),
        ("B", 0, None),
        (r"\boxed{B", 0, None),
        (r"\boxed{}", 0, None),
        ("", 0, None),
        (r"<think>\boxed{B}", 0, None),
        (r"答案 \boxed{Ｂ}", 1, "Ｂ"),
    ],
)
def test_boxed(tmp_path, text, right, extracted):
    assert mantis_eval.score(item(tmp_path), text, "boxed") == (right, extracted)


def test_a_boxed_short_answer(tmp_path):
    made = item(tmp_path, question_type="short-answer", options=[], answer="4")
    assert [mantis_eval.score(made, rf"\boxed{{{text}}}", "boxed").correct for text in ("4.0", "5")] == [1, 0]


def test_prompts(tmp_path):
    made = item(tmp_path, question="Is it <image>?", options=["yes", "B. no"], images=3)
    assert content(made, "boxed") == "<image><image>Is it <image>?\nA. yes\nB. no"
    assert content(made, "official").startswith("<image><image>Is it <image>?\n (A) yes\n B. no\nAnswer with")
    short = item(tmp_path, question="How many?", question_type="short-answer", options=None, answer="4")
    assert content(short, "boxed") == "<image><image>How many?"
    assert content(short, "official").splitlines()[1] == "Q: <image><image>How many?"


def test_what_another_order_does(tmp_path):
    """Told by rules, but where an image is part of a sentence."""
    made = item(tmp_path, options=["(A) the first image", "(B) Image 2"])
    record, decision = curate(made.row)
    assert made.row.order_effect is None and decision.order_effect == "rewrite"
    assert record["choices"] == ["the {image:0|ordinal} image", "{image:1}"]
    inside = item(tmp_path, question="Is <image> older than <image>?", options=["yes", "no"])
    assert curate(inside.row).decision.order_effect == "fixed" and inside.row.reason
    shown = item(tmp_path, question="Which is older?", options=["<image>", "<image>"])
    assert shown.row.question == "Which is older?" and curate(shown.row).decision.order_effect == "rewrite"


@pytest.mark.parametrize(
    "changes",
    [
        {"images": 0},
        {"images": None},
        {"options": None},
        {"options": []},
        {"answer": "C"},
        {"answer": None},
        {"answer": "()"},
        {"question": None},
        {"question_type": "essay"},
        {"images": 1},
        {"answer": "7"},
    ],
)
def test_rows_that_cannot_be_asked(tmp_path, changes):
    made = load(tmp_path, row(**changes), row(id="fine"))
    assert isinstance(made[0], Rejected) and made[0].detail and made[1].row.id == "fine"


def test_options_as_one_text(tmp_path):
    schema = SCHEMA.set(4, pyarrow.field("options", TEXT))
    parquet(tmp_path / "test-0.parquet", [row(options="['a', 'b']")], schema)
    (made,) = mantis_eval.load(str(tmp_path), allow_partial=True)
    assert made == Rejected("test-0-1", "malformed row", "options is a str, not a list")


def test_a_second_row_of_an_id(tmp_path):
    assert [type(one) for one in load(tmp_path, row(), row())] == [Item, Rejected]


def test_an_image_that_is_not_there_is_told_when_it_is_read(tmp_path):
    made = item(tmp_path, images=[{"bytes": None, "path": "gone.png"}] * 2)
    with pytest.raises(InputError, match=r"gone\.png"):
        made.row.images[0]()


def test_another_number_of_rows(tmp_path):
    rows = mantis_eval.load(publish(tmp_path, row(), row(id="other")))
    assert next(rows).row.id == "mantis_eval_0"
    with pytest.raises(InputError, match=r"hold 2 rows, and 217 are published: download TIGER-Lab/Mantis-Eval"):
        list(rows)
    with pytest.raises(InputError, match="holds no"):
        mantis_eval.load(str(tmp_path / "nowhere"))
