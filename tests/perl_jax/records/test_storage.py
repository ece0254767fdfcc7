"""Stored records: what is written comes back, what is wrong is named, what is half done never shows."""

import io
import os
import pickle
import shutil

import numpy as np
import pytest
from damage import DAMAGES, damage
from PIL import Image

from models.errors import InputError
from perl_jax import records
from perl_jax.records import storage
from perl_jax.records.stream import Stream


def picture(mode="RGB", size=(30, 20), form="PNG", seed=0, **options):
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def record(number=0, images=2, **changes):
    return {
        "id": f"é{number}",
        "images": [picture(size=(20 + number, 30), seed=i) for i in range(images)],
        "question": "".join(f"<image:{i}>" for i in range(images)) + "Was ist größer?",
        "choices": ["A", "図"] if number % 2 else [],
        "answer": "2",
        "kind": "number",
        "order_effect": "invariant",
        "source": "made",
        "accuracy": 0.3 if number % 2 else None,
        "movable": [] if number % 3 else None,
        **changes,
    }


def test_records_come_back_in_order_and_as_they_were(tmp_path):
    train, held_out = [record(i, images=i % 4) for i in range(150)], [record(200, images=1, movable=[0])]
    train[6]["captions"] = ["eins", "zwei 図"]
    summary = records.write({"train": iter(train), "eval": held_out}, tmp_path / "set", name="made_up")
    assert {split: part["records"] for split, part in summary["splits"].items()} == {"train": 150, "eval": 1}
    assert summary["splits"]["train"]["order_effect"] == {"invariant": 150}
    assert records.summary(tmp_path / "set") == summary
    split = pickle.loads(pickle.dumps(records.open_split(tmp_path / "set", "train")))
    assert [split[i] for i in range(len(split))] == train
    assert records.open_split(tmp_path / "set", "eval")[0] == held_out[0]
    assert len(records.open_split(tmp_path / "set", "train[:50%]")) == 75
    assert os.listdir(tmp_path) == ["set"]


def test_others_can_open_the_set(tmp_path):
    import tensorflow_datasets as tfds

    records.write({"train": [record(i) for i in range(3)]}, tmp_path / "set")
    source = tfds.builder_from_directory(tmp_path / "set").as_data_source(split="train")
    assert [np.shape(image) for image in source[1]["images"]] == [(30, 21, 3)] * 2


def test_images_are_rgb_and_upright_when_stored(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    deep = io.BytesIO()
    Image.fromarray(np.full((5, 5), 0x8000, np.uint16)).save(deep, "PNG")
    glass = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(glass, "PNG")
    kept = [picture(form="JPEG"), picture()]
    changed = [
        picture("L"),
        picture("CMYK", form="JPEG"),
        picture("P", form="GIF"),
        picture(form="WEBP"),
        picture(form="JPEG", exif=turned),
        deep.getvalue(),
        glass.getvalue(),
    ]
    given = kept + changed
    records.write({"train": [record(images=len(given)) | {"images": given}]}, tmp_path / "set")
    stored = records.open_split(tmp_path / "set", "train")[0]["images"]
    assert stored[:2] == kept
    opened = [Image.open(io.BytesIO(data)) for data in stored]
    assert {(image.mode, image.format) for image in opened[2:]} == {("RGB", "PNG")}
    assert opened[-3].size == (20, 30)
    assert opened[-2].getpixel((0, 0)) == (128, 128, 128)
    assert opened[-1].getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": ""}, "id"),
        ({"question": "<image:0><image:1> "}, "question is empty"),
        ({"answer": ""}, "answer is empty"),
        ({"kind": "essay"}, "essay"),
        ({"order_effect": "maybe"}, "maybe"),
        ({"question": "<image:0>?"}, "slots"),
        ({"question": "<image:0><image:1><image:2>?"}, "slots"),
        ({"question": "<image><image>?"}, "<image>"),
        ({"question": "<image:0><image:1>{image:2}?"}, "2"),
        ({"question": "<image:0><image:1>{image:1|roman}?"}, "roman"),
        ({"question": "<image:0><image:1>a\0b"}, "NUL"),
        ({"answer": "\ud800"}, "surrogate"),
        ({"answer": 2}, "int"),
        ({"captions": ["one"]}, "1 captions for 2 images"),
        ({"captions": ["one", 2]}, "caption 1 is a int"),
        ({"accuracy": 1.5}, "1.5"),
        ({"movable": [2]}, "2"),
        ({"kind": "choice", "choices": ["cat", "dog"], "answer": "C"}, "choices"),
        ({"images": [picture(), b"GIF89a"]}, "image 1"),
        ({"images": [picture()[:200], picture()]}, "image 0"),
    ],
)
def test_a_bad_record_is_named(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        records.validate(record(7) | changes)
    message = str(caught.value)
    assert "\n" not in message and ("é7" in message or "id" in changes)


def test_a_record_without_a_field_is_named():
    with pytest.raises(InputError, match="lacks source"):
        records.validate({key: value for key, value in record().items() if key != "source"})


def test_text_only_records_and_choices_are_whole():
    records.validate(record(images=0))
    records.validate(record(kind="choice", choices=["cat", "dog"], answer="B"))
    records.validate(record(kind="choice", order_effect="rewrite", answer="{image:1|letter}"))


def test_nothing_is_left_of_a_failed_write(tmp_path):
    bad = [record(i) for i in range(100)] + [record(200, kind="essay")]
    for splits in (
        {"train": bad},
        {"train": [record(), record()]},
        {"train": [record()], "eval": [record()]},
        {"train": []},
        {},
    ):
        with pytest.raises(InputError):
            records.write(splits, tmp_path / "set")
        assert not os.listdir(tmp_path)


def test_bad_records_can_be_left_out(tmp_path):
    seen = []
    records.write(
        {"train": [record(0), record(1, kind="essay"), record(0), record(2)]},
        tmp_path / "set",
        reject=lambda split, bad, error: seen.append((split, bad["id"], str(error))),
    )
    assert [(split, name) for split, name, _ in seen] == [("train", "é1"), ("train", "é0")]
    assert len(records.open_split(tmp_path / "set")) == 2


def test_what_is_there_is_not_overwritten(tmp_path):
    records.write({"train": [record()]}, tmp_path / "set")
    with pytest.raises(InputError, match="not empty"):
        records.write({"train": [record()]}, tmp_path / "set")
    (tmp_path / "empty").mkdir()
    records.write({"train": [record()]}, tmp_path / "empty")


def test_opening_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no records"):
        records.open_split(tmp_path / "nothing")
    records.write({"train": [record()]}, tmp_path / "set")
    with pytest.raises(InputError, match="it has train"):
        records.open_split(tmp_path / "set", "eval")
    with pytest.raises(InputError):
        records.open_split(tmp_path / "set", "train[:0]")
    with pytest.raises(InputError, match=r"no split 'train\[:8\]', it has train of 1 records"):
        records.open_split(tmp_path / "set", "train[:8]")
    (tmp_path / "set" / "features.json").unlink()
    with pytest.raises(InputError):
        records.open_split(tmp_path / "set")


def test_fingerprint_follows_content_not_place(tmp_path):
    for name, changes in (
        ("a", {}),
        ("b", {}),
        ("c", {"answer": "3"}),
        ("e", {"captions": ["x", "y"]}),
        ("f", {"captions": ["y", "x"]}),
    ):
        records.write({"train": [record(i, **changes) for i in range(3)]}, tmp_path / name)
    (tmp_path / "b").rename(tmp_path / "d")
    prints = {name: records.fingerprint(tmp_path / name) for name in "acdef"}
    assert prints["a"] == prints["d"] and len(set(prints.values())) == 4
    (tmp_path / "a" / "records-train.array_record-00000").write_bytes(b"short")
    assert records.fingerprint(tmp_path / "a") != prints["a"]


@pytest.mark.parametrize("kind", ["a bit", "cut", "zeros"])
def test_a_damaged_record_is_named_and_the_others_are_read(tmp_path, kind):
    """A stream goes on beyond it."""
    records.write({"train": [record(i, images=1) for i in range(8)]}, tmp_path / "set")
    [file] = (tmp_path / "set").glob("*.array_record*")
    data = bytearray(file.read_bytes())
    if kind == "a bit":
        data[data.index("é5".encode()) + 50] ^= 1
    file.write_bytes({"a bit": data, "cut": data[: len(data) // 2], "zeros": bytes(len(data))}[kind])
    split, whole, faults = records.open_split(tmp_path / "set"), [], []
    for index in range(8):
        try:
            whole.append(split[index])
        except InputError as error:
            faults.append(str(error))
    assert whole == [record(i, images=1) for i in range(8) if i != 5] * (kind == "a bit")
    assert all("of split 'train'" in line and line.endswith("prepare it again") for line in faults)
    taken = Stream(str(tmp_path / "set")).take(16)
    assert sorted(row["fault"] for row in taken if "fault" in row) == sorted(2 * faults)
    assert {row["id"] for row in taken if "fault" in row} == {f"#{line.split()[1]}" for line in faults}
    assert [row["position"] for row in taken] == list(range(16))


@pytest.fixture(scope="module")
def in_two_files(tmp_path_factory):
    """A set of 4 records in two ArrayRecord files."""
    directory = tmp_path_factory.mktemp("sets") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_RECORDS_PER_SHARD", 2)
        records.write({"train": [record(i) for i in range(4)]}, directory)
    assert len(list(directory.glob("*array_record*"))) == 2
    return directory


FILES = ("dataset_info.json", "features.json", "records.json", "records-train.array_record-00001")


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_set_is_one_line_and_never_used(in_two_files, tmp_path, file, kind):
    directory = tmp_path / "set"
    shutil.copytree(in_two_files, directory)
    damage(directory / file, kind)

    def read():
        split = records.open_split(directory)
        return [split[i] for i in range(len(split))]

    with pytest.raises(InputError, match=rf"{directory}[^\n]*; write some with|{directory}[^\n]*prepare it again$"):
        read()


@pytest.mark.parametrize("read", [records.splits, records.summary, records.fingerprint])
def test_whatever_reads_a_set_tells_its_damage(in_two_files, tmp_path, read):
    directory = tmp_path / "set"
    shutil.copytree(in_two_files, directory)
    damage(directory / "dataset_info.json", "flipped")
    with pytest.raises(InputError, match=r"dataset_info\.json is damaged"):
        read(directory)
