"""Reads the chat template of a model, and refuses one that would hang or swell."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

from models.errors import InputError
from models.source import read_json

TRIAL = Path(__file__).with_name("template_trial.py")  # a script: this module needs no jinja2
CPU, MEMORY = 3, 1 << 30  # seconds, the start included; bytes
MOST = 100_000  # characters for four short messages
WAIT = 60  # seconds for the trial as a whole, on a busy machine


def read(path: Path, tokenizer: Any) -> str:
    """The chat template of a model's directory, from the first of the places where versions of transformers keep it.

    Raises InputError where there is none, and for one that takes seconds, a gigabyte or a book for four messages.
    """
    file, template = path / "chat_template.jinja", tokenizer.chat_template
    if file.is_file():
        template = file.read_text(encoding="utf-8")
    elif (path / "chat_template.json").is_file():
        template = read_json(path / "chat_template.json").get("chat_template")
    if not isinstance(template, str):
        raise InputError(
            f"{path}: chat_template.jinja, chat_template.json or tokenizer_config.json must hold a template"
        )
    if fault := _fault(template):
        raise InputError(f"{path}: its chat template {fault}: take the model's own")
    return template


@functools.lru_cache(maxsize=8)
def _fault(template: str) -> str:
    """What is wrong with a template, by a trial; "" for nothing."""
    command = [sys.executable, str(TRIAL), str(CPU), str(MEMORY)]
    try:
        done = subprocess.run(command, input=template, capture_output=True, text=True, timeout=WAIT, errors="replace")
    except subprocess.TimeoutExpired:
        return f"is not done with four messages after {WAIT} s"
    if done.returncode < 0:
        return f"takes more than {CPU} s for four messages"
    said = (done.stdout.split() or ["0"])[0]
    if said == "memory":
        return f"takes more than {MEMORY >> 20} MiB of memory for four messages"
    length = int(said)
    return f"makes {length:,} characters of four messages" if length > MOST else ""
