"""BLINK: published rows, the authors' prompts and rules, and what another order of the images does to each task."""

import pyarrow
import pytest
from public_files import STRUCT, parquet, png

from models.errors import InputError
from perl_jax import permute
from perl_jax.benchmarks import Item, blink
from perl_jax.curation.curate import curate
from perl_jax.data import Rejected

TEXT = pyarrow.string()
SCHEMA = pyarrow.schema(
    [
        ("idx", TEXT),
        ("sub_task", TEXT),
        ("question", TEXT),
        *((f"image_{i}", STRUCT) for i in range(1, 5)),
        ("choices", pyarrow.list_(TEXT)),
        ("answer", TEXT),
        ("prompt", TEXT),
    ]
)
POINTS = ["Point A", "Point B", "Point C", "Point D"]
REFERENCE = (
    "A point is circled on the first image, labeled with REF. The camera moves and shoots the second image. "
    'Choices "A, B, C, D" are drawn there. Which point of the second image is that of the first image?'
)


def row(**changes):
    new = {**blink.EXAMPLE["row"], **changes}
    count = new.pop("images")
    return {**{f"image_{i + 1}": {"bytes": png(i), "path": None} for i in range(count)}, **new}


def row_with_choices(question, choices, **changes):
    lines = "".join(f"\n({letter}) {choice}" for letter, choice in zip("ABCDE", choices))
    prompt = f"{question}\nSelect from the following choices.{lines}"
    return row(choices=choices, prompt=prompt, **changes)


def load(tmp_path, *rows, schema=SCHEMA):
    parquet(tmp_path / "Jigsaw" / "val-00000-of-00001.parquet", list(rows), schema)
    return list(blink.load(str(tmp_path), allow_partial=True))


def item(tmp_path, new=None) -> Item:
    (made,) = load(tmp_path, new or row())
    assert isinstance(made, Item), made
    return made


def content(item, protocol):
    (message,) = blink.prompt(item, protocol)
    return message["content"]


def test_the_example(tmp_path):
    made, example = item(tmp_path), blink.EXAMPLE
    assert (made.row.question, made.row.choices, made.row.answer) == tuple(
        example[key] for key in ("question", "choices", "answer")
    )
    assert made.category == "Jigsaw" and [image() for image in made.row.images] == [png(i) for i in range(3)]
    assert blink.score(made, example["right"], "official") == (1, "(B)")
    assert blink.score(made, example["wrong"], "official") == (0, "(C)")


@pytest.mark.parametrize(("text", "extracted"), [
    ("B", "(B)"), ("(B)", "(B)"), ("(B) the third image", "(B)"), ("The answer is (B)", "(B)"),
    ("Compare (A) with (B).\n\nSo the answer is (B)", "(B)"), ("(C)", "(C)"), ("E", "(E)"),
    ("B.", "(B)"), ("answer: (B).", "(B)"), ("B) no", "(B)"), (r"\boxed{B}", "(B)"), ("the third", None),
    ("(A) or (B)\n\n(A) or (B) it is", None), ("(A) Yes.\n\nBut (B) no?", "(B)"),
    ("(A) or (B) ?\n\nIt is (B)", "(B)"), ("I'm sorry, I cannot help.", None), ("", None), ("答案是B。", None),
    ("A cat sits there", None), ("It moves to the right (option B) here", "(B)"), ("(C) it is", None),
    ("I cannot select either (A) or (B).\n\nPlease tell more.", "(A)"),  # the other one is no word of its own
    ("I choose between (A) this or (B) that.\n\n\nIt could be another.", None), (" The correct answer is B.", "(B)"),
    ("I select option (C) none of the above.", None), ("(A) no.\n\nIt is:\n(B) that\n\nThe first is no (A) .", "(A)"),
    ("Failed to obtain answer via API.", None), ("Yes, it touches.", None),
])  # fmt: skip
def test_official(tmp_path, text, extracted):
    """What the authors' rules decide, and then what a language model does for them, as far as a rule can."""
    score = blink.score(item(tmp_path), text, "official")
    assert score == (float(extracted == "(B)"), extracted)


def test_a_judge_reads_what_the_rules_leave(tmp_path):
    made = item(tmp_path)
    for text in ("(B)", "B.", "It moves (option B) here", "", "  "):
        assert blink.judge_messages(made, text) is None
    (message,) = blink.judge_messages(made, "It must be the third.")
    asked = message["content"].rpartition("Question: ")[2]
    assert asked.startswith(made.row.question) and asked.endswith("Answer: It must be the third.\nYour output:")
    assert "\n(A) the second image\n(B) the third image\n" in asked
    for reply, score in {"(B)": (1, "(B)"), "(B) the third image": (1, "(B)"), "A": (0, "(A)")}.items():
        assert blink.judged(made, "It must be the third.", reply) == score
    for reply in ("(Z)", "(Z) Failed", "(C)", "(A) or (B)", "B, or so", "", "both"):
        assert blink.judged(made, "It must be the third.", reply) == (0, None)


@pytest.mark.parametrize(
    ("text", "right", "extracted"),
    [
        (r"<think>(A)?</think>\boxed{B}", 1, "B"),
        (r"\boxed{(B)}", 1, "(B)"),
        (r"\boxed{the third image}", 1, None),
        (r"\boxed{A}\boxed{B}", 1, "B"),
        (r"\boxed{C}", 0, "C"),
        ("(B)", 0, None),
        (r"\boxed{B", 0, None),
        ("", 0, None),
    ],
)
def test_boxed(tmp_path, text, right, extracted):
    score = blink.score(item(tmp_path), text, "boxed")
    assert score.correct == right and (extracted is None or score.extracted == extracted)


def test_prompts(tmp_path):
    made, published = item(tmp_path), blink.EXAMPLE["row"]["prompt"]
    slots = "<image><image><image>"
    assert content(made, "boxed") == f"{slots}\n{made.row.question}\nA. the second image\nB. the third image"
    official = content(made, "official")
    assert official.startswith(f"{slots}Disclaimer: ") and official.endswith(f"\n\n{published}")
    plain = item(tmp_path, row(sub_task="Counting", images=1))
    assert content(plain, "official") == "<image>" + published


def test_a_prompt_with_other_choices_leaves_the_question(tmp_path):
    assert item(tmp_path, row(prompt="What now?")).row.question == "Which image fills the missing corner?"


@pytest.mark.parametrize(
    ("task", "images", "question", "choices", "effect"),
    [
        (
            "Jigsaw",
            3,
            "Given the first image without its lower right corner, is it the second image or the third image?",
            ["the second image", "the third image"],
            "rewrite",
        ),
        (
            "Art_Style",
            3,
            "Given the following images, take the first image as reference. Has the second or the third image "
            "its style?",
            ["the second image", "the third image"],
            "rewrite",
        ),
        ("Visual_Correspondence", 2, REFERENCE, POINTS, "rewrite"),
        ("Forensic_Detection", 2, "Which one is real?", ["the first image", "the second image"], "rewrite"),
        (
            "Multi-view_Reasoning",
            2,
            "Frames: the first image is the start, the second image the end. Where to?",
            ["left", "right"],
            "fixed",
        ),
        ("Jigsaw", 3, "The first has a hole. Which one of the two fills it?", ["a", "b"], "fixed"),  # the rules' label
        ("Relative_Depth", 1, "Which point is closer?", POINTS[:2], "invariant"),
        ("Multi-view_Reasoning", 1, "Where to?", ["left", "right"], "invariant"),
    ],
)
def test_what_another_order_does(tmp_path, task, images, question, choices, effect):
    made = item(tmp_path, row_with_choices(question, choices, images=images, sub_task=task))
    assert made.row.question == question
    record, decision = curate(made.row)
    assert decision.order_effect == effect and record["answer"] == "B"


def test_words_follow_their_images(tmp_path):
    """The latter two of Visual_Similarity change places, and the reference stays."""
    question = "Take the first image as reference. Which of the latter two images is more like the first one?"
    choices = ["the second image", "the third image"]
    made = item(tmp_path, row_with_choices(question, choices, sub_task="Visual_Similarity"))
    sample = {**curate(made.row).record, "images": list("rab")}
    assert permute.movable_places(sample) == [1, 2]
    moved = permute.render(permute.apply(sample, (0, 2, 1)))
    assert moved["choices"] == choices[::-1] and moved["answer"] == "B" and moved["images"] == list("rba")
    pair = item(tmp_path, row_with_choices(REFERENCE, POINTS, images=2, sub_task="Visual_Correspondence"))
    moved = permute.render(permute.apply({**curate(pair.row).record, "images": list("ab")}, (1, 0)))
    swapped = REFERENCE.replace("first", "?").replace("second", "first").replace("?", "second", 2)
    assert moved["question"].split("\n")[1] == swapped and moved["choices"] == POINTS


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": "hidden"},
        {"answer": "(C)"},
        {"answer": ""},
        {"answer": None},
        {"choices": None},
        {"images": 0},
        {"prompt": None},
        {"sub_task": None},
        {"answer": "(b)"},
    ],
)
def test_rows_that_cannot_be_asked(tmp_path, changes):
    made = load(tmp_path, row(**changes), row(idx="fine"))
    assert isinstance(made[0], Rejected) and made[1].row.id == "fine"


def test_options_as_one_text_and_a_second_row_of_an_id(tmp_path):
    assert [type(one) for one in load(tmp_path, row(), row())] == [Item, Rejected]
    schema = SCHEMA.set(7, pyarrow.field("choices", TEXT))
    (made,) = load(tmp_path, row(choices="['a', 'b']"), schema=schema)
    assert made.detail == "choices is a str, not a list"


def test_another_number_of_rows(tmp_path, monkeypatch):
    load(tmp_path, row())
    with pytest.raises(InputError, match="hold 1 rows, and 1,901 are published"):
        list(blink.load(str(tmp_path)))
    monkeypatch.setattr(blink, "ROWS", {"Jigsaw": 1})
    assert len(list(blink.load(str(tmp_path)))) == 1
    monkeypatch.setattr(blink, "ROWS", {"Counting": 1})
    with pytest.raises(InputError, match="hold 0 rows of Counting, and 1 are published"):
        list(blink.load(str(tmp_path)))
