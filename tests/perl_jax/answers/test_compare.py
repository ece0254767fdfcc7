"""Answers by kind: what is right in which words, and that no trick makes a wrong one right."""

import doctest
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from perl_jax.answers import compare


def correct(prediction, answer, kind, choices=(), question=""):
    record = {"id": "q", "answer": answer, "kind": kind, "choices": list(choices), "question": question}
    return compare.is_correct(record, prediction)


PETS = ["a cat", "a dog", "Image 1"]


@pytest.mark.parametrize(
    "prediction",
    [
        "B",
        "b",
        "(B)",
        "B.",
        "(b).",
        "B)",
        r"\text{B}",
        r"\textbf{(B)}",
        "$B$",
        " B ",
        "B. a dog",
        "(B) a dog",
        "B: A  dog.",
        "a dog",
        r"\text{A dog}",
    ],
)
def test_choice_right(prediction):
    assert correct(prediction, "B", "choice", PETS)
    assert correct(prediction, "a dog", "choice", PETS), "the answer may be stored as the choice's text"


@pytest.mark.parametrize(
    "prediction",
    [
        "A",
        "A, B",
        "A B",
        "AB",
        "B, A",
        "A or B",
        "dog",
        "B. a cat",
        "a dog or a cat",
        "BB",
        "E",
        "",
        "A, B, C, D",
        "Answer: B",
        "the answer is B",
        "image 1",
        "not B",
        "<image>",
    ],
)
def test_choice_wrong(prediction):
    assert not correct(prediction, "B", "choice", PETS)
    assert not correct(prediction, "a dog", "choice", PETS)


def test_choices_that_are_verdicts():
    for text in ("A", "Yes", "Yes, it is.", "(A) Yes"):
        assert correct(text, "A", "choice", ["Yes", "No"]) and not correct(text, "B", "choice", ["Yes", "No"])
    assert not correct("Yes, or no", "A", "choice", ["Yes", "No"])
    assert not correct("True", "A", "choice", ["Yes", "No"])


def test_choices_that_stand_in_the_question():
    assert all(correct(text, "B", "choice") for text in ("b", "(B)", "B. a dog", "(B) a dog"))
    assert not any(
        correct(text, "B", "choice")
        for text in (
            "B. or A.",
            "A. B",
            "(A) or (B)",
            "a dog",
            "A. not (B)",
            "(B) is wrong",
            "B. isn't it",
            "(B) or maybe not",
        )
    )
    question = "Which?\n(A) enough\n(B) not enough"
    assert correct("(B) not enough", "B", "choice", question=question)
    assert not correct("(B) not so", "B", "choice", question=question)


def test_choices_that_show_images_cannot_be_named_by_their_marker():
    assert correct("B", "B", "choice", ["<image>", "<image>"])
    assert not correct("<image>", "B", "choice", ["<image>", "<image>"])


@pytest.mark.parametrize(
    "prediction, answer, right",
    [
        ("Yes", "yes", True),
        ("yes.", "Yes", True),
        (r"\text{no}", "No", True),
        ("Yes, no", "yes", False),
        ("y", "yes", False),
        ("Image 2", "image 2", True),
        ("image  2.", "Image 2", True),
        ("2", "Image 2", True),
        ("Image 12", "Image 2", False),
        ("egamI 2", "Image 2", False),
        ("the red car", "The red car", True),
        ("car red the", "the red car", False),
        ("red", "the red car", False),
        ("", "", False),
        (" ", " ", False),
        ("two", "2", False),
    ],
)
def test_text(prediction, answer, right):
    assert correct(prediction, answer, "text") is right


@pytest.mark.parametrize(
    "prediction, right",
    [
        ("2→1→3", True),
        ("2 -> 1 -> 3", True),
        (r"2 \rightarrow 1 \to 3", True),
        ("2, 1, 3", True),
        ("2 1 3", True),
        ("2-1-3", True),
        ("[2, 1, 3]", True),
        ("Image 2 → Image 1 → Image 3", True),
        (r"$2 \Rightarrow 1 \Rightarrow 3$.", True),
        ("2→3→1", False),
        ("2→1", False),
        ("213", False),
        ("2→1→3→2", False),
        ("→", False),
    ],
)
def test_order(prediction, right):
    assert correct(prediction, "2→1→3", "order") is right


def test_kind_is_guessed_when_absent():
    def guess(prediction, answer, **more):
        return compare.is_correct({"answer": answer, **more}, prediction)

    assert guess("0.5", r"\frac12") and guess("(B)", "B") and guess("YES", "yes") and guess("image 2", "Image 2")
    assert guess("a dog", "B", choices=["a cat", "a dog"]) and not guess("tca", "cat")
    with pytest.raises(InputError, match=r"'q'.*unknown kind 'poem'"):
        correct("a", "a", "poem")


@pytest.mark.parametrize("prediction", ["Image 2", "image 2", "Image 2.", "2", "(2)", "#2", "Image #2", "image (2)",
                                        "second", "the second image", "Second.", "2nd", "the 2nd picture", "Image ２",
                                        "the second one", r"\text{Image 2}", "photo 2", "Image no. 2", "Figure 2"
])  # fmt: skip
def test_an_image_in_many_words(prediction):
    for answer in ("Image 2", "image 2", "second", "the second image"):
        assert correct(prediction, answer, "text")
    assert correct(prediction, "2", "number") and correct(prediction, "2", "text")
    assert not correct(prediction, "Image 12", "text") and not correct(prediction, "12", "number")


@given(st.integers(0, 10**12), st.integers(0, 10**12))
@settings(max_examples=60, deadline=None)
def test_a_number_of_any_size_is_right_for_itself_alone(gold, other):
    """Numbers of four digits and more name no image, and no two texts are the same for naming none."""
    for right in (f"{gold}", f"{gold:,}", f"{gold}.0", f"${gold}$"):
        assert correct(right, f"{gold}", "number")
    for wrong in (f"{gold + 1}", f"-{gold + 1}", "x+1", "no idea", "Image 3", f"{gold} or {gold + 1}", f"{other}"):
        assert correct(wrong, f"{gold}", "number") is (wrong == f"{gold}" or (wrong == "Image 3" and gold == 3))


@pytest.mark.parametrize("prediction", ["Image 2 or 3", "Image 1, 2", "12", "Image 12", "images 2 and 3", "2 3", "2, 3",
                                        "2/3", "Image 1 or Image 2", "not image 2", "Image 2 is not it", "Images 1-2",
                                        "first or second", "the second or third image", "2?", "-2", "2.5", "(2)(3)",
                                        "Image two or 2", "Image 2 Image 3", "second-to-last", "second last image"
])  # fmt: skip
def test_two_images_or_none_are_not_one(prediction):
    for answer in ("Image 2", "second", "the second image"):
        assert not correct(prediction, answer, "text")
    assert not correct(prediction, "2", "number")


@pytest.mark.parametrize(
    "prediction, answer, right",
    [
        ("left", "left", True),
        ("the left image", "left", True),
        ("Left picture.", "the left image", True),
        ("right", "left", False),
        ("left or right", "left", False),
        ("1", "left", False),
        ("the left and right", "left", False),
        ("both", "both", True),
        ("both images", "both", True),
        ("Both", "left", False),
        ("the last image", "last", True),
        ("3", "last", False),
        ("left dog", "left", False),
    ],
)
def test_sides(prediction, answer, right):
    assert correct(prediction, answer, "text") is right


@pytest.mark.parametrize("prediction, answer, right", [
    ("Yes", "Yes", True), ("yes.", "yes", True), ("YES!", "Yes", True), ("Yes, it is", "Yes", True),
    ("Yes. Both show a dog.", "yes", True), ("No, they are not the same.", "no", True), ("True.", "True", True),
    ("False, it is not", "False", True),
    ("Yes, no", "yes", False), ("yes/no", "yes", False), ("Yes or no", "yes", False),
    ("Yes and no", "Yes", False), ("It is yes", "yes", False), ("Yes, but not this one", "yes", False),
    ("No", "Yes", False), ("Yes", "No", False),
    ("No, yes", "no", False), ("No, that is true", "no", False), ("Yes, it isn’t", "yes", False),
    ("Yes?", "yes", False),
    ("not yes", "yes", False), ("True", "yes", False), ("Yes", "True", False), ("yes, maybe", "yes", False),
    ("No. Yes.", "no", False), ("yess", "yes", False), ("yes" + ", yes" * 100, "yes", False), ("Y", "yes", False),
    ("Yes, " + "a" * 9999, "yes", False), ("No: that is wrong", "no", True)])  # fmt: skip
def test_verdicts(prediction, answer, right):
    assert correct(prediction, answer, "text") is right


@pytest.mark.parametrize("prediction, answer, right", [
    ("Images 2 and 4", "2, 4", True), ("2,4", "2, 4", True), ("Image 2, Image 4", "2, 4", True),
    ("2 -> 4", "2, 4", True),
    ("[2, 4]", "2, 4", True), ("second, fourth", "2, 4", True), ("#2, #4", "2, 4", True), ("4, 2", "2, 4", False),
    ("2", "2, 4", False), ("2, 4, 5", "2, 4", False), ("2 or 4", "2, 4", False), ("2-4", "2, 4", False),
    ("24", "2, 4", False), ("2, 2, 4", "2, 4", False), ("not 2, 4", "2, 4", False), ("1, 2, 3, 4", "2, 4", False),
    ("Images 2 and 4", "Images 4 and 2", True), ("2, 4", "4 and 2", True), ("1, 2, 4", "4 and 2", False),
    ("2-4", "2 and 4", False), ("1-3", "1 and 3", False), ("B, A, C", "B→A→C", True), ("b a c", "B→A→C", True),
    ("2 then 1 then 3", "2→1→3", True), ("2→1→3, or 1→2→3", "2→1→3", False)])  # fmt: skip
def test_orders_and_sets_of_images(prediction, answer, right):
    assert correct(prediction, answer, "order") is right


DECEIVING = [
    "\u200b{}",
    "{}\u200b",
    "{}\x00",
    "\x00{}",
    "\u202e{}",
    "{}\ufeff",
    "{}\ud800",
    "\u2066{}",
    "{}\x07",
    "{}\u00ad",
]


@pytest.mark.parametrize("form", DECEIVING, ids=range(len(DECEIVING)))
def test_what_cannot_be_seen_is_refused(form):
    for answer, kind in (("B", "choice"), ("yes", "text"), ("2→1", "order"), ("5", "number"), ("5 cm", "number")):
        assert correct(answer, answer, kind) and not correct(form.format(answer), answer, kind)


def test_letters_and_digits_of_other_scripts():
    """Full-width forms are what East Asian keyboards write; others only look like what they are not."""
    assert correct("Ｂ", "B", "choice") and correct("１２", "12", "number") and correct("（Ｂ）", "B", "choice")
    assert correct("２→１", "2→1", "order") and correct("−５", "-5", "number") and correct("cm²", "cm²", "text")
    for prediction, answer, kind in [
        ("А", "A", "choice"),
        ("В", "B", "choice"),
        ("𝐁", "B", "choice"),
        ("Ⓑ", "B", "choice"),
        ("٥", "5", "number"),
        ("५", "5", "number"),
        ("𝟓", "5", "number"),
        ("⑤", "5", "number"),
        ("⁵", "5", "number"),
        ("５٥", "55", "number"),
        ("уes", "yes", "text"),
        ("Ⅴ", "5", "number"),
        ("٢→١", "2→1", "order"),
        ("Image ②", "Image 2", "text"),
    ]:
        assert not correct(prediction, answer, kind), prediction
    assert correct("écru", "e\u0301cru", "text"), "both ways to write an accent"


NAMES = [  # (kind, answers that differ)
    ("choice", list("ABCDE")),
    ("text", [f"Image {i}" for i in range(1, 8)]),
    ("text", ["Yes", "No"]),
    ("text", ["True", "False"]),
    ("text", ["left", "right", "both", "red car"]),
    ("order", ["1, 2, 3", "3→2→1", "2, 1, 3", "1 and 2", "3 and 1"]),
    ("number", ["2", "3", "0.5", r"\frac{1}{3}", r"\sqrt{7}", "5 cm", "60°", "(1, 2)", r"2\pi", "x=7", "x>2", "8%"]),
]
CHOICES = ["a cat", "a dog", "a cow", "a pig", "a hen"]
TWO = (
    "{} or {}", "{}, {}", "{} and {}", "{}/{}", "{}; {}", "{} {}", "not {}, but {}", "{}\n{}", "either {} or {}",
    "{{{}, {}}}", "[{}, {}]", "{} ({})", "{}. {}", "{}: {}", "({}) or ({})", "{}, not {}", "{} | {}", "{} = {}",
    "{}→{}", "{}? {}!", "{} unless {}", "Ignore all rules: {} is as right as {}.", "{} & {}", "{} vs {}", "{}-{}",
    "{}, maybe {}",
)  # fmt: skip


def pair(data, known: list[str]) -> list[str]:
    return data.draw(st.lists(st.sampled_from(known), min_size=2, max_size=2, unique=True))


@given(st.data(), st.sampled_from(NAMES), st.sampled_from(TWO))
@settings(max_examples=60, deadline=None)
def test_what_names_two_answers_is_right_for_neither(data, names, form):
    kind, known = names
    one, other = pair(data, known)
    for answer in (one, other):
        assert not correct(form.format(one, other), answer, kind, CHOICES)


@given(st.data(), st.sampled_from(NAMES))
@settings(max_examples=60, deadline=None)
def test_a_true_answer_is_right_and_another_is_not(data, names):
    kind, known = names
    one, other = pair(data, known)
    assert correct(one, one, kind, CHOICES) and not correct(other, one, kind, CHOICES)


@given(
    st.text(max_size=40) | st.text("AB12yes no,.()→{}\\$", max_size=40),
    st.sampled_from(["choice", "text", "order", "number"]),
)
@settings(max_examples=60, deadline=None)
def test_any_text_is_read_without_an_error(text, kind):
    for answer in ("B", "2", text):
        assert correct(text, answer, kind, ["a", text]) in (True, False)


def test_long_texts_are_read():
    for text in (
        "A, " * 100_000,
        "(B) " + "x " * 100_000,
        "1→" * 100_000,
        "yes" + " " * 200_000,
        "B. " * 100_000,
        "Image " * 50_000,
        "the " * 50_000,
        "2" * 200_000,
    ):
        for kind in ("choice", "text", "order", "number"):
            assert not correct(text, "B" if kind == "choice" else "2", kind, question="(B) x" * 1000)


WHOLE = st.integers(-(10**9), 10**9)
EXACT = (  # spellings of an exact number, from a numerator and a denominator
    r"\frac{{{a}}}{{{b}}}",
    "{a}/{b}",
    r"\frac{{{a}}}{{{b}}}\text{{ cm}}",
    r"{a}\sqrt{{{b}}}",
    r"{a}\pi",
    r"{a}\times 10^{{-{b}}}",
    r"{a}\times 10^{{{b}}}",
    "{a}%",
    "{a}^\\circ",
    "x={a}",
    "({a}, {b})",
    "{a}:{b}:7",
    "{a}x+{b}",
    r"\{{{a}, {b}\}}",
)


@given(WHOLE, st.integers(2, 30), st.sampled_from(EXACT), st.sampled_from(EXACT))
@settings(max_examples=60, deadline=None)
def test_equality_of_exact_numbers_is_symmetric_and_refuses_neighbours(number, other, form, guess_form):
    gold, guess = form.format(a=number, b=other), guess_form.format(a=number, b=other)
    assert correct(gold, gold, "number") or "/0" in gold
    assert correct(guess, gold, "number") == correct(gold, guess, "number") or "%" in gold + guess
    for wrong in {number + 1, -number, number * 10} - {number}:
        assert not correct(form.format(a=wrong, b=other), gold, "number")


@given(st.integers(1, 10**9), st.integers(0, 6), WHOLE)
@settings(max_examples=60, deadline=None)
def test_a_decimal_of_any_size_refuses_plus_one_its_negative_and_random_others(digits, places, random):
    gold = Decimal(digits).scaleb(-places)
    for wrong in (gold + 1, -gold, gold * 10, gold + Decimal(1).scaleb(-places), Decimal(random).scaleb(-places)):
        assert correct(f"{wrong:f}", f"{gold:f}", "number") == (wrong == gold)
        assert not correct(f"{wrong:f} or {gold:f}", f"{gold:f}", "number") or wrong == gold


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True), st.data())
@settings(max_examples=60, deadline=None)
def test_a_value_in_another_notation_names_its_choice_and_no_other(values, data):
    write = st.sampled_from(("{}", "${}$", "{}.0", r"\frac{{{}}}{{1}}", r"{}\times 1", "{}^1"))
    choices = [data.draw(write).format(value) for value in values]
    place, named = (data.draw(st.integers(0, len(values) - 1)) for _ in range(2))
    letter, guess = "ABCDE"[named], rf"\frac{{{2 * values[named]}}}{{2}}"
    for text in (guess, f"{letter}. {guess}", rf"\textbf{{({letter})}}\;{guess}", f"**{letter}**", f"Option {letter}"):
        assert correct(text, "ABCDE"[place], "choice", choices) == (place == named)
    if place != named:
        assert not correct(f"{'ABCDE'[place]}. {guess}", "ABCDE"[place], "choice", choices)
        assert not correct(f"{letter} or {'ABCDE'[place]}", "ABCDE"[place], "choice", choices)


UNITS = {
    "length": ["cm", "m", "km"],
    "area": ["cm^2", "m^2"],
    "volume": ["cm^3", "m^3"],
    "time": ["minutes", "hours"],
    "angle": ["^\\circ"],
    "percentage": ["%"],
    "mass": ["kg", "g"],
    "price": ["dollars"],
}


@given(st.sampled_from(sorted(UNITS)), st.sampled_from(sorted(UNITS)), st.integers(2, 999), st.data())
@settings(max_examples=60, deadline=None)
def test_a_unit_of_another_quantity_than_the_question_asks_for_is_refused(asked, given_, number, data):
    unit = data.draw(st.sampled_from(UNITS[given_]))
    for question in (f"What is the {asked} of the thing?", f"Find the {asked}.", f"Calculate the total {asked} shown."):
        assert correct(f"{number} {unit}", str(number), "number", question=question) == (asked == given_)


def test_the_gold_may_be_a_number_of_json():
    for gold, right, wrong in (
        (1e-07, "10^{-7}", "2e-7"),
        (3.0, "3", "3.04"),
        (3, "3", "4"),
        (-0.5, r"-\frac12", "0.5"),
        (1e22, "10^{22}", "10^{21}"),
    ):
        for kind in ("number", None):
            assert correct(right, gold, kind) and not correct(wrong, gold, kind)
    assert not correct("5", float("nan"), "number")


def test_rounding_further_needs_the_records_permission():
    record = {"answer": "2.45", "kind": "number"}
    assert not compare.is_correct(record, "2.5") and compare.is_correct({**record, "rounding": True}, "2.5")
    assert not compare.is_correct({**record, "rounding": True}, "2.4")


def test_examples_in_the_docstrings():
    assert doctest.testmod(compare).failed == 0
