"""Images are read once their text has passed; what cannot be shown, stands twice or is in an evaluation set goes."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from perl_jax import records
from perl_jax.curation import image_rules
from perl_jax.curation.curate import curate
from perl_jax.data import Rejected, Row


def photograph(seed, size=(96, 64), format="PNG"):
    """An image with large shapes: what a perceptual hash tells images by."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, format)
    return buffer.getvalue()


def item(name="1", question="Is it red?", images=1):
    return curate(Row(name, [None] * images, question, "Yes", "mine"))


def passed(filters, made, *images):
    return filters(made, [lambda data=data: data for data in images])


def broken():
    raise InputError("picture 'a.png' is not there")


def test_images_are_read_and_kept():
    made = passed(image_rules.Filters(), item(images=2), photograph(1), photograph(2))
    assert made.record["images"] == [photograph(1), photograph(2)]


@pytest.mark.parametrize(
    ("picture", "reason", "detail"),
    [
        (broken, "unreadable image", "a.png"),
        (lambda: b"no picture", "unreadable image", "image 2"),
        (lambda: photograph(1, (300, 9)), "image size", "300 x 9"),
    ],
)
def test_left_out_with_the_reason(picture, reason, detail):
    result = image_rules.Filters()(item(images=2), [lambda: photograph(1), picture])
    assert isinstance(result, Rejected) and result.reason == reason and detail in result.detail


def test_the_same_question_on_the_same_images():
    filters = image_rules.Filters()
    assert not isinstance(passed(filters, item("1"), photograph(1)), Rejected)
    assert not isinstance(passed(filters, item("2"), photograph(2)), Rejected)
    assert not isinstance(passed(filters, item("3", "Is it blue?"), photograph(1)), Rejected)
    assert passed(filters, item("4", "Is it  RED ?"), photograph(1)).detail == "as 1"


def test_a_perceptual_hash_knows_an_image_that_was_saved_anew():
    known = image_rules.perceptual_hash(photograph(1))
    for other in (photograph(1, (480, 320)), photograph(1, format="JPEG"), photograph(1, (60, 60))):
        assert (known ^ image_rules.perceptual_hash(other)).bit_count() <= image_rules.NEAR
    assert all(
        (known ^ image_rules.perceptual_hash(photograph(seed))).bit_count() > 2 * image_rules.NEAR
        for seed in range(2, 40)
    )
    blank = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(blank, "PNG")
    assert image_rules.perceptual_hash(blank.getvalue()) is None and image_rules.perceptual_hash(b"?") is None


QUESTION = "How many of the boats in the harbour of this town have red sails?"


def record_set(tmp_path):
    record = {**item("e", QUESTION).record, "images": [photograph(7)]}
    records.write({"eval": [record]}, tmp_path / "set")
    return tmp_path / "set"


def folder_of_files(tmp_path):
    folder = tmp_path / "hub"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(photograph(7))
    (folder / "test.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "3"}) + "\n")
    return folder


def zipped_folder(tmp_path):
    folder = tmp_path / "zipped"
    folder.mkdir()
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        archive.writestr("x/a.png", photograph(7))
    (folder / "test.json").write_text(json.dumps([{"problem": QUESTION}]))
    return folder


def table(tmp_path):
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "parquet"
    folder.mkdir()
    rows = [{"question": QUESTION, "images": [{"bytes": photograph(7), "path": "a.png"}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "test.parquet")
    return folder


@pytest.mark.parametrize("held_out", [record_set, folder_of_files, zipped_folder, table])
def test_overlap_with_an_evaluation_set(tmp_path, held_out):
    filters = image_rules.Filters([str(held_out(tmp_path))])
    for name, question, image in (("1", "Is it red?", photograph(7, (300, 200))), ("2", QUESTION, photograph(8))):
        result = passed(filters, item(name, question), image)
        assert isinstance(result, Rejected) and result.reason == "overlap with an evaluation set", name
    assert not isinstance(passed(filters, item("3"), photograph(9)), Rejected)


def test_a_question_with_other_signs_is_another_one(tmp_path):
    question = "What are the solutions of the equation x^2 - 3x + 2 = 0 in the figure?"
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": question}) + "\n")
    filters = image_rules.Filters([str(tmp_path)])
    assert not isinstance(passed(filters, item("1", question.replace("-", "+")), photograph(1)), Rejected)
    assert isinstance(passed(filters, item("2", f"<image>{question[:-1]}"), photograph(2)), Rejected)


def test_a_short_question_may_stand_in_both(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "Is it red?"}) + "\n")
    filters = image_rules.Filters([str(tmp_path)])
    assert not isinstance(passed(filters, item(), photograph(1)), Rejected)


def test_an_evaluation_set_must_hold_something(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="--decontaminate"):
            image_rules.Filters([str(directory)])
