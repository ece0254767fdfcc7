"""Example questions: which they are, and that they are shown as they were asked."""

import base64
import io

import evaluation_results
import numpy as np
import pytest
from evaluation_results import ORDERS, row
from markup import Tags
from PIL import Image

from perl_jax.evaluation import examples
from perl_jax.evaluation.results import Model, Question, Result
from perl_jax.runtime import html

KEY = ("blink", "boxed")
ATTACK = "<script>alert('x')</script>"


def model(name, rows, data="nowhere"):
    return Model(name, {KEY: Result({"benchmark": "blink", "protocol": "boxed", "data": str(data)}, rows)})


def questions(found):
    return {kind.title: kind.ids for kind in found}


def test_kinds():
    first = model("GRPO", evaluation_results.rows(4, questions=6))
    last = [row(q, ORDERS[0], right=q in (0, 1, 4)) for q in range(6)]
    last += [row(q, ORDERS[1], "permuted", right=q in (0, 4, 5)) for q in range(6)]
    last += [row(q, ORDERS[0], "control", right=q in (0, 2, 3, 4)) for q in range(6)]
    result = questions(examples.kinds([first, model("PeRL", last)], KEY))
    assert result == {
        "answered better by PeRL than by GRPO": ["q4"],
        "answered worse by PeRL than by GRPO": ["q2", "q3"],
        "PeRL changes its answer with the order": ["q5", "q1"],  # q1 changed it in its own order, too
    }
    assert questions(examples.kinds([model("PeRL", last)], KEY)).keys() == {"PeRL changes its answer with the order"}


def test_only_what_both_were_asked_is_compared():
    first = evaluation_results.rows(0, questions=4)
    first[1]["answer"] = "another"
    first[2] |= {"fault": "image missing", "texts": [""], "extracted": [None], "meaning": [None]}
    result = examples.kinds([model("a", first), model("b", evaluation_results.rows(3, questions=3))], KEY)
    assert questions(result) == {"answered better by b than by a": ["q0"]}


def test_an_order_that_could_not_be_asked_is_no_flip():
    rows = [row(0, ORDERS[0]), {**row(0, ORDERS[1], "permuted"), "fault": "image missing", "meaning": [None]}]
    assert examples.kinds([model("a", rows)], KEY) == []


def test_flips_are_of_one_sample():
    orders = [{"meaning": ["A", "B", None]}, {"meaning": ["A", "B", None]}]
    assert examples.flip(Question(orders, None)) is None
    assert examples.flip(Question([*orders, {"meaning": ["A", None, None]}], None)) == 1
    again = {"meaning": ["A", "A", "B", "B", None, None]}
    assert not examples.flipped_when_asked_again(Question(orders, again))
    assert examples.flipped_when_asked_again(Question(orders, {"meaning": ["A", "B"] * 3}))


@pytest.fixture
def two(tmp_path):
    data = evaluation_results.snapshot(tmp_path / "data", 8)
    rows = [
        evaluation_results.rows(right, 8, permuted, f"{ATTACK} of {name}", control=True)
        for name, right, permuted in (("first", 2, (2, 2)), ("last", 7, (6, 7)))
    ]
    return [model("first", rows[0], data), model(f"last {ATTACK}", rows[1], data)]


def test_cards_show_images_in_the_orders_asked(two):
    cards = examples.cards(two, KEY)
    seen = Tags("".join(cards))
    assert "script" not in seen.tags and f"{ATTACK} of last" in seen.words
    assert f"answered better by last {ATTACK} than by first: 5" in seen.words
    assert "asked again in its original order: the same answer" in seen.words and "answer found: B" in seen.words
    [flips] = [card for card in cards if "changes its answer" in card]
    colours = [colour(value) for name, value in Tags(flips).attributes if name == "src"]
    original = [[170, 51, 51], [51, 170, 51], [51, 51, 170]]
    shown = [original[i] for order in ORDERS for i in order]  # q6, the order with another answer first
    assert np.abs(np.array(colours) - shown).max() < 12
    order = [flips.index(words) for words in ("the original order", "order 2 3 1", "order 3 1 2")]
    assert order == sorted(order) and flips.count("decisive") == 2 * 3


def colour(source):
    """That of an image's corner."""
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as image:
        return image.convert("RGB").getpixel((5, 5))


def test_a_bounded_number_of_bounded_words(two):
    long = [{**each, "texts": ["w" * 9000 + r"\boxed{A}"]} for each in two[1].results[KEY].rows]
    seen = Tags("".join(examples.cards([two[0], model("last", long, two[1].results[KEY].facts["data"])], KEY)))
    assert seen.words.count("(9009 characters)") and r"\boxed{A} (9009" in seen.words
    assert "w" * (html.MAX_CHARACTERS + 1) not in seen.words
    many = [model("a", evaluation_results.rows(0)), model("b", evaluation_results.rows(20))]
    [card] = [card for card in examples.cards(many, KEY) if "<details>" in card]
    assert card.count("<h3>") == examples.SHOWN and f"by a: 20, {examples.SHOWN} shown" in card


def test_words_alone_where_the_data_is_gone(two, tmp_path):
    gone = model("last", two[1].results[KEY].rows, tmp_path / "gone")
    text = "".join(examples.cards([gone], KEY))
    assert "Without images: " in text and "gone holds no" in text and "<img" not in text and "True answer" in text
    assert "<img" in "".join(examples.cards([two[0], gone], KEY))  # another result knows where they are
    fewer = evaluation_results.snapshot(tmp_path / "fewer", 3)
    assert "the data no longer has q6" in "".join(examples.cards([model("a", gone.results[KEY].rows, fewer)], KEY))
    other = Model("a", {("unheard", "boxed"): gone.results[KEY]})
    assert "unknown benchmark" in "".join(examples.cards([other], ("unheard", "boxed")))


def test_an_image_that_cannot_be_read(two, monkeypatch):
    monkeypatch.setattr("perl_jax.records.hub_files.ImageStore.reader", lambda self, value: lambda: b"no image")
    text = "".join(examples.cards(two, KEY))
    assert "image 1 cannot be shown" in text and "<img" not in text


def test_a_question_that_could_not_be_asked(two):
    rows = [
        {**each, "fault": ATTACK if each["id"] == "q2" else None}
        for each in two[0].results[KEY].rows
        if each["id"] != "q3"
    ]
    seen = Tags("".join(examples.cards([two[0], model("middle", rows), two[1]], KEY)))
    assert seen.words.count("could not be asked: " + ATTACK) == len(ORDERS)  # q2, of five that got better
    assert seen.words.count("not asked in this order") == len(ORDERS)
