"""MMIU: published rows and zips, the authors' prompts and rules, and where an order has a meaning."""

import json

import pyarrow
import pytest
from public_files import parquet, png, zipped

from models.errors import InputError
from perl_jax.benchmarks import Item, mmiu
from perl_jax.curation.curate import curate
from perl_jax.data import Rejected

TEXT = pyarrow.string()
SCHEMA = pyarrow.schema(
    [
        *((name, TEXT) for name in ("task", "visual_input_component", "source", "options", "question", "context")),
        ("input_image_path", pyarrow.list_(TEXT)),
        ("output", TEXT),
    ]
)


THREE = ["./2D-spatial/new/0.jpg", "./2D-spatial/new/1.jpg", "./2D-spatial/new/2.jpg"]
QUERY = {"options": "A: The second image\nB: The third image", "context": "Choose.", "input_image_path": THREE}
ALL_NAMED = "Is the first image the query of the second image and the third image?"
POINTS = {
    "options": "A: Point A\nB: Point B",
    "question": "Which point corresponds?",
    "context": "Given the following two images, REF is marked on the first image, and points on the right image. Which "
    "is the left ear?",
}


def row(**changes):
    return {**mmiu.EXAMPLE["row"], **changes}


def animals(**changes):
    options = "A: a car\nB: a dog"
    context = f"Find the difference.\nSelect from the following choices.\n{options}\n"
    return row(task="spot_the_diff", options=options, question="What differs?", context=context, **changes)


def load(tmp_path, *rows, schema=SCHEMA):
    parquet(tmp_path / "all.parquet", list(rows), schema)
    return list(mmiu.load(str(tmp_path), allow_partial=True))


def item(tmp_path, new=None) -> Item:
    (made,) = load(tmp_path, new or row())
    assert isinstance(made, Item), made
    return made


def content(item, protocol):
    (message,) = mmiu.prompt(item, protocol)
    return message["content"]


def test_the_example(tmp_path):
    zipped(tmp_path / "Low-level-semantic.zip", {f"forensic/0_{i}.jpg": png(i) for i in range(2)})
    zipped(tmp_path / "2D-spatial.zip", {"forensic/0_0.jpg": png(9)})  # its own relationship's, not this one
    made, example = item(tmp_path), mmiu.EXAMPLE
    assert (made.row.question, made.row.choices, made.row.answer) == tuple(
        example[key] for key in ("question", "choices", "answer")
    )
    assert [image() for image in made.row.images] == [png(0), png(1)]
    assert made.category == "forensic_detection_blink" and made.row.id == "forensic_detection_blink.all-1"
    assert mmiu.score(made, example["right"], "official") == (1, "B")
    assert mmiu.score(made, example["wrong"], "official") == (0, "A")


def test_unpacked_images_and_missing_ones(tmp_path):
    (tmp_path / "Low-level-semantic" / "forensic").mkdir(parents=True)
    (tmp_path / "Low-level-semantic" / "forensic" / "0_0.jpg").write_bytes(png(3))
    first, second = item(tmp_path).row.images
    assert first() == png(3)
    with pytest.raises(InputError, match=r"forensic/0_1\.jpg"):
        second()


@pytest.mark.parametrize(("text", "extracted"), [
    ("B", "B"), ("b", "B"), ("(B).", "B"), ("B,", "B"), ("A", "A"), ("\u00a0B\u00a0", "B"), ("n", "N"),
    ("B: a dog", "B"), ("The answer is B", "B"), ("a dog", "B"), ("It is a dog.", "B"), (r"\boxed{B}", "B"),
    ("a cat", None), ("image none", None), ("model error", None), ("", None), ("o", None), ("。", None),
    ("a car or a dog", None), ("A: a car, B: a dog", None), ("狗", None),
])  # fmt: skip
def test_official(tmp_path, text, extracted):
    score = mmiu.score(item(tmp_path, animals()), text, "official")
    assert score == (float(extracted == "B"), extracted)


def test_a_judge_reads_what_the_rules_leave(tmp_path):
    made = item(tmp_path, animals())
    for text in ("B", "It is a dog.", "image none", "model error", "", "\u00a0", "()."):
        assert mmiu.judge_messages(made, text) is None
    (message,) = mmiu.judge_messages(made, "A puppy!")
    asked = message["content"].rpartition("Question: ")[2]
    assert asked == "What differs?\nOptions:\n(A) a car\n(B) a dog\nAnswer: A puppy!\nYour output:"
    assert mmiu.judged(made, "A puppy!", "(B)") == (1, "B") and mmiu.judged(made, "A puppy!", "A") == (0, "A")
    for reply in ("(Z)", "Z", "(G)", "", "(A) or (B)"):
        assert mmiu.judged(made, "A puppy!", reply) == (0, None)
    unlisted = item(tmp_path, row(options="a car or a dog", context="Find it."))
    (message,) = mmiu.judge_messages(unlisted, "A puppy!")
    assert "\nOptions:\na car or a dog\n" in message["content"]
    assert mmiu.judged(unlisted, "A puppy!", "(B)") == (1, "B")


@pytest.mark.parametrize("protocol", mmiu.PROTOCOLS)
def test_an_answer_that_is_no_option_is_kept_and_never_right(tmp_path, protocol):
    made = item(tmp_path, animals(output="G"))
    assert [mmiu.score(made, text, protocol).correct for text in ("G", r"\boxed{G}", "B", r"\boxed{B}")] == [0] * 4


@pytest.mark.parametrize(
    ("text", "right", "extracted"),
    [
        (r"<think>A?</think>\boxed{B}", 1, "B"),
        (r"\boxed{a dog}", 1, "a dog"),
        (r"\boxed{A}\boxed{(B)}", 1, "(B)"),
        (r"\boxed{A or B}", 0, "A or B"),
        ("B", 0, None),
        (r"\boxed{B", 0, None),
        ("", 0, None),
    ],
)
def test_boxed(tmp_path, text, right, extracted):
    assert mmiu.score(item(tmp_path, animals()), text, "boxed") == (right, extracted)


def test_prompts(tmp_path):
    made, published = item(tmp_path), mmiu.EXAMPLE["row"]
    assert content(made, "boxed") == (f"<image><image>\n{made.row.question}\nA. the first image\nB. the second image")
    hint = "Please answer the option directly like A,B,C,D..."
    official = f"<image><image>{published['context']}\n{published['question']}\n{hint}"
    assert content(made, "official") == official
    assert content(item(tmp_path, animals()), "official").startswith("<image><image>What differs?\nFind the")
    separate = item(tmp_path, row(context="Look."))
    assert (
        content(separate, "official") == f"<image><image>Look.\n{published['options']}\n{published['question']}\n{hint}"
    )
    assert content(separate, "boxed") == content(made, "boxed").replace("One of the two images is drawn.", "Look.")


def test_options_that_are_no_list_of_letters_stay_in_the_question(tmp_path):
    made = item(tmp_path, row(options="1: a car\n2: a dog", context="Look.", output="B"))
    assert made.row.choices == [] and made.row.question.startswith("Look.\n1: a car\n2: a dog\n")
    assert mmiu.score(made, r"\boxed{B}", "boxed").correct == 1 == mmiu.score(made, "B", "official").correct


def test_options_that_the_context_has_in_one_line():
    options = "A: the first image\nB: the second image\n"
    context = "Look.\nCandidates: A. the first image B. the second image"
    assert mmiu._without_options(context, options) == ("Look.", ["the first image", "the second image"])


def test_an_option_may_have_several_lines(tmp_path):
    made = item(tmp_path, row(options="A: a\nred car\nB: a dog\n", context=""))
    assert made.row.choices == ["a\nred car", "a dog"]
    assert made.row.question == mmiu.EXAMPLE["row"]["question"]


@pytest.mark.parametrize(
    ("changes", "effect"),
    [
        ({}, "rewrite"),
        ({"task": "spot_the_diff"}, "fixed"),
        ({"task": "temporal_ordering"}, "fixed"),
        ({"input_image_path": ["./Continuous-temporal/new/0.jpg", "./Continuous-temporal/new/1.jpg"]}, "fixed"),
        ({"task": "vehicle_retrieval"}, "rewrite"),  # its options are all the images there are
        ({"task": "vehicle_retrieval", "options": "A: car 1\nB: car 2"}, "fixed"),
        ({"task": "face_retrieval", **QUERY, "question": "Find the query. It is the first image."}, "rewrite"),
        ({"task": "face_retrieval", **QUERY, "question": "Find the query."}, "fixed"),
        ({"task": "face_retrieval", **QUERY, "question": ALL_NAMED, "options": "1: yes\n2: no"}, "fixed"),
        ({"task": "face_retrieval", **QUERY, "question": ALL_NAMED, "options": ""}, "fixed"),
        ({"task": "semantic_correspondence_blink", **POINTS}, "rewrite"),
        ({"task": "semantic_correspondence_blink", **POINTS, "question": "Which point is that of the first?"}, "fixed"),
        (
            {**POINTS, "question": "Is it a cat, true or false?", "context": "Select from the following options."},
            "invariant",
        ),
    ],
)
def test_what_another_order_does(tmp_path, changes, effect):
    made = item(tmp_path, row(**changes))
    assert curate(made.row).decision.order_effect == effect
    assert (made.row.order_effect == "fixed") == (effect == "fixed")
    assert bool(made.row.reason) == (made.row.order_effect is not None)


@pytest.mark.parametrize(
    "changes",
    [
        {"output": None},
        {"output": "None"},
        {"output": "Z"},
        {"output": ""},
        {"input_image_path": None},
        {"input_image_path": [None]},
        {"input_image_path": ["../0.jpg"]},
        {"input_image_path": ["./"]},
        {"task": None},
        {"question": None, "context": None},
    ],
)
def test_rows_that_cannot_be_asked(tmp_path, changes):
    made = load(tmp_path, row(**changes), row())
    assert isinstance(made[0], Rejected) and made[1].row.id.endswith("all-2")


def test_options_in_another_form(tmp_path):
    schema = SCHEMA.set(3, pyarrow.field("options", pyarrow.list_(TEXT)))
    (made,) = load(tmp_path, row(options=["a", "b"]), schema=schema)
    assert made.detail == "options is a list, not text"


def test_another_number_of_rows(tmp_path, monkeypatch):
    (tmp_path / "all.json").write_text(json.dumps([row(), row(output=None)]))
    with pytest.raises(InputError, match="hold 2 rows, and 11,698 are published"):
        list(mmiu.load(str(tmp_path)))
    monkeypatch.setattr(mmiu, "ROWS", 2)
    assert [type(one) for one in mmiu.load(str(tmp_path))] == [Item, Rejected]


def test_a_broken_zip_ends_the_run(tmp_path):
    (tmp_path / "2D-spatial.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"2D-spatial\.zip cannot be opened"):
        load(tmp_path, row())
