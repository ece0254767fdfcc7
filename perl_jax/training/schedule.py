"""The schedule of a run: stage, questions and orders, warm-up targets and optimizer of each step.

Pure functions of the config and the step number, so that a resumed run is identical.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import optax
from ml_collections import ConfigDict

import models
from models.errors import InputError
from perl_jax import permute

Item = TypeVar("Item")


def stage(config: ConfigDict, step: int) -> str:
    return "warmup" if step <= config.warmup.steps and config.warmup.steps else "perl"


def draw(config: ConfigDict, step: int) -> tuple[int, int, float, int]:
    """Arguments of `batch.Questions.take`: number of questions, further orders, permutation probability, step."""
    if step <= config.warmup.steps:
        return config.warmup.questions, 0, 0.0, step
    c = config.permute
    p = permute.probability(
        step - config.warmup.steps, config.total_steps, c.start, c.end, c.warmup_steps, schedule=c.schedule
    )
    return config.questions, config.n_s, p, step


def update_options(config: ConfigDict, step: int) -> dict[str, Any]:
    """Keyword arguments of `update.step`, but for those of `update.pack`."""
    if stage(config, step) == "warmup":
        return {"remat": config.remat}
    sampling = config.sampling
    return dict(
        **config.loss, norm_length=sampling.max_new_tokens, temperature=sampling.temperature, remat=config.remat
    )


def questions_per_step(config: ConfigDict) -> int:
    """The most questions of a batch that one optimizer step takes."""
    return -(-config.questions // config.optimizer.steps_per_batch)


def parts(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """As few parts as `most` items each allow, of equal size or one fewer, so that each optimizer step sees as many.

    >>> [len(part) for part in parts(range(33), 32)], [len(part) for part in parts(range(8), 2)]
    ([16, 17], [2, 2, 2, 2])
    """
    count = -(-len(items) // most)
    return [items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count)]


def target_response(config: ConfigDict, sample: permute.Sample) -> str:
    """The warm-up's target response to a rendered sample: `config.warmup.response`, filled in."""
    captions = "".join(
        config.warmup.caption.format(place=i + 1, caption=caption)
        for i, caption in enumerate(sample.get("captions", ()))
    )
    return config.warmup.response.replace("{captions}", captions).replace("{answer}", sample["answer"])


def target_tokens(config: ConfigDict, sample: permute.Sample, processor: models.Processor) -> list[int]:
    """`target_response` as token ids with an EOS; InputError if longer than a rollout may be."""
    ids = [*processor.encode(target_response(config, sample)), processor.eos_ids[0]]
    if len(ids) > config.sampling.max_new_tokens:
        raise InputError(
            f"record {sample['id']!r}: the warm-up's response has {len(ids)} tokens, more than "
            f"config.sampling.max_new_tokens = {config.sampling.max_new_tokens}; raise that"
        )
    return ids


def optimizer(config: ConfigDict, step: int) -> optax.GradientTransformation:
    """AdamW with global norm clipping, at the stage's learning rate."""
    c = config.optimizer
    if stage(config, step) == "warmup":
        steps, peak = max(2, config.warmup.steps), config.warmup.learning_rate
        rate = optax.warmup_cosine_decay_schedule(0.0, peak, max(1, steps // 20), steps, peak / 10)
    else:
        rate = c.learning_rate
    adamw = optax.adamw(rate, b1=c.b1, b2=c.b2, weight_decay=c.weight_decay, mu_dtype=c.mu_dtype)
    return optax.chain(optax.clip_by_global_norm(c.clip_norm), adamw)
