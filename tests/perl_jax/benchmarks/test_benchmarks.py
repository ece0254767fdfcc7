"""What holds for all benchmarks: they are found by name, and no output of a model breaks or stops their scoring."""

import time
from pathlib import Path

import pytest

from models.errors import InputError
from perl_jax import benchmarks

EIGHT = ("blink", "mantis_eval", "mathverse", "mathvision", "mathvista", "mmiu", "mv_math", "remi")
OTHERS = {  # rows of other kinds than a benchmark's example
    "mantis_eval": [{"question_type": "short-answer", "options": [], "answer": "4"}],
    "mathvision": [{"options": list("12345"), "answer": "B"}, {"answer": "$(1,\\frac{1}{2})$"}],
    "mathvista": [
        {"choices": ["3/11", "8/11"], "answer": "8/11", "question_type": "multi_choice", "answer_type": "text"},
        {"answer": "1.2", "answer_type": "float", "precision": 1},
        {"answer": "[1, 2]", "answer_type": "list"},
    ],
    "mathverse": [{"question_type": "free-form", "answer": "$x=8 \\mathrm{~cm}$"}],
    "mv_math": [
        {"answer_type": "single-step", "answer": "1 or 2"},
        {"answer_type": "multi-step", "answer": "(1) 1 (2) 2"},
    ],
    "remi": [{"task": "RefCoco", "label": "1,3"}, {"task": "Clocks", "label": "50"}],
}
BAD = [
    "", " ", "\n\t", "\0", "\ud800", "\ufeff", "B\0", "\\boxed{\ud800}", "\\boxed{\0}", "\\boxed{", "\\boxed{}",
    "\\boxed", "\\boxed{\\boxed{", "\\boxed{B}\\boxed{", "\\boxed{A}\\boxed{B}\\boxed{C}", "}{", "<think>", "</think>",
    "<think></think>", "<think>\\boxed{B}", "答案是B", "（B）", "\\boxed{（Ｂ）}", "１４", "١٤", "\\boxed{١٤}",
    "الإجابة هي (ب)", "Ответ: Б", "ß", "İ", "ﬁ", "{", "}", "[]", "{}", "null", "nan", "inf", "-inf", "1e999", "1e-999",
    "0/0", "\\boxed{0/0}", "\\frac", "\\boxed{\\frac}", "\\sqrt", "(,)", "[,]", "(1,", '{"answer": null}',
    '{"answer": [1]}', '{"answer": 1e999}', '{"answer": {"answer": 1}}', '{"answer": "\\ud800"}', "Answer:",
    "Answer: {}", "The answer is", 'The answer is "".', "(1)", "(1) (2)", "9" * 5000, "\\boxed{" + "9" * 5000 + "}",
    "is " + "9" * 5000, "\\boxed{9^{9^9}", "The answer is (Z).", "I cannot help with that.",
]  # fmt: skip
HOSTILE = [
    "{", "}", "{}", "[", "(", "\\", "$", "=", ",", "9", "9,", "9^", "is ", "A ", "A.", "A and ", "(A)", "(1) ", "(1",
    "a\n", "\\boxed{", "\\boxed{B} ", "\\frac", "\\frac{1}{", "\\sqrt{", "<think>", "</think>", '{"answer":', '"',
    "answer: ", "the answer is ", "The answer is B. ", 'The answer is "', "Answer: {", "option: **", "value is -1",
    "x=1 or ", " ",
]  # fmt: skip


class Images:
    def __call__(self, name):
        return self

    def reader(self, value):
        return None


def items(name):
    """What a benchmark makes of its example and of rows of other kinds."""
    module = benchmarks.find(name)
    row = dict(module.EXAMPLE["row"])
    count = row.pop("images", 1)
    row["images"] = [b""] * count
    row |= {f"image_{place + 1}": b"png" for place in range(count)}
    for changes in [{}, *OTHERS.get(name, [])]:
        if name == "remi" and changes:
            changes = {**changes, "question": "<image1><image2><image3> Which?"}
        yield module._item({**row, **changes}, "row", Images())


def test_the_documentation_names_their_data():
    """Its table: data set of the hub, number of questions, headline."""
    page = (Path(benchmarks.__file__).parent / "README.md").read_text(encoding="utf-8")
    for name in EIGHT:
        module = benchmarks.find(name)
        rows = module.ROWS if isinstance(module.ROWS, int) else sum(module.ROWS.values())
        [line] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        _, _, repository, questions, _, headline, _ = (cell.strip() for cell in line.split("|"))
        assert repository == module.REPOSITORY and questions.startswith(f"{rows:,}")
        assert ("tasks" in headline) == module.MACRO


@pytest.fixture(
    scope="module", params=[(name, protocol) for name in EIGHT for protocol in ("boxed", "official")], ids="-".join
)
def scores(request):
    """(the scores of a text by one benchmark and protocol, one for each kind of row)."""
    name, protocol = request.param
    made = list(items(name))

    def scored(text, kinds=None):
        return [benchmarks.find(name).score(item, text, protocol) for item in made[:kinds]]

    scored("\\boxed{1}")  # what is imported then is not counted as its time
    return scored


def test_the_eight_of_the_paper_are_found_by_name():
    assert set(EIGHT) <= set(benchmarks.names())
    assert all(benchmarks.find(name).PROTOCOLS == ("boxed", "official") for name in EIGHT)
    with pytest.raises(InputError, match=r"unknown benchmark 'blnk'; known are blink, mantis_eval"):
        benchmarks.find("blnk")


def test_a_bad_output_is_scored(scores):
    for text in BAD:
        for score in scores(text):
            assert 0 <= score.correct <= 1, repr(text)
            assert score.extracted is None or isinstance(score.extracted, str), repr(text)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "<think>", "</think>", "答案是", "\0"])
def test_nothing_is_found_in_an_empty_output(scores, text):
    assert all(score.correct == 0 for score in scores(text))


@pytest.mark.slow
def test_a_hostile_output_takes_no_quadratic_time(scores):
    """Under a second for most of these; what goes back and forth over 100 KB takes minutes."""
    for text in HOSTILE:
        start = time.process_time()
        count = len(scores(text * (100_000 // len(text))))
        assert time.process_time() - start < 10 * count, repr(text)


@pytest.mark.slow
def test_a_very_long_output(scores):
    assert all(score.correct == 0 for score in scores("a" * 10_000_000, kinds=1))
