"""A chat template that hangs or swells is refused as it is read; those that are published, or refuse roles, are not."""

import types

import pytest

from models import chat_template
from models.errors import InputError
from models.qwen2_5_vl import from_scratch as qwen2_5_vl
from models.qwen3_vl import from_scratch as qwen3_vl

NO_TOKENIZER = types.SimpleNamespace(chat_template=None)
HARMLESS = {
    "Qwen2.5-VL from nothing": qwen2_5_vl.CHAT_TEMPLATE,
    "Qwen3-VL from nothing": qwen3_vl.CHAT_TEMPLATE,
    "refuses roles": "{{ raise_exception('roles must alternate') }}",
    "fails": "{{ messages[0].content.x.y }}",
    "tags": "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% continue %}{% endfor %}",
    "no template": "{% if %}",
    "long": "{{ 'x' * 99999 }}",
}
EITHER = "takes more than (1024 MiB|3 s) "  # whichever limit comes first
HOSTILE = {
    "tower of powers": ("{{ 9 ** (9 ** 9) }}", "takes more than 3 s"),
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "takes more than 3 s",
    ),
    "within a tag": ("{% generation %}{{ 9 ** (9 ** 9) }}{% endgeneration %}", "takes more than 3 s"),
    "multiplied": ("{{ 'x' * 10 ** 11 }}", EITHER),
    "doubled": ("{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}", EITHER),
    "padded": ("{{ '{:>99999999999}'.format(1) }}", EITHER),
    "a book": ("{% for m in messages %}{{ 'x' * 30000 }}{% endfor %}", "makes 120,000 characters"),
}


def read(folder, template: str) -> str:
    (folder / "chat_template.jinja").write_text(template)
    return chat_template.read(folder, NO_TOKENIZER)


def test_harmless_ones_are_read(tmp_path):
    for name, template in HARMLESS.items():
        assert read(tmp_path, template) == template, name


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ones_are_refused(tmp_path, name):
    template, words = HOSTILE[name]
    with pytest.raises(InputError, match=f"{tmp_path}: its chat template {words}") as told:
        read(tmp_path, template)
    assert "\n" not in str(told.value)
