"""Held-out evaluation during training: greedy responses in original and permuted orders.

Greedy, so that a flipped answer is not sampling noise.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

import models
from models.errors import InputError
from perl_jax import mesh, permute, rewards, rollout
from perl_jax.evaluation import statistics
from perl_jax.evaluation.meaning import meaning
from perl_jax.grading import Grader
from perl_jax.records.prompts import Prompts, with_lazy_images
from perl_jax.records.question import Question, in_orders
from perl_jax.rewards.boxed import extract_boxed
from perl_jax.runtime import processes

NAMES = {
    "accuracy": "accuracy",
    "permuted": "permuted_accuracy",
    "consistent": "consistent_accuracy",
    "flip": "flip_rate",
    "single": "single_image_accuracy",
}
PREFIX = "eval/"  # of the first set's metrics


def questions(records: Iterable[Mapping], prompts: Prompts, count: int, seed: int) -> list[Question]:
    """Each record in its original order and, where its images can move, in `count` uniformly drawn ones.

    Raises InputError, in every process of a run, for an invalid record.
    """
    out = []
    for record in map(with_lazy_images, records):
        permuted = permute.uniform_orders(record, count, seed) if permute.movable_places(record) else []
        orders = [permute.original_order(len(record["images"])), *permuted]
        out.append(in_orders(record, orders, prompts))
    errors = prompts.prepare([question.record["images"] for question in out], mesh.shards(), mesh.local_shards())
    for line in itertools.chain(*processes.exchange([line for line in errors if line])):
        raise InputError(line)
    return out


def evaluate(
    model: models.Model,
    questions: Sequence[Question],
    prompts: Prompts,
    grader: Grader,
    max_new_tokens: int,
    batch: int,
    tensor: int = 0,
) -> list[dict]:
    """Evaluates all questions greedily, `batch` prompts at a time; returns the rows of `predictions`.

    `tensor` is as in `rollout.generate`.
    """
    return predictions(questions, generate(model, questions, prompts, max_new_tokens, batch, tensor), grader)


def generate(
    model: models.Model,
    questions: Sequence[Question],
    prompts: Prompts,
    max_new_tokens: int,
    batch: int,
    tensor: int = 0,
) -> list[list[str]]:
    """The greedy response to each question in each of its orders, [question][order]."""
    flat = [prompt for question in questions for prompt in question.prompts]
    out = rollout.generate(
        model,
        flat,
        samples=1,
        max_new_tokens=max_new_tokens,
        temperature=0.0,
        batch=batch,
        tensor=tensor,
        eos_ids=prompts.processor.eos_ids,
        **prompts.limits,
    )
    texts = (prompts.processor.decode(tokens[:n]) for [tokens], [n] in zip(out.tokens, out.lengths))
    return [[next(texts) for _ in question.orders] for question in questions]


def predictions(questions: Sequence[Question], texts: Sequence[Sequence[str]], grader: Grader) -> list[dict]:
    """One row per question and order: response, correctness, and the answer in original order."""
    pairs = [(sample, text) for question, row in zip(questions, texts) for sample, text in zip(question.samples, row)]
    scores = iter(grader.grade(pairs))
    rows = []
    for question, responses in zip(questions, texts):
        for number, (order, text) in enumerate(zip(question.orders, responses)):
            score = next(scores)
            correct = rewards.is_right(score)
            sample = question.samples[number]
            answer = extract_boxed(text) or (sample["answer"] if correct else None)
            rows.append(
                {
                    "id": question.record["id"],
                    "source": question.record["source"],
                    "order": list(order),
                    "original": number == 0,
                    "images": len(order),
                    "text": text,
                    "answer": sample["answer"],
                    "meaning": meaning(question.record, order, sample, answer, correct),
                    "correct": correct,
                }
            )
    return rows


def possible_metrics(permute: int) -> list[str]:
    """Names of the metrics that an evaluation may give, by the number of further orders of a question."""
    others = ("permuted", "consistent", "flip") if permute else ()
    return [f"{PREFIX}{NAMES[name]}" for name in ("accuracy", *others, "single")] + [f"{PREFIX}accuracy/SOURCE"]


def given_metrics(questions: Sequence[Question]) -> list[str]:
    """Names of the metrics that an evaluation of these questions gives."""
    rows = [
        {
            "id": question.record["id"],
            "source": question.record["source"],
            "order": list(order),
            "original": number == 0,
            "images": len(order),
            "answer": question.samples[number]["answer"],
            "meaning": None,
            "correct": False,
        }
        for question in questions
        for number, order in enumerate(question.orders)
    ]
    return [PREFIX + name for name in summary(rows)]


def summary(rows: Sequence[dict]) -> dict[str, float]:
    """Accuracies and consistency of prediction rows, as means over questions of `statistics.measures`.

    `accuracy`: multi-image questions in original order; `accuracy/<source>`: all questions of a source in original
    order; `permuted_accuracy`: in the drawn orders; `consistent_accuracy`: correct in all orders; `flip_rate`: the
    answer, mapped to the original order, differs between orders; `single_image_accuracy`. Measures without questions
    are omitted.
    """
    values = {NAMES[measure]: list(by_question.values()) for measure, by_question in statistics.measures(rows).items()}
    for source in sorted({row["source"] for row in rows}):
        values[f"accuracy/{source}"] = [row["correct"] for row in rows if row["source"] == source and row["original"]]
    return {name: float(np.mean(value)) for name, value in values.items() if value}
