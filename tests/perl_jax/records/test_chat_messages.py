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
