"""The image or images that a long answer gives are read for sure, or there is a reason; never another image."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perl_jax.curation import image_answers
from perl_jax.curation.image_answers import ASKS_TWO, HEDGED, TASTE, UNCLEAR, requested
from perl_jax.data import Row

few = settings(max_examples=24)
pairs = st.permutations([1, 2, 3, 4]).map(lambda order: order[:3])


def read(question, answer, images=4):
    """The answer in short, or the reason why there is none."""
    found = requested(Row("1", [None] * images, question, answer, "mine"), answer)
    return found["answer"] if isinstance(found, dict) else found


def test_examples():
    assert doctest.testmod(image_answers).attempted >= 3 and not doctest.testmod(image_answers).failed


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which image shows a calm park?", "Image {0} shows a calm park, whereas image {1} shows a busy street."),
        ("Which image shows a calm park?", "Image {0} shows a calm park. Image {1} shows a street, image {2} a car."),
        ("Which image shows a calm park?", "Image {0} shows a calm park. In contrast, image {1} is a busy street."),
        ("Which image is brighter?", "Image {0} is brighter than image {1}."),
        ("Which image is brighter?", "Image {0} is brighter, as opposed to image {1}, which is dim."),
        ("Which image is brighter?", "While image {1} is dim, image {0} is brighter."),
        ("Which image shows a dog?", "Image {0} shows a dog, but image {1} does not."),
        ("Which image shows a dog?", "Image {1} does not show a dog, but image {0} does."),
        ("Which image shows no dog?", "Image {0} shows no dog, while image {1} shows one."),
        ("Which image does not show a dog?", "Images {1} and {2} show dogs, but image {0} does not."),
        (
            "If the man from image {1} went swimming, which image would he be in?",
            "The man from image {1} fits image {0}.",
        ),
        ("Which other image could fit to image {1}?", "Image {1} could be paired with image {0}."),
        ("Comparing image {0} and image {1}, which image is brighter?", "Image {0} is brighter than image {1}."),
        ("Considering the cats of image {1} and the cat of image {0}, which image is calmer?", "Image {0} is calmer."),
        ("Which image is older, image {1} or image {0}, and why?", "Image {0} is older, as it shows a horse."),
        ("Which image shows a dog, and what is its name?", "Image {0} shows a dog. Its name is Rex."),
    ],
)
@few
@given(pairs)
def test_one_image_is_read_beside_others(question, answer, places):
    assert read(question.format(*places), answer.format(*places)) == f"Image {places[0]}"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which image is brighter?", "Image {0} is bright, while image {1} is brighter."),
        ("Which image is brighter?", "Image {0} is dark, while image {1} is bright."),
        ("Which image is brighter?", "Image {0} is darker, whereas image {1} is brighter."),
        ("Which image is more calm?", "Image {0} is more busy, whereas image {1} is more calm."),
        ("Which image is brighter?", "Image {0} is bright. However, image {1} is brighter."),
        ("Which image is brighter?", "Image {0} is less bright than image {1}."),
        ("Which image shows a dog?", "Image {0} shows a dog. Image {1} also shows a dog."),
        ("Which image shows a dog?", "Image {0} shows a dog but image {1} shows a cat."),
        ("Which image shows a dog?", "Both image {0} and image {1} show a dog."),
        ("Which image shows a dog?", "Image {0} or image {1} shows a dog."),
        ("Which image shows a dog?", "Image {0} does not show a dog."),
        ("Which image shows a dog?", "All images except image {0} show a dog."),
        ("Which image shows a dog?", "Image {0} could show a dog."),
        ("Which image shows a dog?", "Image {0} shows a dog, somewhat like that of the song."),
        ("Which image is like image {0}?", "It is image {0} itself."),
        ("Which image is like image {0}?", "Image {0} is like a dream."),
        ("Which other image is as bright as image {0} or image {1}?", "Image {0} is the brightest."),
        ("Compared with image {0}, which image is brighter?", "Image {0} is brighter than image {1}."),
        ("Which image pairs fit?", "Image {0} fits image {1}."),
        ("Which image is new and which is old?", "Image {0} is new and image {1} is old."),
        ("Considering images {0}, {1} and {2}, which image is red?", "The lamp in image {0} is red."),
    ],
)
@few
@given(pairs)
def test_an_image_that_is_not_sure_is_not_read(question, answer, places):
    assert read(question.format(*places), answer.format(*places)) in (ASKS_TWO, HEDGED, UNCLEAR, None)


def test_all_images_but_one_are_denied_or_given():
    assert read("Which image shows a dog?", "Images 1 and 3 do not show a dog.", 3) == "Image 2"
    assert read("Which image shows a dog?", "Images 1 and 3 do not show a dog.", 4) == UNCLEAR
    assert read("Which image shows the man of image 1?", "Image 3 doesn't.", 3) == "Image 2"


@few
@given(st.sets(st.integers(1, 5), min_size=2, max_size=3))
def test_a_set_is_read_without_what_is_no_part_of_it(numbers):
    *others, last = sorted(numbers)
    listed = f"{', '.join(map(str, others))} and {last}"
    count = {2: "two ", 3: "three "}[len(numbers)]
    begun = " ".join(f"Image {number} shows a pet at home." for number in sorted(numbers))
    for counted in ("", count):
        question = f"Which {counted}images show pets, and what are they?"
        for answer in (
            f"Images {listed} show pets.",
            f"Images {listed}, which are old, show pets, as opposed to including the outdoor setting of Image 6.",
            f"Image 6 does not show pets, but images {listed} do.",
            f"Unlike image 6, images {listed} show pets.",
            f"Images {listed} show pets. Image {last} shows a cat.",
            begun,
        ):
            assert read(question, answer, 6) == listed
        assert read(question, f"Images {listed} show pets, while image 6 shows them, too.", 6) == (
            listed if counted else UNCLEAR
        )
        assert read(question, f"All but images {listed} show pets.", 6) == UNCLEAR


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Which two images could be paired?", "Images 1 and 3 could be paired.", TASTE),
        ("Which two images would you choose, and why?", "Images 1 and 3.", TASTE),
        ("Which two images might fit?", "1, 3", TASTE),
        ("Which images can be used by a guide?", "Images 1 and 3 show maps.", TASTE),
        ("Which two images can be used to teach?", "Images 1 and 3 can be used to teach.", TASTE),
        ("Which two images show animals that can fly?", "Images 1 and 3 show birds.", "1 and 3"),
        ("Which two images best show calm?", "Images 1 and 3 show calm.", TASTE),
        ("Which images show joy?", "Image 1 and image 3 show joy, although not for all.", HEDGED),
        ("Which images show shirts?", "Images 1 and 3 do; the text doesn't specify the kind.", HEDGED),
        ("Which images show cats?", "Images 1 and 3 show cats, image 2 a dog.", UNCLEAR),
        ("Which images show a beach?", "Image 1 shows a beach, while image 2 shows a wood.", UNCLEAR),
        ("Which images show a beach?", "Image 1 shows a beach, image 2 shows a wood.", UNCLEAR),
        ("Which images show a beach?", "Image 1 shows a beach, while image 2 shows a stony beach.", "1 and 2"),
        ("Which images show a cat?", "Images 1 and 4 show one, with the exception of image 3.", "1 and 4"),
        ("Which two of these pictures could be paired?", "Pictures 1 and 3.", TASTE),
        ("Which two of these pictures show cats?", "Pictures 1 and 3 do.", "1 and 3"),
        ("Which two could be paired?", "1 and 3", TASTE),
        ("Which images show joy?", "Image 1 shows joy. Image 3 shows a tree.", UNCLEAR),  # nothing of joy
        ("Which images give shelter?", "Image 1 gives none. Image 3 gives shelter, which is not free.", UNCLEAR),
        ("Which two images fit?", "Images 1, 2 and 3 fit well together.", UNCLEAR),
        ("Which images are like image 1?", "Images 1 and 2 are.", UNCLEAR),
        ("Which images go with each theme?", "Images 1 and 2 do.", UNCLEAR),
        ("Which images fit?", "One fits in part. Image 1 and image 2 fit.", HEDGED),
        ("Which images fit?", "Image 7 and image 2 fit.", UNCLEAR),  # there is no image 7
        ("What is red, and which images show it?", "Images 1 and 2 do.", ASKS_TWO),
    ],
)
def test_why_a_set_is_not_read(question, answer, reason):
    assert read(question, answer) == reason


def test_a_wish_before_the_question_is_no_matter_of_taste():
    assert read("If it could rain, which two images show shelter, and why would they?", "1 and 3 do.") is None
    assert (
        read("If it could rain, which two images show shelter, and why would they?", "Images 1 and 3 do.") == "1 and 3"
    )
    assert read("Which image would show it?", "Image 2 would.") == "Image 2"


def test_other_questions_are_left_to_other_rules():
    assert read("How many images show a dog?", "Image 2 does.") is None
    assert read("Is there a dog, and which image shows it?", "Yes, image 2.") is None
