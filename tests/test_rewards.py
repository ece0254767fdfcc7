"""The boxed reward: exact rules for words, math-verify for mathematics, no point for a guess."""

import doctest
import re
import subprocess
import sys
import time

import pytest

from models.errors import InputError
from perl_jax import rewards
from perl_jax.rewards import boxed


def correct(prediction, answer, kind, choices=()):
    return boxed.is_correct({"id": "q", "answer": answer, "kind": kind, "choices": list(choices)}, prediction)


MATHS_EQUAL = [line.split("|") for line in r"""
5 cm|5
5\text{ cm}|5
60^\circ|60
60°|60
50\%|50
1/2|\frac12
0.5|\frac12
\dfrac{3}{4}|\frac34
3.0|3
2\sqrt3|\sqrt{12}
x=5|5
AB=5|5
1,000|1000
\$5|5
$5$|5
\(5\)|5
5.|5
−5|-5
1\frac12|1.5
x^2+2x+1|(x+1)^2
0.333333|1/3
1,2|2,1
[2,\infty)|[2,+\infty)
a(b+c)|ab+ac
1.5\times10^3|1500
1:2|1/2
\ln e|1
12\pi|12π""".strip().splitlines()]

MATHS_DIFFERENT = [line.split("|") for line in r"""
3.14|\pi
0.333|1/3
(1,2)|[1,2]
(1,2)|(2,1)
120^\circ|2\pi/3
k>1|x>1
1,2|2
1 or 2|2
1$ or $2|2
\(1\) \(2\)|2
2, 3, 4|3
12|2
0.30|3
A|2
5|\frac{
5|
|5
x|x \frac{""".strip().splitlines()]


@pytest.mark.parametrize("prediction, answer", MATHS_EQUAL)
def test_equal_mathematics(prediction, answer):
    assert correct(prediction, answer, "number")


@pytest.mark.parametrize("prediction, answer", MATHS_DIFFERENT)
def test_different_mathematics_and_what_cannot_be_parsed(prediction, answer):
    assert not correct(prediction, answer, "number")


def test_a_long_answer_is_never_parsed():
    start = time.monotonic()
    assert not correct("5" + "+0" * 200_000, "5", "number")
    assert not correct("(" * 5000, "5", "number")
    assert not correct("9" * 100_000, "5", "number")
    assert time.monotonic() - start < 1


PETS = ["a cat", "a dog", "Image 1"]


@pytest.mark.parametrize("prediction", ["B", "b", "(B)", "B.", "(b).", "B)", r"\text{B}", r"\textbf{(B)}", "$B$", " B ",
                                        "B. a dog", "(B) a dog", "B: A  dog.", "a dog", r"\text{A dog}"])
def test_choice_right(prediction):
    assert correct(prediction, "B", "choice", PETS)
    assert correct(prediction, "a dog", "choice", PETS), "the answer may be stored as the choice's text"


@pytest.mark.parametrize("prediction", ["A", "A, B", "A B", "AB", "B, A", "A or B", "dog", "B. a cat", "a dog or a cat",
                                        "BB", "E", "", "A, B, C, D", "Answer: B", "the answer is B", "image 1",
                                        "not B", "<image>"])
def test_choice_wrong(prediction):
    assert not correct(prediction, "B", "choice", PETS)
    assert not correct(prediction, "a dog", "choice", PETS)


def test_choices_that_stand_in_the_question():
    assert all(correct(text, "B", "choice") for text in ("b", "(B)", "B. a dog", "(B) a dog"))
    assert not any(correct(text, "B", "choice") for text in ("B. or A.", "A. B", "(A) or (B)", "a dog", "A. not (B)"))


def test_choices_that_show_images_cannot_be_named_by_their_marker():
    assert correct("B", "B", "choice", ["<image>", "<image>"])
    assert not correct("<image>", "B", "choice", ["<image>", "<image>"])


@pytest.mark.parametrize("prediction, answer, right", [
    ("Yes", "yes", True), ("yes.", "Yes", True), (r"\text{no}", "No", True), ("Yes, no", "yes", False),
    ("y", "yes", False), ("Image 2", "image 2", True), ("image  2.", "Image 2", True), ("2", "Image 2", False),
    ("Image 12", "Image 2", False), ("egamI 2", "Image 2", False),
    ("the red car", "The red car", True), ("car red the", "the red car", False),
    ("red", "the red car", False), ("", "", False), (" ", " ", False), ("two", "2", False)])
def test_text(prediction, answer, right):
    assert correct(prediction, answer, "text") is right


@pytest.mark.parametrize("prediction, right", [
    ("2→1→3", True), ("2 -> 1 -> 3", True), (r"2 \rightarrow 1 \to 3", True), ("2, 1, 3", True), ("2 1 3", True),
    ("2-1-3", True), ("[2, 1, 3]", True), ("Image 2 → Image 1 → Image 3", True),
    (r"$2 \Rightarrow 1 \Rightarrow 3$.", True),
    ("2→3→1", False), ("2→1", False), ("213", False), ("2→1→3→2", False), ("→", False)])
def test_order(prediction, right):
    assert correct(prediction, "2→1→3", "order") is right


def test_kind_is_guessed_when_absent():
    def guess(prediction, answer, **more):
        return boxed.is_correct({"answer": answer, **more}, prediction)

    assert guess("0.5", r"\frac12") and guess("(B)", "B") and guess("YES", "yes") and guess("image 2", "Image 2")
    assert guess("a dog", "B", choices=["a cat", "a dog"]) and not guess("tca", "cat")
    with pytest.raises(InputError, match=r"'q'.*unknown kind 'poem'"):
        correct("a", "a", "poem")


@pytest.mark.parametrize("text, inside", [
    (r"\boxed{3}", "3"), (r"\boxed{1} \boxed{2}", "2"), (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{a\}b}", r"a\}b"), (r"\boxed{\{1,2\}}", r"\{1,2\}"), (r"\boxed{1} \boxed{2", "1"), (r"\boxed{}", ""),
    ("none", None), (r"\boxed{", None),
    (r"{ \boxed{4}", "4"), (r"} \boxed{ 5 }", "5"), (r"\boxed{x \boxed{6} y}", "6"), ("\\boxed{a\nb}", "a\nb")])
def test_extract_boxed(text, inside):
    assert boxed.extract_boxed(text) == inside


def test_format_is_the_papers_regular_expression():
    pattern = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
    parts = ["<think>", "</think>", "\\boxed{", "}", "x\n"]
    for code in range(len(parts) ** 5):
        text = "".join(parts[code // len(parts) ** k % len(parts)] for k in range(5))
        assert boxed.has_format(text) == bool(pattern.fullmatch(text)), text


def test_reading_a_hostile_response_is_linear():
    start = time.monotonic()
    for text in ("<think>" + "</think>\\boxed{" * 50_000, "\\boxed{" * 100_000 + "}", "{" * 500_000, "\\" * 500_000):
        boxed.score({"answer": "1", "kind": "number"}, text)
        boxed.score({"answer": "B", "kind": "choice"}, f"\\boxed{{{text[:100_000]}}}")
    assert time.monotonic() - start < 5


def test_score_adds_the_parts():
    record = {"answer": "5", "kind": "number"}
    assert boxed.score(record, "<think>a</think> \\boxed{5}") == {"reward": 1.0, "accuracy": 1.0, "format": 1.0}
    assert boxed.score(record, "\\boxed{5}")["reward"] == 0.9
    assert boxed.score(record, "<think>a</think> \\boxed{6}")["reward"] == 0.1
    assert boxed.score(record, "<think>a</think> 5") == {"reward": 0.0, "accuracy": 0.0, "format": 0.0}


def test_find():
    assert rewards.find("boxed") is boxed.score
    assert rewards.find("perl_jax.rewards.boxed:has_format") is boxed.has_format
    for name, words in (("boxes", "known are boxed"), ("no_such_package.x:y", "ModuleNotFoundError"),
                        ("perl_jax.rewards.boxed:nothing", "nothing"),
                        ("perl_jax.rewards.boxed:MAX_CHARACTERS", "not a function")):
        with pytest.raises(InputError, match=words):
            rewards.find(name)


def test_plain_answers_import_neither_math_verify_nor_jax():
    program = ("import sys; from perl_jax import rewards, grading; score = rewards.find('boxed'); "
               "score({'answer': '7', 'kind': 'number'}, '\\\\boxed{8}'); "
               "print([name for name in ('jax', 'flax', 'sympy', 'math_verify') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_examples_in_the_docstrings():
    assert doctest.testmod(boxed).failed == 0
    assert doctest.testmod(rewards).failed == 0
