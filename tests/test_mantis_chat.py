"""Conversations in Mantis-Instruct's form become records only where a rule can say so."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from perl_jax import permute
from perl_jax.data import Rejected, mantis_chat


def jpeg(width, height):
    noise = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def folder(tmp_path, *rows):
    """A source folder; a row is its turns, or a dict of what differs from the usual."""
    (tmp_path / "pictures").mkdir(exist_ok=True)
    for i, size in enumerate([(40, 30), (17, 60), (33, 33)]):
        (tmp_path / "pictures" / f"{i}.jpg").write_bytes(jpeg(*size))
    (tmp_path / "pictures" / "cut.jpg").write_bytes(jpeg(40, 40)[:300])
    written = []
    for row in rows:
        row = row if isinstance(row, dict) else {"turns": row}
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(row.pop("turns", ()))]
        images = [f"pictures/{i}.jpg" for i in range(2)]
        written.append({"id": "a", "images": images, "conversation": turns, "source": "synthetic_from_caption", **row})
    (tmp_path / "train.json").write_text(json.dumps(written))
    return str(tmp_path)


def read(tmp_path, *rows):
    return list(mantis_chat.records(folder(tmp_path, *rows)))


def one(tmp_path, question, answer, **row):
    (made,) = read(tmp_path, {"turns": [question, answer], **row})
    return made


def test_example_comes_from_its_row(tmp_path):
    question = "Which image shows more people than image 1 does?"
    made = read(tmp_path, ["<image><image>Why?", "Because of a long story.", question, "Image 2 shows a crowd."])[1]
    assert [len(image) for image in made.pop("images")] == [len(jpeg(40, 30)), len(jpeg(17, 60))]
    assert made == mantis_chat.EXAMPLE


@pytest.mark.parametrize(("question", "answer", "short", "kind", "effect"), [
    ("Is there a dog in image 2?", "Yes, a dog lies there.", "Yes", "text", "rewrite"),
    ("Do both pictures show a dog?", "No.", "No", "text", "invariant"),
    ("How many dogs are there?", "3", "3", "number", "invariant"),
    ("What colour is the car in the second image?", "Dark blue.", "Dark blue", "text", "rewrite"),
    ("Which image shows rain?", "It rains in image 1.", "{image:0}", "text", "rewrite"),
    ("Which image shows what follows the scene of image 1? Which comes next?", "Image 2", "{image:1}", "text", "fixed"),
    ("Is the left one larger?", "Yes", "Yes", "text", "fixed"),
    ("Does the other image show a dog?", "No", "No", "text", "fixed"),
    ("Which image, 1 or 2, shows rain?", "Image 2 does.", "{image:1}", "text", "fixed"),
    ("Is the first one larger?", "Yes", "Yes", "text", "fixed"),
    ("Is picture 2 larger?", "Yes", "Yes", "text", "fixed"),
    ("Is it 12:30 in image 1, with 30% left?", "Yes", "Yes", "text", "fixed"),
    ("Is it 12:30 in image 1, at 30%?", "Yes", "Yes", "text", "rewrite"),
    ("Are images 1 and 2 alike?", "No", "No", "text", "rewrite"),
    ("Are images 1-2 alike?", "No", "No", "text", "fixed"),
])
def test_rules(tmp_path, question, answer, short, kind, effect):
    made = one(tmp_path, question + "<image><image>", answer)
    assert (made["answer"], made["kind"], made["order_effect"]) == (short, kind, effect)
    shown = permute.render(made)
    assert shown["question"] == "<image><image>\n" + question


def test_references_move_with_their_images(tmp_path):
    made = one(tmp_path, "<image><image>Is the first image like Image 2, and unlike images 1 and 2?", "Yes")
    turned = permute.render(permute.apply(made, (1, 0)))
    assert turned["question"] == "<image><image>\nIs the second image like Image 1, and unlike images 2 and 1?"


@pytest.mark.parametrize(("question", "answer"), [
    ("Why?", "Because the man in image 1 likes dogs."),
    ("Which images show rain?", "Image 1 and image 2 do."),
    ("Which image shows rain and which one sun?", "Image 1 shows rain, as the street is wet."),
    ("If image 1 shows rain, which image shows it too?", "As image 1 does, it rains."),
])
def test_open_answers_are_rejected(tmp_path, question, answer):
    assert one(tmp_path, question, answer).reason == "answer cannot be checked by a rule"


def test_slots_inside_the_text_stay_there(tmp_path):
    made = one(tmp_path, "Given <image> and <image>, do both show a dog?", "Yes")
    assert made["question"] == "Given <image:0> and <image:1>, do both show a dog?"
    assert one(tmp_path, "<image>Is it a dog?", "Yes").reason == "slots differ from images"
    assert one(tmp_path, "Is <image> a dog?", "Yes").reason == "slots differ from images"
    assert one(tmp_path, "Is it so?", "Yes", images=None)["question"] == "Is it so?"


def test_bad_pictures_and_rows_are_named_and_gone_on_from(tmp_path):
    good = {"turns": ["Is it a dog?", "No"]}
    made = read(
        tmp_path,
        {**good, "images": ["pictures/0.jpg", "pictures/cut.jpg"]},
        {**good, "images": ["pictures/none.jpg"]},
        {**good, "images": ["../outside.jpg"]},
        {**good, "images": [{"bytes": None, "path": "pictures/0.jpg"}]},
        {**good, "conversation": None},
        {"turns": ["Is image 7 a dog?", "Image 7"]},
        good,
    )
    assert [row.reason for row in made[:3]] == ["picture"] * 3
    assert "cut.jpg" in made[0].detail and "none.jpg" in made[1].detail and "outside" in made[2].detail
    assert [row.reason for row in made[3:5]] == ["malformed row"] * 2
    assert made[5].reason == "names an image that is not there"
    assert not isinstance(made[6], Rejected) and len(made) == 7


def test_a_folder_that_is_none_is_named(tmp_path):
    for path in (None, str(tmp_path)):
        with pytest.raises(InputError, match=r"train.json"):
            list(mantis_chat.records(path))
    (tmp_path / "train.json").write_text('{"id": 1}')
    with pytest.raises(InputError, match="list"):
        list(mantis_chat.records(str(tmp_path)))
