"""What a run would see, told without its weights: answers that are wrong, shapes that the trainer would choose."""

import numpy as np
import pytest
import tiny
import tiny_run

from models import qwen2_5_vl as qwen
from perl_jax import permute, rewards, update
from perl_jax.engine import tree_packing
from perl_jax.grading import Grader
from perl_jax.training import inspect_data


def sample(answer, kind="text", images=3, choices=(), **more):
    return {
        "id": "q",
        "images": list(range(images)),
        "question": "Which?",
        "choices": list(choices),
        "answer": answer,
        "kind": kind,
        "order_effect": "rewrite",
        **more,
    }


SAMPLES = {
    "a mention": (sample("{image:1|number}", "number"), {"1", "3"}),
    "a mention among words": (sample("in {image:1|lower}"), {"in image 1", "in image 3"}),
    "two mentions": (sample("{image:0} and {image:1}"), {"Image 3"}),
    "a choice": (sample("B", "choice", choices=["a cat", "a dog", "a cow"]), {"A", "C"}),
    "a choice's text": (sample("a dog", "choice", choices=["a cat", "a dog"]), {"A"}),
    "a picture's letter": (sample("b", "choice", images=2), {"A", "C", "D"}),
    "an order": (sample("{image:1|number}→{image:0|number}→{image:2|number}", "order"), {"3→1→2", "1→3→2"}),
    "a number": (sample("2", "number"), {"3", "1"}),
    "a formula": (sample(r"\frac{1}{2}", "number"), {r"\frac{1}{2}+1"}),
    "yes": (sample("Yes"), {"no"}),
    "a word": (sample("red"), {"none of them"}),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_wrong_answers_are_wrong_for_a_reward_that_knows(name):
    tested, expected = SAMPLES[name]
    wrong, true = inspect_data.wrong_answers(tested), permute.render(tested)["answer"]
    assert expected <= set(wrong) and true not in wrong and wrong[-1] == "" and len(wrong) == len(set(wrong))
    assert f"{true} or {wrong[0]}" in wrong
    score, rendered = rewards.find("boxed"), permute.render(tested)
    earned = [score(rendered, rf"<think></think>\boxed{{{answer}}}")["accuracy"] for answer in (true, *wrong)]
    assert earned == [1.0] + [0.0] * len(wrong)


def test_every_order_has_its_own_wrong_answers():
    moved = permute.apply(sample("{image:1|number}", "number"), (1, 0, 2))
    assert "1" not in inspect_data.wrong_answers(moved) and "2" in inspect_data.wrong_answers(moved)


def test_shapes_are_those_of_the_trainer():
    sizes = tiny.CONFIGS["untied"]
    limits = {"min_pixels": None, "max_pixels": tiny.MAX_PIXELS}
    questions = [
        tiny.prompt(sizes, parts, seed, tiny.MAX_PIXELS)
        for seed, parts in enumerate([[(84, 84), 5], [(56, 56), 9], [3, (56, 84)]])
    ]
    tokens = sum(len(ids) for ids, _ in questions)

    fill = inspect_data.of_rollout(sizes, questions, 2, limits)
    longest = max(len(ids) for ids, _ in questions)
    assert longest <= 16 and fill.shape == "2 x 16"
    assert fill.tokens == tokens / (2 * 2 * 16), "the second batch is filled up with what does not count"
    assert 0 < fill.images <= 1

    config = tiny_run.config(**{"micro_batch.rows": 2, "micro_batch.row_tokens": 64})
    fill = inspect_data.of_update(config, sizes, questions, (2, 3, 5), limits, "update")
    groups = [
        update.Group(images, [[0]] * 2, [ids] * 2, [[[1] * 5] * 3] * 2, np.ones((2, 3))) for ids, images in questions
    ]
    forest = tree_packing.pack(sizes, groups, 2, 64, **limits)
    assert fill.tokens == 1 - forest.padding and fill.shape == f"{len(forest.batches)} x 2 x 64"
    assert fill.images == np.mean([rows.vision.images >= 0 for rows in forest.batches])


def test_batches_may_differ_in_shape():
    sizes, limits = tiny.CONFIGS["untied"], {"min_pixels": None, "max_pixels": None}
    questions = [tiny.prompt(sizes, parts, 0, 1 << 20) for parts in ([(56, 56), 4], [(280, 280), 4], [4])]
    fill = inspect_data.of_rollout(sizes, questions, 1, limits)
    packs = [qwen.pack(sizes, [prompt]) for prompt in questions]
    assert fill.shape == "1 x 16 and 1 x 112" and len({pack.vision.images.shape for pack in packs[:2]}) == 2
    assert fill.images == (4 * 4 + 20 * 20) / sum(pack.vision.images.size for pack in packs[:2])


def test_no_images_have_no_patches():
    sizes = tiny.CONFIGS["tied"]
    fill = inspect_data.of_rollout(sizes, [([10] * 12, [])], 0, {"min_pixels": None, "max_pixels": None})
    assert fill == inspect_data.Fill("rollout, prompts", "1 x 16", 12 / 16, None)


def test_a_reward_that_takes_two_answers_is_beaten():
    order = inspect_data.InspectedOrder((0,), 1, {}, ([], []), ["1", "2"], [{"reward": 1.0}, {"reward": 1.0}])
    assert not order.best and order._replace(scores=[{"reward": 1.0}, {"reward": 0.9}]).best


def test_responses_are_graded_as_tokens_bring_them_back(tmp_path):
    from perl_jax import policy

    config = tiny_run.config(reward="tiny_reward:nothing")
    prompts, sizes = policy.without_weights(config, tmp_path, ["Which image shows 7?"] * 3)
    assert list(tmp_path.iterdir()) == [] and sizes.vision.window_size == 56
    with Grader("boxed", workers=1) as grader:
        scores = inspect_data.graded(
            config, prompts, grader, [(sample("A", "choice"), "A"), (sample("A", "choice"), "B")]
        )
    assert [score["accuracy"] for score in scores] == [1.0, 0.0]
