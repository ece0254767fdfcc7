"""A source becomes a directory of records, whole or not at all, and the command says what it did."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from environment import REPOSITORY
from fake_endpoint import FakeEndpoint, annotator
from public_files import MANTIS, jsonl, parquet, png, turns, zipped

from models.errors import InputError
from perl_jax import data, permute, prepare, records, symbols
from perl_jax.curation import build

SMALL = {"train_size": 12, "eval_size": 5, "image_size": 28}


def source_of(*rows):
    """A source of these rows, in place of whichever is asked for."""
    return lambda name: SimpleNamespace(SPLITS=("train",), records=lambda input, split, seed=0: iter(rows))


RECORD = {
    "id": "a",
    "images": [],
    "question": "Is it so?",
    "choices": [],
    "answer": "Yes",
    "kind": "text",
    "order_effect": "invariant",
    "source": "made",
    "accuracy": None,
    "movable": None,
}


def test_build_writes_every_split(tmp_path):
    summary = build.build("digits", tmp_path / "set", seed=3, **SMALL)
    assert {split: part["records"] for split, part in summary["splits"].items()} == {"train": 12, "eval": 5}
    assert summary["rejected"] == {"train": {}, "eval": {}}
    assert records.open_split(tmp_path / "set", "eval")[4]["id"] == "digits-eval-3-4"
    assert (tmp_path / "set" / build.REJECTED).read_text() == ""
    assert "digits_which" in prepare.table(summary)


def test_limit_and_seed(tmp_path):
    for name, options in (("a", {}), ("b", {}), ("c", {"seed": 1})):
        build.build("digits", tmp_path / name, limit=4, **options, **SMALL)
    assert len(records.open_split(tmp_path / "a", "train")) == 4
    prints = [records.fingerprint(tmp_path / name) for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_rejected_rows_are_listed_with_reasons(tmp_path, monkeypatch):
    bad = {**RECORD, "id": "c", "question": "\0?"}
    monkeypatch.setattr(data, "find", source_of(RECORD, data.Rejected("b", "malformed row"), bad))
    summary = build.build("made", tmp_path / "set")
    lines = [json.loads(line) for line in (tmp_path / "set" / build.REJECTED).read_text().splitlines()]
    assert [(line["split"], line["id"], line["reason"]) for line in lines] == [
        ("train", "b", "malformed row"),
        ("train", "c", "not a valid record"),
    ]
    assert summary["rejected"]["train"] == {line["reason"]: 1 for line in lines}
    assert all(line["reason"] in prepare.table(summary) for line in lines)
    assert len(records.open_split(tmp_path / "set")) == 1


def test_failures_leave_nothing(tmp_path, monkeypatch):
    for source, options, words in (
        ("digit", {}, "known are .*digits"),
        ("digits", {"size": 3}, "no option 'size'"),
        ("digits", {"bias": 2}, "bias"),
        ("digits", {"eval_size": 0, "train_size": 2}, "split 'eval'"),
        ("mantis", {"input": str(tmp_path / "nowhere")}, "train.json"),
    ):
        with pytest.raises(InputError, match=words):
            build.build(source, tmp_path / "set", **options)
        assert not os.listdir(tmp_path)
    monkeypatch.setattr(data, "find", source_of(data.Rejected("b", "malformed row", "not JSON")))
    with pytest.raises(InputError, match="not JSON"):
        build.build("made", tmp_path / "set")
    assert not os.listdir(tmp_path)


def test_options_are_literals_or_text():
    assert prepare.parse_options(["bias=0.5", "ragged=True", "questions=which,what"]) == {
        "bias": 0.5,
        "ragged": True,
        "questions": "which,what",
    }
    with pytest.raises(InputError, match="key=value"):
        prepare.parse_options(["bias"])


def test_every_source_keeps_the_contract():
    for name in data.names():
        module = data.find(name)
        assert module.SPLITS and callable(module.records)
        records.validate({**module.EXAMPLE, "images": [], "captions": []} | {"question": "?", "answer": "1"})
        assert set(module.EXAMPLE) - {"captions"} == records.Record.__required_keys__ - {"images"}


@pytest.mark.parametrize(("source", "code"), [("digits", 0), ("nothing", 1)])
def test_command(tmp_path, source, code):
    options = [f"--option={key}={value}" for key, value in SMALL.items()]
    done = subprocess.run(
        [sys.executable, "-m", "perl_jax.prepare", f"--source={source}", f"--out={tmp_path / 'set'}", *options],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.splitlines()[-1] == (
            f"error: unknown data source 'nothing'; known are {', '.join(data.names())}"
        )
        assert "Traceback" not in done.stderr and not (tmp_path / "set").exists()
    else:
        assert "digits_largest" in done.stdout and len(records.open_split(tmp_path / "set")) == 12


def published_mantis(tmp_path):
    row = {
        "id": "a",
        "images": [{"bytes": None, "path": f"{i}.png"} for i in range(2)],
        "source": "multi_vqa",
        "conversation": turns(
            "<image><image>Why?",
            "Because it was raining all day.",
            "Which image shows more people than image 1 does?",
            "Image 2 shows a crowd.",
        ),
    }
    parquet(tmp_path / "multi_vqa" / "train-00000-of-00001.parquet", [row], MANTIS)
    zipped(tmp_path / "multi_vqa" / "train_images.zip", {f"{i}.png": png(i, (40, 30)) for i in range(2)})
    return tmp_path


def published_k12(tmp_path):
    question = "As shown in the figure, $AB=AC$ and $\\angle A=40^{\\circ}$. Find $\\angle B$ = ___"
    row = {
        "id": "k12-1",
        "question": question,
        "answer": "$70^{\\circ}$",
        "subject": "math",
        "image": {"bytes": png(0, (40, 30)), "path": None},
    }
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [row])
    return tmp_path


def own_file(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(i, (40, 30)))
    row = {"id": 1, "images": ["0.png", "1.png"], "question": "Which image shows a cat?", "answer": "Image 2"}
    return jsonl(tmp_path / "mine.jsonl", row | {"source": "mine"})


@pytest.mark.parametrize(
    ("source", "files"), [("mantis", published_mantis), ("k12", published_k12), ("jsonl", own_file)]
)
def test_a_sources_example_is_what_becomes_of_its_public_files(tmp_path, source, files):
    (tmp_path / "in").mkdir()
    build.build(source, tmp_path / "set", str(files(tmp_path / "in")))
    [source_of] = records.open_split(tmp_path / "set")
    images = source_of.pop("images")
    assert source_of == data.find(source).EXAMPLE
    assert images == [png(i, (40, 30)) for i in range(len(images))]


def own_rows(count, **changes):
    """Rows as a person writes them, on images a.png and b.png."""
    return [
        {"id": f"r{i}", "images": ["a.png", "b.png"], "question": f"Is number {i + 10} on image 1?", "answer": "Yes"}
        | changes
        for i in range(count)
    ]


def own_set(tmp_path, rows):
    for i, name in enumerate(("a", "b", "c", "d")):
        (tmp_path / f"{name}.png").write_bytes(png(i, (40, 30)))
    return str(jsonl(tmp_path / "mine.jsonl", *rows))


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_the_rules_leave_out_is_named(tmp_path):
    good, *others = own_rows(7)
    others[0] |= {"question": good["question"]}
    others[1] |= {"images": ["a.png", "gone.png"]}
    others[2] |= {"question": "Why?", "answer": "Because of all that went on before."}
    others[3] |= {"question": "Which? The answer is 12.", "answer": "12"}
    others[4] |= {"question": "What is it?", "answer": "to the north", "kind": "number"}
    others[5] |= {"question": "Which is red?\nA. cat\nB. dog", "answer": "a cow"}
    summary = build.build("jsonl", tmp_path / "set", own_set(tmp_path, [good, *others]))
    reasons = (
        "duplicate",
        "unreadable image",
        "answer cannot be checked by a rule",
        "leak",
        "the reward does not accept the answer",
        "answer is not a choice",
    )
    assert summary["rejected"]["train"] == dict.fromkeys(reasons, 1)
    [decision] = lines(tmp_path / "set" / build.DECISIONS)
    assert (decision["id"], decision["order_effect"], decision["evidence"]) == ("r0", "rewrite", "image 1")


# (question, answer, the words for each place): the question, or its answer, names the second of three images by "{}".
REFERENCES = (
    ("What animal is in exhibit {}?", "cat", "1 2 3"),
    ("What animal is in plot {}?", "cat", "A B C"),
    ("What animal is in drawing {}?", "cat", "one two three"),
    ("What animal is in the {} snapshot?", "cat", "first second third"),
    ("What animal is in the {} sketch?", "cat", "1st 2nd 3rd"),
    ("What animal is in Photo No. {}?", "cat", "1 2 3"),
    ("What animal is in photo #{}?", "cat", "1 2 3"),
    ("What animal is in Picture_{}?", "cat", "1 2 3"),
    ("What animal is in Picture {}, unlike Picture I or Picture III?", "cat", "I II III"),
    ("What animal is shown in ({})?", "cat", "1 2 3"),
    ("Who is taller, the man in {} or the woman?", "man", "A B C"),
    ("Is photograph 1 or {} the older one?", "photograph 2", "1 2 3"),
    ("What is in the image {} the one with a dog?", "cat", "above next below"),
    ("Is the {} one a dog?", "No", "upper middle lower"),
    ("Which of them does not belong?", "{}", "A B C"),
    ("Which person is happier?", "{}", "1 2 3"),
    ("Photo 1: <image> Photo 2: <image> Photo 3: <image>\nIs Photo {} a dog?", "No", "1 2 3"),
    ("(A) <image> (B) <image> (C) <image>\nWhich of these is warmer?", "{}", "A B C"),
    ("图片{}里有什么动物？", "猫", "1 2 3"),
    ("第{}幅图里有什么动物？", "猫", "一 二 三"),
    ("照片{}里有什么动物？", "猫", "A B C"),
    ("{}一张图里有什么动物？", "猫", "前 另 后"),
    ("Quel animal voit-on dans la {} photo ?", "chat", "première deuxième troisième"),
    ("Welches Tier zeigt Bild {}?", "Katze", "1 2 3"),
    ("¿Qué animal aparece en la foto {}?", "gato", "A B C"),
    ("写真{}の動物は何ですか", "ねこ", "1 2 3"),
    ("ما الحيوان في الصورة {}؟", "قطة", "1 2 3"),
    ("Jakie zwierzę jest na zdjęciu {}?", "kot", "1 2 3"),
    ("{}번 사진의 동물은 무엇입니까?", "고양이", "1 2 3"),
    ("Jaké zvíře je na obrázku číslo {}?", "kočka", "1 2 3"),
)


def test_no_reference_in_any_language_is_labelled_unsafely(tmp_path):
    """What is named by its place is `fixed`, or named by its new place in every order."""
    rows = []
    for number, (question, answer, words) in enumerate(REFERENCES):
        named = words.split()[1]
        images = [f"{number}-{place}.png" for place in range(3)]
        for place, name in enumerate(images):
            (tmp_path / name).write_bytes(png(3 * number + place, (40, 30)))
        rows.append(
            {"id": str(number), "images": images, "question": question.format(named), "answer": answer.format(named)}
        )
    summary = build.build("jsonl", tmp_path / "set", own_set(tmp_path, rows))
    assert summary["splits"]["train"]["records"] == len(REFERENCES), summary
    effects = []
    for record in records.open_split(tmp_path / "set"):
        question, answer, words = REFERENCES[int(record["id"])]
        effects.append(record["order_effect"])
        assert record["order_effect"] in ("rewrite", "fixed"), record["question"]
        for order in itertools.permutations(range(3)) if effects[-1] == "rewrite" else ():
            new = permute.render(permute.apply(record, order))
            named = words.split()[order.index(1)]
            expected = question.format(named)
            if "1 or" in expected or "Picture I" in expected:  # other images are named too, and move as well
                assert symbols.mentioned(record["question"])[:2] in ([0, 1], [1, 0])
                continue
            assert new["question"].removeprefix("<image><image><image>\n") == expected
            assert new["answer"] == answer.format(named)
    assert effects.count("rewrite") >= 10


def test_what_is_fixed_by_doubt_is_counted(tmp_path):
    rows = [
        {"id": str(number), "images": ["a.png", "b.png"], "question": question, "answer": "Yes"}
        for number, question in enumerate(
            ("Is the next one red?", "Is the next dog red?", "Ist das rot?", "Are both red?", "Is image 1 red?")
        )
    ]
    build.build("jsonl", tmp_path / "set", own_set(tmp_path, rows))
    shown = prepare.doubtful_table(tmp_path / "set")
    assert shown.startswith("3 of 5 records are fixed")
    assert "| next | 2 | 0 |" in shown and "language that the rules do not know | 1 | 2 |" in shown
    build.build("jsonl", tmp_path / "sure", own_set(tmp_path, rows[3:]))
    assert prepare.doubtful_table(tmp_path / "sure") == ""


@pytest.mark.parametrize(
    "value",
    ["a.png", ["a.png"], {"bytes": "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMC"}, "data:image/png;base64,iVBORw0"],
)
def test_a_column_of_images_of_any_name_is_not_dropped(tmp_path, value):
    """Its images are read, or it is an error."""
    rows = [{"question": f"Is it {number}?", "answer": "Yes", "shots": value} for number in range(3)]
    try:
        build.build("jsonl", tmp_path / "set", own_set(tmp_path, rows))
    except InputError:
        assert not (tmp_path / "set").exists()
    else:
        assert all(len(record["images"]) == 1 for record in records.open_split(tmp_path / "set", "train"))
    plain = [{"question": f"Is it {number}?", "answer": "Yes", "note": "see a.png of it"} for number in range(3)]
    assert build.build("jsonl", tmp_path / "plain", own_set(tmp_path, plain))["splits"]["train"]["records"] == 3


@pytest.mark.parametrize("given", ["{}", "{}/*.jsonl", "{}/b.jsonl"])
def test_a_column_of_images_that_is_not_read_is_an_error_in_any_form_of_input(tmp_path, given):
    """Broken base64 looks like an image, and is none."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"question": "Is it 1?", "answer": "Yes", "shots": None}) + "\n")
    (folder / "b.jsonl").write_text(json.dumps({"question": "Is it 2?", "answer": "No", "shots": "/9j/?"}) + "\n")
    with pytest.raises(InputError, match=r"its column 'shots' looks like images: name it by --map=images=shots"):
        build.build("jsonl", str(tmp_path / "set"), given.format(folder))
    assert not (tmp_path / "set").exists()


def test_held_out_images_are_in_no_other_split(tmp_path):
    rows = [row | {"images": [f"{i}.png"]} for i, row in enumerate(own_rows(60, question="Is it red?"))]
    for i in range(60):
        (tmp_path / f"{i}.png").write_bytes(png(i // 2, (40, 30)))  # each image twice
        rows[i]["question"] = f"Is it number {i}?"
    summary = build.build("jsonl", tmp_path / "set", own_set(tmp_path, rows), holdout=0.3)
    assert list(summary["splits"]) == ["train", "eval"]
    images_by_split = {
        split: [record["images"][0] for record in records.open_split(tmp_path / "set", split)]
        for split in summary["splits"]
    }
    assert not set(images_by_split["train"]) & set(images_by_split["eval"])
    assert (
        len(images_by_split["train"]) + len(images_by_split["eval"]) == 60 and 6 <= len(images_by_split["eval"]) <= 30
    )
    assert {line["split"] for line in lines(tmp_path / "set" / build.DECISIONS)} == {"train", "eval"}


@pytest.mark.slow
def test_a_language_model_rephrases_and_labels_and_is_asked_once(tmp_path):
    rows = own_rows(3) + [
        {
            "id": "open",
            "images": ["a.png", "b.png"],
            "question": "Is image 2 red, do you think?",
            "answer": "I think that yes, it is red indeed.",
        }
    ]
    file = own_set(tmp_path, rows)
    with FakeEndpoint(annotator) as server:
        command = [
            "--source=jsonl",
            f"--input={file}",
            f"--annotator={server.url}",
            "--annotator_model=fake",
            "--review=2",
        ]
        first = run_prepare(*command, f"--out={tmp_path / 'set'}")
        requests = len(server.requests)
        (tmp_path / "set.answers.jsonl").rename(tmp_path / "again.answers.jsonl")
        second = run_prepare(*command, f"--out={tmp_path / 'again'}")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert requests >= 4 and len(server.requests) == requests
    assert "kappa" in first.stdout and (tmp_path / "set" / "review.html").exists()
    decisions = [lines(tmp_path / name / build.DECISIONS) for name in ("set", "again")]
    assert decisions[0] == decisions[1] and {decision["by"] for decision in decisions[0]} == {"model"}
    assert records.fingerprint(tmp_path / "set") == records.fingerprint(tmp_path / "again")


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    file = own_set(tmp_path, own_rows(12))
    with FakeEndpoint(annotator) as server:
        command = ["--source=jsonl", f"--input={file}", f"--annotator={server.url}", "--annotator_model=fake"]
        uninterrupted = run_prepare(*command, f"--out={tmp_path / 'whole'}")
        requests = len(server.requests)
        once, held = threading.Event(), len(server.requests) + 5

        def slow(request):
            if len(server.requests) > held:
                once.set()
                time.sleep(60)
            return annotator(request)

        server.answer = slow
        options = [*command, "--concurrency=1", f"--out={tmp_path / 'cut'}"]
        run = subprocess.Popen(
            [sys.executable, "-m", "perl_jax.prepare", *options], cwd=REPOSITORY, stderr=subprocess.DEVNULL
        )
        assert once.wait(120)
        run.kill()
        run.wait()
        assert not (tmp_path / "cut").exists()
        server.answer = annotator
        again = run_prepare(*options)
    assert uninterrupted.returncode == again.returncode == 0, again.stderr
    assert len(server.requests) == requests + 6 + requests - 5  # the one that was on its way is asked again
    assert records.fingerprint(tmp_path / "cut") == records.fingerprint(tmp_path / "whole")
    names = [".answers.jsonl", ""]
    assert sorted(path.name for path in tmp_path.glob("*cut*")) == sorted(f"cut{name}" for name in names)


def run_prepare(*options):
    return subprocess.run(
        [sys.executable, "-m", "perl_jax.prepare", *options],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=REPOSITORY,
    )


def test_columns_by_other_names(tmp_path):
    row = {"images": ["a.png"], "problem": "Is it red?", "solution": "Yes", "hint": "Look.", "level": 3, "no": None}
    done = run_prepare(
        "--source=jsonl",
        f"--input={own_set(tmp_path, [row])}",
        f"--out={tmp_path / 'set'}",
        "--map=question=problem",
        "--map=answer=solution",
    )
    assert "columns not used: hint, level (--map=OURS=THEIRS reads one)" in done.stdout
    assert done.returncode == 0 and records.open_split(tmp_path / "set")[0]["question"] == "<image:0>\nIs it red?"
