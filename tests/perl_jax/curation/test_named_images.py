"""How an answer means each image that it names: as asked, in a contrast, denied, or not clear."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perl_jax.curation import named_images
from perl_jax.curation.named_images import sentences


def test_examples():
    assert doctest.testmod(named_images).attempted >= 3 and not doctest.testmod(named_images).failed


def only(answer, count=4):
    (sentence,) = sentences(answer, count)
    return sentence


few = settings(max_examples=12)
pairs = st.permutations([1, 2, 3, 4]).map(lambda order: order[:2])


@pytest.mark.parametrize(
    ("field", "form"),
    [
        ("apart", "Image {0} fits, as opposed to image {1}."),
        ("apart", "Image {0} fits, as opposed to the outdoor setting of image {1}."),
        ("apart", "Unlike image {1}, image {0} fits."),
        ("apart", "Compared to image {1}, image {0} fits."),
        ("apart", "Image {0}, unlike image {1}, fits."),
        ("apart", "It is image {0} rather than image {1}."),
        ("apart", "Image {0} is brighter than image {1}."),
        ("apart", "In contrast to image {1}, image {0} fits."),
        ("apart", "Image {0} fits, with the exception of image {1}."),
        ("apart", "Image {0}, excluding image {1}."),
        ("apart", "Although image {1}, with its lamp, comes close, image {0} fits."),
        ("apart", "Image {0} fits, although image {1} comes close."),
        ("beside", "While image {1} is dark, image {0} fits."),
        ("beside", "Image {0} fits, whereas image {1} is dark."),
        ("beside", "Image {0} fits while image {1} is dark."),
        ("denied", "Image {1} does not fit, but image {0} does."),
        ("denied", "Image {0} fits, but image {1} doesn't."),
        ("denied", "Image {0}, not image {1}."),
        ("denied", "Not image {1} but image {0}."),
        ("denied", "Image {1} has no lamp; image {0} fits."),
        ("denied", "There is no lamp in image {1}, so image {0} fits."),
        ("denied", "Image {1} lacks a lamp; image {0} fits."),
        ("denied", "Image {1} isn’t it; image {0} is."),
        ("denied", "The {1}th image cannot be it; the {0}th image fits."),
        ("unclear", "It is image {0} rather than the busy, loud scene of image {1}."),
    ],
)
@few
@given(pairs)
def test_only_the_image_that_is_meant_is_named(field, form, pair):
    sentence = only(form.format(*pair))
    assert sentence.named == {pair[0]}
    assert getattr(sentence, field) == {pair[1]} and sentence.images == set(pair)


@given(st.sets(st.integers(1, 6), min_size=2, max_size=5), st.booleans(), st.sampled_from([" and ", ", and "]))
def test_a_list_is_named_as_a_whole_and_contrasted_as_a_whole(numbers, each, last_and):
    *others, last = [f"image {number}" if each else str(number) for number in sorted(numbers)]
    text = ("" if each else "images ") + ", ".join(others) + last_and + last
    assert only(f"{text[0].upper() + text[1:]} fit.", 7).named == numbers
    apart = only(f"Image 7 fits, as opposed to {text}.", 7)
    assert (apart.named, apart.apart) == ({7}, numbers)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("The second image fits.", {2}),
        ("Picture 3 fits.", {3}),
        ("Not only image 1 but also image 2 fits.", {1, 2}),
        ("Images 1-3 fit.", {1, 2, 3}),
        ("Image 1 shows a man who does not smile.", {1}),
        ("Image 1 or image 2 fits.", set()),
        ("Neither image 1 nor image 2 fits.", set()),
        ("All images but image 2 fit.", set()),
        ("In contrast, image 1 is dark.", set()),
        ("Image 2, on the other hand, is dark.", set()),
        ("None of the images fit except image 2.", set()),
    ],
)
def test_what_is_named(answer, named):
    assert only(answer).named == named


def test_a_list_after_a_contrast_that_opens_a_sentence():
    for opening in ("Unlike image 3", "While in image 3 it rains", "Compared to the park of image 3"):
        sentence = only(f"{opening}, images 1 and 2 fit.")
        assert (sentence.named, sentence.images) == ({1, 2}, {1, 2, 3})
    assert only("Unlike image 1, image 2 and image 3, image 4 fits.").named == {4}
    assert only("Unlike images 1 and 2, images 3 and 4 fit.").named == {3, 4}
    assert only("Unlike image 4, images 1, 2 and 3 fit.").named == {1, 2, 3}


def test_what_is_not_read():
    for answer in ("Image 7 fits.", "In image 1, 2 dogs play.", "Image 2 or 3 fits.", "The former fits."):
        assert sentences(answer, 4) is None


def test_sentences_are_read_one_by_one():
    said = sentences("Image 2 fits. In contrast, image 1 is 3.5 m high. Both images are new.", 2)
    assert [(s.named, s.apart) for s in said] == [({2}, set()), (set(), {1}), (set(), set())]
    assert [s.of_all for s in said] == [False, False, True]
