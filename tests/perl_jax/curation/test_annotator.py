"""What a language model says of a question is believed as far as it can be checked, and rubbish has a reason."""

import io
import json

import fake_endpoint
import pytest
from fake_endpoint import FakeEndpoint, Reply, completion, last_text
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from perl_jax import symbols
from perl_jax.curation import annotator
from perl_jax.data import Rejected, Row
from perl_jax.runtime.chat_endpoint import Endpoint

QUESTION = "<image><image>\nWhich image shows more people, image 1 or image 2, and why?"
ANSWER = "Image 2 shows a crowd, while three people stand in image 1."


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(buffer, "PNG")
    return buffer.getvalue()


def row(question=QUESTION, answer=ANSWER, images=2, **fields):
    return Row("r", [png] * images, question, answer, "mine", **fields)


def valid(**changes):
    """A valid reply to `row()`, with changes."""
    fields = {
        "checkable": True,
        "reason": "",
        "question": "Which image shows more people, image 1 or image 2?",
        "choices": [],
        "answer": "Image 2",
        "kind": "text",
        "evidence": ["image 1 or image 2"],
        "order_effect": "rewrite",
        "confidence": 0.9,
    }
    return json.dumps({**fields, **changes})


def fails(reply, this=None):
    made = annotator.parse(reply, this or row())
    assert made == annotator.Annotation(reason=made.reason, detail=made.detail)
    assert made.detail.isprintable(), "and so without lone surrogates"
    return made.reason


def test_a_good_reply():
    made = annotator.parse(valid(), row())
    assert made == annotator.Annotation(
        question="<image><image>\nWhich image shows more people, image 1 or image 2?",
        answer="Image 2",
        choices=(),
        kind="text",
        order_effect="rewrite",
        evidence="image 1 or image 2",
        confidence=0.9,
    )


@pytest.mark.parametrize(("given", "reply"), annotator._EXAMPLES)
def test_the_prompts_examples_are_what_the_parser_takes(given, reply):
    this = row(given["question"], given["answer"], given["images"], choices=given["choices"])
    made = annotator.parse(json.dumps(reply), this)
    if reply["checkable"]:
        assert (made.reason, made.confidence, made.order_effect) == ("", reply["confidence"], reply["order_effect"])
        assert (made.question, list(made.choices), made.answer) == (
            reply["question"],
            reply["choices"],
            reply["answer"],
        )
    else:
        assert (made.reason, made.detail) == (annotator.NOT_CHECKABLE, reply["reason"])


def test_the_prompts_examples_show_each_label():
    assert {reply["order_effect"] for _, reply in annotator._EXAMPLES} == {"invariant", "rewrite", "fixed"}
    assert {reply["kind"] for _, reply in annotator._EXAMPLES} == {"choice", "number", "text", "order"}


@pytest.mark.parametrize(
    "wrapped",
    [
        "```json\n{}\n```",
        "Sure! Here it is:\n\n{}\nI hope that helps {{smile}}.",
        '<think>maybe {{"checkable": false}}</think>{}',
        'Draft: {{"checkable": true}}\nFinal: {}',
        '{{"result": {}}}',
        "[{}]",
        "\ufeff{}",
        "{{not json}} {{\n{}",
    ],
)
def test_the_object_is_found(wrapped):
    assert annotator.parse(wrapped.format(valid()), row()) == annotator.parse(valid(), row())


RUBBISH = [
    "", " ", "null", "true", "42", "[]", "{}", "I cannot help with that.", "{" * 30_000, '{"a":' * 5000, "[" * 9000,
    valid()[:-1], valid()[1:], valid().replace('"', "'"), "\0", "\ud800", "\udc80{", '{"checkable"}',
    '{"checkable": tru',
    json.dumps([1, 2]), json.dumps("text"), '{"order_effect": "rewrite"}', "x" * 1_000_000,
    "<think>" + valid() + "</think>",
]  # fmt: skip


@pytest.mark.parametrize("reply", RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish_has_a_reason(reply):
    assert fails(reply) == "reply is no JSON object"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"checkable": False, "reason": "an opinion"}, annotator.NOT_CHECKABLE),
        ({"checkable": False, "reason": None, "order_effect": 7}, annotator.NOT_CHECKABLE),
        ({"checkable": "yes"}, "reply misses a field"),
        ({"checkable": None}, "reply misses a field"),
        ({"question": None}, "reply misses a field"),
        ({"question": ["a"]}, "reply misses a field"),
        ({"question": ""}, "reply misses a field"),
        ({"question": "a \0 b"}, "reply misses a field"),
        ({"answer": "\ud800"}, "reply misses a field"),
        ({"answer": True}, "reply misses a field"),
        ({"answer": ["Image 2"]}, "reply misses a field"),
        ({"choices": "A, B"}, "reply misses a field"),
        ({"choices": [1, 2]}, "reply misses a field"),
        ({"choices": ["", "people"]}, "reply misses a field"),
        ({"kind": "essay"}, "unknown kind"),
        ({"kind": ["text"]}, "unknown kind"),
        ({"kind": None}, "unknown kind"),
        ({"order_effect": "maybe"}, "unknown order_effect"),
        ({"order_effect": "Rewrite"}, "unknown order_effect"),
        ({"order_effect": {"a": 1}}, "unknown order_effect"),
        ({"order_effect": None}, "unknown order_effect"),
        ({"confidence": 1.5}, "confidence is not a number from 0 to 1"),
        ({"confidence": -0.1}, "confidence is not a number from 0 to 1"),
        ({"confidence": "high"}, "confidence is not a number from 0 to 1"),
        ({"confidence": True}, "confidence is not a number from 0 to 1"),
        ({"confidence": None}, "confidence is not a number from 0 to 1"),
        ({"confidence": float("nan")}, "confidence is not a number from 0 to 1"),
        ({"confidence": float("inf")}, "confidence is not a number from 0 to 1"),
        ({"answer": ""}, "answer is not short"),
        ({"answer": "Well, " + ANSWER}, "answer is not short"),
        ({"answer": "Image 2\nImage 2"}, "answer is not short"),
        ({"answer": "."}, "answer does not fit its kind"),
        ({"answer": "crowd", "kind": "number"}, "answer does not fit its kind"),
        ({"answer": "2", "kind": "order"}, "answer does not fit its kind"),
        ({"answer": "A", "kind": "choice"}, "answer is not a choice"),
        ({"answer": "a bus"}, "answer is made up"),
        ({"answer": "12", "kind": "number"}, "answer is made up"),
        ({"choices": ["a crowd", "an elephant"], "answer": "A"}, "choices are made up"),
        ({"choices": ["image 1", "image 2"], "answer": "C"}, "answer is not a choice"),
        ({"choices": ["image 1"], "answer": "A"}, "answer is not a choice"),
        ({"answer": "Image 3"}, "names a missing image"),
        ({"question": "Is image 0 larger?"}, "names a missing image"),
        ({"question": "Is picture #3 larger?"}, "names a missing image"),
        ({"question": f"Is image {'9' * 5000} larger?"}, "question is longer than it was"),
        ({"question": "Which image? " * 50}, "question is longer than it was"),
        ({"question": "<image> shows more people than <image>, why?"}, "image slots differ"),
        ({"answer": "<image>"}, "image slots differ"),
    ],
)
def test_what_cannot_be_used_has_a_reason(changes, reason):
    assert fails(valid(**changes)) == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"evidence": "the next picture"},
        {"evidence": ""},
        {"evidence": None},
        {"evidence": []},
        {"evidence": ["..."]},
        {"evidence": 5},
        {"evidence": ["image 1 or image 2", "not there"]},
    ],
)
def test_a_label_without_its_words_has_no_confidence(changes):
    made = annotator.parse(valid(**changes), row())
    assert (made.reason, made.confidence) == ("", 0.0)


@pytest.mark.parametrize("evidence", ["Image 1 or  image 2", '"image 1 or image 2"', "which image shows", "a crowd,"])
def test_evidence_may_differ_in_case_and_spaces(evidence):
    assert annotator.parse(valid(evidence=evidence), row()).confidence == 0.9


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        ("Is it red? <image>\n<image>", "<image><image>\nIs it blue?"),
        ("<image>Is it red?<image>", "<image><image>\nIs it blue?"),
        ("Is it red?", "Is it blue?"),
    ],
)
def test_slots_around_a_question_are_its_first_line(question, shown):
    made = annotator.parse(valid(question="Is it blue?", answer="Yes", evidence="it"), row(question, "Yes, it is."))
    assert made.question == shown
    assert json.loads(asked_row(row(question)))["question"] == "Is it red?"


def asked_row(this):
    return annotator.messages(this)[0]["content"].rpartition("\n")[2]


def test_slots_inside_a_question_stay_with_its_words():
    this = row("If <image> is the reference, which of <image> and <image> is more like it?", "The second of two.", 3)
    good = "If <image> is the reference, which is more like it, <image> or <image>?"
    assert annotator.parse(valid(question=good, answer="second", evidence="which of"), this).question == good
    assert "<image>" in json.loads(asked_row(this))["question"]
    assert fails(valid(question="If <image> is the reference, which is more like it?", answer="second"), this) == (
        "image slots differ"
    )


@pytest.mark.parametrize(
    ("answer", "text", "kind"),
    [
        ("3", "There are three dogs.", "number"),
        (3, "3", "number"),
        (2.5, "about 2.5 m", "number"),
        ("Yes", "It is so.", "text"),
        ("Image 2", "The second picture does.", "text"),
        ("狗", "这是一只狗。", "text"),
        ("\\frac{3}{2}", "$$\\dfrac{3}{2}$$", "number"),
        ("2, 1", "First image 2, then image 1", "order"),
        ("dark blue", "A dark-blue car.", "text"),
    ],
)
def test_an_answer_says_what_the_reference_says(answer, text, kind):
    reply = valid(question="What is it?", answer=answer, kind=kind, evidence="it")
    made = annotator.parse(reply, row("What is it?", text))
    assert (made.reason, made.answer, made.kind) == ("", str(answer), kind)


@pytest.mark.parametrize(
    ("answer", "reference", "letter"),
    [
        ("B", "B", "B"),
        ("(B)", "B: pick up ball", "B"),
        ("pick up ball", "(B) pick up ball", "B"),
        ("B. pick up ball", "B.", "B"),
        ("B", "The boy wants to pick up ball.", "B"),
        ("b", "Clearly B, as he looks at it", "B"),
        ("A", "B", None),
        ("A", "A boy would pick up ball", None),
        ("C", "B", None),
        ("D", "B", None),
        ("run", "B", None),
        ("A or B", "B", None),
    ],
)
def test_choices_are_read_from_the_question_and_the_answer_is_the_references(answer, reference, letter):
    this = row("Why does he bend?\nA. tie shoe\nB. pick up ball", reference)
    reply = valid(question="Why does he bend?", choices=["tie shoe", "pick up ball"], answer=answer, kind="choice")
    if letter:
        made = annotator.parse(reply, this)
        assert (made.answer, made.choices, made.kind) == (letter, ("tie shoe", "pick up ball"), "choice")
    else:
        assert fails(reply, this) in ("answer is not a choice", "answer is made up")


@pytest.mark.parametrize("nothing", ["", "...", "$$"])
def test_a_choice_of_nothing_is_not_in_every_answer(nothing):
    choices = [nothing, "a red car"]
    made = annotator.parse(valid(evidence="Which"), row("Which is it?", "It is a red car.", choices=choices))
    assert (made.reason, made.answer) == ("", "B")
    assert fails(valid(), row("Which is it?", "It is a bus.", choices=choices)) == "answer is not a choice"


@pytest.mark.parametrize(
    ("answer", "text", "kind", "made_up"),
    [
        ("△", "It is □.", "text", True),
        ("△", "It is △.", "text", False),
        ("?!", "No.", "text", True),
        ("\\", "$5$", "number", True),
        ("\\(", "5", "number", True),
        ("😀", "The face is 😢", "text", True),
    ],
)
def test_an_answer_without_words_stands_in_the_reference(answer, text, kind, made_up):
    reply = valid(question="What is it?", answer=answer, kind=kind, evidence="it")
    made = annotator.parse(reply, row("What is it?", text))
    assert (made.reason, made.answer) == (("answer is made up", "") if made_up else ("", answer))


numbers = st.one_of(st.integers(1, 5000), st.decimals(1, 500, places=2)).map(str)
signs = st.sampled_from(["-", "−", "–", "minus ", "negative "])
around = st.sampled_from(["It is {}.", "x = {}", "about {} degrees", "({}, 7)", "${}$", "from 3 to {}"])


@settings(max_examples=40)
@given(numbers, signs, signs, around)
def test_the_sign_of_a_number_is_not_made_up(number, sign, other_sign, text):
    for answer, said, made_up in (
        (number, number, False),
        (f"+{number}", number, False),
        (sign + number, other_sign + number, False),
        (sign + number, number, True),
        (number, sign + number, True),
        (f"{number}%", number, True),
        (f"{number}%", f"{number} percent", False),
        (f"{number}1", number, True),
        (f"1{number}", number, True),
    ):
        reply = valid(question="What is it?", answer=answer, kind="number", evidence="it")
        made = annotator.parse(reply, row("What is it?", text.format(said)))
        assert (made.reason, made.answer) == (("answer is made up", "") if made_up else ("", answer))


@pytest.mark.parametrize(
    ("answer", "text", "made_up"),
    [
        ("-5", "It is minus five.", False),
        ("-5", "It is five.", True),
        ("5", "It is minus five.", True),
        ("5", "Pages 3-5.", False),
        ("3.5", "3 of 5 dogs", True),
        ("1,000", "1000 dogs", False),
        ("1/2", "1 of 2 dogs", True),
        ("1/2", "It is 1 / 2.", False),
        ("x-5", "x+5", True),
        ("x - 5", "So x-5.", False),
        ("a-b=2", "a + b = 2", True),
        ("x = -5", "x is 5", True),
        ("\\frac{2}{1}", "$\\frac{1}{2}$", True),
        ("2^3", "23", True),
        ("3:45", "3 of 45", True),
        ("(3, -4)", "(3, 4)", True),
        ("(3, -4)", "the point (3,−4)", False),
    ],
)
def test_signs_and_operations_are_not_made_up(answer, text, made_up):
    reply = valid(question="What is it?", answer=answer, kind="number", evidence="it")
    made = annotator.parse(reply, row("What is it?", text))
    assert (made.reason, made.answer) == (("answer is made up", "") if made_up else ("", answer))


def test_a_row_with_choices_stays_as_it_is():
    this = row("<image>\nWhich is like it?", "(C)", 4, choices=["<image>"] * 3)
    made = annotator.parse(valid(question="Other?", choices=["one"], answer="A", kind="text", evidence="Which"), this)
    assert (made.question, made.choices, made.answer, made.kind) == (this.question, ("<image>",) * 3, "C", "choice")
    assert fails(valid(), row("<image>Which?", "the red one", 3, choices=["<image>"] * 2)) == "answer is not a choice"


def test_every_field_may_be_anything():
    strange = [None, True, -1, 1e999, "", "\0", "\ud800", "<image>" * 9, "{image:0}", [], [[]], {}, {"a": 1}, "२" * 999]
    for key in json.loads(valid()):
        for value in strange:
            made = annotator.parse(valid(**{key: value}), row())
            assert made.reason or made.order_effect in ("invariant", "rewrite", "fixed")


def reading(tmp_path, answer, rows, **options):
    with (
        FakeEndpoint(answer) as server,
        Endpoint(server.url, "fake", str(tmp_path / "answers.jsonl"), timeout=5, retries=1) as endpoint,
    ):
        return list(annotator.annotate(endpoint, rows, **options)), server.requests


def test_rows_keep_their_order_and_are_asked_once(tmp_path):
    rows = [row(f"Is it {colour}?", "Yes") for colour in ("red", "blue", "green")]

    result, requests = reading(tmp_path, fake_endpoint.annotator, rows)
    assert [(this, made.question) for this, made in result] == [(this, this.question) for this in rows]
    assert requests[0]["temperature"] == 0 and len(requests) == 3
    again, requests = reading(tmp_path, fake_endpoint.annotator, rows)
    assert again == result and not requests


def test_a_reply_that_cannot_be_used_is_sent_back_once(tmp_path):
    def answer(request):
        return valid() if "names a missing image: Image 5 of 2" in last_text(request) else valid(answer="Image 5")

    ((_, made),), requests = reading(tmp_path, answer, [row()])
    assert made.answer == "Image 2"
    assert [message["role"] for message in requests[1]["messages"]] == ["user", "assistant", "user"]
    _, requests = reading(tmp_path, answer, [row()])
    assert not requests, "the second request is kept, too"


def test_rubbish_twice_is_a_reason_and_the_next_rows_go_on(tmp_path):
    def answer(request):
        first = request["messages"][0]["content"].rpartition("\n")[2]
        if "bad" in first:
            return "no idea"
        return Reply(400, '{"message": "too long"}') if "long" in first else valid(answer="Yes", evidence="red")

    rows = [row(f"Is it {what}?", "Yes") for what in ("red", "bad", "long", "red, too")]
    result, requests = reading(tmp_path, answer, rows)
    assert [made.reason for _, made in result] == ["", "reply is no JSON object", "endpoint: HTTP 400", ""]
    assert result[2][1].detail == "too long" and len(requests) == 5


def test_what_no_model_need_read_is_not_asked_about(tmp_path):
    rows = [
        Rejected("1", "malformed row"),
        row("Is he?", "Yes")._replace(turn=1),
        row("How many?", "4", 1),
        row("Is it red?", "Yes"),
    ]
    result, requests = reading(tmp_path, fake_endpoint.annotator, rows)
    assert [this for this, _ in result] == rows and len(requests) == 1
    assert [made is None for _, made in result] == [True, True, True, False]


def test_hostile_texts_go_through(tmp_path):
    rows = [row("\0 <image> \ud800 {image:0}" + " " * 50_000 + "x", "\udc80"), row("", ""), row("<image>" * 99, "", 99)]
    result, _ = reading(tmp_path, lambda request: Reply(body=completion(valid())), rows)
    assert len(result) == 3 and all(made is None or made.reason for _, made in result)


def test_the_labels_mean_what_permute_does():
    assert all(f'"{effect}"' in annotator.INSTRUCTIONS for effect in ("invariant", "rewrite", "fixed"))
    assert symbols.MARKER in annotator.INSTRUCTIONS
