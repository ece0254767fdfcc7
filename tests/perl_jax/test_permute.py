"""Permutation: moving images is an exact rewriting; the orders of a step are Bernoulli, uniform and repeatable."""

import collections
import copy
import doctest
import itertools
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from perl_jax import permute, symbols

STYLES = [f"|{style}" if style else "" for style in symbols.STYLES if "ide" not in str(style)]  # sides: of two only


def sample_of(total: int, **fields) -> dict:
    return {
        "id": "q",
        "images": [f"picture {i}" for i in range(total)],
        "question": "Which one?",
        "choices": [],
        "answer": "A",
        "kind": "choice",
        "order_effect": "rewrite",
        **fields,
    }


@st.composite
def samples(draw, effects=("rewrite", "invariant", "fixed")):
    total = draw(st.integers(1, 6))
    places = st.integers(0, total - 1)
    mention = st.builds("{{image:{}{}}}".format, places, st.sampled_from(STYLES))
    words = st.one_of(mention, st.sampled_from(["is", "the", "not {this}", "<b>", "A"]))
    text = st.lists(words, max_size=5).map(" ".join)
    form = draw(st.sampled_from(["mention", "letter", "shown choices", "order", "bare order"]))
    fields = {
        "question": draw(text),
        "choices": draw(st.lists(text, max_size=3)),
        "order_effect": draw(st.sampled_from(effects)),
    }
    if form == "mention":
        fields |= {"answer": draw(mention), "kind": "text"}
    elif form == "letter":
        fields |= {
            "choices": draw(st.sampled_from([[], ["x", "y", "z"]])),
            "answer": draw(st.sampled_from("ABCDEF"[:total])),
        }
    elif form == "shown choices":
        slots = draw(st.permutations(range(total)))
        slot_count = draw(st.integers(1, total))
        fields |= {
            "question": " ".join(f"<image:{i}>" for i in slots[slot_count:]),
            "choices": [f"<image:{i}>" for i in slots[:slot_count]] + ["none"],
            "answer": draw(st.sampled_from("ABCDEFG"[: slot_count + 1])),
        }
    else:
        listed = draw(st.permutations(range(total)))
        item = (lambda i: f"{{image:{i}|number}}") if form == "order" else (lambda i: str(i + 1))
        fields |= {"choices": [], "answer": "→".join(map(item, listed)), "kind": "order"}
    if draw(st.booleans()):
        fields["movable"] = draw(st.lists(places, unique=True)) if form != "shown choices" else None
    return sample_of(total, **fields)


@st.composite
def moves(draw):
    sample = draw(samples())
    places = permute.movable_places(sample)
    order = list(range(len(sample["images"])))
    for place, image in zip(places, draw(st.permutations(places))):
        order[place] = image
    return sample, order


@given(moves())
@settings(deadline=None)
def test_there_and_back_is_the_identity(move):
    sample, order = move
    before = copy.deepcopy(sample)
    moved = permute.apply(sample, order)
    assert sample == before, "apply must not change its argument"
    assert permute.apply(moved, permute.inverse(order)) == sample
    assert permute.apply(sample, range(len(order))) == sample
    assert moved["images"] == [sample["images"][i] for i in order]


@given(moves())
@settings(deadline=None)
def test_a_mention_still_names_the_same_image(move):
    sample, order = move
    moved = permute.apply(sample, order)
    for key in ("question", "answer"):

        def named(record, key=key):
            return [record["images"][int(i)] for i, _ in symbols.MENTION.findall(record[key])]

        if sample["order_effect"] == "rewrite":
            assert named(moved) == named(sample)
        else:
            assert moved[key] == sample[key]


@given(moves())
@settings(deadline=None)
def test_the_right_answer_maps_back_to_the_original_answer(move):
    sample, order = move
    right = {
        key: permute.render({**record, "question": "", "choices": []})["answer"]
        for key, record in (("moved", permute.apply(sample, order)), ("original", sample))
    }
    assert permute.canonical_answer(f" {right['moved']} ", sample, order) == right["original"]


@pytest.mark.parametrize("order, letters", [([2, 0, 3, 1], "BDAC"), ([1, 2, 3, 0], "DABC")])
def test_letters_of_the_original_data(order, letters):
    for old, new in zip("ABCD", letters):
        assert permute.apply(sample_of(4, answer=old), order)["answer"] == new
        assert (
            permute.apply(
                {
                    "id": 0,
                    "images": [b"0", b"1", b"2", b"3"],
                    "question": "",
                    "answer": f"({old})",
                    "order_effect": "rewrite",
                },
                order,
            )["answer"]
            == f"({new})"
        )
        assert permute.apply(sample_of(4, choices=list("ABCD"), answer=old), order)["answer"] == new
        mention = permute.apply(sample_of(4, answer=f"{{image:{ord(old) - 65}|letter}}"), order)
        assert permute.render(mention)["answer"] == new


def test_rewrite_turns_question_choices_and_answer():
    sample = sample_of(
        3,
        question="<image:0><image:1><image:2> Is {image:0} above the {image:2|ordinal}?",
        choices=["{image:0}", "{image:1}", "neither"],
        answer="A",
        accuracy=0.4,
        source="made",
    )
    moved = permute.apply(sample, [2, 0, 1])
    assert moved == sample | {
        "images": ["picture 2", "picture 0", "picture 1"],
        "question": "<image:0><image:1><image:2> Is {image:1} above the {image:0|ordinal}?",
        "choices": ["{image:1}", "{image:2}", "neither"],
    }
    assert permute.render(moved)["question"] == "<image><image><image> Is Image 2 above the first?"
    assert permute.render(moved)["choices"] == ["Image 2", "Image 3", "neither"]
    invariant = permute.apply(sample | {"order_effect": "invariant"}, [2, 0, 1])
    assert invariant == sample | {"order_effect": "invariant", "images": moved["images"]}


def test_a_letter_follows_the_image_its_choice_shows():
    sample = sample_of(4, question="What goes with <image:0>?", choices=["<image:2>", "<image:1>", "<image:3>", "none"])
    assert permute.movable_places(sample) == [1, 2, 3], "the question's own picture stays"
    moved = permute.apply(sample, [0, 2, 3, 1])  # picture 2 now stands at place 1, which choice B shows
    assert (moved["choices"], moved["answer"]) == (sample["choices"], "B")
    assert permute.apply(sample | {"answer": "D"}, [0, 2, 3, 1])["answer"] == "D"
    assert permute.canonical_answer("(B)", sample, [0, 2, 3, 1]) == "(A)"
    with pytest.raises(InputError, match=r"'q'.*places \[0"):
        permute.apply(sample, [1, 0, 2, 3])
    with pytest.raises(InputError, match="no choice shows"):
        permute.apply(sample | {"movable": [0, 2]}, [2, 1, 0, 3])


def test_order_answers():
    order = [2, 0, 1]
    for answer in ("{image:1|number}→{image:0|number}→{image:2|number}", "2→1→3"):
        sample = sample_of(3, answer=answer, kind="order")
        assert permute.render(permute.apply(sample, order))["answer"] == "3→2→1"
        assert permute.canonical_answer("3, 2, 1", sample, order) == "2, 1, 3"
    statements = sample_of(3, answer="B→A", choices=["{image:0} x", "{image:1} y"], kind="order")
    assert permute.apply(statements, order)["answer"] == "B→A", "these letters name choices"
    with pytest.raises(InputError, match=r"'q'.*not a list of different images"):
        permute.apply(sample_of(3, answer="first, then second", kind="order"), order)


@pytest.mark.parametrize(
    "fields, order, words",
    [
        ({}, [0, 1], "not a permutation of its 3"),
        ({}, [0, 0, 1], "not a permutation"),
        ({}, ["a", 1, 2], "whole numbers"),
        ({"order_effect": "fixed"}, [1, 0, 2], "must stay"),
        ({"movable": [1, 2]}, [1, 0, 2], r"moves places \[0\]"),
        ({"movable": [1, 5]}, [1, 0, 2], "outside its 3"),
        ({"order_effect": "swap"}, [1, 0, 2], "order_effect"),
        ({"answer": "F"}, [1, 0, 2], "image 5, but it has 3"),
        ({"question": "{image:3}"}, [1, 0, 2], "image 3, but it has 3"),
    ],
)
def test_bad_orders_and_samples(fields, order, words):
    with pytest.raises(InputError, match=f"'q'.*{words}") as error:
        permute.apply(sample_of(3, **fields), order)
    assert "\n" not in str(error.value)


def test_render_shows_each_image_once_in_the_order_of_its_slots():
    sample = sample_of(
        3, question="a <image:1> b <image:0>", choices=["<image:2>", "{image:2|letter} {image:2|number}"]
    )
    rendered = permute.render(sample)
    assert rendered["question"] == "a <image> b <image>" and rendered["choices"] == ["<image>", "C 3"]
    assert rendered["images"] == ["picture 1", "picture 0", "picture 2"]
    plain = permute.render(
        {"id": 1, "images": ["x", "y"], "question": "{image:1|ordinal}?", "answer": "{image:0|lower}"}
    )
    assert (plain["question"], plain["answer"]) == ("<image><image>\nsecond?", "image 1")


@pytest.mark.parametrize("effect", ["rewrite", "invariant"])
def test_captions_move_with_their_images(effect):
    sample = sample_of(3, question="<image:1> <image:0> <image:2>", order_effect=effect, captions=["x", "y", "z"])
    moved = permute.apply(sample, [2, 0, 1])
    assert moved["captions"] == ["z", "x", "y"]
    for record in (sample, moved):  # as the slots show the images, so they are told
        rendered = permute.render(record)
        assert [dict(zip(sample["images"], "xyz"))[image] for image in rendered["images"]] == rendered["captions"]
    assert permute.render(moved)["captions"] == ["x", "z", "y"]
    assert "captions" not in permute.render(permute.apply(sample_of(3), [2, 0, 1]))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"question": "<image:0> <image:1>"}, r"slots \[0, 1\]"),
        ({"question": "<image:0> <image:1> <image:2> <image:2>"}, "once"),
        ({"question": "<image:7>"}, "once"),
        ({"question": "<image> what?"}, "plain <image>"),
        ({"answer": "<image:1>"}, "answer shows"),
        ({"answer": "{image:3}"}, "image 3, but it has 3"),
        ({"choices": ["{image:0|roman}"]}, "unknown style"),
    ],
)
def test_render_names_what_is_wrong(fields, words):
    with pytest.raises(InputError, match=f"'q'.*{words}"):
        permute.render(sample_of(3, **fields))


def test_canonical_answer():
    sample, order = sample_of(3, answer="{image:0|lower}", kind="text"), [2, 0, 1]
    assert permute.canonical_answer("Image 2.", sample, order) == "image 1"
    assert permute.canonical_answer("IMAGE  1", sample, order) == "image 3"
    assert permute.canonical_answer(" image 22 ", sample, order) == "image 22"
    letter = sample_of(3, answer="A")
    assert [permute.canonical_answer(text, letter, order) for text in ("A", "b", "(C)", "Z", "a cat")] == [
        "C",
        "a",
        "(B)",
        "Z",
        "a cat",
    ]
    assert permute.canonical_answer("A", sample_of(3, choices=["x", "y"]), order) == "A"
    assert permute.canonical_answer("a", sample_of(3, answer="cat", kind=None), order) == "a"
    assert permute.canonical_answer("Image 1", sample | {"order_effect": "invariant"}, order) == "Image 1"


def test_probability():
    assert [permute.probability(t, 10) for t in range(11)] == pytest.approx([1 - t / 10 for t in range(11)])
    assert [permute.probability(t, 6, start=0.8, end=0.2, warmup_steps=2) for t in range(1, 9)] == pytest.approx(
        [0.8, 0.8, 0.65, 0.5, 0.35, 0.2, 0.2, 0.2]
    )
    assert [permute.probability(t, 2, warmup_steps=2) for t in (1, 2, 3)] == [1, 1, 0]
    assert [permute.probability(t, 0) for t in (0, 1)] == [1, 0]
    with pytest.raises(InputError, match=r"start 1\.5"):
        permute.probability(1, 2, start=1.5)


def test_schedules_of_the_probability():
    def over(schedule, **options):
        return [permute.probability(t, 8, schedule=schedule, **options) for t in range(9)]

    linear, cosine = over("linear"), over("cosine")
    assert over("constant", start=0.3) == [0.3] * 9
    assert over("rising") == pytest.approx(linear[::-1])
    assert over("rising", start=0.8, end=0.2, warmup_steps=4) == pytest.approx([0.2] * 5 + [0.35, 0.5, 0.65, 0.8])
    assert (cosine[0], cosine[4], cosine[8]) == pytest.approx((1, 0.5, 0))
    assert cosine == sorted(cosine, reverse=True) and cosine[2] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert sum(cosine) == pytest.approx(sum(linear)), "the same mean rate"
    with pytest.raises(InputError, match="one of linear, cosine, constant, rising, not 'step'"):
        over("step")


def test_without_canonical_the_first_order_is_drawn_as_the_others():
    def drawn(count, n_s, p):
        at = {"seed": 1, "epoch": 0, "step": 3}
        return [permute.draw_orders(sample_of(3, id=i), n_s, p, canonical=False, **at) for i in range(count)]

    moved = [order != (0, 1, 2) for (order,) in drawn(1000, 0, 0.4)]
    assert abs(sum(moved) / 1000 - 0.4) < 4.5 * math.sqrt(0.24 / 1000)
    for orders in drawn(20, 1, 1.0):
        assert len(set(orders)) == 2 and (0, 1, 2) not in orders
    assert drawn(3, 1, 0.0) == [[(0, 1, 2)] * 2] * 3


def test_one_order_of_shuffled_data():
    def drawn(shuffle, **at):
        at = {"seed": 0, "epoch": 0, "step": 0} | at
        return [permute.shuffled_order(sample_of(3, id=i), shuffle, **at) for i in range(1200)]

    identity = (0, 1, 2)
    assert set(drawn("none")) == {identity}
    assert (
        drawn("once")
        == drawn("once", epoch=5, step=7)
        == [permute.uniform_orders(sample_of(3, id=i), 1, seed=0)[0] for i in range(1200)]
    )
    for at in ({"epoch": 1}, {"step": 1}, {"seed": 1}):
        agree = sum(one == other for one, other in zip(drawn("fresh"), drawn("fresh", **at)))
        assert abs(agree - 200) < 60, "independent draws of six orders agree in a sixth"
    fresh, half = collections.Counter(drawn("fresh")), collections.Counter(drawn("half"))
    assert len(fresh) == 6 and all(abs(count - 200) < 60 for count in fresh.values())
    assert abs(half.pop(identity) - 600) < 80
    assert len(half) == 5 and all(abs(count - 120) < 50 for count in half.values())
    still = {"seed": 0, "epoch": 0, "step": 0}
    for shuffle in permute.SHUFFLES:
        assert permute.shuffled_order(sample_of(3, order_effect="fixed"), shuffle, **still) == identity
        order = permute.shuffled_order(sample_of(4, movable=[1, 2, 3]), shuffle, **still)
        assert order[0] == 0
    with pytest.raises(InputError, match="one of none, once, fresh, half, not 'often'"):
        drawn("often")


def test_draws_are_bernoulli_and_independent():
    n_s, trials, p = 3, 2000, 0.3
    draws = [
        permute.draw_orders(sample_of(4, id=f"q{i % 50}"), n_s, p, seed=1, epoch=0, step=i // 50) for i in range(trials)
    ]
    identity = (0, 1, 2, 3)
    assert all(orders[0] == identity and len(orders) == n_s + 1 for orders in draws)
    moved = [[order != identity for order in orders[1:]] for orders in draws]
    tolerance = 4.5 * math.sqrt(p * (1 - p) / trials)
    for k in range(n_s):
        assert abs(sum(row[k] for row in moved) / trials - p) < tolerance
    assert abs(sum(row[0] and row[1] for row in moved) / trials - p * p) < tolerance
    assert abs(sum(a[0] and b[0] for a, b in itertools.pairwise(moved)) / trials - p * p) < tolerance
    counts = collections.Counter(order for orders in draws for order in orders[1:] if order != identity)
    expected = sum(counts.values()) / 23
    assert len(counts) == 23
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 60, (
        "chi-square, 22 degrees of freedom"
    )


@given(samples(), st.integers(0, 9), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_drawn_orders_are_valid_distinct_and_repeatable(sample, n_s, seed):
    orders = permute.draw_orders(sample, n_s, 1.0, seed=seed, epoch=1, step=7)
    assert orders == permute.draw_orders(sample, n_s, 1.0, seed=seed, epoch=1, step=7)
    identity, choices = orders[0], math.factorial(len(permute.movable_places(sample))) - 1
    assert identity == tuple(range(len(sample["images"])))
    if not choices:
        assert set(orders) == {identity}
    else:
        assert identity not in orders[1:]
        assert len(set(orders[1:])) == min(n_s, choices)
    for order in orders:
        permute.apply(sample, order)
    assert permute.draw_orders(sample, n_s, 0.0, seed=seed, epoch=1, step=7) == [identity] * (n_s + 1)


def test_draws_depend_on_every_part_of_their_key_and_on_nothing_else():
    def drawn(name="q", **key):
        return permute.draw_orders(sample_of(30, id=name), 2, 1.0, **{"seed": 0, "epoch": 0, "step": 0, **key})

    results = [drawn(), drawn("r"), drawn(seed=1), drawn(epoch=1), drawn(step=1)]
    assert len({order for orders in results for order in orders[1:]}) == 10
    program = (
        "from perl_jax import permute; sample = {'id': 'q', 'images': [0] * 30, 'order_effect': 'invariant'}; "
        "print(permute.draw_orders(sample, 2, 1.0, seed=0, epoch=0, step=0))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert other.strip() == str(results[0])


def test_a_first_order_does_not_depend_on_how_many_follow():
    draws = [permute.draw_orders(sample_of(3), n, 0.7, seed=3, epoch=0, step=2) for n in range(8)]
    assert all(short == draws[-1][: len(short)] for short in draws)


def test_uniform_orders():
    assert sorted(permute.uniform_orders(sample_of(3), 6, seed=0)) == sorted(itertools.permutations(range(3)))
    assert permute.uniform_orders(sample_of(1), 3, seed=0) == [(0,)] * 3
    assert permute.uniform_orders(sample_of(3, order_effect="fixed"), 2, seed=0) == [(0, 1, 2)] * 2
    assert len(permute.uniform_orders(sample_of(2), 5, seed=0)) == 5
    assert all(order[0] == 0 for order in permute.uniform_orders(sample_of(4, movable=[1, 2, 3]), 6, seed=0))
    first = collections.Counter(permute.uniform_orders(sample_of(3, id=i), 1, seed=0)[0] for i in range(1200))
    assert len(first) == 6 and all(abs(count - 200) < 60 for count in first.values())


def test_examples_in_the_docstrings():
    assert doctest.testmod(permute).failed == 0


def test_letters_of_choices_after_a_reference_image_name_the_movable_ones():
    """Five images, the first a reference: B is image 2, and goes where that goes."""
    sample = sample_of(
        5,
        question="<image:0><image:1><image:2><image:3><image:4>?",
        kind="choice",
        answer="B",
        choices=["A", "B", "C", "D"],
        movable=[1, 2, 3, 4],
        order_effect="rewrite",
    )
    moved = permute.apply(sample, [0, 3, 4, 1, 2])
    assert moved["images"][1 + "ABCD".index(moved["answer"])] == sample["images"][2]
    assert permute.canonical_answer(moved["answer"], sample, [0, 3, 4, 1, 2]) == "B"
    with pytest.raises(InputError, match="cannot be told"):
        permute.apply({**sample, "movable": None}, [1, 0, 2, 3, 4])


def test_a_set_of_images_is_read_back_whatever_its_order():
    sample = sample_of(4, kind="order", answer="{images:1,3|and}")
    moved = permute.render(permute.apply(sample, [2, 0, 3, 1]))
    assert moved["answer"] == "3 and 4"
    for prediction, meant in (
        ("4, 3", "2 and 4"),
        ("Images 3 and 4", "2 and 4"),
        ("1, 2", "1 and 3"),
        ("3", "3"),
        ("3, 9", "3, 9"),
    ):
        assert permute.canonical_answer(prediction, sample, [2, 0, 3, 1]) == meant
