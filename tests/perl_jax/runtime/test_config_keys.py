"""What somebody meant who wrote another key."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import base
from perl_jax.runtime import config_keys

CONFIG = base.get_config()
KEYS = [key for key, value in config_keys.flat(CONFIG) if not hasattr(value, "items")]
SECTIONS = sorted({key.rpartition(".")[0] for key in KEYS} - {""})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("optimiser.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("warmup.lr", "warmup.learning_rate"),
        ("optimizer.learning_rat", "optimizer.learning_rate"),
        ("optimizer.beta1", "optimizer.b1"),
        ("actor.optim.lr", "optimizer.learning_rate"),
        ("rollout.n", "rollouts"),
        ("num_generations", "rollouts"),
        ("beta", "loss.kl_coef"),
        ("loss.klcoef", "loss.kl_coef"),
        ("max_completion_length", "sampling.max_new_tokens"),
        ("sampling.temp", "sampling.temperature"),
        ("sampling.top-p", "sampling.top_p"),
        ("max_pixels", "prompt.max_pixels"),
        ("optimizer.total_steps", "total_steps"),
        ("total_steps.x", "total_steps"),
        ("trainer.save_freq", "checkpoint.every"),
        ("Seed", "seed"),
        ("evals.every", "eval.every"),
        ("data.optoins", "data.options"),
        ("foo", ""),
        ("zzz.qqq", ""),
    ],
)
def test_what_was_meant(written, meant):
    assert config_keys.suggestion(CONFIG, written) == meant


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from([key for key in KEYS if len(key.rpartition(".")[2]) > 4]), st.data())
def test_a_letter_too_many_or_too_few(key, data):
    section, dot, name = key.rpartition(".")
    place = data.draw(st.integers(1, len(name) - 1))
    changed = data.draw(st.sampled_from([name[:place] + name[place + 1 :], name[:place] + "x" + name[place:]]))
    written = f"{section}{dot}{changed}"
    if written not in KEYS:
        found = config_keys.suggestion(CONFIG, written)
        assert found.rpartition(".")[0] == section and found in KEYS


@given(st.sampled_from(SECTIONS), st.sampled_from(KEYS))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_key_in_the_wrong_section(section, key):
    """Its name leads to it, where no other key or section has that name, or to one like it in that section."""
    name = key.rpartition(".")[2]
    written = f"{section}.{name}"
    once = sum(other.rpartition(".")[2] == name for other in [*KEYS, *SECTIONS]) == 1
    if written not in KEYS and once:
        found = config_keys.suggestion(CONFIG, written)
        assert found == key or found.startswith(f"{section}.")


@given(st.text("abc._- é", max_size=12))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_text(written):
    found = config_keys.suggestion(CONFIG, written)
    assert found == "" or found in dict(config_keys.flat(CONFIG))


def test_other_names_lead_to_keys():
    assert set(config_keys.NAMES.values()) <= set(KEYS)
    assert doctest.testmod(config_keys).failed == 0
