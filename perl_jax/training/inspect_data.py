"""Dry run of a config's data, without weights: first questions, reward checks, prompt lengths, padding."""

import collections
import contextlib
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

import models
from models.errors import InputError
from perl_jax import permute, rewards, symbols
from perl_jax.engine import tree_packing
from perl_jax.grading import Grader
from perl_jax.records import prompt_lengths, stream
from perl_jax.records.prompts import Limits, Prompts, with_lazy_images
from perl_jax.records.question import Question
from perl_jax.training import batch as batches
from perl_jax.training import schedule

SAMPLED = 1000  # most records whose lengths are measured
WRONG = 4  # wrong answers, besides the empty one and one that names two

_ITEM = re.compile(r"\d+|\b[A-Za-z]\b")


class InspectedOrder(NamedTuple):
    """A question in one order, with the rewards of the true answer and of wrong ones."""

    order: permute.Order
    times: int  # how many of the step's orders are this one; 0: not drawn by the step
    sample: permute.Sample  # rendered
    prompt: tuple  # (ids, images)
    answers: list[str]  # the true answer first
    scores: list[dict[str, float]]  # rewards of each answer

    @property
    def best(self) -> bool:
        """Whether the true answer has a higher reward than each wrong one."""
        true, *wrong = (score["reward"] for score in self.scores)
        return true > max(wrong)


class InspectedQuestion(NamedTuple):
    """A question of the run."""

    step: int
    stage: str
    probability: float  # of a permuted order
    record: permute.Sample
    orders: list[InspectedOrder]


class DataStats(NamedTuple):
    """Statistics of a sample of the records, computed without decoding images."""

    size: int  # records of the split
    tokens: np.ndarray  # [N] prompt tokens of each valid record
    patches: np.ndarray  # of each image
    faults: list[str]  # why the others are invalid
    prompts: list[tuple]  # (ids, images) of the first that are not too long, as many as a step takes
    unrewarded: list[str]  # ids of records whose true answer is graded wrong


class Fill(NamedTuple):
    """The shares of a padded shape that are not padding."""

    name: str
    shape: str
    tokens: float  # share of real tokens
    images: float | None  # share of real patches; None without images


def questions(
    config: ConfigDict, source: batches.Questions, prompts: Prompts, grader: Grader, count: int
) -> list[InspectedQuestion]:
    """The first `count` questions of steps 1, 2, ..., in the orders drawn, or in a permuted order if none is drawn."""
    inspected: list[InspectedQuestion] = []
    step = 1
    while len(inspected) < count and step <= config.warmup.steps + config.total_steps:
        most, n_s, p, _ = schedule.draw(config, step)
        for question in source.take(min(most, count - len(inspected)), n_s, p, step):
            orders = in_orders(config, prompts, question, step)
            inspected.append(InspectedQuestion(step, schedule.stage(config, step), p, question.record, orders))
        step += 1
    pairs = [(order.sample, answer) for each in inspected for order in each.orders for answer in order.answers]
    scores = iter(graded(config, prompts, grader, pairs))
    return [
        each._replace(orders=[order._replace(scores=[next(scores) for _ in order.answers]) for order in each.orders])
        for each in inspected
    ]


def in_orders(config: ConfigDict, prompts: Prompts, question: Question, step: int) -> list[InspectedOrder]:
    """A question in each distinct order that its step draws, plus a permuted one if none of these is permuted."""
    record, counts = question.record, collections.Counter(question.orders)
    by_order = dict(zip(question.orders, zip(question.samples, question.prompts)))
    if len(counts) == 1:
        order = permute.draw_orders(record, 1, 1.0, seed=config.seed, epoch=record["epoch"], step=step)[1]
        sample = permute.render(permute.apply(record, order))
        with contextlib.suppress(InputError):  # the rewritten prompt may be too long
            by_order.setdefault(order, (sample, prompts.encode(sample)))
    out = []
    for order, (sample, prompt) in by_order.items():
        answers = [sample["answer"], *wrong_answers(permute.apply(record, order))]
        out.append(InspectedOrder(order, counts[order], sample, prompt, answers, []))
    return out


def graded(
    config: ConfigDict, prompts: Prompts, grader: Grader, pairs: Sequence[tuple[permute.Sample, str]]
) -> list[dict[str, float]]:
    """The rewards of responses with these answers, formatted by `config.warmup.response`."""
    processor = prompts.processor
    texts = (schedule.target_response(config, {**sample, "answer": answer}) for sample, answer in pairs)
    responses = [processor.decode(processor.encode(text)) for text in texts]  # encoded and decoded like a rollout
    return grader.grade([({**sample, "truncated": False}, text) for (sample, _), text in zip(pairs, responses)])


def wrong_answers(sample: permute.Sample) -> list[str]:
    """Wrong answers to a sample (with symbols): other choices, images or numbers, one naming two, and an empty one."""
    true = permute.render(sample)["answer"]
    others = [other for other in dict.fromkeys(_others(sample)) if other and other.casefold() != true.casefold()]
    return [*others[:WRONG], f"{true} or {others[0]}", ""] if others else [""]


def _others(sample: permute.Sample) -> Sequence[str]:
    rendered, places = permute.render(sample), range(len(sample["images"]))
    true, choices = rendered["answer"], rendered.get("choices") or []
    if choices:
        return [letter for letter, choice in zip(symbols.LETTERS, choices) if true not in (letter, choice)]
    if sample.get("kind") == "order":
        items = _ITEM.findall(true)
        return [_with_items(true, items[::-1]), *(_with_items(true, items[i:] + items[:i]) for i in range(len(items)))]
    if mentions := list(symbols.MENTION.finditer(sample["answer"])):
        text = sample["answer"] if len(mentions) == 1 else mentions[0][0]  # of several images one alone
        pointed = [symbols.MENTION.sub(symbols.mention(place, mentions[0][2]), text) for place in places]
        return [permute.render({**sample, "answer": answer})["answer"] for answer in pointed]
    if true.upper() in symbols.LETTERS:
        return symbols.LETTERS[: max(len(places), 4)]
    if re.fullmatch(r"[+-]?[0-9]+", true):
        return [str(int(true) + 1), *(str(place + 1) for place in places if place + 1 != int(true))]
    if sample.get("kind") == "number":
        return [f"{true}+1", f"{true}-1"]
    return ["no" if true.casefold() == "yes" else "yes" if true.casefold() == "no" else "none of them"]


def _with_items(text: str, items: Sequence[str]) -> str:
    remaining = iter(items)
    return _ITEM.sub(lambda _: next(remaining), text)


def data_stats(
    config: ConfigDict, directories: Sequence[str], prompts: Prompts, grader: Grader, workdir: Path
) -> DataStats:
    """Statistics of a sample of all record sets of the run, deterministic in the seed.

    Prompt lengths are those that the run goes by (`prompt_lengths.load_or_measure`).
    """
    split = config.data.split
    lengths = [prompt_lengths.load_or_measure(directory, split, prompts, workdir) for directory in directories]
    parts = stream.open_subsets(directories, split)
    places = [(part, i, length) for part, lines in zip(parts, lengths) for i, length in enumerate(lines)]
    unit = prompts.processor.vision.spatial_merge_size**2
    unlimited = dataclasses.replace(prompts, max_tokens=sys.maxsize)  # what the run leaves out is shown, too
    tokens, patches, faults, samples = [], [], [], []
    examples: list[tuple] = []
    for place in np.random.default_rng(config.seed).permutation(len(places))[:SAMPLED]:
        part, i, length = places[place]
        if "tokens" not in length:
            faults.append(length["detail"])
            continue
        try:
            sample = permute.render(with_lazy_images(part[i]))
            ids, images = unlimited.encode(sample)
        except InputError as error:  # invalid since the lengths were measured
            faults.append(str(error))
            continue
        tokens.append(length["tokens"])
        patches += [unit * prompts.processor.image_tokens(image, **prompts.limits) for image in images]
        fits = not prompt_lengths.exclusion_reason(length, prompts.max_tokens)
        if fits and len(examples) < max(config.questions, config.warmup.questions):
            examples.append((ids, images))
        samples.append({key: value for key, value in sample.items() if key != "images"})
    scores = graded(config, prompts, grader, [(sample, sample["answer"]) for sample in samples])
    unrewarded = [sample["id"] for sample, score in zip(samples, scores) if not rewards.is_right(score)]
    return DataStats(len(places), np.array(tokens), np.array(patches), faults, examples, unrewarded)


def too_long(config: ConfigDict, stats: DataStats) -> float:
    """The share of valid records whose prompts are longer than the run allows."""
    return float(np.mean(stats.tokens > config.prompt.max_tokens)) if len(stats.tokens) else 0.0


# Shapes


def fills(config: ConfigDict, sizes: models.Config, prompts: Prompts, examples: Sequence[tuple]) -> list[Fill]:
    """The padding of a step's shapes on one device, for questions (ids, images).

    Response lengths are unknown: an update is shown with the shortest, a bare answer, and the longest.
    """
    if not examples:
        return []
    out, limits = [], prompts.limits
    answer = len(prompts.processor.encode(schedule.target_response(config, {"answer": "A"})))
    if config.warmup.steps:
        out.append(of_update(config, sizes, examples[: config.warmup.questions], (1, 1, answer), limits, "warm-up"))
    if config.total_steps:
        questions, orders = examples[: config.questions], config.n_s + 1
        prompts_in_orders = [prompt for prompt in questions for _ in range(orders)]
        out.append(of_rollout(sizes, prompts_in_orders, config.sampling.batch, limits))
        part = schedule.parts(questions, schedule.questions_per_step(config))[-1]
        out += [
            of_update(config, sizes, part, (orders, config.rollouts, length), limits, "update")
            for length in dict.fromkeys((answer, config.sampling.max_new_tokens))
        ]
    return out


def of_rollout(sizes: models.Config, questions: Sequence[tuple], batch: int, limits: Limits) -> Fill:
    """The padding of a step's prompts, prefilled `batch` at a time, as `rollout.generate` packs them."""
    rows = min(batch or len(questions), len(questions))
    parts = [questions[first : first + rows] for first in range(0, len(questions), rows)]
    packs = [models.pack(sizes, [*part, *[part[-1]] * (rows - len(part))], **limits, local_shards=()) for part in parts]
    shape = " and ".join(dict.fromkeys("{} x {}".format(*pack.ids.shape) for pack in packs))
    real = sum(len(ids) for ids, _ in questions)
    return Fill("rollout, prompts", shape, real / sum(pack.ids.size for pack in packs), _real_patches(packs))


def of_update(
    config: ConfigDict,
    sizes: models.Config,
    questions: Sequence[tuple],
    shape: tuple[int, int, int],
    limits: Limits,
    stage: str,
) -> Fill:
    """The padding of one optimizer step with `shape` (orders, rollouts, tokens) of responses to each question."""
    O, G, R = shape
    groups = [
        tree_packing.Group(images, [range(len(images))] * O, [ids] * O, [[ids[:1] * R] * G] * O, np.ones((O, G)))
        for ids, images in questions
    ]
    forest = tree_packing.pack(sizes, groups, **config.micro_batch, **limits, local_shards=())
    rows, _, capacity = forest.batches[0].ids.shape
    packed = f"{len(forest.batches)} x {rows} x {capacity}"
    return Fill(f"{stage}, responses of {R} tokens", packed, 1 - forest.padding, _real_patches(forest.batches))


def _real_patches(packs: Sequence) -> float | None:
    """The share of real patches in packs with `vision`; None without any."""
    real = [pack.vision.images >= 0 for pack in packs if pack.vision is not None]
    return sum(map(np.sum, real)) / sum(map(np.size, real)) if real else None
