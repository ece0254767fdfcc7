"""References in plain words become symbols that give the words back, and follow their images wherever these go."""

import doctest
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perl_jax import permute, symbols
from perl_jax.curation import references
from perl_jax.curation.references import answer_to_symbols, label, to_symbols


def test_examples():
    result = doctest.testmod(references)
    assert result.attempted >= 5 and not result.failed


@pytest.mark.parametrize(("text", "count", "stored"), [
    ("Is Image 2 like image 1?", 2, "Is {image:1} like {image:0|lower}?"),
    ("In picture 2 or Photo #1, see image no. 3", 3,
     "In picture {image:1|number} or Photo #{image:0|number}, see image no. {image:2|number}"),
    ("images 1, 2, and 3 and images 1 & 2", 3,
     "images {image:0|number}, {image:1|number}, and {image:2|number} and images {image:0|number} & {image:1|number}"),
    ("images 1-3, images 2 to 3, pictures 1 through 2, images 1–2", 3,
     "images {images:0,1,2}, images {images:1,2|to}, pictures {images:0,1|through}, images {images:0,1|dash}"),
    ("the first and third images; the last picture; the 2nd photo", 3,
     "the {image:0|ordinal} and {image:2|ordinal} images; the {image:2|last} picture; the {image:1|nth} photo"),
    ("Second image? image two? the final one?", 4,
     "{image:1|Ordinal} image? image {image:1|numeral}? the {image:3|final} one?"),
    ("Image A, picture (B) and a picture", 2, "Image {image:0|letter}, picture ({image:1|letter}) and a picture"),
    ("The left image and the right-hand photo; Left picture; the image on the right", 2,
     "The {image:0|side} image and the {image:1|side}-hand photo; {image:0|Side} picture; "
     "the image on the {image:1|side}"),
    ("A. in the left image B. in the first image C. in the image A", 3,
     "A. in the left image B. in the {image:0|ordinal} image C. in the image {image:0|letter}"),
    # not references: past the images, parts of numbers, sides of a picture, of three images, one image
    ("image 4, image 2.5, image 12", 3, "image 4, image 2.5, image 12"),
    ("the dog on the left, the image on the left side", 2, "the dog on the left, the image on the left side"),
    ("the left image", 3, "the left image"),
    ("image 1", 1, "image 1"),
    ("the first man took a photo", 2, "the first man took a photo"),
    ("FIRST image, IMAGE TWO", 2, "FIRST image, IMAGE TWO"),
])  # fmt: skip
def test_to_symbols(text, count, stored):
    assert to_symbols(text, count) == stored
    assert symbols.words(stored, count) == text


@pytest.mark.parametrize(
    ("answer", "question", "stored"),
    [
        ("2", "Which image shows a cat?", "{image:1|number}"),
        ("2", "Which image shows 2 cats?", "{image:1|number}"),
        ("2", "How many of these images show a cat? Which image is best?", "2"),
        ("2", "What is the number in image 1?", "2"),
        ("B", "Which of the images shows a cat?", "{image:1|letter}"),
        ("(B)", "Which image shows a cat?", "({image:1|letter})"),
        ("B", "What letter is written there?", "B"),
        ("The second image", "Which image shows a cat?", "The {image:1|ordinal} image"),
        ("last", "Which picture shows a cat?", "{image:2|last}"),
        ("7", "Which image shows a cat?", "7"),
        ("1 and 3", "Which images show cats?", "{images:0,2|and}"),
        ("Image 1 and Image 3", "Which images show cats?", "{images:0,2|and}"),
        (
            "2, 1, 3",
            "Arrange the images from morning to night.",
            "{image:1|number}, {image:0|number}, {image:2|number}",
        ),
        ("B→A→C", "What is the right order?", "{image:1|letter}→{image:0|letter}→{image:2|letter}"),
        ("2, 1", "Arrange the images.", "2, 1"),
        ("A man", "Which image shows him?", "A man"),
    ],
)
def test_answers(answer, question, stored):
    assert answer_to_symbols(answer, question, 3) == stored


@pytest.mark.parametrize(
    ("choices", "stored"),
    [
        (
            ["the first", "The second one", "last"],
            ["the {image:0|ordinal}", "The {image:1|ordinal} one", "{image:2|last}"],
        ),
        (["1", "2", "3"], ["{image:0|number}", "{image:1|number}", "{image:2|number}"]),
        (["first", "2nd image", "none"], ["{image:0|ordinal}", "{image:1|nth} image", "none"]),
        # not all of them are references, or they may be something else
        (["1", "2", "4"], ["1", "2", "4"]),
        (["1", "2"], ["1", "2"]),
        (["first", "fifth"], ["first", "fifth"]),
        (["left", "right"], ["left", "right"]),
        (["A", "B", "C"], ["A", "B", "C"]),
    ],
)
def test_choices_that_are_references_alone(choices, stored):
    assert references.choices_to_symbols(choices, "Which of these images is darker?", 3) == stored
    assert references.choices_to_symbols(choices, "How many images are dark?", 3)[:1] == choices[:1]


@pytest.mark.parametrize(
    ("question", "choices", "answer", "effect", "evidence"),
    [
        ("Is {image:1|lower} darker?", [], "No", "rewrite", "image 2"),
        ("How many animals are there in total?", [], "4", "invariant", "no words"),
        ("Is one of the two darker than the other?", [], "Yes", "invariant", "no words"),
        ("What happens next?", [], "rain", "fixed", "next"),
        ("Does the first one look better?", [], "Yes", "fixed", "first"),
        ("Is the dog on the left?", [], "Yes", "fixed", "left"),
        ("What is in image 7?", [], "cat", "fixed", "image 7"),
        ("Which image, 1 or 3, is darker?", [], "{image:0}", "fixed", "1"),
        ("What do the images show?", [], "cat and dog", "fixed", "one after the other"),
        ("Which is it?", ["<image:1>", "<image:2>"], "A", "rewrite", "choices that are images"),
        ("Which image shows a cat?", ["A", "B", "C"], "B", "rewrite", "letters that name images"),
        ("Which shows a cat?", ["A", "B", "C"], "B", "fixed", "only letters"),
        ("Which image shows a cat?", ["A", "B"], "B", "fixed", "only letters"),
        (
            "Put the images in the right order",
            [],
            "{image:1|number}, {image:0|number}, {image:2|number}",
            "fixed",
            "right",
        ),
        (
            "Arrange the images in chronological order",
            [],
            "{image:1|number}, {image:0|number}, {image:2|number}",
            "rewrite",
            "2, 1, 3",
        ),
        ("Which of the following images shows a cat?", [], "{image:0}", "rewrite", "Image 1"),
        ("Choose from the following two options. Which of the following is blue?", [], "sky", "invariant", "no words"),
        ("What does the following image show?", [], "a cat", "fixed", "following"),
        ("In order to see it, is a lamp needed?", [], "Yes", "invariant", "no words"),
    ],
)
def test_labels_and_their_evidence(question, choices, answer, effect, evidence):
    result = label(question, choices, answer, 3)
    assert (result.order_effect, evidence in result.evidence) == (effect, True), result
    assert 0 < result.confidence <= 1
    assert label(question, choices, answer, 1).order_effect == "invariant"


WORDS = st.sampled_from([
    "image 1", "Image 2", "picture 3", "the first image", "the second and third photos", "images 1-3", "images 1 and 2",
    "the last picture", "image two", "Image B", "photo #2", "images 2 through 3", "is darker than", "left", "and",
    "not", "3 cats", "the left image", "image 9", "1st picture", "(A)", "image 2.5", "both images",
])  # fmt: skip


@given(st.lists(WORDS, max_size=6).map(" ".join), st.integers(2, 5))
def test_words_come_back_and_any_order_and_back_is_the_same(text, count):
    stored = to_symbols(text, count)
    assert symbols.words(stored, count) == text
    assert to_symbols(stored, count) == stored  # nothing within a symbol is taken for a reference
    for order in itertools.islice(itertools.permutations(range(count)), 0, None, 7):
        moved = symbols.move(stored, permute.inverse(order))
        assert symbols.move(moved, order) == stored
        at = permute.inverse(order)  # what was said of an image is said of it at its new place
        assert sorted(at[image] for image in symbols.mentioned(stored)) == sorted(symbols.mentioned(moved))


@given(
    st.sampled_from(
        [
            "{image:%d}",
            "{image:%d|lower}",
            "picture {image:%d|number}",
            "the {image:%d|ordinal} image",
            "the {image:%d|nth} photo",
            "image {image:%d|numeral}",
            "Image {image:%d|letter}",
        ]
    ),
    st.integers(0, 4),
)
def test_what_is_rendered_is_read_as_the_same_symbols(form, place):
    stored = f"Does {form % place} show a cat?"
    assert to_symbols(symbols.words(stored, 5), 5) == stored


def test_every_number_and_letter_of_a_list_is_a_mention():
    for text, places in (
        ("image 1 and 2", [0, 1]),
        ("image 1 or 2", [0, 1]),
        ("photo A, B or C", [0, 1, 2]),
        ("picture (1) and (3)", [0, 2]),
        ("Image II or Image III", [1, 2]),
        ("Image-2", [1]),
        ("Image_3", [2]),
        ("img2", [1]),
        ("Pic. 2", [1]),
        ("photo number 3", [2]),
        ("Which image, 1 or 3, is it?", [0, 2]),
        ("Which image between 1 and 2?", [0, 1]),
        ("images one, two and three", [0, 1, 2]),
        ("screenshot 2", [1]),
        ("image 1 and image 2", [0, 1]),
        ("image 1 and 2 dogs", [0]),
        ("the first of the pictures", [0]),
        ("picture a landscape", []),
        ("image 02", []),
        ("the image I took", []),
    ):
        stored = to_symbols(text, 3)
        assert symbols.mentioned(stored) == places, stored
        assert symbols.words(stored, 3) == text


# (a question about place {}, the words for each place); what is true of an image is asked of it wherever it is shown.
NAMED = (
    ("Is there a cat in {}?", ("image 1", "image 2", "image 3")),
    ("Is there a cat in {}?", ("Image-1", "Image-2", "Image-3")),
    ("Is there a cat in img{}?", ("1", "2", "3")),
    ("Is there a cat in Pic. {}?", ("1", "2", "3")),
    ("Is there a cat in photo {} or 9 cats?", ("A", "B", "C")),
    ("Is there a cat in Image {}, in image II or in image III?", ("I", "II", "III")),
    ("Is the {} picture a landscape?", ("first", "second", "third")),
    ("Is the {} of the photos a landscape?", ("first", "second", "third")),
    ("Which image shows it, {} or 3?", ("1", "2", "3")),
    ("Does chart {} show it?", ("1", "2", "3")),
    ("Does it look like the one in {}?", ("A", "B", "C")),
    ("Is it (A), or is it ({})?", ("A", "B", "C")),
    ("图{}中有猫吗？", ("1", "2", "3")),
    ("第{}张图里有猫吗？", ("一", "二", "三")),
    ("照片{}和照片A一样吗？", ("A", "B", "C")),
    ("{}里有猫吗？", ("上图", "中图", "下图")),
    ("Combien de chats dans l'image {} ?", ("1", "2", "3")),
    ("(A) <image:0> (B) <image:1> (C) <image:2> Is there a cat in {}?", ("A", "B", "C")),
    (
        "Image 1: <image:0>\nImage 2: <image:1>\nImage 3: <image:2>\nIs there a cat in {}?",
        ("Image 1", "Image 2", "Image 3"),
    ),
    ("Figure 2: <image:0> Figure 3: <image:1> Figure 4: <image:2> Is there a cat in figure {}?", ("2", "3", "4")),
    ("<image:0> Image 1 <image:1> Image 2 <image:2> Image 3. Is there a cat in {}?", ("Image 1", "Image 2", "Image 3")),
)


@pytest.mark.parametrize(("form", "names"), NAMED)
def test_a_question_is_asked_of_the_same_image_in_any_order_or_is_fixed(form, names):
    for place, order in itertools.product(range(3), itertools.permutations(range(3))):
        stored = to_symbols(form.format(names[place]), 3)
        effect = label(stored, [], "Yes", 3).order_effect
        assert effect in ("rewrite", "fixed")
        if effect == "rewrite" and symbols.mentioned(stored) == [place]:  # nothing else is named
            moved = symbols.words(symbols.move(stored, permute.inverse(order)), 3)
            assert moved == form.format(names[order.index(place)])


CAPTIONED = "Image 1: <image:0>\nImage 2: <image:1>\nWhich is darker?"
LETTERED = "(A) <image:0>\n(B) <image:1>\nWhich one is darker?"


@pytest.mark.parametrize("question", [CAPTIONED, LETTERED, "第一张图：<image:0>第二张图：<image:1>哪张图更暗？"])
def test_the_names_of_slots_stay_where_they_are(question):
    assert to_symbols(question, 2) == question


@pytest.mark.parametrize(
    ("question", "choices", "answer", "movable", "effect"),
    [
        (LETTERED, ["A", "B"], "B", None, "rewrite"),
        (LETTERED, [], "{image:1|letter}", None, "rewrite"),
        (LETTERED, ["A", "B", "Both"], "B", None, "fixed"),
        ("(A) <image:0> (B) <image:1> How many cats are in both?", [], "2", None, "invariant"),
        ("<image:0> is the model. (A) <image:1> (B) <image:2> Which is it?", ["A", "B"], "B", (1, 2), "rewrite"),
        ("(A) <image:0> a cat (B) <image:1> a dog. Which is it?", ["A", "B"], "B", None, "fixed"),
        ("(B) <image:0> (A) <image:1> Which is it?", ["A", "B"], "B", None, "fixed"),
        ("Is <image:0> darker than <image:1>?", [], "Yes", None, "fixed"),
        ("Before: <image:0> After: <image:1> Is it dark?", [], "Yes", None, "fixed"),
        ("{image:0}: <image:0> {image:1}: <image:1> Which is it?", [], "{image:0}", None, "fixed"),
        ("Look at <image:0> and <image:1>. Are both dark?", [], "Yes", None, "invariant"),
    ],
)
def test_text_at_the_images(question, choices, answer, movable, effect):
    count = len(symbols.SLOT.findall(question))
    assert label(question, choices, answer, count, movable).order_effect == effect


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which is the odd one out?", "C"),
        ("Who is taller?", "A"),
        ("Which one is darker?", "2"),
        ("Which is it?", "one"),
        ("Is {image:0} or {image:1} brighter?", "2"),
        ("Which picture shows it?", "the other one"),
        ("Where is it?", "B"),
        ("What is the number of the darker picture?", "2"),
        ("Name the animals.", "cat, dog and cow"),
        ("What are they doing?", "eating; sleeping; playing"),
    ],
)
def test_an_answer_that_may_name_an_image_is_fixed(question, answer):
    assert label(question, [], answer, 3).order_effect == "fixed"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How many of the images show a cat?", "2"),
        ("Do both pictures show the same man?", "Yes"),
        ("What is x?", "3"),
        ("None of the images shows a cat, does it?", "Yes"),
        ("Is it a cat in each image?", "No"),
        ("What letter is written on all of them?", "A"),
        ("Which gas is it, CO2 or H2O?", "CO2"),
        ("Is it a rising sun or a drop of water?", "a rising sun"),
        ("What is seen in the sky?", "sun and moon"),
        ("Is it so?", "Yes, as it is red, and it is round"),
        ("Are all photos of the same cat?", "Yes"),
    ],
)
def test_a_question_that_names_no_image_is_invariant(question, answer):
    assert label(question, [], answer, 3).order_effect == "invariant"


def test_what_speaks_of_images():
    for text in (
        "Is image 2 dark?",
        "What is in the picture?",
        "Which of these photos is it?",
        "What does the figure show?",
    ):
        assert references.speaks_of_images(text)
    for text in ("He took 3 photos a day. How many in 4 days?", "What is 3 + 4?", "A photo album costs $5."):
        assert references.speaks_of_images(text) is None
