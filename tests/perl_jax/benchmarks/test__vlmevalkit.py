"""Cases that VLMEvalKit's own function was run on."""

import pytest

from perl_jax.benchmarks import _vlmevalkit

LONG = "it shows what the question asks for, and the other ones show something else that nobody wants to see here"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        (r"\boxed{B}", "B"),
        (f"The answer is B because {LONG}", "B"),
        ("B. a dog", "B"),
        ("a dog", "B"),
        ("It is a dog", "B"),
        (f"The correct answer is **C**. Here is why: {LONG}", "C"),
        ("Z", "Z"),
        ("b", None),
        ("A or B", None),
        ("A cat and a dog", None),
        ("I choose B since A is wrong", None),
        ("", None),
        ("D", None),
        (LONG, None),
        ("答案是", None),
    ],
)
def test_the_letter_that_a_response_names(text, letter):
    assert _vlmevalkit.chosen_letter(text, ["a cat", "a dog", "a cow"]) == letter


def test_any_text_does_not_name_a_choice_of_nothing():
    for nothing in ("", " "):
        assert _vlmevalkit.chosen_letter("It's a dog", [nothing, "a dog"]) == "B"
        assert _vlmevalkit.chosen_letter("It's a cat", [nothing, "a dog"]) is None
