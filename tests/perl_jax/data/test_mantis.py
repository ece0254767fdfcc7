"""Conversations as the hub publishes them become one row a question, with the images that it is about."""

import json

import pytest
from public_files import MANTIS, parquet, png, turns, zipped

from models.errors import InputError
from perl_jax.data import Rejected, mantis
from perl_jax.records import hub_files


def row(source, count, *texts, **changes):
    images = [{"bytes": None, "path": f"{i}.png"} for i in range(count)]
    return {"id": "a", "images": images, "conversation": turns(*texts), "source": source, **changes}


def publish(tmp_path, **configs):
    """The folder of a snapshot on the `main` revision: Parquet without images, and a zip of them, for each config."""
    for config, rows in configs.items():
        folder = tmp_path / config.replace("__", "-")
        parquet(folder / "train-00000-of-00001.parquet", rows, MANTIS)
        zipped(folder / "train_images.zip", {f"{i}.png": png(i) for i in range(9)})
    return str(tmp_path)


def read(tmp_path, source, count, *texts, **changes):
    folder = publish(tmp_path, **{source.replace("-", "__"): [row(source, count, *texts, **changes)]})
    return list(mantis.records(folder))


def shown(made):
    return [image() for image in made.images]


def test_the_example_comes_from_a_row(tmp_path):
    """As the stages after this one will make it: what is plain here is a symbol there."""
    question = "Which image shows more people than image 1 does?"
    made = read(tmp_path, "multi_vqa", 2, "<image><image>Why?", "Because.", question, "Image 2 shows a crowd.")
    assert [(r.id, r.turn, r.question) for r in made] == [
        ("multi_vqa-1.0", 0, "<image><image>Why?"),
        ("multi_vqa-1.1", 1, f"<image><image>{question}"),
    ]
    assert made[1].answer == "Image 2 shows a crowd." and shown(made[1]) == [png(0), png(1)]
    assert (made[1].id, made[1].source) == (mantis.EXAMPLE["id"], mantis.EXAMPLE["source"])
    assert made[1].order_effect is None


def test_pairs_share_what_is_read(tmp_path, monkeypatch):
    made = read(tmp_path, "multi_vqa", 2, *["Why?", "So."] * 5)
    opened, unpack = [], hub_files.read_member
    monkeypatch.setattr(hub_files, "read_member", lambda archive, name: opened.append(name) or unpack(archive, name))
    assert all(shown(one) for one in made) and len(made) == 5
    assert opened == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("count", "texts", "questions"),
    [
        (2, ["How do they differ?", "x"], ["<image><image>How do they differ?"]),  # written without placeholders
        (2, ["Look at <image>.", "x"], ["<image>Look at <image>."]),
        (2, ["See these?<image><image>", "x", "And?", "y"], ["See these?<image><image>", "<image><image>And?"]),
        (
            2,
            ["<image>Is it a dog?", "x", "Why?", "y", "<image>Is it a cat?", "z", "Are both pets?", "y"],
            ["<image>Is it a dog?", "<image>Why?", "<image><image>Is it a cat?", "<image><image>Are both pets?"],
        ),
        (0, ["Hello", "x"], ["Hello"]),
    ],
)
def test_placeholders(tmp_path, count, texts, questions):
    made = read(tmp_path, "lrv_multi", count, *texts)
    assert [one.question for one in made] == questions
    assert all(one.question.count("<image>") == len(one.images) for one in made)
    assert all(shown(one) == [png(i) for i in range(len(one.images))] for one in made)


@pytest.mark.parametrize(
    ("source", "question", "answer", "wanted"),
    [
        ("nlvr2", "Of <image> and <image>, is it true?\nOptions:\n(A) False\n(B) True", "B", ("B", "choice", None)),
        ("nextqa", "<image><image>Why?\nA: tie shoe\nB: pick up ball", "B: pick up ball", ("B", "choice", "fixed")),
        ("star", "<image><image>What?\nA: Ate.\nB: Slept.", "A: Ate.", ("A", "choice", "fixed")),
        ("imagecode", "<image><image>Which is it?", "Answer: Image 2", ("Image 2", None, None)),
        ("birds-to-words", "<image><image>How?", "animal1 is B: big", ("animal1 is B: big", None, "fixed")),
        ("spot-the-diff", "<image><image>What?", "A: car", ("A: car", None, "fixed")),  # there is no such option
        ("coinstruct", "<image><image>Better?\nA. first\nB. second", "A person.", ("A person.", None, None)),
    ],
)
def test_what_a_config_means(tmp_path, source, question, answer, wanted):
    (made,) = read(tmp_path, source, 2, f"Answer the following multiple-choice question:\n{question}\n", answer)
    assert (made.answer, made.kind, made.order_effect) == wanted
    assert made.question == question and made.movable is None
    assert bool(made.reason) == (made.order_effect is not None)


@pytest.mark.parametrize(
    ("source", "count", "question", "movable"),
    [
        ("iconqa", 4, "<image>Same colour?\nA. <image>\nB. <image>\nC. <image>", [1, 2, 3]),
        ("iconqa", 1, "What time is it?<image>\nA. 3:00\nB. 9:00", None),
        ("dreamsim", 3, "<image> <image> <image>. If image 2 is the reference image, which other one?", None),
        ("dreamsim", 3, "If <image> is the reference image, which of <image> <image> is more similar?", [1, 2]),
        ("dreamsim", 3, "Of <image>, if <image> is the reference image, or <image>?", [0, 2]),
    ],
)
def test_which_places_may_move(tmp_path, source, count, question, movable):
    assert read(tmp_path, source, count, question, "x")[0].movable == movable


def test_bad_rows_are_named_and_gone_on_from(tmp_path):
    folder = publish(
        tmp_path,
        multi_vqa=[
            row("multi_vqa", 1, "<image><image>Is it?", "No"),
            row("multi_vqa", 1, "Is it?", "No", "And?"),
            row("multi_vqa", 1, "Is it?", "No", conversation=turns("Is it?", "No")[::-1]),
            row("multi_vqa", 1, "Is it?", "<image>"),
            row("multi_vqa", 1, conversation=None),
            row("multi_vqa", 1, None, "No"),
            row("multi_vqa", 0, "Is it?", "No", images=None),
        ],
    )
    made = list(mantis.records(folder))
    assert [(one.id, one.reason) for one in made if isinstance(one, Rejected)] == [
        ("multi_vqa-1", "slots differ from images"),
        ("multi_vqa-2.1", "turns are not user, assistant"),
        ("multi_vqa-3.0", "turns are not user, assistant"),
        ("multi_vqa-4.0", "answer shows an image"),
        ("multi_vqa-5", "malformed row"),
        ("multi_vqa-6", "malformed row"),
    ]
    assert made[-1].images == [] and made[-1].question == "Is it?" and made[1].id == "multi_vqa-2.0"


def test_configs_are_those_of_the_folder(tmp_path):
    folder = publish(tmp_path, nlvr2=[row("nlvr2", 1, "a", "b")] * 2, something_new=[row("something_new", 1, "a", "b")])
    (tmp_path / ".cache").mkdir()
    assert [one.id for one in mantis.records(folder)] == ["nlvr2-1.0", "nlvr2-2.0", "something_new-1.0"]
    assert [one.source for one in mantis.records(folder, configs="something_new")] == ["something_new"]
    with pytest.raises(InputError, match=r"no config 'dreamsim'; it has nlvr2, something_new"):
        list(mantis.records(folder, configs="nlvr2,dreamsim"))


def test_a_config_in_parts_and_unpacked_images(tmp_path):
    folder = tmp_path / "nlvr2"
    for part in range(2):
        parquet(folder / f"train-0000{part}-of-00002.parquet", [row("nlvr2", 2, "a", "b")] * 2, MANTIS)
        zipped(folder / f"train_images_part{part}.zip", {f"images/{part}.png": png(part)})
    (folder / "train_images_zips.txt").write_text("train_images_part0.zip\ntrain_images_part1.zip\n")
    made = list(mantis.records(str(tmp_path)))
    assert [one.id for one in made] == [f"nlvr2-{number}.0" for number in (1, 2, 3, 4)]
    assert shown(made[0]) == [png(0), png(1)]
    (folder / "train_images_zips.txt").unlink()
    (folder / "train_images").mkdir()
    (folder / "train_images" / "0.png").write_bytes(png(8))
    first, second = next(mantis.records(str(tmp_path))).images
    assert first() == png(8)
    with pytest.raises(InputError, match="not in"):
        second()


def test_the_script_revision_and_a_json_list(tmp_path):
    """One names images by where they were unpacked, the other by paths from its own folder."""
    absolute = row("nlvr2", 0, "a", "b", images=[{"bytes": None, "path": "/home/them/nlvr2/train_images/1.png"}])
    (made,) = mantis.records(publish(tmp_path / "script", nlvr2=[absolute]))
    assert shown(made) == [png(1)]
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "1.png").write_bytes(png(1))
    rows = [row("synthetic", 1, "a", "b", images=["1.png"]), 3, row("other", 0, "a", "b")]
    (tmp_path / "chat" / "train.json").write_text(json.dumps(rows))
    made = list(mantis.records(str(tmp_path / "chat")))
    assert [one.id for one in made] == ["synthetic-1.0", "mantis-2", "other-3.0"] and shown(made[0]) == [png(1)]
    assert [one.id for one in mantis.records(str(tmp_path / "chat"), configs=["other"])] == ["other-3.0"]


def test_a_folder_that_is_none_is_named(tmp_path):
    for path in (None, str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match=r"FOLDER|train\.json"):
            list(mantis.records(path))
    (tmp_path / "train.json").write_text('{"id": 1}')
    with pytest.raises(InputError, match="list"):
        list(mantis.records(str(tmp_path)))


def test_a_download_names_its_configs(tmp_path, monkeypatch):
    requested = []

    def fetch(*args):
        requested.append(args)
        publish(tmp_path, nlvr2=[row("nlvr2", 1, "a", "b")])

    monkeypatch.setattr(hub_files, "download", fetch)
    assert len(list(mantis.records(str(tmp_path), configs="nlvr2", download=True))) == 1
    assert requested == [("TIGER-Lab/Mantis-Instruct", str(tmp_path), ["nlvr2/train*"])]
    with pytest.raises(InputError, match="name the configs"):
        list(mantis.records(str(tmp_path), download=True))


def test_what_is_no_text_never_reaches_a_reason(tmp_path):
    """A reason is written to a file in UTF-8, which a lone surrogate is not."""
    bad = [
        row("\ud800", 0, "a", "b\0"),
        row("x", 0, "a", "b", conversation=[{"role": "\ud800", "content": "a"}]),
        row("x", 1, "\ud800", "b", images=["\ud800.png"]),
    ]
    (tmp_path / "train.json").write_text(json.dumps(bad))
    made = list(mantis.records(str(tmp_path)))
    assert [(one.id, one.reason) for one in made] == [
        (f"{name}-{i}", "malformed row") for i, name in enumerate(("mantis", "x", "x"), start=1)
    ]
    assert all("".join(one).encode() for one in made)
