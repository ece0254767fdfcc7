"""A question in other orders of its images: its words, read without the code, mean the images that are shown."""

import math

import pytest
from benchmark_cases import CASES, PNG, Case, Place, load, record
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perl_jax import records
from perl_jax.benchmarks import Item, find
from perl_jax.data import Row
from perl_jax.evaluation import orders


def own_records(monkeypatch, *rows: dict) -> list[Item]:
    monkeypatch.setattr(records, "splits", lambda directory: ["eval"])
    monkeypatch.setattr(records, "open_split", lambda directory, name: rows)
    return list(find("records").load("."))


@pytest.fixture(params=CASES, ids=lambda case: f"{case.benchmark}-{case.task}")
def case(request):
    return request.param


@pytest.fixture
def ordered(case, tmp_path, monkeypatch):
    if case.benchmark == "records":
        (item,) = own_records(monkeypatch, record(case))
    else:
        item = load(case, tmp_path)
    return item, orders.in_orders(item, 1000, 0)


def images_shown(item: Item) -> str:
    return "".join("abcde"[PNG.index(image())] for image in item.row.images)


def words(case: Case, shown: str, text: str) -> str:
    if case.benchmark == "records":
        text = text.replace("{a}", "image {a.n}").replace("{b}", "image {b.n}").replace("{c}", "image {c.n}")
    return case.text_in(shown, text)


def test_each_order_shows_what_its_words_mean(case, ordered):
    item, all_of_them = ordered
    original, *others = all_of_them
    names = "abcde"[: case.count]
    assert (
        original.is_original
        and original.fixed is None
        and original.item == item
        and not any(each.is_original for each in others)
    )
    assert len(all_of_them) == math.factorial(case.count - len(case.fixed)) == len({each.order for each in all_of_them})
    for each in all_of_them:
        shown = images_shown(each.item)
        assert [names[place] for place in each.shown] == list(shown) == [names[image] for image in each.order]
        assert all(shown.index(name) == names.index(name) for name in case.fixed)
        assert each.place == (shown.index(case.decisive) if case.decisive else None)
        stripped = " ".join(each.item.row.question.replace("<image>", " ").split())
        assert stripped == " ".join(words(case, shown, case.question).replace("<image>", " ").split())
        assert list(each.item.row.choices) == [words(case, shown, choice) for choice in case.choices]
        assert each.item.row.answer == words(case, shown, case.right(shown))


def test_own_words_are_those_without_other_orders(case, ordered):
    item, (original, *others) = ordered
    (alone,) = orders.in_orders(item, 0, 0)
    assert alone.item == item and (alone.record, alone.place, alone.fixed) == (None, None, None)
    benchmark = find(case.benchmark)
    assert benchmark.prompt(original.item, "boxed") == benchmark.prompt(alone.item, "boxed")
    slots = [benchmark.prompt(each.item, "boxed")[0]["content"].count("<image>") for each in (original, *others)]
    assert set(slots) == {case.count}


def test_scores_and_meanings(case, ordered):
    """The same image or choice means the same in all orders, and another one something else."""
    _, all_of_them = ordered
    score, meanings, stuck = find(case.benchmark).score, {}, set()
    for each in all_of_them:
        shown = images_shown(each.item)
        first = case.count - len(case.choices)
        letters = "ABCDE"[: len(case.choices)]
        sample = dict(zip(shown[first:] if case.bound else letters, letters))
        if not case.choices:
            sample = {answer: words(case, shown, answer) for answer in (*case.wrong, case.answer)}
        for thing, answer in sample.items():
            results = score(each.item, rf"\boxed{{{answer}}}", "boxed")
            assert results.correct == (thing in (case.answer, case.decisive if case.bound else None)), (thing, answer)
            meaning = orders.meaning(each, results.extracted, results.correct == 1)
            assert meanings.setdefault(thing, meaning) == meaning
        if case.choices:
            stuck.add(orders.meaning(each, "A", each.item.row.answer == "A"))
            bracketed = [orders.meaning(each, text, each.item.row.answer == "A") for text in ("A", "(A)", "a.")]
            assert len(set(bracketed)) == 1
    assert len(set(meanings.values())) == len(meanings) > 1
    if case.choices:
        assert (len(stuck) > 1) == case.bound


def test_a_wrong_image_means_the_same_in_any_words(tmp_path):
    case = next(case for case in CASES if case.answer == "Image {c.n}")
    for each in orders.in_orders(load(case, tmp_path), 1000, 0):
        place = Place(images_shown(each.item).index("a"))
        fields = [f"Image {place.n}", f"the {place.nth} image", str(place.n), f"image {place.n}.", f"({place.n})"]
        assert {orders.meaning(each, text, False) for text in fields} == {"image 1"}
        assert orders.meaning(each, f"the dog of image {place.n}", False) == "the dog of image 1"
        nothing = (None, "", "$$", "...", '""', r"\(\)", "$" * 2000)
        assert {orders.meaning(each, text, False) for text in nothing} == {None}
        assert orders.meaning(each, "{image:9} {x", False) == "{image:9} {x"
        assert orders.meaning(each, "A cat.", False) == orders.meaning(each, "a cat", False) == "a cat"


def item_of(question: str, answer: str, count: int, choices=(), kind=None, **more) -> Item:
    images = [(lambda place=place: place) for place in range(count)]
    row = Row("q", images, question, answer, "mine", choices=list(choices), kind=kind, **more)
    return Item(row, "", {})


RETRIEVAL = item_of("Which of the images shows a cat?", "the third image", 5)


@pytest.mark.parametrize("count", [1, 3, 119, 500])
def test_how_many_orders_and_which(count):
    results = [each.order for each in orders.in_orders(RETRIEVAL, count, 7)]
    assert results[0] == (0, 1, 2, 3, 4) and len(set(results)) == len(results) == min(count, 119) + 1
    assert results == [each.order for each in orders.in_orders(RETRIEVAL, count, 7)]
    assert [each.order for each in orders.in_orders(RETRIEVAL, 500, 7)][: count + 1] == results
    other = RETRIEVAL._replace(row=RETRIEVAL.row._replace(id="r"))
    drawn = {orders.in_orders(one, 1, seed)[1].order for one in (RETRIEVAL, other) for seed in range(9)}
    assert len(drawn) > 9, "another seed or id, another order"


def test_many_images_are_drawn_and_not_counted_up():
    many = item_of("Which of the following images shows a cat?", "image 30", 32)
    results = orders.in_orders(many, 20, 0)
    assert len({each.order for each in results}) == 21
    for each in results:
        assert each.shown == list(each.order) == [image() for image in each.item.row.images]
        assert each.place == each.order.index(29) and each.item.row.answer == f"image {each.place + 1}"


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.data(), st.integers(0, 99))
def test_the_place_is_where_the_decisive_image_stands(count, data, seed):
    number = data.draw(st.integers(1, count))
    asks = item_of("Which image is brighter?", f"Image {number}", count)
    names = item_of(f"Is image {number} red?", "yes", count)
    chooses = item_of("Which image?", "B", count, ["none", f"image {number}"], "choice")
    for item in (asks, names, chooses):
        for each in orders.in_orders(item, 3, seed):
            assert each.shown[each.place] == number - 1
    two = item_of(f"Is image {number} like image {number % count + 1}?", "yes", count)
    assert {each.place for each in orders.in_orders(two, 3, seed)} == {None}


def test_records_keep_what_must_not_move_and_count_places_as_shown(monkeypatch):
    base = record(Case("records", "", 4, "Which is like {a}?", (), "{c}"))
    kept, turned, fixed = own_records(
        monkeypatch,
        {**base, "movable": [1, 3]},
        {**base, "question": "<image:3><image:2><image:1><image:0>Which?"},
        {**base, "order_effect": "fixed"},
    )
    assert [each.order for each in orders.in_orders(kept, 9, 0)] == [(0, 1, 2, 3), (0, 3, 2, 1)]
    for each in orders.in_orders(turned, 99, 0):
        place = int(each.item.row.answer.removeprefix("image ")) - 1
        assert each.order[place] == 2 and PNG.index(each.item.row.images[each.place]()) == 2
        assert [turned.row.images[shown]() for shown in each.shown] == [image() for image in each.item.row.images]
    assert [each.fixed for each in orders.in_orders(fixed, 9, 0)] == [orders.FIXED]


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (item_of("Is it red?", "yes", 1), "one image"),
        (item_of("Is it red?", "yes", 0), "no image"),
        (item_of("What happens next?", "rain", 2), orders.FIXED),
        (item_of("Is <image> like <image>?", "yes", 2), orders.INSIDE),
        (item_of("Which image?", "B", 2, order_effect="fixed", reason="a film"), orders.FIXED),
        (item_of("Which one is a cat?", "B", 4, kind="choice"), orders.UNBOUND),
        (item_of("<image>Is it red?", "yes", 2), "text and images do not fit"),
        (item_of("Is image 5 red?", "yes", 2), "names a missing image"),
        (item_of("Is {image:7} red?", "yes", 2), "text and images do not fit"),
        (item_of("Which?", "B", 3, ["<image><image>", "<image>"], "choice"), "fewer than two images can move"),
        (item_of("Is it red?", "yes", 3, order_effect="rewrite", movable=[1]), "fewer than two images can move"),
        (item_of("Is it red?", "yes", 3, order_effect="rewrite", movable=[1, 7]), "text and images do not fit"),
    ],
)
def test_why_a_question_is_asked_in_its_own_order_alone(item, why):
    (alone,) = orders.in_orders(item, 9, 0)
    assert (alone.fixed, alone.item, alone.place, alone.record) == (why, item, None, None)
    assert alone.is_original and alone.shown == list(range(len(item.row.images)))
    assert orders.meaning(alone, "B", False) is None


def test_letters_that_the_question_itself_explains_do_not_bind_images():
    item = item_of("How long is AB?\nA. 1 cm B. 2 cm", "B", 2, kind="choice")
    assert {each.item.row.answer for each in orders.in_orders(item, 9, 0)} == {"B"} and orders.movable(item)["images"]


TEXT = st.lists(st.sampled_from([
    "image 1", "Image B", "<image>", "<image:0>", "{image:1}", "{images:0,1}", "{", "the first image",
    "left image", "1", "A", "(B)", "A.", "images 1-3", "next", "Which image is", "\x00", "", "é", "\n",
    "same", "both", "the last one",
]), max_size=4).map(" ".join)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    TEXT,
    TEXT,
    st.lists(TEXT, max_size=4),
    st.integers(0, 5),
    st.sampled_from([None, "choice", "text", "number", "order"]),
    st.sampled_from([None, "rewrite", "invariant"]),
    st.lists(TEXT, max_size=3),
)
@example("<image>", "", ["<image>", "image 1 <image>"], 2, None, None, [])  # a slot more than there are images
def test_whatever_a_row_says_the_run_goes_on(question, answer, choices, count, kind, effect, extracted):
    item = item_of(question, answer, count, choices, kind, order_effect=effect)
    for each in orders.in_orders(item, 4, 0):
        assert sorted(each.shown) == list(range(count)) and len(each.item.row.choices) == len(choices)
        assert each.place is None or 0 <= each.place < count
        for text in extracted:
            orders.meaning(each, text, False)
        assert each.record is None or orders.meaning(each, "x", True) is not None


def test_long_answers_are_read():
    _, each = orders.in_orders(RETRIEVAL, 1, 0)
    for part in ("image ", "1, ", "{image:1}", "\\text{", "(", "image 1 and ", "\x00"):
        for count in (80, 50_000):
            assert orders.meaning(each, part * count, False) is not None
