"""One step's batch: questions in their orders, rollouts, rewards and advantages, as arrays [Q, O, G]."""

import itertools
import logging
from typing import NamedTuple

import numpy as np

from models.errors import InputError
from perl_jax import grpo, metrics, permute, rollout
from perl_jax.grading import Grader
from perl_jax.logs import Clock
from perl_jax.pipeline import Stream
from perl_jax.prompts import Prompts, decoded

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """What batches are made with."""

    config: object
    stream: Stream
    prompts: Prompts
    grader: Grader


class Question(NamedTuple):
    """One question of a batch, in O orders of its images."""

    record: dict
    orders: list[tuple[int, ...]]  # [O]
    samples: list[dict]  # [O] rendered records, each with its own order's answer
    prompts: list[tuple]  # [O] (ids, pictures)


class Batch(NamedTuple):
    """Q questions with their rollouts and what these are worth."""

    questions: list[Question]  # [Q]
    responses: list  # [Q][O][G] token ids
    sampler_logprobs: list  # [Q][O][G] alike
    texts: list  # [Q][O][G]
    rewards: np.ndarray  # [Q, O, G]
    advantages: np.ndarray  # [Q, O, G]
    log: dict[str, float]


def draw(source: Source, count: int, n_s: int, p: float, step: int) -> list[Question]:
    """The next `count` questions, each in its own order and n_s more; what cannot be shown is skipped and named."""
    config, questions, skipped = source.config, [], 0
    while len(questions) < count:
        for record in source.stream.take(count - len(questions)):
            try:
                questions.append(ask(source, record, n_s, p, step))
            except InputError as error:
                skipped += 1
                logger.warning("skipped (%d in this step): %s", skipped, error)
        if skipped > max(10 * count, 2 * source.stream.size):
            raise InputError(f"step {step}: no question of {config.data.directory or config.data.source} can be shown; "
                             "the warnings above say why")  # fmt: skip
    return questions


def ask(source: Source, record, n_s: int, p: float, step: int) -> Question:
    """A record in its own order and n_s more, each permuted with probability p."""
    config = source.config
    record = decoded(record)
    if config.data.fixed_shuffle:
        record = permute.apply(record, permute.uniform_orders(record, 1, config.seed)[0])
    orders = permute.draw_orders(record, n_s, p, seed=config.seed, epoch=record["epoch"], step=step)
    samples = [permute.render(permute.apply(record, order)) for order in orders]
    return Question(record, orders, samples, [source.prompts.encode(sample) for sample in samples])


def gather(source: Source, model, p: float, step: int, clock: Clock) -> Batch:
    """Draws questions and orders, rolls out, grades, normalises; an online filter keeps the groups that can teach.

    `refill` goes on with further questions until Q groups teach, `config.refill_rounds` times at most.
    """
    config, kept = source.config, []
    for _ in range(config.refill_rounds if config.online_filter == "refill" else 1):
        with clock("data"):
            questions = draw(source, config.questions, config.n_s, p, step)
        with clock("rollout"):
            orders = config.n_s + 1
            ids = [q.record["position"] * orders + o for q in questions for o in range(orders)]  # unique in the run
            out = rollout.generate(
                model, [prompt for q in questions for prompt in q.prompts], samples=config.rollouts,
                eos_ids=source.prompts.processor.eos_ids, seed=config.seed, ids=np.array(ids) % 2**32,
                **config.sampling, **source.prompts.limits,
            )  # fmt: skip
        with clock("reward"):
            kept.append(grade(source, p, questions, out))
        if sum(len(teaching(batch).questions) for batch in kept) >= config.questions:
            break
    return kept[0] if config.online_filter == "off" else joined([teaching(batch) for batch in kept], config.questions)


def grade(source: Source, p: float, questions, out: rollout.Rollouts) -> Batch:
    """Rewards each rollout against its own order's answer; advantages over all orders and rollouts of a question."""
    config, processor = source.config, source.prompts.processor
    shape = (len(questions), config.n_s + 1, config.rollouts)
    lengths = out.lengths.reshape(shape)

    def ragged(values):
        values = values.reshape(*shape, -1)
        return [[[values[q, o, g, : lengths[q, o, g]] for g in range(shape[2])] for o in range(shape[1])]
                for q in range(shape[0])]  # fmt: skip

    responses = ragged(out.tokens)
    texts = [[[processor.decode(r) for r in order] for order in question] for question in responses]
    ended = np.array([r[-1] in processor.eos_ids for q in responses for o in q for r in o]).reshape(shape)
    pairs = [({**question.samples[o], "truncated": not ended[q, o, g]}, texts[q][o][g])
             for q, question in enumerate(questions) for o in range(shape[1]) for g in range(shape[2])]
    failed = source.grader.failed
    scores = source.grader.grade(pairs)
    rewards = np.array([score["reward"] for score in scores], np.float32).reshape(shape)
    correct = np.array([score.get("accuracy", score["reward"]) >= 0.5 for score in scores]).reshape(shape)
    advantages = grpo.advantages(rewards, scale=config.advantage_scale)
    log = {
        **metrics.of_rewards(scores, [question.record for question in questions], shape),
        "grading/failed": source.grader.failed - failed,
        **metrics.of_groups(rewards, correct, advantages),
        **metrics.of_responses(lengths, ~ended, out.logprobs),
        **metrics.of_orders([question.orders for question in questions], p),
    }
    # The update's are of the distribution at the sampling temperature, so its gap to the sampler is taken there.
    sampled_from = out.logprobs if config.sampling.temperature == 1 else out.sample_logprobs
    return Batch(questions, responses, ragged(sampled_from), texts, rewards, advantages, log)


def teaching(batch: Batch) -> Batch:
    """The part of a batch whose groups have unequal rewards."""
    chosen = np.flatnonzero((batch.advantages != 0).any(axis=(1, 2)))
    lists = [[field[q] for q in chosen] for field in batch[:4]]
    return Batch(*lists, batch.rewards[chosen], batch.advantages[chosen], batch.log)


def joined(batches: list[Batch], count: int) -> Batch:
    """Batches as one, of `count` questions at most; the log is the first one's, with how many groups were kept."""
    lists = [list(itertools.chain(*(batch[field] for batch in batches)))[:count] for field in range(4)]
    arrays = [np.concatenate([batch[field] for batch in batches])[:count] for field in (4, 5)]
    return Batch(*lists, *arrays, batches[0].log | {"group/kept": len(lists[0]), "group/rounds": len(batches)})


def readable(batch: Batch, count: int) -> list[dict]:
    """The first `count` groups for rollouts.jsonl: what was asked in which order, answered, and earned."""
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
