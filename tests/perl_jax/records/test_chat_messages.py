"""A prompt's messages come down to one question, or say why not."""

import doctest
import json

import pytest

from models.errors import InputError
from perl_jax.records import chat_messages

IMAGE = {"type": "image", "image": "a.png"}


def user(content):
    return {"role": "user", "content": content}


def test_doctests():
    assert doctest.testmod(chat_messages).failed == 0


@pytest.mark.parametrize(
    ("messages", "text", "pictures"),
    [
        ([user("<image>What?\n ")], "<image>What?\n ", []),  # a user's text is kept as it is
        ([{"role": "system", "content": "Think."}, user("What?")], "What?", []),
        (json.dumps([user([IMAGE, {"type": "text", "text": "What?"}])]), "<image>What?", [IMAGE]),
        (
            [
                user(
                    [
                        {"type": "text", "text": "Is ", "image": None},
                        {"type": "image", "text": None, "image": None},
                        {"type": "text", "text": " it?"},
                    ]
                )
            ],
            "Is <image> it?",
            [],
        ),  # Parquet fills up what a part has not
    ],
)
def test_forms(messages, text, pictures):
    assert chat_messages.question(messages) == (text, pictures)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("What?", "not JSON"),
        (7, "not a list"),
        ([7], "not a list"),
        ([], "none"),
        ([{"role": "system", "content": "a"}], "none"),
        ([user("a"), {"role": "assistant", "content": "b"}, user("c")], "'user', 'assistant', 'user'"),
        ([user(None)], "NoneType"),
        ([user([{"type": "video"}])], "video"),
        ([user(["a"])], "type None"),
        ([user([IMAGE, {"type": "image"}])], "1 of the 2"),
        ([user("a\0")], "NUL"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_other_forms_are_named(messages, words):
    with pytest.raises(InputError, match=words):
        chat_messages.question(messages)


def test_option_letters():
    assert chat_messages.option_letters("A dog?\n(A) yes\n B. no\nC、x\nD: y\nE z\nAB. w") == set("ABCD")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["<image>A?", "b"], ("<image>A?", "b", 0)),
        (["<image>A?", "b", "C?", "d"], ("<image>C?", "d", 1)),
        (["<image>A?", "b", "<image>C?", "d", "E? <image>", "f"], ("<image><image>E? <image>", "f", 2)),
        (["A?", "b", "C?"], ("C?", None, 1)),
    ],
)
def test_the_last_exchange_of_a_conversation(texts, expected):
    roles = [("user", "assistant")[place % 2] for place in range(len(texts))]
    ours = [{"role": role, "content": text} for role, text in zip(roles, texts)]
    names = {"user": "human", "assistant": "gpt"}
    sharegpt = [{"from": names[role], "value": text} for role, text in zip(roles, texts)]
    for messages in (ours, sharegpt, json.dumps(ours), repr(sharegpt), {"messages": ours}):
        found = chat_messages.exchange(messages)
        assert (found.question, found.answer, found.turn) == expected


def test_user_turns_that_follow_each_other_are_one_question():
    messages = [user([IMAGE]), user("What is it?"), {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]
    assert chat_messages.exchange(messages) == ("<image>\nWhat is it?", [IMAGE], "A", 0)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([user("a"), {"role": "assistant", "content": [IMAGE]}], "answer shows an image"),
        ([user("a"), {"role": "assistant", "content": "<image>"}], "answer shows an image"),
        ([user("a"), {"role": "tool", "content": "b"}], "role 'tool'"),
        ([user("a"), *[{"role": "assistant", "content": "b"}] * 2], "not: user, assistant, assistant"),
        ([user([IMAGE]), {"role": "assistant", "content": "b"}, user("<image>")], "only 1 of the images"),
        ([{"role": "user"}], "NoneType"),
    ],
)
def test_no_exchange(messages, words):
    with pytest.raises(InputError, match=words):
        chat_messages.exchange(messages)
