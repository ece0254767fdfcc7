"""What a config must say is said before anything is computed or written."""

import ast
import functools
import importlib
import inspect
import math
import re

import numpy as np
import pytest
import tiny_run
from environment import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import base
from models.errors import InputError
from perl_jax.runtime import config_keys
from perl_jax.training import check_config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"online_filter": "dropp"}, "online_filter is one of off, drop, refill, not 'dropp'"),
        ({"advantage_scale": "x"}, "advantage_scale is one of std, none"),
        ({"loss.aggregate": "mean"}, "loss.aggregate is one of token-mean"),
        ({"loss.kind": "ppo"}, "loss.kind is one of grpo, gspo, cispo, sapo, not 'ppo'"),
        ({"loss.importance": "on"}, "loss.importance is one of off, token, sequence"),
        ({"loss.importance_cap": 0.5}, "loss.importance_cap is 0.5; it must be at least 1"),
        ({"remat": "some"}, "remat is one of none, dots, full, auto, True, False, not 'some'"),
        (
            {"overlong.buffer": 3000},
            "overlong.buffer is 3000; it must be at most config.sampling.max_new_tokens = 2048",
        ),
        ({"max_sampler_gap": 0.0}, "max_sampler_gap is 0.0; it must be above 0"),
        ({"eval.every": 0}, "eval.every is 0; it must be at least 1"),
        ({"lora.rank": -1}, "lora.rank is -1"),
        ({"lora.targets": "(q_proj"}, r"lora.targets is '\(q_proj': no regular expression"),
        ({"n_s": -1}, "n_s is -1"),
        ({"refill_rounds": 0}, "refill_rounds is 0"),
        ({"sampling.temperature": 0.0}, "temperature is 0.0; it must be at least 0.001"),
        ({"permute.start": 2.0}, "permute.start is 2.0; it must be at least 0 and at most 1"),
        ({"optimizer.b2": 0.9999999999}, "optimizer.b2 is 0.9999999999; it must be at least 0 and below 1"),  # float32
        ({"optimizer.learning_rate": 1e-60}, "learning_rate is 1e-60; it must be above 0"),
        ({"prompt.max_pixels": 10**18}, "prompt.max_pixels is 1000000000000000000; it must be at least 1 and at most"),
        ({"grading.workers": 0}, "grading.workers is 0; it must be at least 1"),
        ({"seed": 2**32}, "seed is 4294967296; it must be at least 0 and at most 4294967295"),
        ({"mesh.data": 0}, "mesh.data is 0; it must be at least 1, a whole number or -1"),
        ({"mesh.data": -1}, "config.mesh.data and config.mesh.fsdp are both -1"),
        ({"compute_dtype": "float16"}, "compute_dtype is one of bfloat16, float32, not 'float16'"),
        ({"reward": " "}, "config.reward is ' '"),
        ({"prompt.min_pixels": 300000}, "min_pixels is 300000; it must be at most config.prompt.max_pixels = 262144"),
        ({"n_s": 0, "rollouts": 1}, "a group of one response has no advantage"),
        ({"advantage_scope": "order", "rollouts": 1}, "rollouts is 1 and config.advantage_scope is 'order'"),
        ({"n_s": 0, "reward_consistency": "times"}, "reward_consistency is 'times', but config.n_s is 0"),
        ({"profile": "10-12"}, "config.profile is '10-12'; it must be FIRST:LAST"),
        ({"attention": "flash"}, "attention is one of auto, xla, kernel, not 'flash'"),
        ({"data.shuffle": "twice"}, "data.shuffle is one of none, once, fresh, half, not 'twice'"),
        ({"permute.schedule": "falling"}, "permute.schedule is one of linear, cosine, constant, rising"),
        ({"warmup.steps": 1, "loss.kl_coef": 0.0, "warmup.response": "x"}, "without {answer}"),
        ({"eval.sets": ("eval",), "eval.permute": 0}, "best is 'eval/permuted_accuracy', but an evaluation has only "),
        ({"eval.sets": ("eval",), "checkpoint.best": "accuracy"}, "only eval/accuracy, .*, eval/accuracy/SOURCE; give"),
        ({"reward_weights": {"accuracy": 0.0}}, "reward_weights are all 0"),
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


@pytest.mark.parametrize("name", sorted(file.stem for file in (REPOSITORY / "configs").glob("[!_]*.py")))
def test_the_configs_of_the_project_are_right(name):
    module = importlib.import_module(f"configs.{name}")
    text = inspect.getsource(module.get_config)
    arms = re.findall(r'(?:if|elif) \w+ (?:==|!=) "([\w.-]+)"', text)  # with their defaults
    assert len(arms) >= 1 or not inspect.signature(module.get_config).parameters
    for arguments in [(), *((arm,) for arm in arms)]:
        check_config.check(module.get_config(*arguments))
    check_config.check(tiny_run.config())
    check_config.check(tiny_run.config(**tiny_run.ADAPTERS))


def test_every_key_has_its_values():
    """A new key has to say what it may be."""
    others = {"scratch", "data.options", "reward_weights", "eval.sets"}
    said = [*check_config.RANGES, *check_config.ONE_OF, *check_config.SWITCHES, *check_config.TEXTS, *others]
    assert sorted(said) == sorted(flat(base.get_config()))


CONFIG = base.get_config()


def refused(key: str, value) -> str:
    """What is said of a value of a key in a config that is right otherwise."""
    *sections, name = key.split(".")
    part = functools.reduce(getattr, sections, CONFIG)
    default = part[name]
    with CONFIG.ignore_type():
        part[name] = None  # otherwise True would be stored as 1.0 where a float was
        part[name] = value
        try:
            with pytest.raises(InputError) as error:
                check_config.check(CONFIG)
        finally:
            part[name] = None
            part[name] = default
    return str(error.value)


WRONG_KIND = [True, False, "1", "", None, float("nan"), float("inf"), -float("inf"), (1,), 1 + 0j, 10**400, -(10**400)]


def outside(range_: check_config.Range):
    """Numbers outside a range, near it and far from it, and what is no number."""
    least, most = range_.least, range_.most
    near = [np.nextafter(least, -math.inf), np.nextafter(np.float32(least), np.float32(-math.inf)), least - 1, -1e300]
    far = [most * 1.001, most + 1, 2 * most, 1e300]
    edges = [least] * range_.above + [most] * range_.below
    wholes = [least - 1, most + 1, -(2**70), 2**70, least + 0.5]
    return st.one_of(
        st.sampled_from(WRONG_KIND),
        st.sampled_from(wholes if range_.whole else [float(number) for number in near + far + edges]),
        st.integers(max_value=int(least) - 1),
        st.integers(min_value=int(min(most, 10**50)) + 1 if most < 10**30 else 10**40),
    ).filter(lambda value: value not in range_.also and (range_.whole or value != most))


@pytest.mark.parametrize("key", check_config.RANGES)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_value_out_of_its_range_is_refused(key, data):
    """In one line that says the key, the range and the value."""
    range_ = check_config.RANGES[key]
    value = data.draw(outside(range_))
    text = refused(key, value)
    assert f"config.{key} is {value!r}; it must be " in text and "\n" not in text
    assert f"{'above' if range_.above else 'at least'} {range_.least:g}" in text
    if range_.most not in (check_config.MOST, check_config.MOST_WHOLE):
        assert f"{'below' if range_.below else 'at most'} {range_.most:.10g}" in text


@pytest.mark.parametrize("key", check_config.RANGES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_value_within_its_range_is_taken(key, data):
    range_ = check_config.RANGES[key]
    assert range_.holds(dict(config_keys.flat(base.get_config()))[key]), "the default"
    least, most = range_.least, range_.most
    if range_.whole:
        assert range_.holds(
            data.draw(st.one_of(st.integers(least, most), st.sampled_from([least, most, *range_.also])))
        )
    else:
        bounds = {"exclude_min": range_.above, "exclude_max": range_.below, "allow_subnormal": False, "width": 32}
        edges = {"min_value": float(np.float32(least)), "max_value": most}
        least_taken = max(edges["min_value"], float(np.nextafter(np.float32(least), np.float32(2 * least))))
        number = data.draw(st.floats(**{**edges, "min_value": least_taken if least else 0.0}, **bounds))
        assert range_.holds(number)


@pytest.mark.parametrize("key", [*check_config.ONE_OF, *check_config.SWITCHES, *check_config.TEXTS])
def test_a_value_of_another_kind_is_refused(key):
    for value in (None, 3, 1.5, ("a",), float("nan"), b"x"):
        text = refused(key, value)
        assert f"config.{key} is " in text and repr(value) in text


def test_a_config_without_a_key():
    config = base.get_config()
    with config.unlocked():
        del config.grading.max_failed
    with pytest.raises(InputError, match=r"config.grading.max_failed is missing: begin with what configs/base.py"):
        check_config.check(config)
    with pytest.raises(InputError, match="is missing"):
        check_config.check(ConfigDict({"model": "x"}))


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
