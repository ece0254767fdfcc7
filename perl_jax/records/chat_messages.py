"""Questions from chat messages, the format of TRL, veRL, ms-swift, LLaMA-Factory, ShareGPT and others."""

import ast
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from models.errors import InputError
from perl_jax.records import hub_files
from perl_jax.symbols import MARKER

OPTION = re.compile(r"^\s*(?:\(([A-Z])\)|([A-Z])[.:)、．])", re.MULTILINE)  # start of an option line
_ROLES = {  # a role in a file: the role it is
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_MESSAGES_TEXT = re.compile(r"\s*\[?\s*\{\s*(['\"])(?:role|from|content|value|type|messages|conversations)\1\s*:")


class Exchange(NamedTuple):
    """The last question of a conversation, and its answer."""

    question: str  # `<image>` for each image of the conversation; those of earlier turns come first
    images: list  # those that the messages themselves hold
    answer: str | None  # None: the conversation ends with the question
    turn: int  # number of answers before it


def parsed(value: object) -> object:
    """The value, or the object that its JSON (or printed Python) text holds; other text is returned unchanged.

    Raises:
        InputError: the text begins like messages, but cannot be read.

    >>> parsed("[{'role': 'user', 'content': 'Why?'}]"), parsed("Why?"), parsed("[1]")
    ([{'role': 'user', 'content': 'Why?'}], 'Why?', '[1]')
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        objects = isinstance(found, list) and bool(found) and all(isinstance(one, dict) for one in found)
        return found if objects or (isinstance(found, dict) and found) else value
    if _MESSAGES_TEXT.match(value):
        raise InputError("its messages are text, but not JSON")
    return value


def is_messages(value: object) -> bool:
    """Whether a value is chat messages, or their JSON text."""
    value = _unwrapped(parsed(value))
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def exchange(messages: object) -> Exchange:
    """The last question of a conversation. System messages are dropped; user turns that follow each other are joined.

    Args:
        messages: list of `{role, content}` or `{from, value}`, or its JSON text; or the parts of one user turn.
            `content` is a string, or a list of parts `{type: text, text}` and `{type: image}`; an image part that holds
            its own image is returned as it is.

    Raises:
        InputError: any other format, no user turn, or an image in the answer.

    >>> exchange([{"from": "human", "value": "<image>A cat?"}, {"from": "gpt", "value": "Yes"},
    ...     {"from": "human", "value": "How old?"}, {"from": "gpt", "value": "3"}])
    Exchange(question='<image>How old?', images=[], answer='3', turn=1)
    """
    turns = [turn for turn in _turns(messages) if turn[0] != "system"]
    roles = [role for role, _ in turns]
    answer = None
    if roles[-1:] == ["assistant"] and roles[-2:-1] == ["user"]:
        answer, turns, roles = turns[-1][1], turns[:-1], roles[:-1]
    if roles[-1:] != ["user"]:
        listed = ", ".join(roles) or "none"
        raise InputError(
            f"its messages must hold one user turn, or end with a user's and an assistant's, not: {listed}"
        )
    start = len(roles)
    while start and roles[start - 1] == "user":
        start -= 1
    read = [_text_and_images(content) if isinstance(content, list) else (content, []) for _, content in turns]
    answer_text, answer_images = _text_and_images(answer) if isinstance(answer, list) else (answer, [])
    if answer_images or (answer is not None and MARKER in hub_files.text(answer_text, "its answer")):
        raise InputError("its answer shows an image")
    texts = [hub_files.text(text, "its message") for text, _ in read]
    before = sum(text.count(MARKER) for text in texts[:start])
    images = [image for _, held in read for image in held]
    if len(images) not in (0, sum(text.count(MARKER) for text in texts)):
        raise InputError(f"only {len(images)} of the images of its messages are there")
    return Exchange(MARKER * before + "\n".join(texts[start:]), images, answer_text, roles[:start].count("assistant"))


def question(messages: object) -> tuple[str, list]:
    """(text, images) of a prompt's single user turn, with `<image>` for each image part, as `exchange`.

    Raises:
        InputError: as `exchange`, and for several turns.

    >>> question([{"role": "system", "content": "Think."}, {"role": "user", "content": [
    ...     {"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]}])
    ('<image>What is it?', [{'type': 'image', 'image': 'a.png'}])
    """
    roles = [role for role, _ in _turns(messages) if role != "system"]
    if roles != ["user"]:
        listed = ", ".join(map(repr, roles)) or "none"
        raise InputError(f"its messages must hold one user turn beside system texts, not: {listed}")
    found = exchange(messages)
    return found.question, found.images


def answer(messages: object) -> str:
    """The text of the last assistant turn of a list that holds answers alone, as TRL's `completion`."""
    role, content = _turns(messages)[-1]
    text, images = _text_and_images(content) if isinstance(content, list) else (content, [])
    if role != "assistant" or images:
        raise InputError("its answer is messages that do not end with an assistant's text")
    return hub_files.text(text, "its answer")


def option_letters(text: str) -> set[str]:
    """The letters of a question's option lines.

    >>> sorted(option_letters("Is it so?\\n(A) yes\\nB. no"))
    ['A', 'B']
    """
    return {first or second for first, second in OPTION.findall(text)}


def _unwrapped(value: object) -> object:
    """The list of messages: what an object holds as `messages` or `conversations`; one message alone as a list."""
    if isinstance(value, Mapping):
        for key in ("messages", "conversations", "conversation", "prompt"):
            if isinstance(value.get(key), list):
                return value[key]
        return [value]
    return value


def _turns(messages: object) -> list[tuple[str, object]]:
    """[(role, content)] of messages; InputError for another format."""
    if isinstance(messages, str) and parsed(messages) is messages:
        raise InputError("its messages are text, but not JSON")
    messages = _unwrapped(parsed(messages))
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise InputError("its messages are not a list of {role, content}")
    if messages and all(message.get("type") and not (message.keys() & {"role", "from"}) for message in messages):
        return [("user", messages)]  # the parts of one turn
    turns = []
    for message in messages:
        given = message.get("role") or message.get("from")
        role = _ROLES.get(given.lower()) if isinstance(given, str) else None
        if role is None:
            raise InputError(f"a message has the role {given!r}; known are {', '.join(_ROLES)}")
        turns.append((role, message["content"] if message.get("content") is not None else message.get("value")))
    return turns


def _text_and_images(parts: list) -> tuple[str, list]:
    texts, images = [], []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(hub_files.text(part.get("text"), "a part of its message"))
        elif kind in ("image", "image_url"):
            texts.append(MARKER)
            images += [part] if any(value for key, value in part.items() if key != "type") else []
        else:
            raise InputError(f"a part of its message is of type {kind!r}; known are text and image")
    if len(images) not in (0, texts.count(MARKER)):
        raise InputError(f"{len(images)} of the {texts.count(MARKER)} image parts of its message hold an image")
    return "".join(texts), images
