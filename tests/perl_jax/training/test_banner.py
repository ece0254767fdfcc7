import shlex

import jax
import numpy as np
import tiny

from configs import base
from perl_jax import mesh, policy, update
from perl_jax.training import banner, schedule


def test_a_run_says_what_it_is(tmp_path):
    config = base.get_config()
    config.warmup.steps = 3
    model = tiny.random_model(tiny.CONFIGS["untied"])
    state = update.init(model, schedule.optimizer(config, 1), policy.trainable(config))
    size = sum(x.size for x in jax.tree.leaves((state.trainable, state.frozen)))
    kept, excluded = {"a/b": np.arange(1200), "c": np.arange(34)}, {"a/b": {"too long": 3}, "c": {"x": 1, "y": 2}}
    with jax.set_mesh(mesh.make()):
        devices, of_model, data, step, steps = banner.lines(config, state, kept, excluded, "the/model", tmp_path)
    assert devices.startswith("devices  1 x cpu")
    assert f"the/model: {size / 1e6:.2f}M parameters, {size / 1e6:.2f}M trained, bfloat16" in of_model
    assert "1,234 questions, 6 left out; a/b, c" in data
    assert "128 questions x 2 orders x 6 rollouts = 1,536 responses of at most 2,048 tokens" in step
    assert "3 of warm-up and 900 of PeRL" in steps and str(tmp_path) in steps


def test_sizes():
    assert [banner.millions(count) for count in (576_000, 7_620_000_000)] == ["0.58M", "7.6B"]


def test_what_to_do_next_are_commands(tmp_path):
    config = base.get_config()
    config.eval.sets = ("eval",)
    _, *commands = banner.next_commands(config, tmp_path / "run")
    parts, names = [shlex.split(command) for command in commands], ("report", "export", "evaluate")
    assert [part[:3] for part in parts] == [["python", "-m", f"perl_jax.{name}"] for name in names]
    assert "--step=best" in parts[1]
    assert not any("best" in line for line in banner.next_commands(base.get_config(), tmp_path / "run"))
