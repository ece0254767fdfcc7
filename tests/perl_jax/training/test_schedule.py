"""What each step does follows from the config and the step's number."""

import numpy as np
import pytest
import tiny_run

from configs import base
from models.errors import InputError
from perl_jax.training import schedule


def test_the_warm_up_comes_first_and_permutes_nothing():
    config = base.get_config()
    config.warmup.steps, config.warmup.questions, config.total_steps, config.questions, config.n_s = 2, 5, 4, 7, 3
    assert [schedule.stage(config, step) for step in range(1, 5)] == ["warmup", "warmup", "perl", "perl"]
    assert schedule.draw(config, 2) == (5, 0, 0.0, 2)
    drawn = [schedule.draw(config, step) for step in range(3, 7)]
    assert [(count, n_s, step) for count, n_s, _, step in drawn] == [(7, 3, step) for step in range(3, 7)]
    np.testing.assert_allclose([p for _, _, p, _ in drawn], [0.75, 0.5, 0.25, 0.0])


def test_without_a_warm_up_every_step_is_perl():
    config = base.get_config()
    assert {schedule.stage(config, step) for step in (0, 1, 900)} == {"perl"}


def test_a_taught_response_must_have_room(tmp_path):
    with pytest.raises(InputError, match=r"record 'digits-train-0-\d+': the warm-up's response has \d+ tokens"):
        tiny_run.run(tmp_path, **{"sampling.max_new_tokens": 2})
