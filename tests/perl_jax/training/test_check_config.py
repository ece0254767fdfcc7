"""What a config must say is said before anything is computed or written."""

import ast

import pytest
from environment import REPOSITORY

from configs import base
from models.errors import InputError
from perl_jax.training import check_config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"online_filter": "dropp"}, "online_filter is one of off, drop, refill, not 'dropp'"),
        ({"advantage_scale": "x"}, "advantage_scale is one of std, none"),
        ({"loss.aggregate": "mean"}, "loss.aggregate is one of token-mean"),
        ({"eval.every": 0}, "eval.every is 0; it must be at least 1"),
        ({"lora.rank": -1}, "lora.rank is -1"),
        ({"lora.targets": "(q_proj"}, r"lora.targets is '\(q_proj': no regular expression"),
        ({"n_s": -1}, "n_s is -1"),
        ({"refill_rounds": 0}, "refill_rounds is 0"),
        ({"sampling.temperature": 0.0}, "temperature must be above 0"),
        ({"sampling.top_p": 1.5}, "top_p"),
        ({"eval.sets": (3,)}, "config.eval.sets must hold names"),
        ({"warmup.caption": "{number}"}, "warmup.caption is '{number}'"),
        ({"warmup.steps": 3, "loss.kl_coef": 0.1}, "before the warm-up"),
        ({"reward_weights": {"accuracy": "much"}}, "reward_weights.accuracy is 'much'; it must be a finite number"),
    ],
)
def test_a_value_with_which_no_run_is_right(changes, words):
    config = base.get_config()
    check_config.check(config)
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=words):
        check_config.check(config)


@pytest.mark.parametrize(
    "changes, shards, words",
    [
        ({}, 64, None),
        ({"questions": 96}, 256, None),
        ({"questions": 3, "n_s": 1}, 8, None),  # 6 of 8: a quarter is allowed
        ({"questions": 2, "n_s": 1}, 8, "= 2, in 2 orders each, are 4 prompts; .* 4 of 8 rows .* multiple of 4"),
        ({"questions": 17, "n_s": 0}, 16, "17 prompts; .* 15 of 32 rows .*max_padding = 0.25 .* a multiple of 16"),
        ({"questions": 3, "n_s": 2}, 8, "7 of 16 rows .* a multiple of 8"),
        ({"questions": 17, "n_s": 0, "max_padding": 0.5}, 16, None),
        ({"questions": 17, "n_s": 0, "total_steps": 0}, 16, None),  # no rollouts
    ],
)
def test_prompts_that_divide_the_mesh_badly(changes, shards, words):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    check_config.check(config)
    if words is None:
        check_config.check_shards(config, shards)
        return
    with pytest.raises(InputError, match=words) as error:
        check_config.check_shards(config, shards)
    assert "\n" not in str(error.value)


def test_a_part_that_is_replaced():
    config = base.get_config()
    check_config.check_parts(config)
    config.scratch = {"vision": {}}
    config.data.options = {"size": 3}
    config.reward_weights = {"accuracy": 1.0}
    check_config.check_parts(config)
    config.eval = {"sets": ()}
    with pytest.raises(InputError, match=r"config\.eval is replaced as a whole; set config.eval.sets one by one"):
        check_config.check_parts(config)


def test_every_key_is_read():
    """By source text: `config.a.b`, `c = config.a` and then `c.b`, or the whole section as `**config.a`."""
    read, sections = set(), set()
    for file in (REPOSITORY / "perl_jax").rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                collect(function, read, sections)
    read |= {name.removesuffix(".to_dict") for name in read}
    unread = [key for key in flat(base.get_config()) if key not in read and key.rpartition(".")[0] not in sections]
    assert not unread


def collect(function: ast.FunctionDef, read: set[str], sections: set[str]) -> None:
    names = {"config": ""}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            for target, value in [(node.targets[0], node.value)]:
                if (path := dotted(value, {"config": ""})) is not None:
                    names[target.id] = path
    for node in ast.walk(function):
        if (path := dotted(node, names)) is not None:
            read.add(path)
        if isinstance(node, ast.keyword) and node.arg is None and (path := dotted(node.value, names)) is not None:
            sections.add(path)


def dotted(node, names) -> str | None:
    """ "a.b" of `config.a.b`, or of `c.b` where `names` has {"c": "a"}."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (path := dotted(node.value, names)) is not None:
        return f"{path}.{node.attr}".removeprefix(".")
    return None


def flat(config, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        keys += flat(value, f"{prefix}{key}.") if hasattr(value, "items") and len(value) else [prefix + key]
    return keys
