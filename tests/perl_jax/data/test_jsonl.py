"""A person's own file, and files for other trainers, become rows; what is wrong with one is said of that one."""

import base64
import doctest
import json

import huggingface_hub.constants
import pyarrow
import pytest
from public_files import STRUCT, jsonl, parquet, png, zipped

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
        ({"answer": "['20', 'twenty']"}, "answer is a list of texts"),
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


def test_names_of_columns_may_be_in_any_letter_case(tmp_path):
    row = {"ID": "7", "Question": "Is it?", "ANSWER": "4", "Image": "c.png", "Order_Effect": "invariant"}
    made, left = one(tmp_path, row), {}
    assert (made.id, made.question, made.answer, made.order_effect) == ("7", "Is it?", "4", "invariant")
    assert made.images[0]() == png(2)
    list(source.records(str(jsonl(tmp_path / "train.jsonl", row)), columns=left))
    assert all(left.values()) and len(left) == 5
    assert one(tmp_path, row | {"question": "What?"}).question == "What?"  # the name as it stands comes first


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


PAIR = {"images": ["a.png", "b.png"]}
CHAT = [("user", "assistant", "role", "content"), ("human", "gpt", "from", "value")]


def chat(kind, *texts, system="Think."):
    user, assistant, role, content = kind
    turns = [{role: (user, assistant)[i % 2], content: text} for i, text in enumerate(texts)]
    return [{role: "system", content: system}, *turns]


@pytest.mark.parametrize("kind", CHAT)
@pytest.mark.parametrize("column", ["messages", "conversations", "prompt"])
@pytest.mark.parametrize("form", [list, json.dumps, repr])
def test_the_last_assistant_turn_is_the_answer(tmp_path, kind, column, form):
    messages = chat(kind, "<image><image>Which is a cat?", "<think>Hm.</think> Image 1", "And a dog?", "So \\boxed{2}")
    made = one(tmp_path, PAIR | {column: form(messages)})
    assert (made.question, made.answer, made.turn) == ("<image><image>And a dog?", "2", 1)
    made = one(tmp_path, PAIR | {column: form(messages[:3])})
    assert (made.question, made.answer, made.turn) == ("<image><image>Which is a cat?", "Image 1", 0)


def test_a_column_with_the_answer_comes_before_the_conversation(tmp_path):
    messages = chat(CHAT[0], "<image><image>Which is a cat?", "I think that it is image 2.")
    assert one(tmp_path, PAIR | {"messages": messages, "solution": "Image 2"}).answer == "Image 2"
    rows = [PAIR | {"messages": messages, "solution": None}, PAIR | {"messages": messages, "solution": "Image 2"}]
    assert [row.answer for row in read(tmp_path, *rows)] == ["I think that it is image 2.", "Image 2"]


def test_query_and_response(tmp_path):
    row = {"images": ["a.png"], "query": "<image>Is it red?", "response": "Yes", "system": "Think."}
    made = one(tmp_path, row | {"history": []})
    assert (made.question, made.answer, made.turn) == ("<image>Is it red?", "Yes", 0)
    assert one(tmp_path, row | {"history": [["What is it?", "A hat"]]}).turn == 1
    row = {"instruction": "Is it red?", "input": "Look well.", "output": "Yes", "image": "a.png"}
    assert one(tmp_path, row).question == "Is it red?\nLook well."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": '[{"role": "user", "content": "Wh'}, "not JSON"),
        ({"prompt": '{"a": 1}'}, "role None"),
        ({"prompt": [{"role": "tool", "content": "a"}]}, "the role 'tool'"),
        ({"prompt": "<video>Who?"}, "shows <video>"),
        ({"prompt": "Who?", "images": [], "videos": ["a.mp4"]}, "it shows videos"),
        ({"prompt": "<image 2> <image 1> Which?"}, "images 2, 1; number them"),
        ({"prompt": "<image 1> Which?"}, "1 <image>, but it has 2"),
        ({"prompt": "[" * 5000, "answer": None}, "answer is a NoneType"),
    ],
)
def test_what_cannot_be_asked_is_named(tmp_path, change, words):
    rows = read(tmp_path, PAIR | {"prompt": "Which?", "answer": "1"}, PAIR | {"answer": "1"} | change)
    assert isinstance(rows[1], Rejected) and words in rows[1].detail


def test_an_answer_of_messages(tmp_path):
    row = PAIR | {"prompt": chat(CHAT[0], "Which is a cat?"), "completion": chat(CHAT[0], "", "Image 2")[2:]}
    assert (one(tmp_path, row).question, one(tmp_path, row).answer) == ("Which is a cat?", "Image 2")
    row = row | {"completion": [{"role": "user", "content": "a"}]}
    assert "do not end with an assistant" in refused(tmp_path, row)


@pytest.mark.parametrize("marker", ["<image {}>", "<image_{}>", "<image{}>", "<|image_{}|>"])
@pytest.mark.parametrize("first", [0, 1])
def test_numbered_markers(tmp_path, marker, first):
    one_marker, other = marker.format(first), marker.format(first + 1)
    row = PAIR | {"question": f"{one_marker} {other} Is {other} a cat?", "answer": "Yes"}
    assert one(tmp_path, row).question == "<image> <image> Is image 2 a cat?"


@pytest.mark.parametrize(
    "columns",
    [
        {"image_1": "a.png", "image_2": "b.png", "image_3": None},
        {"image_2": "b.png", "image_1": "a.png"},
        {"image": "a.png", "image_2": "b.png"},
        {"image0": "a.png", "image1": "b.png"},
        {"image_a": "a.png", "image_b": "b.png"},
        {"img1": ["a.png"], "img2": ["b.png"]},
        {"images": "['a.png', 'b.png']"},
        {"images": "a.png; b.png"},
        {"pictures": ["a.png", "b.png"]},
        {"image_path": '["a.png", "b.png"]', "image_id": 7},
        {"images": [], "image_1": "a.png", "image_2": "b.png"},
    ],
)
def test_images_in_several_columns(tmp_path, columns):
    made = one(tmp_path, {"question": "Which is a cat?", "answer": "Image 2", **columns})
    assert [image() for image in made.images] == [png(0), png(1)]


@pytest.mark.parametrize(
    "columns",
    [
        {"left": "a.png", "right": "b.png"},
        {"image": "a.png", "image_1": "b.png"},
        {"image_1": "a.png", "image_2": "b.png", "answer_picture": "c.png"},
    ],
)
def test_images_whose_order_is_not_clear(tmp_path, columns):
    row = {"question": "Which is a cat?", "answer": "Image 2", **columns}
    names = ",".join(f"images={name}" for name in columns)
    with pytest.raises(InputError, match=f"order is not clear: .*--map={names}$"):
        read(tmp_path, row)
    made = one(tmp_path, row, map={"images": list(reversed(columns))})
    assert [image() for image in made.images][-1] == png(0) and len(made.images) == len(columns)


def test_a_gap_in_a_series(tmp_path):
    row = {"question": "Which is a cat?", "answer": "1", "image_1": "a.png", "image_2": None, "image_3": "c.png"}
    assert "image_2 is empty, but image_3 is not" in refused(tmp_path, row)


CHOSEN = {"image": "a.png", "question": "Which colour is it?", "answer": "B"}


@pytest.mark.parametrize(
    "columns",
    [
        {"options": ["red", "blue"]},
        {"choices": "['red', 'blue']"},
        {"options": {"B": "blue", "A": "red"}},
        {"options": "A. red\nB. blue"},
        {"A": "red", "B": "blue", "C": None, "D": ""},
        {"option_b": "blue", "option_a": "red"},
    ],
)
def test_choices_in_every_form(tmp_path, columns):
    made = one(tmp_path, CHOSEN | columns)
    assert (made.choices, made.answer) == (["red", "blue"], "B")


def test_choices_that_the_question_has_already_are_not_asked_twice(tmp_path):
    question = "Which colour is it?\nA. red\n(B) blue"
    assert one(tmp_path, CHOSEN | {"question": question, "options": ["red", "blue"]}).choices == []
    assert one(tmp_path, CHOSEN | {"question": question, "options": ["red", "green"]}).choices == ["red", "green"]


def test_no_column_is_dropped_in_silence(tmp_path):
    row = CHOSEN | {"options": ["red", "blue"], "image_caption": "a hat", "empty": None, "nothing": "", "hint": "Look."}
    later = CHOSEN | {"note": "late", "extra": {"index": 3}}
    columns = {}
    read(tmp_path, row, *[CHOSEN] * 120, later, columns=columns)
    assert [name for name, was_read in columns.items() if was_read] == ["image", "question", "answer", "options"]
    assert [name for name, was_read in columns.items() if not was_read] == ["image_caption", "hint", "note", "extra"]
    columns = {}
    made = read(tmp_path, CHOSEN | {"problem": "Is it?"}, map={"question": "problem"}, columns=columns)
    assert made[0].question == "Is it?" and not columns["question"] and columns["problem"]


def test_choices_that_come_late_are_read(tmp_path):
    made = read(tmp_path, *[CHOSEN] * 120, CHOSEN | {"options": ["red", "blue"]})
    assert made[-1].choices == ["red", "blue"] and made[0].choices == []


def test_csv(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    lines = [
        "image,question,A,B,answer,id",
        'a.png,"Red, or\nblue?",red,blue,B,x',
        "a.png,Half a row",
        "a.png,Is it?,,,3,",
    ]
    (tmp_path / "mine.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    first, half, last = source.records(str(tmp_path / "mine.csv"))
    assert (first.id, first.question, first.choices, first.answer) == ("x", "Red, or\nblue?", ["red", "blue"], "B")
    assert first.images[0]() == png(0) and (last.id, last.choices, last.answer) == ("3", [], "3")
    assert "2 cells under 6 columns" in half.detail


def test_vlmevalkit_tsv(tmp_path):
    """Images in base64, several as a printed list, one that is another row's."""
    texts = [base64.b64encode(png(i, (90, 80))).decode() for i in range(3)]
    rows = [(0, texts[0]), (1, "0"), (2, repr(texts[1:])), (3, "9")]
    lines = ["index\timage\tquestion\tA\tB\tanswer\tcategory"]
    lines += [f'{index}\t"{image}"\tWhich?\tred\tblue\tA\tcolour' for index, image in rows]
    (tmp_path / "MMBench.tsv").write_text("\n".join(lines))
    columns = {}
    made = list(source.records(str(tmp_path / "MMBench.tsv"), columns=columns))
    expected = [[png(0, (90, 80))], [png(0, (90, 80))], [png(1, (90, 80)), png(2, (90, 80))]]
    assert [[image() for image in row.images] for row in made[:3]] == expected
    assert "no row has that index" in made[3].detail
    assert made[0].choices == ["red", "blue"] and not columns["category"]


def test_a_folder_of_shards(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "b.png").write_bytes(png(1))
    row = {"image": "images/b.png", "answer": "Yes"}
    jsonl(tmp_path / "set" / "train-1.jsonl", row | {"question": "One?"}, row | {"question": "Two?"})
    jsonl(tmp_path / "set" / "train-2.jsonl", row | {"problem": "Three?"})
    jsonl(tmp_path / "set" / "test.jsonl", row | {"question": "Held out?"})
    for given in ("set@train", "set/train-*.jsonl"):
        made = list(source.records(str(tmp_path / given)))
        assert [made_row.question for made_row in made] == ["One?", "Two?", "Three?"]
        assert [made_row.id for made_row in made] == ["train-1:1", "train-1:2", "train-2:1"]
        assert {made_row.source for made_row in made} == {"set"} and made[2].images[0]() == png(1)
    with pytest.raises(InputError, match="splits test, train: name one"):
        list(source.records(str(tmp_path / "set")))


@pytest.mark.parametrize("path", ["photos/a.png", "../photos/a.png"])
def test_images_above_the_files_folder(tmp_path, path):
    for folder in ("photos", "rows"):
        (tmp_path / "all" / folder).mkdir(parents=True)
    (tmp_path / "all" / "photos" / "a.png").write_bytes(png(0))
    (tmp_path / "secret.png").write_bytes(png(1))
    row = {"image": path, "question": "Is it?", "answer": "Yes"}
    file = jsonl(tmp_path / "all" / "rows" / "mine.jsonl", row, row | {"image": "../../secret.png"})
    made, outside = source.records(str(file), images=str(tmp_path / "all"))
    assert made.images[0]() == png(0)
    with pytest.raises(InputError, match="is outside"):
        outside.images[0]()
    with pytest.raises(InputError, match="no such folder"):
        list(source.records(str(file), images=str(tmp_path / "none")))


def test_one_path_that_means_two_images(tmp_path):
    for seed, folder in enumerate(("", "rows")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.png").write_bytes(png(seed))
    (made,) = source.records(str(jsonl(tmp_path / "rows" / "b.jsonl", CHOSEN)), images=str(tmp_path))
    with pytest.raises(InputError, match=r"may be .*: rename one"):
        made.images[0]()


@pytest.mark.parametrize(
    ("options", "answer", "clear"),
    [
        (["cat", "dog"], 1, False),
        (["2", "1", "3"], 1, False),
        (["1", "2", "3"], 2, False),  # from 0 it is "3"
        (["30", "60"], 60, True),
        (["30", "1"], "1", True),
        ({"1": "cat", "2": "dog"}, 2, True),
    ],
)
def test_a_number_that_may_count_the_choices(tmp_path, options, answer, clear):
    made = one(tmp_path, CHOSEN | {"options": options, "answer": answer})
    assert isinstance(made, Rejected) != clear
    assert clear or "may count the choices from 0 or 1" in made.detail


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    """As it is cached, without a network: links to files beside the snapshot; images by path or in a zip."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "datasets--owner--shapes"
    for folder in ("blobs", "refs", "snapshots/abc/data", "snapshots/abc/images"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    rows = [{"image": name, "problem": "Is it?", "answer": "Yes"} for name in ("images/a.png", "b.png")]
    snapshot, blobs = root / "snapshots" / "abc", root / "blobs"
    for name, blob in (
        ("data/train.jsonl", jsonl(blobs / "1", *rows)),
        ("data/test.jsonl", jsonl(blobs / "2", rows[0])),
        ("images.zip", zipped(blobs / "3", {"images/b.png": png(1)})),
    ):
        (snapshot / name).symlink_to(blob)
    (blobs / "4").write_bytes(png(0))
    (snapshot / "images" / "a.png").symlink_to(blobs / "4")
    made = list(source.records("owner/shapes@train"))
    assert [row.images[0]() for row in made] == [png(0), png(1)]
    assert [(row.id, row.source) for row in made] == [("1", "shapes"), ("2", "shapes")]
