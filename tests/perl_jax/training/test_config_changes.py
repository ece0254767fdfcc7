"""A run that goes on: what may change in its config by itself, by word, and not at all."""

import copy
import json
import shutil

import pytest
import tiny_run

from configs import base
from models.errors import InputError
from perl_jax import train
from perl_jax.runtime import config_keys
from perl_jax.training import checkpoint, config_changes

SAVED = {
    "config": json.loads(base.get_config().to_json_best_effort()),
    "processes": 2,
    "prompt": {"template_sha256": "abc"},
}
LEAVES = [key for key, value in config_keys.flat(SAVED["config"]) if not hasattr(value, "items")]


def changed(**values) -> dict:
    """The metadata with other values of the config, by dotted key; ... for none."""
    now = copy.deepcopy(SAVED)
    for key, value in values.items():
        *sections, last = key.split(".")
        at = now["config"]
        for section in sections:
            at = at[section]
        at[last] = value
    return now


def test_each_key_is_refused_but_for_those_that_are_listed(caplog):
    """Whatever key is added to the config: unless somebody says that it changes nothing, it may not change."""
    free = {name for name in LEAVES for listed in config_changes.FREE if f"{name}.".startswith(f"{listed}.")}
    assert {"mesh.fsdp", "grading.timeout", "remat", "checkpoint.every", "eval.every", "micro_batch.rows"} <= free
    assert not free & {"optimizer.learning_rate", "seed", "reward", "total_steps", "checkpoint.best", "compute_dtype"}
    for key in LEAVES:
        now = changed(**{key: 12345})
        with caplog.at_level("INFO"):
            caplog.clear()
            if key in free:
                config_changes.check(SAVED, now, 3)
                assert f"changed since step 3, to the same results: {key} " in caplog.text
            else:
                with pytest.raises(InputError, match=rf"step 3 .* config: {key} .*, now 12345.*--allow={key}$"):
                    config_changes.check(SAVED, now, 3)
                config_changes.check(SAVED, now, 3, [key])
                assert f"changed since step 3, as --allow says: {key} " in caplog.text
    known = {key for key, _ in config_keys.flat(SAVED["config"])} | {"processes"}
    assert set(config_changes.FREE) <= known, "no key that is gone"


def test_all_differences_are_told_in_one_line():
    now = changed(**{"optimizer.learning_rate": 1e-5, "reward_weights.accuracy": 2.0, "remat": "none", "seed": 1})
    now |= {"prompt": {"template_sha256": "another"}, "processes": 1}
    told = (
        r"config: seed 0, now 1, reward_weights.accuracy not set, now 2.0, optimizer.learning_rate 1e-06, now 1e-05, "
        r"chat_template 'abc', now 'another'; .*"
        r"--allow=seed,reward_weights.accuracy,optimizer.learning_rate,chat_template$"
    )
    with pytest.raises(InputError, match=told):
        config_changes.check(SAVED, now, 3)
    every = ["seed,config.optimizer", "reward_weights", "chat_template"]  # sections, commas, several flags
    config_changes.check(SAVED, now, 3, every)
    with pytest.raises(InputError, match=r"config: seed 0, now 1; .*--allow=seed$"):
        config_changes.check(SAVED, now, 3, every[1:] + ["optimizer"])
    with pytest.raises(InputError, match=r"reward_weights.accuracy 2.0, now not set"):
        config_changes.check(changed(**{"reward_weights.accuracy": 2.0}), SAVED, 3)


def test_what_is_allowed_must_be_a_key():
    for saved in (SAVED, None):
        with pytest.raises(InputError, match=r"--allow=optimizer.lr: no such key .* mean optimizer.learning_rate\?"):
            config_changes.check(saved, SAVED, 3, ["seed,optimizer.lr"])
    with pytest.raises(InputError, match="--allow=optim: no such key"):
        config_changes.check(SAVED, SAVED, 3, ["optim"])


def test_fewer_steps_than_are_done_are_refused_in_any_case():
    for allow in ([], ["total_steps"]):
        with pytest.raises(InputError, match=r"^901 steps are done, but .* is 900: give more"):
            config_changes.check(SAVED, SAVED, 901, allow)
    with pytest.raises(InputError, match=r"total_steps 900, now 1000 \(over which the permutation decays\); .*"):
        config_changes.check(SAVED, changed(total_steps=1000), 900)


def test_checkpoints_of_before_go_on(caplog):
    old = {key: value for key, value in SAVED.items() if key not in ("config", "processes")}
    with caplog.at_level("INFO"):
        config_changes.check(old, changed(seed=5), 3)
    assert "step 3 was saved by an earlier version, without its config" in caplog.text


@pytest.mark.slow
def test_a_run_goes_on_with_what_was_allowed_last(tmp_path, caplog):
    workdir, last = tmp_path / "run", tiny_run.WARMUP + tiny_run.STEPS
    shutil.copytree(tiny_run.trained(), workdir)
    shutil.rmtree(workdir / "checkpoints" / str(last))
    starts = (workdir / "run.json").read_bytes()
    faster, more = {"optimizer.learning_rate": 2e-2}, {"grace": 9.0, "eval.every": 99}
    with pytest.raises(InputError, match=r"step 5 .* rollouts 2, now 3, optimizer.learning_rate 0.01, now 0.02"):
        tiny_run.run(workdir, rollouts=3, **faster, **more)
    assert (workdir / "run.json").read_bytes() == starts, "a start that is refused is none"
    with caplog.at_level("INFO"):
        train.train(tiny_run.config(**faster, **more), workdir, allow=["optimizer.learning_rate"])
    assert "to the same results: eval.every 3, now 99, grace 120.0, now 9.0" in caplog.text
    tiny_run.run(workdir, **faster)
    with pytest.raises(InputError, match=r"step 6 .* config: optimizer.learning_rate 0.02, now 0.01"):
        tiny_run.run(workdir)
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.run(last)["config"]["optimizer"]["learning_rate"] == 2e-2
