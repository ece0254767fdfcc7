"""Permutation-enhanced GRPO (PeRL): `python -m perl_jax.train --config=configs/demo.py --workdir=DIR`.

A run is an optional supervised warm-up, then PeRL steps (plain GRPO with `n_s = 0`). A restarted run continues exactly
from its last checkpoint: all random draws depend on (seed, step, question) alone.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

import models
from models import attention
from models.errors import InputError
from perl_jax import grpo, mesh, policy, records, rollout, update
from perl_jax.evaluation.batched_inference import prefetch
from perl_jax.grading import Grader
from perl_jax.planning import fitting
from perl_jax.records import prompt_lengths
from perl_jax.records.stream import Stream, directories_with_split, open_subsets
from perl_jax.runtime import bucket, cli, disk, files, lock, logs, processes, stop
from perl_jax.runtime.compilations import Compilations
from perl_jax.training import (
    bad_steps,
    banner,
    check_config,
    checkpoint,
    config_changes,
    held_out,
    inspect_page,
    metrics,
    run_data,
    schedule,
)
from perl_jax.training import batch as batches

logger = logging.getLogger("perl_jax.train")  # not __name__, which is __main__ for the command

FINISHED = "finished"  # a file in the workdir of a run that has made its last step: what launchers look for


def train(config: ConfigDict, workdir: Path, profile: tuple[int, int] = (0, 0), allow: Sequence[str] = ()) -> None:
    """Runs, or resumes, the experiment `config` in `workdir`. Raises InputError for invalid configs and data, where
    another run is in the workdir, and where its disk is full or cannot be written to.

    Steps `profile[0]` to `profile[1]`, by default those of `config.profile`, are traced to WORKDIR/profile, for
    TensorBoard or Perfetto. A run that goes on has the config that it had, but for what changes no result and for the
    keys in `allow` (`config_changes`).
    """
    check_config.check(config)
    attention.choose(config.attention)
    Grader(config.reward, weights=config.reward_weights).close()  # validates the reward before any file is written
    processes.check_equal(json.loads(config.to_json_best_effort()), "a config")
    processes.check_equal(list(allow), "an --allow")
    what_remains = partial(checkpoint.last_saved, workdir)
    with jax.set_mesh(mesh.make(**config.mesh)), disk.telling(workdir, what_remains):
        with mesh.with_tensor(config.sampling.tensor):
            check_config.check_shards(config, mesh.shards())
        workdir.mkdir(parents=True, exist_ok=True)
        with lock.Lock(workdir), bucket.Mirror(workdir) as mirror:
            run(config, workdir, profile if any(profile) else steps_of(config.profile), allow, mirror)


def run(
    config: ConfigDict, workdir: Path, profile: tuple[int, int], allow: Sequence[str], mirror: bucket.Mirror
) -> None:
    """`train` on the current mesh."""
    cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    logger.info("compiled programs are kept in %s", cache or "memory alone")
    logs.starts(workdir)  # raises now where they cannot be added to
    data = run_data.data_sources(config, workdir)
    model, base = policy.load(config, workdir, run_data.texts(config, list(data)))
    splits = {name: directories_with_split(list(data), name) for name in config.eval.sets} | {
        config.data.split: list(data)
    }
    config = fitting.for_run(config, model.config)
    kept, excluded = prompt_lengths.select(splits, base.prompts, workdir)
    sets = {
        name: run_data.held_out_questions(config, open_subsets(list(data), name, kept[name]), base.prompts)
        for name in config.eval.sets
    }
    for name, questions in list(sets.items())[:1]:
        check_config.check_best(config, held_out.given_metrics(questions), f"an evaluation of {name!r}")
    facts = {
        "records": {directory: records.fingerprint(directory) for directory in data},
        "excluded": excluded,
        "base": base.fingerprint,
        "model": base.path,
        "lora": config.lora.to_dict() if config.lora.rank else None,
    }
    made_with = {  # for who goes on
        **facts,
        "config": json.loads(config.to_json_best_effort()),
        "processes": jax.process_count(),
        "prompt": json.loads(base.prompts.to_json()),
    }
    last, stopped = config.warmup.steps + config.total_steps, ""

    with (
        stop.Stop(config.grace) as signals,
        Grader(
            config.reward, weights=config.reward_weights, rounding=config.reward_rounding, **config.grading
        ) as grader,
        checkpoint.Checkpoints(workdir, config.checkpoint.keep, config.checkpoint.best or None) as checkpoints,
    ):
        stream = Stream(data, split=config.data.split, seed=config.seed, kept=kept[config.data.split])
        of_steps = batches.Questions(config, stream, base.prompts, workdir)
        lengths = prompt_lengths.kept_lengths(kept[config.data.split], config.data.split, base.prompts, workdir)
        source = batches.Source(config, of_steps, base.prompts, grader, lengths)
        reference = policy.reference(config, model)
        state, done, in_a_row = resume(config, checkpoints, model, source, made_with, allow)
        bad = bad_steps.BadSteps(workdir, config.max_bad_steps, last, base.prompts, in_a_row)
        step = done
        del model  # the state has copies of the trained weights; free the originals
        if done < last:
            checkpoints.check_space(state, last - done)
            if processes.first():
                (workdir / FINISHED).unlink(missing_ok=True)

        writes = logs.RunLog if processes.first() else logs.NoLog
        with writes(workdir, config.to_dict(), last, done, **facts) as log, Compilations() as compilations:
            split = config.data.split
            log.tell(banner.lines(config, state, kept[split], excluded[split], base.path, workdir))

            def evaluate(step: int) -> dict[str, float]:
                first: dict[str, float] = {}  # the metrics of the first set, used for `best`
                for name, questions in sets.items():
                    rows = held_out.evaluate(
                        state.model,
                        questions,
                        source.prompts,
                        grader,
                        config.sampling.max_new_tokens,
                        config.eval.batch,
                        config.sampling.tensor,
                    )
                    prefix = held_out.PREFIX + f"{name}/" * bool(first)  # the first set has plain names
                    values = {prefix + key: value for key, value in held_out.summary(rows).items()}
                    log.evaluation(name, schedule.stage(config, step), step, values, rows)
                    first = first or values
                return first

            if not done:
                evaluate(0)
            for step in log.track(done + 1):
                clock = logs.Clock()
                if step == profile[0]:
                    jax.profiler.start_trace(workdir / "profile", create_perfetto_trace=True)
                if step == config.warmup.steps + 1:
                    state = update.init(state.model, schedule.optimizer(config, step), policy.trainable(config))

                run_step = perl if step > config.warmup.steps else warm_up
                state, values, rows, groups = run_step(config, step, state, source, reference, clock)

                if step == profile[1]:
                    jax.profiler.stop_trace()
                log.groups([{"stage": schedule.stage(config, step), "step": step, **row} for row in rows])
                values |= {"data/skipped": source.questions.skipped.count()}
                log.step(schedule.stage(config, step), step, {**values, **clock.metrics(), **compilations.take()})
                at_step = {**made_with, "stream": source.questions.state()}
                bad.note(step, values, groups, state, at_step)
                learnt = bad.in_a_row < step  # else the weights are still those of the start
                scores = evaluate(step) if learnt and (step == last or step % config.eval.every == 0) else {}
                stopped = signals.asked()
                regular = step == last or step % config.checkpoint.every == 0
                if stopped or scores or (learnt and (regular or checkpoints.due(config.checkpoint.minutes))):
                    mirror.push()  # before it: a restart finds the lines of all steps that are saved
                    checkpoints.save(step, state, {**at_step, "bad_steps": bad.in_a_row}, scores)
                if stopped:
                    break
            if not stopped:
                log.tell(banner.next_commands(config, workdir))
    if stopped and step < last:  # and its checkpoint is written
        print(f"stopped by {stopped} at step {step}, saved; the same command goes on", file=sys.stderr, flush=True)
    elif processes.first():
        files.write(workdir / FINISHED, f"step {last}\n")


def perl(
    config: ConfigDict,
    step: int,
    state: update.State,
    source: batches.Source,
    reference: models.Model | None,
    clock: logs.Clock,
) -> tuple[update.State, dict[str, float], list[dict], list[update.Group]]:
    """One PeRL step: permuted orders, rollouts, rewards, pooled advantages, update.

    Returns (state, metrics, sample groups for the log, groups of the last optimizer step). An optimizer step that is
    skipped, as it is not finite, is the last.
    """
    batch = gather(config, step, state.model, source, clock)
    prepare_next(config, step, source)
    if not batch.questions:  # the online filter dropped every group: skip the update
        logger.warning("step %d: no group had unequal rewards; the policy stays as it is", step)
        return state, batch.log | {"update/loss": 0.0, "update/grad_norm": 0.0}, [], []

    with clock("update"):
        groups = [
            update.Group(
                images=question.record["images"],
                orders=question.orders,
                prompts=[ids for ids, _ in question.prompts],
                responses=responses,
                advantages=advantages,
                sampler_logprobs=logprobs,
                id=question.record["id"],
            )
            for question, responses, advantages, logprobs in zip(
                batch.questions, batch.responses, batch.advantages, batch.sampler_logprobs
            )
        ]
        parts = schedule.parts(groups, schedule.questions_per_step(config))
        all_count = update.needs_all(config.loss.kl_coef, config.loss.entropy_coef)
        pack = partial(
            update.pack, state.model.config, only_signal=not all_count, **config.micro_batch, **source.prompts.limits
        )
        packed: list[update.Packed] = []
        for part in prefetch(pack, parts):  # each part once for all passes, while the device computes the one before
            if reference:
                part = with_logprobs("ref_logprobs", reference, part, config)
            if packed:  # the first part is computed by the very policy that sampled
                part = with_logprobs("old_logprobs", state.model, part, config)
            packed.append(part)
        steps = []
        for part in packed:
            state, values = update.step(state, part, **schedule.update_options(config, step))
            steps.append(values)
            if values["skipped"]:
                break
        values = batch.log | metrics.of_update(steps)
    if (gap := values["update/sampler_gap"]) > config.max_sampler_gap:
        logger.warning(
            "step %d: the sampler's log-probs differ by %.2g from the update's, more than config.max_sampler_gap = %g: "
            "float32 lessens it, config.loss.importance corrects it",
            step,
            gap,
            config.max_sampler_gap,
        )
    values |= metrics.of_speed(state.model.config, batch, clock, all_computed=all_count)
    return state, values, batches.log_rows(batch, config.log_groups), part.groups


def gather(
    config: ConfigDict, step: int, model: models.Model, source: batches.Source, clock: logs.Clock
) -> batches.Batch:
    """Samples Q questions x O orders x G responses and computes their advantages [Q, O, G].

    The online filter keeps groups with unequal rewards; `refill` samples further questions until there are Q of them,
    at most `config.refill_rounds` times. A batch with metrics that are not finite is returned as it is, to be told.
    """
    rounds, (count, n_s, p, _) = [], schedule.draw(config, step)
    for _ in range(config.refill_rounds if config.online_filter == "refill" else 1):
        with clock("data"):  # the original order, then n_s orders, each permuted with probability p
            questions = source.questions.take(count, n_s, p, step)
        grading = batches.Grading(source, questions)
        flat = [prompt for question in questions for prompt in question.prompts]
        at_once = config.sampling.batch
        sampling = dict(**config.sampling) | {"batch": at_once if at_once < len(flat) else 0}
        with clock("rollout"):
            out = rollout.generate(
                model,
                flat,
                samples=config.rollouts,
                eos_ids=source.prompts.processor.eos_ids,
                seed=config.seed,
                ids=batches.stream_ids(questions),
                finished=grading,
                lengths=source.lengths,
                **sampling,
                **source.prompts.limits,
            )
        with clock("reward"):  # graded against the answer of its order; advantages pooled over a question's orders
            scores = batches.with_penalty(config, batches.with_consistency(config, grading.scores()), out.lengths)
            advantages = grpo.advantages(scores.rewards, scale=config.advantage_scale, scope=config.advantage_scope)
            batch = batches.batch_from_rollouts(config, p, questions, out, scores, advantages)
        source.questions.note(questions, scores.rewards)
        if not bad_steps.is_finite(batch.log):
            return batch
        rounds.append(batch)
        if sum(len(batches.with_signal(batch).questions) for batch in rounds) >= config.questions:
            break
    if config.online_filter == "off":
        return rounds[0]
    return batches.concat_rounds([batches.with_signal(batch) for batch in rounds], config.questions)


def with_logprobs(field: str, model: models.Model, part: update.Packed, config: ConfigDict) -> update.Packed:
    """The part with `field` set to its log-probs under `model`."""
    return part.with_logprobs(field, update.logprobs(model, part, config.sampling.temperature))


def warm_up(
    config: ConfigDict,
    step: int,
    state: update.State,
    source: batches.Source,
    reference: models.Model | None,
    clock: logs.Clock,
) -> tuple[update.State, dict[str, float], list[dict], list[update.Group]]:
    """One supervised step: GRPO with the reference answer as the only rollout and advantage 1 is maximum likelihood."""
    del reference
    with clock("data"):
        questions = source.questions.take(*schedule.draw(config, step))
        answers = [
            schedule.target_tokens(config, question.samples[0], source.prompts.processor) for question in questions
        ]
        prepare_next(config, step, source)
    with clock("update"):
        groups = [
            update.Group(
                images=question.record["images"],
                orders=question.orders,
                prompts=[question.prompts[0][0]],
                responses=[[answer]],
                advantages=np.ones((1, 1)),
                id=question.record["id"],
            )
            for question, answer in zip(questions, answers)
        ]
        options = {**schedule.update_options(config, step), **config.micro_batch, **source.prompts.limits}
        state, values = update.step(state, groups, **options)
        values = metrics.of_update([values])
    return state, values, [], groups


def prepare_next(config: ConfigDict, step: int, source: batches.Source) -> None:
    """Starts preparing the next step's questions in the background, during this step's update."""
    if step < config.warmup.steps + config.total_steps:
        source.questions.prepare(*schedule.draw(config, step + 1))


def resume(
    config: ConfigDict,
    checkpoints: checkpoint.Checkpoints,
    model: models.Model,
    source: batches.Source,
    made_with: Mapping[str, Any],
    allow: Sequence[str],
) -> tuple[update.State, int, int]:
    """(state, steps done, bad ones in a row) of the newest checkpoint that is whole, with its data stream; or a start.

    Damaged ones are named and set aside while there is one before. Raises InputError if base model, adapters, data or
    what else changes results differ, but for the config's keys in `allow`, and if no checkpoint is whole: a run never
    begins anew by itself.
    """
    while True:
        done = checkpoints.latest() or 0
        state = update.init(model, schedule.optimizer(config, max(done, 1)), policy.trainable(config))
        if not done:
            config_changes.check(None, made_with, 0, allow)
            return state, 0, 0
        damage = ""
        try:
            saved = checkpoints.run(done)
            check_same_base(saved, done, made_with)
            source.questions.restore(saved["stream"])
            config_changes.check(saved, made_with, done, allow)
            state = checkpoints.restore(done, state)
        except checkpoint.Damaged as error:
            damage = str(error)
        if damage := processes.any_text(damage):
            if done == min(checkpoints.steps()):
                raise InputError(f"{damage}, or give a new --workdir: there is none before that is whole")
            logger.warning("%s: set aside as %s", damage.partition(";")[0], checkpoints.set_aside(done))
            continue
        logger.info("resumed from step %d", done)
        return state, done, saved.get("bad_steps", 0)


def check_same_base(saved: Mapping[str, Any], done: int, facts: Mapping[str, Any]) -> None:
    """Raises InputError where a checkpoint, of which `saved` is the metadata, has another base model or adapters."""
    if saved["base"] != facts["base"]:
        raise InputError(
            f"step {done} was trained from other base weights ({saved['model']}, {saved['base']}) than "
            f"{facts['model']} ({facts['base']}); give those, or a new --workdir"
        )
    if saved.get("lora") != facts["lora"]:
        raise InputError(
            f"step {done} was trained with config.lora {saved.get('lora')}, not {facts['lora']}; "
            "give that, or a new --workdir"
        )


FLAGS = flags.FLAGS


def main(_: Sequence[str]) -> None:
    check_config.check_parts(FLAGS.config)
    if FLAGS.inspect:
        cli.check_paths()
        print(inspect_page.write(FLAGS.config, Path(FLAGS.workdir), FLAGS.inspect))
        return
    processes.join(FLAGS.coordinator, FLAGS.process_count, FLAGS.process_index)
    if FLAGS.bad_step:
        again(FLAGS.config, bucket.brought(FLAGS.workdir), FLAGS.bad_step)
        return
    train(FLAGS.config, bucket.local(FLAGS.workdir), steps_of(FLAGS.profile_steps), FLAGS.allow)


def again(config: ConfigDict, workdir: Path, step: int) -> None:
    """Runs a step again that ended a run, from its own folder in the workdir, and prints what it says."""
    check_config.check(config)
    attention.choose(config.attention)
    groups = bad_steps.read(bad_steps.folder(workdir, step))
    with jax.set_mesh(mesh.make(**config.mesh)):
        model, base = policy.load(config, workdir, ())
        for line in bad_steps.again(fitting.for_run(config, model.config), model, base.prompts, workdir, step, groups):
            if processes.first():
                print(line, flush=True)


def steps_of(text: str) -> tuple[int, int]:
    """Parses `--profile_steps` or `config.profile`: `"10:12"` is (10, 12), an empty text (0, 0), else InputError."""
    first, _, last = (text or "0:0").partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise InputError(f"--profile_steps={text}: expected FIRST:LAST, such as 10:12")
    return int(first), int(last)


if __name__ == "__main__":
    cli.define_run_flags()
    flags.DEFINE_integer(
        "inspect",
        0,
        "Do not train: write WORKDIR/inspect.html with this many of the run's first questions.",
        lower_bound=0,
    )
    flags.DEFINE_multi_string(
        "allow", [], "Keys or sections of the config, with commas, that may differ from what the run was made with."
    )
    flags.DEFINE_integer(
        "bad_step", 0, "Do not train: run the step again that ended the run (WORKDIR/bad-step-N).", lower_bound=0
    )
    flags.DEFINE_string("profile_steps", "", "Steps to trace to WORKDIR/profile, as FIRST:LAST.")
    cli.run(main, elsewhere=cli.IN_CONFIG)
