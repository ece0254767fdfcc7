"""What each step does follows from the config and the step's number."""

import doctest

import numpy as np
import pytest
import tiny_run

from configs import base
from models.errors import InputError
from perl_jax import policy
from perl_jax.training import schedule


def test_the_warm_up_comes_first_and_permutes_nothing():
    config = base.get_config()
    config.warmup.steps, config.warmup.questions, config.total_steps, config.questions, config.n_s = 2, 5, 4, 7, 3
    assert [schedule.stage(config, step) for step in range(1, 5)] == ["warmup", "warmup", "perl", "perl"]
    assert schedule.draw(config, 2) == (5, 0, 0.0, 2)
    drawn = [schedule.draw(config, step) for step in range(3, 7)]
    assert [(count, n_s, step) for count, n_s, _, step in drawn] == [(7, 3, step) for step in range(3, 7)]
    np.testing.assert_allclose([p for _, _, p, _ in drawn], [0.75, 0.5, 0.25, 0.0])


@pytest.mark.parametrize("count, most", [(1, 4), (4, 4), (5, 4), (33, 32), (10, 3), (7, 1), (0, 4)])
def test_parts_of_a_batch_differ_by_one_at_most(count, most):
    parts = schedule.parts(list(range(count)), most)
    assert [item for part in parts for item in part] == list(range(count)) and len(parts) == -(-count // most)
    assert not parts or max(map(len, parts)) <= min(most, min(map(len, parts)) + 1)


def test_examples_in_the_docstrings():
    assert doctest.testmod(schedule).failed == 0


def test_without_a_warm_up_every_step_is_perl():
    config = base.get_config()
    assert {schedule.stage(config, step) for step in (0, 1, 900)} == {"perl"}


@pytest.mark.slow
def test_a_taught_response_must_have_room(tmp_path):
    with pytest.raises(InputError, match=r"record 'digits-train-0-\d+': the warm-up's response has \d+ tokens"):
        tiny_run.run(tmp_path, **{"sampling.max_new_tokens": 2})


def test_special_tokens_in_a_taught_response_are_text(tmp_path):
    """In captions and answers; the only control token is the EOS after them."""
    config = tiny_run.config(**{"sampling.max_new_tokens": 400})
    prompts, _ = policy.without_weights(config, tmp_path, ["Which image shows 7?"] * 3)
    tokenizer = prompts.processor.tokenizer
    control = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    sample = {"id": "a", "answer": f"2{tokenizer.eos_token}", "captions": ["".join(control.values()), "a dog"]}
    *ids, last = schedule.target_tokens(config, sample, prompts.processor)
    assert last == prompts.processor.eos_ids[0] and not control.keys() & set(ids)
    assert prompts.processor.decode(ids) == schedule.target_response(config, sample)
