"""A person's own file, and files for other trainers, become rows; what is wrong with one is said of that one."""

import base64
import doctest
import json

import pyarrow
import pytest
from public_files import STRUCT, jsonl, parquet, png

from models.errors import InputError
from perl_jax.data import Rejected
from perl_jax.data import jsonl as source

OWN = {"images": ["a.png", "b.png"], "question": "Which image shows a cat?", "answer": "Image 2"}


def read(tmp_path, *rows, **options):
    for i, name in enumerate(("a", "b", "c")):
        (tmp_path / f"{name}.png").write_bytes(png(i))
    return list(source.records(str(jsonl(tmp_path / "mine.jsonl", *rows)), **options))


def one(tmp_path, row, **options):
    (made,) = read(tmp_path, row, **options)
    return made


def refused(tmp_path, row):
    made = one(tmp_path, row)
    assert isinstance(made, Rejected) and (made.id, made.reason) == ("1", "malformed row")
    return made.detail


def test_doctests():
    assert doctest.testmod(source).failed == 0


def test_the_example_comes_from_a_row(tmp_path):
    """As the stages after this one will make it: what is plain here is a symbol there."""
    row = one(tmp_path, OWN)
    assert [image() for image in row.images] == [png(0), png(1)]
    assert (row.id, row.question, row.answer, row.source) == ("1", OWN["question"], OWN["answer"], "mine")
    assert (row.choices, row.kind, row.order_effect, row.movable) == ([], None, None, None)
    assert source.EXAMPLE["question"] == f"<image:0><image:1>\n{row.question}"


def test_every_column_is_read(tmp_path):
    row = {
        **OWN,
        "id": 7,
        "choices": ["a", 2],
        "answer": 2,
        "order_effect": "invariant",
        "kind": "choice",
        "movable": [1, 0],
        "source": "cats",
        "more": None,
    }
    made = one(tmp_path, row)
    assert (made.id, made.choices, made.answer, made.source, made.kind) == ("7", ["a", "2"], "2", "cats", "choice")
    assert (made.order_effect, made.movable, made.reason) == ("invariant", [1, 0], "given in the file")


def test_symbols_and_slots_pass_through(tmp_path):
    texts = {"question": "<image:0><image:1>Is {image:1|lower} a cat?", "answer": "Yes"}
    assert one(tmp_path, OWN | texts).question == texts["question"]
    texts = {"question": "Which shows a cat?", "choices": ["<image>", "<image>"], "answer": "B"}
    assert one(tmp_path, OWN | texts).choices == texts["choices"]
    assert one(tmp_path, {"question": "1 + 1?", "answer": "2"}).images == []


def test_images_come_in_every_way(tmp_path):
    text = base64.b64encode(png(5)).decode()
    made = one(tmp_path, OWN | {"images": [str(tmp_path / "a.png"), text, {"path": "b.png"}]})
    assert [image() for image in made.images] == [png(0), png(5), png(1)]
    assert one(tmp_path, OWN | {"images": "c.png"}).images[0]() == png(2)


def test_an_image_outside_costs_its_row_later(tmp_path):
    """Images are read by the stages that need them; the line says what is wrong."""
    folder = tmp_path / "set"
    folder.mkdir()
    (row,) = source.records(str(jsonl(folder / "mine.jsonl", OWN | {"images": ["../a.png", "http://host/a.png"]})))
    for image, words in zip(row.images, ("leaves its folder", "download it")):
        with pytest.raises(InputError, match=words):
            image()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": None}, "question is a NoneType"),
        ({"answer": ["a"]}, "answer is a list"),
        ({"answer": float("nan")}, "answer is a float"),
        ({"question": "a\0"}, "NUL"),
        ({"answer": "\ud800"}, "surrogate"),
        ({"choices": "a, b"}, "choices is a str"),
        ({"choices": [None]}, "choice is a NoneType"),
        ({"kind": "essay"}, "essay"),
        ({"order_effect": "maybe"}, "maybe"),
        ({"movable": [2]}, "movable"),
        ({"question": "<image>Is it?"}, "1 <image>, but it has 2"),
        ({"images": []} | {"question": "<image>?"}, "has 0"),
        ({"choices": ["<image>"] * 3}, "3 <image>"),
        ({"id": ["x"]}, "id is a list"),
        ({"question": [{"role": "assistant", "content": "a"}]}, "one user turn"),
    ],
)
def test_a_bad_row_is_named(tmp_path, change, words):
    assert words in refused(tmp_path, OWN | change)


def test_bad_rows_are_gone_on_from(tmp_path):
    made = read(tmp_path, OWN, b'{"id": "half", "ques', [1], OWN | {"answer": None}, OWN)
    assert [isinstance(row, Rejected) for row in made] == [False, True, True, True, False]
    assert [row.id for row in made] == ["1", "2", "3", "4", "5"]


def test_columns_are_renamed(tmp_path):
    row = {"problem": "What?", "question": "other", "final": {"value": "4"}, "pictures": ["c.png"]}
    made = one(tmp_path, row, map={"question": "problem", "answer": "final.value", "images": "pictures"})
    assert (made.question, made.answer, made.images[0]()) == ("What?", "4", png(2))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"question": "nothing"}, "no column 'nothing' for question; it has images, question, answer"),
        ({"frage": "question"}, "'frage' is none of the columns id, images, question"),
    ],
)
def test_a_column_that_is_not_there_ends_the_run(tmp_path, columns, words):
    with pytest.raises(InputError, match=words):
        read(tmp_path, OWN, map=columns)


def test_a_file_without_what_is_needed_ends_the_run(tmp_path):
    with pytest.raises(InputError, match=r"no column answer; it has frage, antwort: .*--map answer=NAME"):
        read(tmp_path, {"frage": "?", "antwort": "!"}, map={"question": "frage"})
    with pytest.raises(InputError, match="it has none"):
        read(tmp_path, b"half a li")
    for name in (None, str(tmp_path), str(tmp_path / "none.jsonl")):
        with pytest.raises(InputError):
            list(source.records(name))


def test_a_column_of_later_rows_counts(tmp_path):
    made = read(tmp_path, OWN, OWN | {"why": "2"}, map={"answer": "why"})
    assert isinstance(made[0], Rejected) and made[1].answer == "2"


def test_easy_r1_parquet(tmp_path):
    text = pyarrow.string()
    schema = pyarrow.schema([("images", pyarrow.list_(STRUCT)), ("problem", text), ("answer", text)])
    rows = [{"images": [{"bytes": png(7)}], "problem": "<image>Find $x$.", "answer": "3"}]
    (made,) = source.records(str(parquet(tmp_path / "train.parquet", rows, schema)))
    assert (made.question, made.answer, made.images[0]()) == ("<image>Find $x$.", "3", png(7))


def verl(name, count, **more):
    return {
        "data_source": name,
        "prompt": [
            {"role": "system", "content": "Put it in a box."},
            {"role": "user", "content": "<image>" * count + "Which?"},
        ],
        "images": [{"bytes": png(i)} for i in range(count)],
        "ability": "vision",
        "reward_model": {"style": "rule", "ground_truth": "A"},
        "extra_info": {"index": 3},
        **more,
    }


def test_verl_parquet(tmp_path):
    (made,) = source.records(str(parquet(tmp_path / "train.parquet", [verl("geometry3k", 2)])))
    assert (made.question, made.answer, made.source) == ("<image><image>Which?", "A", "geometry3k")
    assert [image() for image in made.images] == [png(0), png(1)]
    assert made.order_effect is None


@pytest.mark.parametrize(
    ("name", "count", "needed", "effect", "movable"),
    [
        ("IIGroup/Mantis-Instruct-nlvr2", 2, False, "invariant", None),
        ("IIGroup/Mantis-Instruct-nlvr2", 2, True, "fixed", None),
        ("Mantis-Instruct-dreamsim", 3, True, "rewrite", [1, 2]),
        ("Mantis-Instruct-iconqa", 4, False, "invariant", [1, 2, 3]),
        ("ShowHowTo", 4, True, "fixed", None),
    ],
)
def test_perl_parquet(tmp_path, name, count, needed, effect, movable):
    (made,) = source.records(str(parquet(tmp_path / "a.parquet", [verl(name, count, change_needed=needed)])))
    assert (made.order_effect, made.movable) == (effect, movable) and "change_needed" in made.reason


@pytest.mark.parametrize(
    ("column", "value", "answer"),
    [("solution", "So \\boxed{4}.", "4"), ("answer", "4", "4"), ("ground_truth", "<answer> 4 </answer>", "4")],
)
def test_trl_prompts(tmp_path, column, value, answer):
    parts = [{"type": "image"}, {"type": "text", "text": "What is "}, {"type": "image"}, {"type": "text", "text": "?"}]
    row = {"prompt": [{"role": "user", "content": parts}], "images": ["a.png", "b.png"], column: value}
    made = one(tmp_path, row)
    assert (made.question, made.answer, made.images[1]()) == ("<image>What is <image>?", answer, png(1))
    for part, name in zip((parts[0], parts[2]), ("b.png", "c.png")):
        part["image"] = name
    del row["images"]
    assert [image() for image in one(tmp_path, row).images] == [png(1), png(2)]
    assert "both in its messages and in a column" in refused(tmp_path, row | {"images": ["a.png"]})


def test_a_json_list(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([OWN, 3]))
    assert [isinstance(row, Rejected) for row in source.records(str(tmp_path / "a.json"))] == [False, True]
