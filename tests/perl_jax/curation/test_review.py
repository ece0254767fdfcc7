"""The page of samples: which are shown, what is said of them, and that hostile words stay words."""

import collections
import io
import json
import re
from pathlib import Path

import pytest
from markup import Tags
from PIL import Image

from models.errors import InputError
from perl_jax import records
from perl_jax.curation import review
from perl_jax.runtime import html

HOSTILE = "</script><script>alert(1)</script> \"onerror='alert(2)'"


def picture(colour):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (colour, 0, 90)).save(file, "PNG")
    return file.getvalue()


def record(id, effect="rewrite", source="mine", images=2, **more):
    made = records.Record(
        id=id,
        images=[picture(10 * i) for i in range(images)],
        kind="text",
        order_effect=effect,
        question="Is {image:0|lower} darker than {image:1|lower}?",
        choices=[],
        answer="{image:1}",
        source=source,
        accuracy=None,
        movable=None,
    )
    return {**made, **more}


def lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Two splits with common and rare sources and labels."""
    path = tmp_path_factory.mktemp("review") / "set"
    train = [record(f"t{i}", source="common") for i in range(60)]
    train += [record(f"r{i}", source=f"rare {i}") for i in range(2)] + [record("f", effect="fixed")]
    records.write({"train": train, "eval": [record("e", effect="invariant", question="Which?", answer="a")]}, str(path))
    return path


@pytest.fixture
def few(tmp_path):
    """One record of each kind, with decisions and rejected rows."""
    made = [
        record("moves", choices=[], question=f"<image:0>{HOSTILE} <image:1> shows {{image:0|ordinal}}?"),
        record("stays", effect="fixed", question="Which comes next?", answer="a dog", source=HOSTILE),
        record("lost", effect="rewrite", question="Which?", answer="yes"),
    ]
    decisions = [
        {
            "id": "moves",
            "split": "train",
            "order_effect": "rewrite",
            "evidence": f"first {HOSTILE}",
            "confidence": 0.75,
            "by": "rules",
            "model": {"order_effect": "invariant", "confidence": 0.6, "evidence": "I think"},
            "original": {"question": "<image>does the <image> first picture show?", "answer": "Image 2", "choices": []},
        },
        {
            "id": "stays",
            "split": "train",
            "order_effect": "fixed",
            "evidence": "frames of a film",
            "confidence": 1,
            "by": "given",
            "original": {"question": "Which comes next?", "answer": "a dog", "choices": []},
        },
    ]
    rejected = [
        {"split": "train", "id": f"x{i}", "reason": "too long" if i else HOSTILE, "detail": f"detail {i}"}
        for i in range(30)
    ]

    def finish(directory):
        lines(Path(directory, "decisions.jsonl"), decisions)
        lines(Path(directory, "rejected.jsonl"), rejected)

    records.write({"train": made}, str(tmp_path / "set"), name="few", finish=finish)
    return tmp_path / "set"


def written(directory, out, count=20, seed=0):
    review.write(str(directory), str(out), count, seed)
    return out.read_text(encoding="utf-8")


def cards(page):
    return re.findall(r'data-id="(.*?)"', page)


def test_rare_labels_and_sources_are_seen(many, tmp_path):
    page = written(many, tmp_path / "a.html", 6)
    shown = cards(page)
    assert {"e", "f"} < set(shown) and set(shown) & {"r0", "r1"} and len(shown) == 6
    assert cards(written(many, tmp_path / "b.html", 4, seed=1))[:2] == ["f", "e"], "by label"
    assert len(cards(written(many, tmp_path / "all.html", 99))) == 64
    assert (
        "6 of 64 records (train 63, eval 1) · rewrite 62, fixed 1, invariant 1 · it is not known what decided" in page
    )


def test_the_choice_is_a_function_of_the_seed(many, tmp_path):
    one, same, other = (written(many, tmp_path / f"{i}.html", 10, seed) for i, seed in enumerate((3, 3, 4)))
    assert one == same and cards(one) != cards(other)


def test_a_set_that_is_too_large_is_sampled(many, monkeypatch):
    monkeypatch.setattr(review, "SCANNED", 10)
    splits = {split: records.open_split(str(many), split) for split in ("train", "eval")}
    sample = review.sample(splits, 99, 0)
    assert collections.Counter(split for split, _ in sample) == {"train": 10, "eval": 1}
    assert len(set(sample)) == 11


def test_both_orders_and_what_they_rest_on(few, tmp_path):
    page = written(few, tmp_path / "deep" / "review.html")
    seen = Tags(page)
    words = " ".join(seen.words.split())
    for text in (
        "3 of 3 records",
        "decided by given 1, rules 1",
        "30 rows rejected",
        "order 2 1",
        "was Image 2",
        "by rules, confidence 0.75: first",
        "model: invariant",
        "confidence 0.60: I think",
        "by given, confidence 1.00: frames of a film",
        "the original order; nothing may move",
        "evidence unknown",
        "Wording as in the source.",
        "labelled rewrite, but no word changes",
        "too long: 29",
    ):
        assert text in words, text
    assert page.count("labelled rewrite, but no word changes") == 1
    assert "▣1" in words and "▣2" in words
    assert "<mark>first</mark>" in page and "<mark>second</mark>" in page
    assert len(re.findall("data:image/jpeg", page)) == 4 + 2 + 4
    assert len(re.findall(r"detail \d", words)) == 1 + review.REJECTED_SHOWN
    assert "<details><summary>Rejected" in page, "closed"


def test_hostile_words_stay_words(few, tmp_path):
    page = written(few, tmp_path / "review.html")
    seen = Tags(page)
    assert HOSTILE not in page and seen.words.count(HOSTILE) >= 4
    assert page.count("<script>") == page.count("</script>") == 1
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name == "href"]
    assert all(value.startswith("data:") for name, value in seen.attributes if name == "src")
    assert [value for _, value in seen.attributes if value and "default-src 'none'" in value and "sha256-" in value]


def test_each_card_has_its_own_ticks(few, tmp_path):
    page = written(few, tmp_path / "review.html")
    names = re.findall(r'<input type="radio" name="(.*?)" value="(\w+)">', page)
    assert len(set(names)) == len(names) == 6 and {value for _, value in names} == {"right", "wrong"}
    for name in re.findall(r'find\("(\w+)"\)', review.SCRIPT):
        assert f'id="{name}"' in page
    assert "</script" not in review.SCRIPT


def test_words_that_differ():
    old, new = review.differing("Is image 1 darker?", "Is image 12 a darker?")
    assert old == "Is image <mark>1</mark> darker?" and new == "Is image <mark>12 a</mark> darker?"
    assert review.differing("<b>", "<b>") == ("&lt;b&gt;",) * 2
    long, _ = review.differing("word " * 5000, "")
    assert len(Tags(long).words) == review.CHARACTERS + 1 and isinstance(long, html.Html)


def test_places_of_slots_that_stand_in_another_order():
    (_, original), (order, other) = review.views(
        record("q", question="<image:1> and <image:0>: {image:0}?", answer="a")
    )
    assert original.places == original.originals == [1, 0] and order == (1, 0)
    assert other.places == [1, 0] and other.originals == [0, 1] and "Image 2?" in other.question


def test_a_record_that_cannot_be_shown_does_not_end_the_page(few, tmp_path, monkeypatch):
    opened = records.Split.__getitem__
    monkeypatch.setattr(records.Split, "__getitem__", lambda split, i: {**opened(split, i), "images": [b"x", b"y"]})
    assert written(few, tmp_path / "review.html").count("not a readable image") == 3


def test_bad_input_is_one_line(few, tmp_path):
    for arguments, words in (
        ((tmp_path, "a.html", 3), "holds no records"),
        ((few, "a.txt", 3), r"named \*.html"),
        ((few, "a.html", 0), "one or more"),
    ):
        with pytest.raises(InputError, match=words):
            review.write(str(arguments[0]), str(tmp_path / arguments[1]), arguments[2])
    assert not list(tmp_path.glob("a.*"))
