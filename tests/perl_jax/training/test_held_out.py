"""Held-out questions: what is asked, what an answer means in the original order, and what is told of the answers."""

import io

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from models.qwen2_5_vl.config import VisionConfig
from perl_jax import permute
from perl_jax.records.prompts import Prompts
from perl_jax.training import held_out


def png(level: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((28, 28, 3), level, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def record(name: str, images: int = 3, **changes) -> dict:
    slots = "".join(f"<image:{i}>" for i in range(images))
    return {
        "id": name,
        "images": [png(40 * i) for i in range(images)],
        "question": f"{slots}Which?",
        "choices": [],
        "answer": "{image:0|number}",
        "kind": "number",
        "order_effect": "rewrite",
        "source": "which",
        "accuracy": None,
        "movable": None,
        **changes,
    }


RECORDS = [record("a"), record("fixed", order_effect="fixed", answer="7"), record("alone", images=1, source="one")]


def spell(messages, images, **limits):
    """A processor with a token a character."""
    return [ord(character) for message in messages for character in message["content"]], images


spell.vision = VisionConfig(1, 32, 48, 4, 48)


class Grader:
    """Right is the answer of the very order that was asked."""

    def grade(self, pairs):
        return [{"reward": float(f"{{{sample['answer']}}}" in text)} for sample, text in pairs]


@pytest.fixture
def prompts():
    return Prompts(spell, "", "", 784, 784, max_tokens=40)


@pytest.fixture
def questions(prompts):
    return held_out.questions(RECORDS, prompts, count=2, seed=1)


def test_each_question_in_its_own_order_and_in_drawn_ones(questions):
    many, fixed, alone = questions
    assert many.orders == [(0, 1, 2), *permute.uniform_orders(RECORDS[0], 2, seed=1)]
    assert fixed.orders == [(0, 1, 2)] and alone.orders == [(0,)]
    for order, sample, (ids, images) in zip(many.orders, many.samples, many.prompts):
        assert sample["answer"] == str(order.index(0) + 1)
        assert [shown.decoded().getpixel((0, 0))[0] for shown in images] == [40 * image for image in order]
        assert "".join(map(chr, ids)) == "<image><image><image>Which?"


def test_a_question_that_is_too_long_is_named(prompts):
    with pytest.raises(InputError, match=r"record 'long': its prompt has 226 tokens, more than .* 40") as error:
        held_out.questions(
            [record("a"), record("long", question="<image:0><image:1><image:2>?" + "!" * 204)], prompts, 2, 1
        )
    assert "\n" not in str(error.value)


def test_an_answer_is_told_as_it_reads_in_the_original_order(questions):
    """Always the same image: right everywhere and no flip. Always the same place: a flip, where that is another."""
    right = [[f"\\boxed{{{sample['answer']}}}" for sample in question.samples] for question in questions]
    rows = held_out.predictions(questions, right, Grader())
    assert [row["id"] for row in rows] == ["a"] * 3 + ["fixed", "alone"]
    assert [row["original"] for row in rows] == [True, False, False, True, True]
    assert [row["meaning"] for row in rows] == ["1", "1", "1", "7", "1"] and all(row["correct"] for row in rows)
    assert held_out.summary(rows)["flip_rate"] == 0

    stuck = [["\\boxed{1}" for _ in question.samples] for question in questions]
    rows = held_out.predictions(questions, stuck, Grader())
    assert [row["meaning"] for row in rows[:3]] == [str(order[0] + 1) for order in questions[0].orders]
    assert [row["correct"] for row in rows[:3]] == [order[0] == 0 for order in questions[0].orders]
    assert held_out.summary(rows)["flip_rate"] == 1


def test_the_metrics_of_an_evaluation_are_known_before_it(questions):
    for some in (questions, questions[:1], questions[1:2], questions[2:]):
        right = [[f"\\boxed{{{sample['answer']}}}" for sample in question.samples] for question in some]
        given = held_out.summary(held_out.predictions(some, right, Grader()))
        assert held_out.given_metrics(some) == [f"eval/{name}" for name in given]
        sources = [question.record["source"] for question in some]
        possible = {name.replace("SOURCE", source) for name in held_out.possible_metrics(2) for source in sources}
        assert set(held_out.given_metrics(some)) <= possible
    assert "eval/permuted_accuracy" not in held_out.given_metrics(questions[1:]) + held_out.possible_metrics(0)


def test_no_box_is_no_answer(questions):
    rows = held_out.predictions(questions, [["1"] * len(question.samples) for question in questions], Grader())
    assert all(row["meaning"] is None and not row["correct"] for row in rows)


@pytest.mark.parametrize("nothing", ["", "$$", "...", " ", r"\(\)"])
def test_a_box_of_nothing_is_no_answer(questions, nothing):
    rows = held_out.predictions(
        questions, [[rf"\boxed{{{nothing}}}"] * len(each.samples) for each in questions], Grader()
    )
    assert all(row["meaning"] is None and not row["correct"] for row in rows)


def row(name: str, original: bool, correct: bool, meaning: str, images: int = 2, source: str = "s") -> dict:
    order = list(range(images)) if original else [1, 0]
    return {
        "id": name,
        "source": source,
        "order": order,
        "original": original,
        "images": images,
        "text": "",
        "answer": "1",
        "meaning": meaning,
        "correct": correct,
    }


def test_summary():
    rows = [
        row("a", True, True, "1"),
        row("a", False, True, "1"),
        row("a", False, False, "2"),
        row("b", True, False, "2"),
        row("b", False, False, "2"),
        row("b", False, False, "2"),
        row("c", True, True, "1"),
        row("c", False, True, "1"),
        row("c", False, True, "1"),
        row("fixed", True, True, "1", source="t"),
        row("alone", True, False, "3", images=1, source="t"),
    ]
    assert held_out.summary(rows) == pytest.approx(
        {
            "accuracy": 3 / 4,
            "permuted_accuracy": 3 / 6,
            "consistent_accuracy": 1 / 3,
            "flip_rate": 1 / 3,
            "single_image_accuracy": 0.0,
            "accuracy/s": 2 / 3,
            "accuracy/t": 1 / 2,
        }
    )
    assert held_out.summary(rows[-1:]) == {"single_image_accuracy": 0.0, "accuracy/t": 0.0}
    assert held_out.summary([]) == {}
