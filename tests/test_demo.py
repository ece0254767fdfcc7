"""The demo's own program, much shorter: it learns to read digits that it was never shown, and its export answers."""

import json

import pytest

from configs import demo
from perl_jax import permute, records, sample, train
from perl_jax.evaluation import statistics
from perl_jax.export import export


@pytest.mark.slow
@pytest.mark.parametrize("family", demo.FAMILIES)
def test_it_learns_against_chance(tmp_path, optimized, family):
    config = demo.get_config(family)
    questions = "single,single,single,which"
    config.data.options = {"train_size": 2000, "eval_size": 107, "max_images": 2, "questions": questions}
    config.warmup.steps, config.warmup.questions, config.warmup.learning_rate = 110, 32, 4e-3
    config.total_steps = 2
    config.questions, config.eval.every, config.eval.permute = 8, 1000, 1
    train.train(config, tmp_path / "run")

    def last(step: int) -> statistics.Estimate:
        rows = (tmp_path / "run" / "evaluations" / f"eval-{step:08d}.jsonl").read_text().splitlines()
        rows_read = [json.loads(row) for row in rows]
        return statistics.proportion(statistics.measures(rows_read)["single"])

    before, after = last(0), last(112)
    assert before.mean <= 0.2 and after.questions > 80
    assert after.low > 0.25, "ten digits: chance is a tenth, and the held-out pictures were never trained on"

    export(tmp_path / "run", tmp_path / "model")
    split = records.open_split(str(tmp_path / "run" / "data"), "eval")
    question = permute.render(split[0])
    (answer,) = sample.answers(tmp_path / "model", question["question"], question["images"], max_new_tokens=24)
    assert answer.startswith("<think>") and "\\boxed{" in answer


def test_the_arms_differ_in_the_method_only():
    warm_up, grpo, shuffled, perl, recommended = map(demo.get_config, demo.ARMS)
    assert warm_up.total_steps == 0 and not any(arm.warmup.steps for arm in (grpo, shuffled, perl, recommended))
    arms = (grpo, shuffled, perl, recommended)
    rollouts = {arm.questions * (arm.n_s + 1) * arm.rollouts * arm.total_steps for arm in arms}
    assert len(rollouts) == 1, "equal rollouts"
    assert (grpo.n_s, shuffled.n_s, perl.n_s) == (0, 0, 1)
    assert [arm.data.shuffle for arm in (grpo, shuffled, perl)] == ["none", "once", "none"]
    for arm in (grpo, shuffled):
        with arm.unlocked():
            arm.n_s, arm.rollouts, arm.data.shuffle = perl.n_s, perl.rollouts, "none"
        assert arm.to_dict() == perl.to_dict()
    recommended.permute.schedule = perl.permute.schedule
    assert recommended.to_dict() == perl.to_dict()


def test_a_family_and_an_arm():
    for arm in ("", *demo.ARMS):
        ours, theirs = (demo.get_config(f"{family},{arm}") for family in demo.FAMILIES)
        assert ours.to_dict() == demo.get_config(arm).to_dict()
        assert (ours.scratch.model_type, theirs.scratch.model_type) == tuple(demo.FAMILIES)
        theirs.scratch = ours.scratch
        assert ours.to_dict() == theirs.to_dict()


@pytest.mark.parametrize("parts", ["pearl", "qwen3_vl,pearl", "llava,perl"])
def test_an_arm_that_is_none(parts):
    with pytest.raises(ValueError, match=r"no arm '(pearl|llava)'; it has warm-up"):
        demo.get_config(parts)
