"""Questions from chat messages, the prompt format of TRL, veRL and others."""

import json
import re

from models.errors import InputError
from perl_jax.records import hub_files
from perl_jax.symbols import MARKER

OPTION = re.compile(r"^\s*(?:\(([A-Z])\)|([A-Z])[.:)、．])", re.MULTILINE)  # start of an option line


def question(messages: object) -> tuple[str, list]:
    """(text, images) of a prompt's single user turn, with `<image>` for each image part. System messages are dropped.

    Args:
        messages: list of `{role, content}`, or its JSON text. `content` is a string, or a list of parts `{type: text,
            text}` and `{type: image}`; an image part that holds its own image is returned as it is.

    Raises:
        InputError: any other format, no user turn, several of them, or an assistant turn.

    >>> question([{"role": "system", "content": "Think."}, {"role": "user", "content": [
    ...     {"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]}])
    ('<image>What is it?', [{'type': 'image', 'image': 'a.png'}])
    """
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError) as error:
            raise InputError("its messages are text, but not JSON") from error
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError("its messages are not a list of {role, content}")
    turns = [message for message in messages if message.get("role") != "system"]
    if [turn.get("role") for turn in turns] != ["user"]:
        roles = ", ".join(ascii(turn.get("role")) for turn in turns)
        raise InputError(f"its messages must hold one user turn beside system texts, not: {roles or 'none'}")
    content = turns[0].get("content")
    return _text_and_images(content) if isinstance(content, list) else (hub_files.text(content, "its message"), [])


def option_letters(text: str) -> set[str]:
    """The letters of a question's option lines.

    >>> sorted(option_letters("Is it so?\\n(A) yes\\nB. no"))
    ['A', 'B']
    """
    return {first or second for first, second in OPTION.findall(text)}


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
