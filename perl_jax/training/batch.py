"""One step's batch: questions in permuted orders, graded during decoding, as arrays [Q, O, G]."""

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from models.errors import InputError
from perl_jax import grpo, mesh, permute, rewards, rollout
from perl_jax.grading import Grader
from perl_jax.records.prompts import Prompts, with_lazy_images
from perl_jax.records.question import Question, in_orders
from perl_jax.records.stream import Stream
from perl_jax.runtime import processes
from perl_jax.training import metrics
from perl_jax.training.order_effects import OrderEffects
from perl_jax.training.skipped import Skipped

logger = logging.getLogger(__name__)

EARLY = 32  # ended responses are sent to the grader in chunks of this size


class Source(NamedTuple):
    """The inputs of batch construction."""

    config: ConfigDict
    questions: "Questions"
    prompts: Prompts
    grader: Grader
    lengths: Sequence[int] = ()  # tokens of the prompts of all records


@dataclasses.dataclass(frozen=True)
class Batch:
    """Q questions with their rollouts, rewards and advantages."""

    questions: list[Question]  # [Q]
    responses: list  # [Q][O][G] token ids
    sampler_logprobs: list  # [Q][O][G], of the same lengths
    texts: list  # [Q][O][G]
    rewards: np.ndarray  # float32 [Q, O, G]
    advantages: np.ndarray  # float32 [Q, O, G]
    log: dict[str, float]

    def select(self, indices: np.ndarray) -> "Batch":
        """The batch of the chosen questions, with the log of all."""
        questions, responses, logprobs, texts = ([values[q] for q in indices] for values in self._lists())
        return Batch(questions, responses, logprobs, texts, self.rewards[indices], self.advantages[indices], self.log)

    @classmethod
    def concat(cls, batches: Sequence["Batch"]) -> "Batch":
        """Concatenates batches, with the log of the first."""
        every = zip(*(batch._lists() for batch in batches))
        questions, responses, logprobs, texts = (list(itertools.chain(*values)) for values in every)
        rewards, advantages = (
            np.concatenate([getattr(batch, name) for batch in batches]) for name in ("rewards", "advantages")
        )
        return cls(questions, responses, logprobs, texts, rewards, advantages, batches[0].log)

    def _lists(self) -> tuple[list, list, list, list]:
        return self.questions, self.responses, self.sampler_logprobs, self.texts


class Draw(NamedTuple):
    """Questions as seen by one process."""

    questions: list[Question]
    faults: list[tuple[int, str, str]]  # (index, id, why) of questions that this process cannot read or show
    failures: list[tuple[str, str]]  # (id, why) of records that failed in this step, in all processes


class Questions:
    """Draws the questions of each step in permuted orders; those of the next step are prepared in the background.

    All processes draw the same questions, but each decodes only its share of the images. They exchange faults in
    `take`, since collectives from a background thread would interleave with others. Records that fail are `skipped`,
    and listed in `workdir`.
    """

    def __init__(self, config: ConfigDict, stream: Stream, prompts: Prompts, workdir: Path | None = None):
        self._config, self._stream, self._prompts = config, stream, prompts
        self.skipped = Skipped(workdir, config.max_skipped, stream.size)
        self._effects = OrderEffects()
        self._thread = ThreadPoolExecutor(1)
        self._prepared: tuple | None = None  # (arguments of the draw, its future, the stream's state before)

    def take(self, count: int, n_s: int, p: float, step: int) -> list[Question]:
        """The next `count` questions, each in its original order and n_s others, permuted with probability p.

        With `config.permute.adaptive`, p is the mean over the questions (`OrderEffects.probabilities`). Invalid records
        are skipped and logged. Raises InputError where none is valid, or more fail than may.
        """
        if self._prepared is None:
            draw = self._draw(count, n_s, p, step)
        else:
            prepared, future, _ = self._prepared
            if prepared != (count, n_s, p, step):
                raise RuntimeError(f"{prepared} was prepared, but {(count, n_s, p, step)} is asked for")
            self._prepared, draw = None, future.result()
        noted = 0
        while True:
            self.skipped.add(step, draw.failures[noted:])
            faults = {place: fault for place, *fault in itertools.chain(*processes.exchange(draw.faults))}
            if not faults:
                return draw.questions
            noted, failures = len(draw.failures), list(draw.failures)
            for _, (name, line) in sorted(faults.items()):
                failures.append((name, line))
                logger.warning("skipped (%d in this step): %s", len(failures), line)
            kept = [question for place, question in enumerate(draw.questions) if place not in faults]
            draw = self._draw(count, n_s, p, step, kept, failures)

    def note(self, questions: Sequence[Question], rewards: np.ndarray) -> None:
        """Takes in the rewards [Q, O, G] of questions, from which `config.permute.adaptive` learns."""
        config = self._config
        if config.permute.adaptive:
            self._effects.note(questions, rewards)

    def prepare(self, *arguments: Any) -> None:
        """Starts preparing the questions of the next `take`, which must have the same arguments."""
        before = self._stream.state()
        self._prepared = arguments, self._thread.submit(mesh.in_any_thread(self._draw), *arguments), before

    def state(self) -> dict:
        """The stream position excluding prepared questions, what was skipped and noted, for a checkpoint."""
        stream = self._prepared[2] if self._prepared else self._stream.state()
        return {**stream, "skipped": self.skipped.state(), "order_effects": self._effects.state()}

    def restore(self, state: Mapping) -> None:
        self._stream.restore(state)
        self.skipped.restore(state.get("skipped", ()))
        self._effects.restore(state.get("order_effects", {}))

    def _draw(
        self,
        count: int,
        n_s: int,
        p: float,
        step: int,
        kept: Sequence[Question] = (),
        failed: Sequence[tuple[str, str]] = (),
    ) -> Draw:
        questions, failures, faults = list(kept), list(failed), []
        while len(questions) < count:
            records = self._stream.take(count - len(questions))
            for record, chance in zip(records, self._effects.probabilities([record["id"] for record in records], p)):
                if "fault" in record:  # in this process, perhaps alone
                    faults.append((len(questions), record["id"], record["fault"]))
                    questions.append(Question({**record, "images": []}, [], [], []))
                    continue
                try:
                    questions.append(self._in_orders(record, n_s, chance, step))
                except InputError as error:
                    failures.append((record["id"], str(error)))
                    logger.warning("skipped (%d in this step): %s", len(failures), error)
            if self.skipped.too_many(failures):  # as `take` will say
                break
            if len(failures) > max(10 * count, 2 * self._stream.size):
                data = self._config.data
                raise InputError(
                    f"step {step}: no question of {data.directory or data.source} can be shown; "
                    "the warnings above say why"
                )
        images = [question.record["images"] for question in questions]
        errors = self._prompts.prepare(images, mesh.shards(), mesh.local_shards())
        faults += [(place, questions[place].record["id"], line) for place, line in enumerate(errors) if line]
        return Draw(questions, faults, failures)

    def _in_orders(self, record: Mapping, n_s: int, p: float, step: int) -> Question:
        config = self._config
        record = with_lazy_images(record)
        at = {"seed": config.seed, "epoch": record["epoch"], "step": step}
        record = permute.apply(record, permute.shuffled_order(record, config.data.shuffle, **at))
        orders = permute.draw_orders(record, n_s, p, canonical=config.permute.canonical, **at)
        return in_orders(record, orders, self._prompts)


def stream_ids(questions: Sequence[Question]) -> np.ndarray:
    """The ids [Q * O] that seed the sampler: unique in the run, independent of mesh and processes."""
    ids = [
        question.record["position"] * len(question.orders) + o
        for question in questions
        for o in range(len(question.orders))
    ]
    return np.array(ids) % 2**32


class Grading:
    """Grades the responses of one `rollout.generate` call, starting while others are decoded.

    Pass it as `finished=grading`: it is called with each response that ends.
    """

    def __init__(self, source: Source, questions: Sequence[Question]):
        self._source, self._questions = source, questions
        self._waiting: list[tuple[permute.Sample, str]] = []
        self._ended: dict[
            tuple[int, int], tuple
        ] = {}  # (prompt, rollout): ((record, text) for the grader, whether it ended with an EOS)

    def __call__(self, n: int, g: int, tokens: np.ndarray) -> None:
        q, o = divmod(n, self._source.config.n_s + 1)
        processor = self._source.prompts.processor
        ended = tokens[-1] in processor.eos_ids
        record = {**self._questions[q].samples[o], "truncated": not ended}  # with the answer for its order
        self._ended[n, g] = (record, processor.decode(tokens)), ended
        self._waiting.append(self._ended[n, g][0])
        if len(self._waiting) >= EARLY:
            self._source.grader.start(self._waiting)
            self._waiting = []

    def scores(self) -> "Scores":
        """The scores of all responses, ordered by prompt and rollout."""
        config, grader = self._source.config, self._source.grader
        shape = (len(self._questions), config.n_s + 1, config.rollouts)
        pairs, ended = zip(*(self._ended[n, g] for n, g in np.ndindex(shape[0] * shape[1], shape[2])))
        failed = grader.failed
        parts = grader.grade(pairs)
        reward_array = np.array([score["reward"] for score in parts], np.float32).reshape(shape)
        correct = np.array([rewards.is_right(score) for score in parts]).reshape(shape)
        texts = nested([text for _, text in pairs], shape)
        return Scores(reward_array, correct, np.array(ended).reshape(shape), texts, parts, grader.failed - failed)


class Scores(NamedTuple):
    """Rewards of the responses of one call."""

    rewards: np.ndarray  # float32 [Q, O, G]
    correct: np.ndarray  # bool [Q, O, G]
    ended: np.ndarray  # bool [Q, O, G]: with an EOS, not cut at the limit
    texts: list  # [Q][O][G]
    parts: list[dict[str, float]]  # [Q * O * G] by name
    failed: int  # responses whose reward failed


def with_consistency(config: ConfigDict, scores: Scores) -> Scores:
    """The scores with `config.reward_consistency` in their rewards; the mean reward that is logged does without it."""
    return scores._replace(rewards=grpo.consistent_rewards(scores.rewards, scores.correct, config.reward_consistency))


def with_penalty(config: ConfigDict, scores: Scores, lengths: np.ndarray) -> Scores:
    """The scores with the penalty of `config.overlong` for responses of these lengths [Q * O, G] in their rewards.

    It is a part of its own; the mean reward that is logged does without it.
    """
    if not config.overlong.buffer:
        return scores
    longest, buffer = config.sampling.max_new_tokens, config.overlong.buffer
    penalty = grpo.overlong_penalty(lengths.reshape(scores.rewards.shape), longest, buffer, config.overlong.penalty)
    parts = [{**part, "overlong": float(value)} for part, value in zip(scores.parts, penalty.ravel(), strict=True)]
    return scores._replace(rewards=scores.rewards + penalty, parts=parts)


def nested(values: Sequence, shape: tuple[int, int, int]) -> list:
    """Reshapes [Q * O * G] values to lists [Q][O][G]."""
    remaining = iter(values)
    return [[[next(remaining) for _ in range(shape[2])] for _ in range(shape[1])] for _ in range(shape[0])]


def batch_from_rollouts(
    config: ConfigDict,
    p: float,
    questions: list[Question],
    out: rollout.Rollouts,
    scores: Scores,
    advantages: np.ndarray,
) -> Batch:
    """The batch of one sampler call, with its metrics in `log`."""
    Q, O, G = scores.rewards.shape
    shape = Q, O, G
    lengths = out.lengths.ravel()

    def ragged(values: np.ndarray) -> list:
        rows = values.reshape(len(lengths), -1)
        return nested([row[:length] for row, length in zip(rows, lengths)], shape)

    log = {
        **metrics.of_rewards(scores.parts, [question.record for question in questions], shape),
        "grading/failed": scores.failed,
        **metrics.of_groups(scores.rewards, scores.correct, advantages),
        **metrics.of_responses(lengths.reshape(shape), ~scores.ended, out.logprobs),
        **metrics.of_orders([question.orders[config.permute.canonical :] for question in questions], p),
    }
    # The update's log-probs are at the sampling temperature: compare with the sampler's at the same one.
    sampled_from = out.logprobs if config.sampling.temperature == 1 else out.sample_logprobs
    return Batch(questions, ragged(out.tokens), ragged(sampled_from), scores.texts, scores.rewards, advantages, log)


def with_signal(batch: Batch) -> Batch:
    """The groups of a batch with unequal rewards."""
    return batch.select(np.flatnonzero((batch.advantages != 0).any(axis=(1, 2))))


def concat_rounds(rounds: Sequence[Batch], count: int) -> Batch:
    """Concatenates the rounds of an online filter to at most `count` questions; the log has the number kept."""
    batch = Batch.concat(rounds)
    kept = min(len(batch.questions), count)
    log = {"group/kept": kept, "group/rounds": len(rounds)}
    return dataclasses.replace(batch.select(np.arange(kept)), log=batch.log | log)


def log_rows(batch: Batch, count: int) -> list[dict]:
    """The first `count` groups as rows of rollouts.jsonl: orders, questions, answers, responses and rewards."""
    return [
        {
            "id": question.record["id"],
            "orders": [list(order) for order in question.orders],
            "questions": [sample["question"] for sample in question.samples],
            "answers": [sample["answer"] for sample in question.samples],
            "responses": batch.texts[q],
            "rewards": batch.rewards[q].tolist(),
            "advantages": batch.advantages[q].tolist(),
        }
        for q, question in enumerate(batch.questions[:count])
    ]
