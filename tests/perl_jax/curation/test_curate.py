"""A row in plain words becomes a record, or is left out with the rule that it breaks."""

import doctest
import itertools

import pytest

from perl_jax import permute
from perl_jax.curation import curate as module
from perl_jax.curation.curate import curate
from perl_jax.data import Rejected, Row


def row(question, answer, images=2, **fields):
    return Row("1", [None] * images, question, answer, "mine", **fields)


def rendered(record, order, images):
    sample = permute.render(permute.apply({**record, "images": list(range(images))}, order))
    return sample["question"], sample["choices"], sample["answer"]


def test_example():
    assert doctest.testmod(module).attempted >= 2 and not doctest.testmod(module).failed


def test_words_choices_and_answer_follow_the_images():
    made = curate(
        row("<image><image><image>\nIf image 2 is the reference, which is nearer?\n(A) Image 3\n(B) Image 1", "A", 3)
    )
    assert made.decision.order_effect == "rewrite" and made.decision.by == "rules"
    assert rendered(made.record, [0, 1, 2], 3) == (
        "<image><image><image>\nIf image 2 is the reference, which is nearer?",
        ["Image 3", "Image 1"],
        "A",
    )
    assert rendered(made.record, [1, 2, 0], 3) == (
        "<image><image><image>\nIf image 1 is the reference, which is nearer?",
        ["Image 2", "Image 3"],
        "A",
    )


def test_letters_follow_pictures_in_choices():
    made = curate(row("<image>Which has the same shape?\nA. <image>\nB. <image>", "B", 3, movable=(1, 2)))
    assert made.record["choices"] == ["<image:1>", "<image:2>"] and made.record["movable"] == [1, 2]
    assert rendered(made.record, [0, 2, 1], 3)[2] == "A"


@pytest.mark.parametrize(
    ("choices", "moved"),
    [
        (["the first image", "the second image"], ["the second image", "the third image"]),
        (["a cat", "a dog"], ["a cat", "a dog"]),
        (["<image>", "<image>", "<image>"], None),
    ],
)
def test_the_letter_of_a_choice_is_no_letter_of_an_image(choices, moved):
    """Where a choice's words follow their image its letter stays; where it shows the image, the letter goes with it."""
    record = curate(row("Which picture is older?", "B", 3, choices=choices, kind="choice")).record
    assert record["answer"] == "B"
    new = permute.render(permute.apply({**record, "images": list("abc")}, (2, 0, 1)))
    if moved:
        assert (new["choices"], new["answer"]) == (moved, "B")
    else:
        assert new["images"][ord(new["answer"]) - ord("A")] == "b"


@pytest.mark.parametrize(
    "question",
    ["(A) <image> (B) <image> (C) <image> Which one is darker?", "A. <image>\nB. <image>\nC. <image>\nWhich is it?"],
)
@pytest.mark.parametrize("choices", [("A", "B", "C"), ()])
def test_the_letter_before_a_slot_names_it(question, choices):
    made = curate(row(question, "B", 3, choices=choices))
    assert made.decision.order_effect == "rewrite"
    for order in itertools.permutations(range(3)):  # the letter of the place that shows the second image
        assert rendered(made.record, order, 3) == (question, list(choices), "ABC"[order.index(1)])


@pytest.mark.parametrize("choices", [("A", "B"), ()])
def test_an_image_without_a_letter_keeps_its_place_beside_lettered_ones(choices):
    made = curate(row("<image> is the model. (A) <image> (B) <image> Which one is closer?", "B", 3, choices=choices))
    sample = {**made.record, "images": list("abc")}
    assert (made.decision.order_effect, permute.movable_places(sample)) == ("rewrite", [1, 2])
    assert rendered(made.record, [0, 2, 1], 3)[2] == "A"


def test_names_of_slots_stay_and_mentions_follow():
    made = curate(row("Image 1: <image>\nImage 2: <image>\nIs Image 2 darker?", "Yes"))
    question = rendered(made.record, [1, 0], 2)[0]
    assert question == "Image 1: <image>\nImage 2: <image>\nIs Image 1 darker?"


def test_slots_at_the_end_go_to_the_front_and_slots_within_stay():
    assert curate(row("Is it red?<image><image>", "Yes")).record["question"] == "<image:0><image:1>\nIs it red?"
    assert curate(row("Is <image> like <image>?", "Yes")).record["question"] == "Is <image:0> like <image:1>?"
    assert curate(row("Is it red?", "Yes")).record["question"] == "<image:0><image:1>\nIs it red?"


def test_symbols_of_a_persons_own_are_kept():
    made = curate(row("<image:1><image:0>Is {image:1|lower} red, and image 1?", "Yes"))
    assert made.record["question"] == "<image:1><image:0>Is {image:1|lower} red, and image 1?"
    assert made.decision.order_effect == "fixed"  # "image 1" is a place that no symbol moves


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("Is image 3 red?", "Yes"), "names a missing image"),
        (row("<image:0><image:0>Is it?", "Yes"), "text and images do not fit"),
        (row("Is {image:5} red?", "Yes"), "text and images do not fit"),
        (row("Why so?", "It was raining, and the road was wet."), "answer cannot be checked by a rule"),
        (row("<image>Is it?", "Yes"), "slots"),
    ],
)
def test_left_out(bad, reason):
    assert isinstance(result := curate(bad), Rejected) and result.reason == reason


def test_what_the_source_knows_goes_first():
    made = curate(row("Is it red?", "Yes", order_effect="fixed", reason="frames of a film"))
    assert made.decision[1:5] == ("fixed", "frames of a film", 1.0, "given")
    assert curate(row("Is it red?", "Yes")).decision.order_effect == "invariant"


def test_a_letter_whose_choice_is_not_in_the_text_is_never_moved():
    made = curate(row("Look at image 1. Which letter is right for it: see the sheet.", "B", kind="choice"))
    assert made.decision.order_effect == "fixed"


def test_rephrasing_is_on_record():
    made = curate(row("Which image is older, and why?", "Image 2, since its paper is yellow."))
    assert made.decision.original == {
        "question": "Which image is older, and why?",
        "choices": [],
        "answer": "Image 2, since its paper is yellow.",
    }
    assert curate(row("Is it red?", "Yes")).decision.original is None


class Said:
    """What a language model says of a row."""

    reason = ""

    def __init__(self, order_effect, confidence=0.9, question="Is image 1 red?", answer="Yes", choices=(), kind="text"):
        self.order_effect, self.confidence, self.evidence = order_effect, confidence, "red"
        self.question, self.answer, self.choices, self.kind = question, answer, list(choices), kind


@pytest.mark.parametrize(
    ("said", "effect", "by"),
    [
        (Said("rewrite"), "rewrite", "model"),
        (Said("fixed"), "fixed", "model"),
        (Said("invariant"), "rewrite", "model"),  # its mention moves anyhow
        (Said("fixed", 0.5), "rewrite", "rules"),  # not sure enough
        (Said("rewrite", question="Is it red?"), "fixed", "model"),  # there is nothing to rewrite
        (Said("invariant", question="Is it the last red thing?"), "invariant", "model"),  # rules would say fixed
        (Said("rewrite", question="Is image 1 the first red one?"), "fixed", "model"),
    ],
)
def test_a_models_label_counts_as_far_as_symbols_carry_it_out(said, effect, by):
    made = curate(row("Is image 1 red?", "Yes"), said)
    assert (made.decision.order_effect, made.decision.by) == (effect, by), made.decision
    assert made.decision.model["order_effect"] == said.order_effect


def test_every_order_and_back_gives_the_record():
    made = curate(row("Which of images 1-3 is like the last picture, image 4? Image A is not.", "Image 2", 4))
    sample = {**made.record, "images": list(range(4))}
    for order in itertools.permutations(range(4)):
        assert permute.apply(permute.apply(sample, order), permute.inverse(order)) == sample
