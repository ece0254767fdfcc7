"""Training: whole runs of a micro model, what they leave, and that a run cut anywhere ends as one that was not."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run
from environment import REPOSITORY
from flax import nnx

import models
from models import lora
from models.errors import InputError
from perl_jax import permute, policy, records, train, update
from perl_jax.records import prompt_lengths, prompts
from perl_jax.records.stream import Stream
from perl_jax.runtime import logs
from perl_jax.training import batch, check_config, checkpoint, schedule

pytestmark = pytest.mark.slow

LAST = tiny_run.WARMUP + tiny_run.STEPS
UPDATE = {
    "loss",
    "grad_norm",
    "update_norm",
    "entropy",
    "logprob",
    "tokens",
    "computed_share",
    "padding",
    "split_trees",
}
MEASURED = ("time/", "compile/", "speed/")  # what differs between equal runs
NAMES = {
    "reward/mean",
    "reward/accuracy",
    "reward/format",
    "reward/kind/number",
    "group/all_right",
    "group/all_wrong",
    "grading/failed",
    "advantage/std",
    "advantage/zero_share",
    "reward/between_order_variance",
    "reward/within_order_variance",
    "permute/probability",
    "permute/share",
    "response/truncated",
    "response/length_mean",
    "response/length_max",
    "update/clip_low",
    "update/clip_high",
    "update/clip_dual",
    "update/ratio",
    "update/ratio_max",
    "update/sampler_gap",
    "compile/count",
    "compile/seconds",
    "speed/rollout_tokens_per_second",
    "speed/update_tokens_per_second",
    "time/data",
    "time/rollout",
    "time/reward",
    "time/update",
    "time/other",
    "time/total",
    *(f"update/{name}" for name in UPDATE),
}


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("family", tiny_run.FAMILIES)
def test_the_update_sees_what_was_sampled(family):
    """An image's features reach prefill and update alike, and what is written is of its family."""
    workdir = tiny_run.trained(family)
    steps = tiny_run.metrics(workdir, "perl")
    assert all(step["update/grad_norm"] > 0 and step["update/sampler_gap"] < 1e-4 for step in steps)
    assert json.loads((workdir / "init" / "config.json").read_text())["model_type"] == family


# What a run leaves


def test_every_step_says_the_same_things():
    steps = tiny_run.metrics(tiny_run.trained())
    assert [(line["stage"], line["step"]) for line in steps] == [
        ("warmup" if step <= tiny_run.WARMUP else "perl", step) for step in range(1, LAST + 1)
    ]
    for line in steps:
        assert all(math.isfinite(value) for name, value in line.items() if name != "stage")
        assert line.keys() >= (NAMES if line["stage"] == "perl" else {f"update/{name}" for name in UPDATE})
    assert [line["permute/probability"] for line in steps[tiny_run.WARMUP :]] == [0.75, 0.5, 0.25, 0.0]
    assert all(line["update/sampler_gap"] < 1e-4 for line in steps[tiny_run.WARMUP :])
    assert any(line["update/grad_norm"] > 0 for line in steps[tiny_run.WARMUP :])


def test_held_out_questions_are_asked_before_step_1_then_regularly_and_at_the_end():
    workdir = tiny_run.trained()
    evaluations = [line for line in lines(workdir / "metrics.jsonl") if "eval/accuracy" in line]
    assert [line["step"] for line in evaluations] == [0, 3, 6]
    files = sorted((workdir / "evaluations").iterdir())
    assert [file.name for file in files] == [f"eval-{step:08d}.jsonl" for step in (0, 3, 6)]
    rows = lines(files[-1])
    assert len(rows) == 2 * 6 and {row["original"] for row in rows} == {True, False}
    original = [row["correct"] for row in rows if row["original"]]
    assert evaluations[-1]["eval/accuracy"] == pytest.approx(np.mean(original))


def test_run_json_says_what_was_run():
    workdir = tiny_run.trained()
    (start,) = json.loads((workdir / "run.json").read_text())
    assert start["config"]["warmup"]["steps"] == tiny_run.WARMUP and start["config"]["seed"] == 0
    assert {"jax", "flax", "python"} <= start["versions"].keys() and start["command"] and start["device"]
    assert start["processes"] == 1
    assert "commit" in start and "clean" in start
    assert start["base"] == policy.fingerprint(workdir / "init")
    data = str(workdir / "data")
    assert start["records"] == {data: records.fingerprint(data)} and start["excluded"]["train"] == {data: {}}


def test_rollouts_are_there_to_read():
    groups = lines(tiny_run.trained() / "rollouts.jsonl")
    assert {group["step"] for group in groups} == set(range(tiny_run.WARMUP + 1, LAST + 1))
    for group in groups:
        shape = np.shape(group["rewards"])
        assert shape == np.shape(group["advantages"]) == np.shape(group["responses"]) == (2, 2)
        assert group["orders"][0] == [0, 1] and len(group["orders"]) == len(group["answers"]) == 2
        assert sum(map(sum, group["advantages"])) == pytest.approx(0, abs=1e-5)


def test_tensorboard_files_hold_the_metrics():
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tiny_run.trained() / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= NAMES | {"eval/accuracy"}
    expected = {line["step"]: line["update/loss"] for line in tiny_run.metrics(tiny_run.trained())}
    written = {event.step: event.value for event in events.Scalars("update/loss")}
    assert written == pytest.approx(expected)


# Cut and started again


def outcome(workdir: Path, **changes):
    """All that a run ends with: weights, optimizer, data position, and its steps' metrics but for how long."""
    config = tiny_run.config(**changes)
    last = config.warmup.steps + config.total_steps
    model = policy.adapted(config, models.load(workdir / "init"))
    state = update.init(model, schedule.optimizer(config, last), policy.trainable(config))
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        state = checkpoints.restore(last, state)
        stream = checkpoints.run(last)["stream"]
    steps = {
        line["step"]: {name: value for name, value in line.items() if not name.startswith(MEASURED)}
        for line in tiny_run.metrics(workdir)
    }
    return jax.tree.leaves((state.trainable, state.opt_state)), stream, steps


def assert_same_outcome(workdir: Path, other: Path | None = None, **changes):
    expected_workdir = other or tiny_run.trained()
    (arrays, stream, steps), (ours, our_stream, our_steps) = (
        outcome(expected_workdir, **changes),
        outcome(workdir, **changes),
    )
    assert all(np.array_equal(a, b) for a, b in zip(arrays, ours, strict=True))
    assert stream == our_stream and steps == our_steps


def cut_after(cut: int, finished: Path, workdir: Path) -> Path:
    """A copy of a run as it was after step `cut`."""
    shutil.copytree(finished, workdir)
    for step in (workdir / "checkpoints").iterdir():
        if step.name.isdigit() and int(step.name) > cut:
            shutil.rmtree(step)
    remaining = [line for line in lines(workdir / "metrics.jsonl") if line["step"] <= cut]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in remaining))
    return workdir


@pytest.mark.parametrize("family, cut", [("qwen2_5_vl", 1), ("qwen2_5_vl", tiny_run.WARMUP), ("qwen3_vl", 3)])
def test_a_run_that_goes_on_from_a_checkpoint_ends_as_one_that_was_not_cut(tmp_path, family, cut):
    whole = tiny_run.trained(family)
    workdir = tiny_run.run(cut_after(cut, whole, tmp_path / "run"), family=family)
    assert [line["step"] for line in tiny_run.metrics(workdir)] == list(range(1, LAST + 1))
    assert_same_outcome(workdir, whole, family=family)


def test_a_line_that_a_kill_cut_is_gone_when_the_next_is_written(tmp_path):
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        (tmp_path / name).write_text('{"step": 1}\n{"step": 2, "x"')
    with logs.RunLog(tmp_path, {}, 3) as log:
        log.groups([{"step": 3}])
    assert [line["step"] for line in lines(tmp_path / "rollouts.jsonl")] == [1, 3]
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1]


def test_a_killed_run_goes_on_exactly(tmp_path):
    """`kill -9` right after a step, with its predecessor's checkpoint perhaps still being written."""
    workdir = tmp_path / "run"
    code = f"import tiny_run; tiny_run.run_until({str(workdir)!r}, {tiny_run.WARMUP + 2})"
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "support")])
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **cache, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        assert 1 <= checkpoints.latest() <= tiny_run.WARMUP + 1
    tiny_run.run(workdir)
    assert_same_outcome(workdir)
    assert len(json.loads((workdir / "run.json").read_text())) == 2
    assert [line["step"] for line in tiny_run.metrics(workdir)] == list(range(1, LAST + 1)), "no line twice"
    lines_of = [(row["step"], row["id"]) for row in lines(workdir / "rollouts.jsonl")]
    assert len(lines_of) == len(set(lines_of)) == 2 * tiny_run.STEPS


def test_a_run_that_is_asked_to_end_saves_its_step_and_goes_on_exactly(tmp_path):
    """Also between two checkpoints of its interval; a run is finished when it says so."""
    workdir, changes = tmp_path / "run", {"checkpoint.every": 99, "eval.every": 3}
    code = (
        f"import tiny_run; tiny_run.run_until({str(workdir)!r}, {tiny_run.WARMUP}, {signal.SIGTERM.value}, **{changes})"
    )
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "support")])
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **cache, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    line = f"stopped by SIGTERM at step {tiny_run.WARMUP}, saved; the same command goes on"
    assert done.stderr.splitlines()[-1] == line and not (workdir / "finished").exists()
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.steps() == [tiny_run.WARMUP]
    tiny_run.run(workdir)
    assert_same_outcome(workdir)
    assert (workdir / "finished").read_text() == f"step {LAST}\n"
    assert sorted(line["step"] for line in tiny_run.metrics(workdir)) == list(range(1, LAST + 1))


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(tmp_path, caplog):
    """The same end, from further back."""
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run.trained(), workdir)
    shutil.rmtree(workdir / "checkpoints" / str(LAST))
    (workdir / "finished").unlink()
    newest = max(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())
    file = max((workdir / "checkpoints" / str(newest)).rglob("*"), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with caplog.at_level("WARNING"):
        tiny_run.run(workdir)
    assert_same_outcome(workdir)
    [line] = [record.message for record in caplog.records if "set aside" in record.message]
    assert f"checkpoint {newest} cannot be read (" in line and f"damaged-checkpoints/{newest}" in line
    assert (workdir / "damaged-checkpoints" / str(newest)).is_dir() and (workdir / "finished").exists()


def test_a_run_does_not_begin_anew_where_no_checkpoint_is_whole(tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run.trained(), workdir)
    for folder in (workdir / "checkpoints").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder / "optimizer")
    first = min(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())
    words = rf"checkpoint {first} cannot be read \(.*\); remove it .*, or give a new --workdir: there is none before"
    for _ in range(2):
        with pytest.raises(InputError, match=words):
            tiny_run.run(workdir)
    assert (workdir / "checkpoints" / str(first)).is_dir()


def test_a_finished_run_started_again_does_nothing_but_say_so(tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run.trained(), workdir)
    before = (workdir / "metrics.jsonl").read_bytes()
    tiny_run.run(workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert len(json.loads((workdir / "run.json").read_text())) == 2


def test_another_base_or_other_data_is_refused(tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run.trained(), workdir)
    models.save(models.load(workdir / "init"), tmp_path / "other", dtype="bfloat16")
    with pytest.raises(InputError, match="other base weights"):
        tiny_run.run(workdir, scratch={}, model=str(tmp_path / "other"))
    with pytest.raises(InputError, match="made with other settings"):
        tiny_run.run(workdir, seed=1)


# Adapters, frozen weights and the reference


def test_adapters_start_as_the_reference_and_move_away():
    """Their reference is the base itself: at the first step the divergence is exactly 0."""
    steps = tiny_run.metrics(tiny_run.adapted())
    assert steps[0]["update/kl"] == 0 and steps[0]["update/ratio"] == 1
    assert steps[1]["update/kl"] > 0 and steps[-1]["update/kl"] > steps[1]["update/kl"]
    assert all(line["update/sampler_gap"] < 1e-4 and line["update/grad_norm"] > 0 for line in steps)


def test_a_checkpoint_of_adapters_holds_nothing_else():
    config, workdir = tiny_run.config(**tiny_run.ADAPTERS), tiny_run.adapted()
    model = policy.adapted(config, models.load(workdir / "init"))
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        saved = checkpoints._shapes(tiny_run.STEPS, "weights")
        assert checkpoints.run(tiny_run.STEPS)["base"] == policy.fingerprint(workdir / "init")
    paths = {".".join(path): param.shape for path, param in nnx.to_flat_state(nnx.state(model))}
    assert saved == {path: shape for path, shape in paths.items() if lora.is_adapter(path)}


def test_a_run_of_adapters_that_goes_on_ends_as_one_that_was_not_cut(tmp_path):
    workdir = tiny_run.run(cut_after(2, tiny_run.adapted(), tmp_path / "run"), **tiny_run.ADAPTERS)
    assert_same_outcome(workdir, tiny_run.adapted(), **tiny_run.ADAPTERS)


def test_other_adapters_are_refused(tmp_path):
    shutil.copytree(tiny_run.adapted(), tmp_path / "run")
    for changes in ({"lora.alpha": 16}, {"lora.rank": 0}):
        with pytest.raises(InputError, match=r"was trained with config.lora .*'alpha': 32.* a new --workdir"):
            tiny_run.run(tmp_path / "run", **{**tiny_run.ADAPTERS, **changes})


def test_targets_that_match_nothing_end_the_run(tmp_path):
    with pytest.raises(InputError, match="'q_proj' match none of"):
        short(tmp_path, **{"lora.rank": 2, "lora.targets": "q_proj"})


ODD = {"text": 76, "vision": 44}  # widths that no other test has


@pytest.mark.parametrize(
    "changes, text, vision",
    [
        ({}, (3, 0), (3, 0)),
        ({"loss.kl_coef": 0.1}, (3, 1), (3, 1)),
        ({"train_vision": False}, (3, 0), (0, 1)),
        ({"lora.rank": 2, "loss.kl_coef": 0.1}, (0, 1), (0, 1)),
    ],
)
def test_no_weight_is_held_more_often_than_it_must(tmp_path, monkeypatch, changes, text, vision):
    """How often there is (a float32, a bfloat16) array of a kernel's shape before an update.

    What trains is there with its optimizer's two moments; what is frozen, and the reference, once in the compute dtype.
    """
    data, held = str(tiny_run.trained() / "data"), {}

    class BeforeTheUpdate(Exception):
        pass

    def spied(*args, **options):
        for part, width in ODD.items():
            depth = {"text": 1, "vision": 2}[part]
            dtypes = [x.dtype.name for x in jax.live_arrays() if x.shape == (depth, 32, width)]
            held[part] = dtypes.count("float32") / 2, dtypes.count("bfloat16") / 2  # of a gate and of an up projection
        raise BeforeTheUpdate

    monkeypatch.setattr(update, "step", spied)
    sizes = {f"scratch.{part}.intermediate_size": width for part, width in ODD.items()}
    with pytest.raises(BeforeTheUpdate):
        tiny_run.run(
            tmp_path,
            **{
                **sizes,
                "compute_dtype": "bfloat16",
                "warmup.steps": 0,
                "total_steps": 1,
                "n_s": 0,
                "eval.sets": (),
                "data.source": "",
                "data.directory": data,
                **changes,
            },
        )
    assert held == {"text": text, "vision": vision}


def test_a_reference_in_the_compute_dtype_computes_the_same():
    """Weights are cast to it before they are used anyway; so a frozen one may be held in it."""
    config = tiny_run.config(**{"compute_dtype": "bfloat16", "loss.kl_coef": 0.1})
    model = models.load(tiny_run.trained() / "init", compute_dtype="bfloat16")
    inputs = models.pack(model.config, [([5, 6, 7, 8], [])])
    reference = policy.reference(config, model)
    assert {weight.dtype.name for weight in jax.tree.leaves(nnx.state(reference))} == {"bfloat16"}
    np.testing.assert_array_equal(model(inputs), reference(inputs))


# The method's options


def short(workdir: Path, **changes) -> list[dict]:
    """The metrics of two steps of PeRL without warm-up or evaluation, from the shared run's base and data."""
    shutil.copytree(tiny_run.trained() / "init", workdir / "init")
    settings = {
        "warmup.steps": 0,
        "total_steps": 2,
        "eval.sets": (),
        "data.source": "",
        "data.directory": str(tiny_run.trained() / "data"),
    }
    tiny_run.run(workdir, **{**settings, **changes})
    return tiny_run.metrics(workdir)


def test_grpo_is_the_same_program_with_no_further_order(tmp_path):
    steps = short(tmp_path, n_s=0, rollouts=4, **{"data.shuffle": "once"})
    assert all(line["permute/share"] == 0 and line["update/grad_norm"] > 0 for line in steps)
    for group in lines(tmp_path / "rollouts.jsonl"):
        assert group["orders"] == [[0, 1]] and np.shape(group["rewards"]) == (1, 4)


def test_options_of_the_group(tmp_path):
    """Advantages per order, rewards times the other order's accuracy, and no order that is always the original one."""
    options = {"permute.schedule": "constant", "permute.canonical": False}
    steps = short(tmp_path, rollouts=4, reward_consistency="times", advantage_scope="order", log_groups=99, **options)
    assert all(line["permute/probability"] == line["permute/share"] == 1 for line in steps)
    groups = lines(tmp_path / "rollouts.jsonl")
    for group in groups:
        assert group["orders"] == [[1, 0], [1, 0]]
        np.testing.assert_allclose(np.sum(group["advantages"], axis=1), 0, atol=1e-5)
    for line in steps:  # whose reward is the reward function's own
        mean = np.mean([group["rewards"] for group in groups if group["step"] == line["step"]])
        assert 0 < mean < 0.8 * line["reward/mean"]


def test_the_reference_policy_and_several_optimizer_steps_a_batch(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        first, second = short(
            tmp_path, **{"loss.kl_coef": 0.5, "optimizer.steps_per_batch": 2, "max_sampler_gap": 1e-12}
        )
    for line in (first, second):  # the second optimizer step of a batch is off the policy that sampled
        assert line["update/ratio_max"] > 1 and math.isfinite(line["update/loss"])
        assert 0 < line["update/sampler_gap"] < 1e-5, "of the policy that sampled, not of the one that moved"
    assert 0 < first["update/kl"] < second["update/kl"]
    assert [record.message[:54] for record in caplog.records if "max_sampler_gap" in record.message] == [
        "step 1: the sampler's log-probs differ by " + f"{first['update/sampler_gap']:.2g} from"[:12],
        "step 2: the sampler's log-probs differ by " + f"{second['update/sampler_gap']:.2g} from"[:12],
    ]


def test_another_loss_a_bonus_and_a_penalty(tmp_path, caplog):
    """Long responses cost reward; the entropy counts; what is recomputed is chosen and said."""
    changes = {
        "loss.kind": "gspo",
        "loss.aggregate": "seq-mean-token-mean",
        "loss.importance": "sequence",
        "loss.entropy_coef": 0.01,
        "overlong.buffer": tiny_run.config().sampling.max_new_tokens,
        "remat": "auto",
    }
    with caplog.at_level("INFO"):
        steps = short(tmp_path, **changes)
    for line in steps:
        assert -1 <= line["reward/overlong"] < 0 and line["update/importance"] == pytest.approx(1, abs=1e-3)
        assert line["update/grad_norm"] > 0
    assert [record.message for record in caplog.records if record.message.startswith("remat: none (planned: ")]


def test_weights_of_parts_make_the_reward(tmp_path):
    """The parts are logged as they are; tiny_reward gives each response 1 for its format."""
    for line in short(tmp_path, **{"reward_weights": {"format": 3.0}}):
        assert line["reward/mean"] == 3.0 and line["reward/format"] == 1.0 and line["advantage/zero_share"] == 1.0
        assert line["reward/accuracy"] <= 1


def test_groups_without_a_signal_make_no_step(tmp_path):
    steps = short(tmp_path, online_filter="drop", reward="tiny_reward:nothing")
    assert all(line["update/loss"] == 0 and line["group/kept"] == 0 for line in steps)
    model = models.load(tmp_path / "init")
    before = {name: np.array(value) for name, value in models.named(model).items()}
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        checkpoints.restore_weights(2, model)
    assert all(np.array_equal(before[name], value) for name, value in models.named(model).items())


def test_refill_draws_further_questions_and_counts_them(tmp_path):
    steps = short(tmp_path, online_filter="refill", refill_rounds=5, reward="tiny_reward:rare")
    config = tiny_run.config()
    for line in steps:
        assert line["group/kept"] == config.questions or line["group/rounds"] == 5
    assert max(line["group/rounds"] for line in steps) > 1
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        position = checkpoints.run(2)["stream"]["position"]
    assert position == config.questions * sum(line["group/rounds"] for line in steps)


@pytest.mark.parametrize("shuffle", permute.SHUFFLES)
def test_shuffled_data_shows_a_question_in_one_order_a_step(shuffle):
    """With the answer of that order: `once` the same at every step, `none` the stored one, else one after another."""
    config = tiny_run.config(**{"data.shuffle": shuffle})
    data = str(tiny_run.trained() / "data")
    settings = prompts.Prompts(models.Processor.from_pretrained(tiny_run.trained() / "init"), **config.prompt)
    stream = Stream(data)
    questions = batch.Questions(config, stream, settings)
    stored = {record["id"]: record for record in Stream(data).take(stream.size)}
    seen: dict[str, set] = {name: set() for name in stored}
    for step in range(1, 7):
        for question in questions.take(stream.size, 0, 0.0, step):
            record = stored[question.record["id"]]
            at = {"seed": config.seed, "epoch": question.record["epoch"], "step": step}
            order = permute.shuffled_order(record, shuffle, **at)
            shown = permute.render(permute.apply(record, order))
            sample = question.samples[0]
            assert (sample["question"], sample["answer"]) == (shown["question"], shown["answer"])
            assert question.orders == [permute.original_order(len(order))]
            seen[record["id"]].add(order)
    orders = {order for of_question in seen.values() for order in of_question}
    assert (len(orders) > 1) == (shuffle != "none")
    assert (max(map(len, seen.values())) > 1) == (shuffle in ("fresh", "half"))


def test_adaptive_permutation_follows_the_rewards_also_after_a_restart():
    """Questions that the order decided are permuted, others not, and a checkpoint holds what is known of them."""
    config = tiny_run.config(**{"permute.adaptive": True})
    data = str(tiny_run.trained() / "data")
    settings = prompts.Prompts(models.Processor.from_pretrained(tiny_run.trained() / "init"), **config.prompt)
    questions, again = (batch.Questions(config, Stream(data), settings) for _ in range(2))
    size = Stream(data).size
    first = questions.take(size, 1, 1.0, 1)
    decided = {question.record["id"] for question in first[: size // 2]}
    for question in first:
        rewards = [[1, 1], [0, 0]] if question.record["id"] in decided else [[1, 0], [0, 1]]
        questions.note([question], np.array([rewards], np.float32))
    again.restore(json.loads(json.dumps(questions.state())))
    questions.prepare(size, 1, 0.4, 2)
    second, resumed = questions.take(size, 1, 0.4, 2), again.take(size, 1, 0.4, 2)
    assert [question.orders for question in second] == [question.orders for question in resumed]
    permuted = [question.record["id"] in decided for question in second if len(set(question.orders)) > 1]
    assert len(permuted) > size / 5 and np.mean(permuted) > 0.8


def test_questions_prepared_ahead_are_the_ones_drawn_anyway():
    """And the data position that is saved is that of before."""
    config = tiny_run.config()
    data = str(tiny_run.trained() / "data")
    settings = prompts.Prompts(models.Processor.from_pretrained(tiny_run.trained() / "init"), **config.prompt)
    plain, prepared = (batch.Questions(config, Stream(data), settings) for _ in range(2))
    for step in range(1, 4):
        draw = (3, 1, 0.5, step)
        prepared.prepare(*draw)
        assert prepared.state() == plain.state()
        expected, got = plain.take(*draw), prepared.take(*draw)
        assert [(q.record["id"], q.orders, q.prompts[1][0]) for q in got] == [
            (q.record["id"], q.orders, q.prompts[1][0]) for q in expected
        ]
        assert prepared.state() == plain.state()
    prepared.prepare(3, 1, 0.5, 4)
    with pytest.raises(RuntimeError, match="was prepared"):
        prepared.take(3, 1, 0.5, 5)


def test_a_mixture_without_its_longest_prompts(tmp_path):
    """Two sets with the same ids; those of one and of two images have prompts of two lengths."""
    data, twin = tiny_run.trained() / "data", tmp_path / "twin"
    shutil.copytree(data, twin)
    settings = prompts.Prompts(
        models.Processor.from_pretrained(tiny_run.trained() / "init"), **tiny_run.config().prompt
    )
    lengths = [line["tokens"] for line in prompt_lengths.load_or_measure(str(data), "train", settings, tmp_path)]
    limit = sorted(set(lengths))[-2]
    steps = short(
        tmp_path,
        **{
            "data.directory": f"{data}=22,{twin}=36",
            "prompt.max_tokens": limit,
            "eval.sets": ("eval",),
            "eval.every": 9,
            "eval.limit": 3,
            "questions": 4,
        },
    )
    assert len(steps) == 2
    long = sum(tokens > limit for tokens in lengths)
    (start,) = json.loads((tmp_path / "run.json").read_text())
    reason = f"longer than config.prompt.max_tokens = {limit}"
    assert start["excluded"]["train"] == {str(place): {reason: long} for place in (data, twin)} and long > 0
    named = [line["split"] for line in lines(tmp_path / prompt_lengths.EXCLUDED)]
    assert named.count("train") == 2 * long and set(named) <= {"train", "eval"}
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        stream = checkpoints.run(2)["stream"]
    assert [weight for _, weight in stream["data"]] == [22, 36] and stream["position"] == 8
    ids = {row["id"] for row in lines(tmp_path / "evaluations" / "eval-00000002.jsonl")}
    assert len(ids) == 3 and {name[:2] for name in ids} == {"1:", "2:"}
    with pytest.raises(InputError, match=r"belongs to excluded .*restore the old data and settings, or start a new"):
        tiny_run.run(
            tmp_path,
            **{
                "data.directory": f"{data}=22,{twin}=36",
                "data.source": "",
                "warmup.steps": 0,
                "total_steps": 3,
                "eval.sets": (),
                "questions": 4,
            },
        )


@pytest.mark.parametrize("text", ["3", "4:2", "a:b", ":"])
def test_profile_steps_that_say_nothing(text):
    assert train.steps_of("3:4") == (3, 4) and train.steps_of("") == (0, 0)
    with pytest.raises(InputError, match="expected FIRST:LAST"):
        train.steps_of(text)


# Numbers that are none


def stops_unsaved(words: str, workdir: Path, **changes):
    with pytest.raises(InputError, match=words):
        short(workdir, **changes)
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        assert not checkpoints.steps()


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("step 1: .*update/loss nan", {}),
        ("step 1: response/entropy nan", {"online_filter": "drop", "reward": "tiny_reward:nothing"}),
    ],
)
def test_a_base_of_nan_stops_the_run_with_the_step(tmp_path, words, changes):
    model = models.load(tiny_run.trained() / "init")
    model.model.norm.scale[...] = np.nan
    models.save(model, tmp_path / "nan")
    stops_unsaved(words, tmp_path / "run", scratch={}, model=str(tmp_path / "nan"), **changes)


def test_new_weights_of_nan_stop_the_run_though_the_loss_is_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(check_config, "check", lambda config: None)  # it would refuse the rate
    stops_unsaved("step 1: update/update_norm nan;", tmp_path, **{"optimizer.learning_rate": math.nan})


# Evaluations and checkpoints


def test_every_evaluation_has_its_checkpoint(tmp_path):
    often = {
        "eval.sets": ("eval",),
        "eval.every": 2,
        "checkpoint.every": 9,
        "online_filter": "drop",
        "reward": "tiny_reward:nothing",
    }
    short(tmp_path, total_steps=3, **often)
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 3] and checkpoints.best() in (2, 3)


def test_steps_that_take_long_are_saved_more_often(tmp_path):
    short(tmp_path, total_steps=3, **{"checkpoint.every": 99, "checkpoint.minutes": 1e-3})
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2, 3]


def test_a_best_metric_that_no_evaluation_says(tmp_path):
    with pytest.raises(InputError, match=r"best is 'accuracy', but .* eval/accuracy, eval/permuted_accuracy, .*"):
        short(tmp_path, **{"eval.sets": ("eval",), "checkpoint.best": "accuracy"})


def test_a_second_set_has_names_of_its_own(tmp_path):
    short(tmp_path, total_steps=1, **{"eval.sets": ("eval", "train"), "eval.limit": 4})
    (first, second) = [line for line in lines(tmp_path / "metrics.jsonl") if line["step"] == 0]
    assert (
        "eval/accuracy" in first
        and "eval/train/accuracy" in second
        and not first.keys() & second.keys() - {"stage", "step"}
    )
