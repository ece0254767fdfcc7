"""ReMI: published rows, the authors' prompt, and the rules of its tasks."""

import json

import pyarrow
import pytest
from public_files import STRUCT, parquet, png

from models.errors import InputError
from perl_jax.benchmarks import Item, remi
from perl_jax.curation.curate import curate
from perl_jax.data import Rejected

TEXT = pyarrow.string()
SCHEMA = pyarrow.schema(
    [("task", TEXT), ("question", TEXT), ("label", TEXT), *((f"image_{i}", STRUCT) for i in range(1, 7))]
)


def row(**changes):
    new = {**remi.EXAMPLE["row"], **changes}
    count = new.pop("images")
    return {**new, **{f"image_{i + 1}": {"bytes": png(i), "path": None} for i in range(count)}}


def load(tmp_path, *rows):
    parquet(tmp_path / "test.parquet", list(rows), SCHEMA)
    return list(remi.load(str(tmp_path), allow_partial=True))


def item(tmp_path, **changes) -> Item:
    (made,) = load(tmp_path, row(**changes))
    assert isinstance(made, Item), made
    return made


def content(item, protocol):
    (message,) = remi.prompt(item, protocol)
    return message["content"]


def test_the_example(tmp_path):
    made, example = item(tmp_path), remi.EXAMPLE
    assert (made.row.question, made.row.answer) == (example["question"], example["answer"])
    assert [image() for image in made.row.images] == [png(i) for i in range(3)]
    assert made.category == "EmojiAlgebra" and made.row.id == "EmojiAlgebra.test-1"
    assert remi.score(made, example["right"], "official") == (1, "92")
    assert remi.score(made, example["wrong"], "official") == (0, None)


@pytest.mark.parametrize(("task", "label", "answer", "right"), [
    ("EmojiAlgebra", "92", 92, 1), ("EmojiAlgebra", "92", "92.5", 1), ("EmojiAlgebra", "92", 93, 0),
    ("EmojiAlgebra", "-100", -100.5, 0), ("EmojiAlgebra", "-100", -100, 1), ("EmojiAlgebra", "92", "92%", 1),
    ("IQ", "(b)", "B", 1), ("IQ", "(b)", "(B) second", 0),
    ("GeomShape", "50", 51.5, 1), ("GeomShape", "50", 52, 0), ("GeomShape", "-1", -1, 0), ("GeomCost", "50", "x", 0),
    ("Clocks", "125", 133, 1), ("Clocks", "125", 136, 0), ("Clocks", "125", "two", 0),
    ("RefCoco", "1,3", 3, 1), ("RefCoco", "1,3", "1,3", 0), ("RefCoco", "2, 3", 3, 0),
    ("FuncRead", "f", "f(x)", 1), ("FuncRead", "f", "g(x)", 0), ("Schedule", "09:30", "9:30", 0),
    ("Isomorphism", "1", "yes", 0), ("Isomorphism", "1", True, 0), ("Isomorphism", "1", 1, 1),
    ("CodeEdit", "x = y + 1", "x=y+1", 1), ("CodeEdit", "x = y+1", "x =y + 1", 0),
    ("Charts", "12\\%", "12", 1), ("Maps", "5th Street", "5th street", 1), ("Charts", "12", [12], 0),
])  # fmt: skip
def test_official(tmp_path, task, label, answer, right):
    made = item(tmp_path, task=task, label=label)
    assert remi.score(made, json.dumps({"explanation": "so", "answer": answer}), "official").correct == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('```json\n{"explanation": "so", "answer": 92}\n```', 1),
        ("The answer is 92", 0),
        ("", 0),
        (r"\boxed{92}", 0),
        ('{"explanation": "a\nb", "answer": 92}', 0),
        (r'{"explanation": "\"so\" \\frac", "answer": 92}', 1),
        ('{"explanation": "so"}', 0),
        ('{"answer": 92', 0),
        ("{" * 3000 + "}", 0),
        ("} {", 0),
        ("[92]", 0),
        ('{"a": ' * 3000 + "1" + "}" * 3000, 0),
        ('{"answer": ' + "9" * 5000 + "}", 0),
        ('"答案" {"answer": "92"}', 1),
    ],
)
def test_official_takes_json_alone(tmp_path, text, right):
    score = remi.score(item(tmp_path), text, "official")
    assert (score.correct, score.extracted) == (right, "92" if right else None)


@pytest.mark.parametrize("task", remi.ROWS)
@pytest.mark.parametrize("label", ["%", "%5", "\\", "1,", "()", "none", "2"])
def test_nothing_said_is_never_right(tmp_path, task, label):
    made = item(tmp_path, task=task, label=label)
    for answer in ("", " ", "%", "% of it", "\\", None):
        assert remi.score(made, json.dumps({"answer": answer}), "official") == (0, None)
    for box in ("", " ", "\\", *(["%", "% of it"] if "%" not in label else [])):  # a box may be the very label
        assert remi.score(made, rf"\boxed{{{box}}}", "boxed").correct == 0


@pytest.mark.parametrize(
    ("task", "label", "text", "right"),
    [
        ("EmojiAlgebra", "92", r"<think>91?</think> \boxed{92}", 1),
        ("EmojiAlgebra", "92", r"\boxed{91}\boxed{92.0}", 1),
        ("EmojiAlgebra", "92", '{"answer": 92}', 0),
        ("EmojiAlgebra", "92", r"\boxed{92", 0),
        ("EmojiAlgebra", "92", "", 0),
        ("EmojiAlgebra", "92", r"\boxed{\frac{184}{2}}", 1),
        ("GeomShape", "50", r"\boxed{51}", 1),
        ("Clocks", "125", r"\boxed{130}", 1),
        ("Clocks", "125", r"\boxed{140}", 0),
        ("RefCoco", "2, 3", r"\boxed{3}", 1),
        ("RefCoco", "1,3", r"\boxed{13}", 0),
        ("RefCoco", "1,3", r"\boxed{2}", 0),
        ("IQ", "(b)", r"\boxed{B}", 1),
        ("IQ", "(b)", r"\boxed{\text{(b)}}", 1),
        ("IQ", "(b)", r"\boxed{A}", 0),
        ("CodeEdit", "x = y + 1", r"\boxed{x=y+1}", 1),
        ("Charts", "12%", r"\boxed{12\%}", 1),
        ("Schedule", "09:30", r"\boxed{10:30}", 0),
        ("Maps", "5th Street", r"\boxed{\text{5th Street}}", 1),
    ],
)
def test_boxed(tmp_path, task, label, text, right):
    assert remi.score(item(tmp_path, task=task, label=label), text, "boxed").correct == right


def test_prompts(tmp_path):
    made = item(tmp_path)
    assert content(made, "boxed") == remi.EXAMPLE["question"]
    official = content(made, "official")
    assert official.startswith(f"Question: {remi.EXAMPLE['question']} Output only a valid JSON string with two fields:")
    assert official.endswith("The answer field contains the numeric value corresponding to your final answer.")
    for task in remi.ROWS:
        assert content(item(tmp_path, task=task), "official").count("<image>") == 3


def test_a_second_tag_of_an_image(tmp_path):
    """It mentions the image; the authors' program loses what follows it, which their prompt here does too."""
    made = item(tmp_path, question="Is <image1> like <image2>? Look at <image1> and <image2>.", images=2)
    assert made.row.question == "Is <image> like <image>? Look at image 1 and image 2."
    assert content(made, "official") == "Question: Is <image> like <image>? Look at "


def test_what_another_order_does(tmp_path):
    assert curate(item(tmp_path).row).decision.order_effect == "fixed"
    together = item(tmp_path, task="Isomorphism", images=2, question="<image1><image2> Are they isomorphic?", label="1")
    assert together.row.order_effect is None and curate(together.row).decision.order_effect == "invariant"


@pytest.mark.parametrize(
    "changes",
    [
        {"images": 2},
        {"images": 4},
        {"images": 0},
        {"question": None},
        {"label": None},
        {"label": " "},
        {"task": "Else"},
        {"task": None},
        {"question": "<image2><image1><image3>"},
        {"question": "<image><image1><image2><image3>"},
        {"question": "<image1><image2><image3><image9>"},
    ],
)
def test_rows_that_cannot_be_asked(tmp_path, changes):
    made = load(tmp_path, row(**changes), row())
    assert isinstance(made[0], Rejected) and made[1].row.id == "EmojiAlgebra.test-2"


def test_another_number_of_rows(tmp_path, monkeypatch):
    load(tmp_path, row(), row(task="Maps"))
    with pytest.raises(InputError, match="hold 2 rows, and 2,600 are published"):
        list(remi.load(str(tmp_path)))
    monkeypatch.setattr(remi, "ROWS", {"EmojiAlgebra": 2})
    with pytest.raises(InputError, match="hold 1 rows of EmojiAlgebra, and 2 are published"):
        list(remi.load(str(tmp_path)))
