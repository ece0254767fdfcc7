"""Validates a config before anything is computed or written."""

import math
import re
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from models.errors import InputError, one_line
from perl_jax import grpo, rewards

ONE_OF = {
    "online_filter": ("off", "drop", "refill"),
    "advantage_scale": ("std", "none"),
    "loss.aggregate": grpo.AGGREGATES,
    "optimizer.mu_dtype": ("float32", "bfloat16"),
}
AT_LEAST = {
    "lora.rank": 0,
    "lora.alpha": 1,
    "warmup.steps": 0,
    "warmup.questions": 1,
    "total_steps": 0,
    "questions": 1,
    "rollouts": 1,
    "n_s": 0,
    "refill_rounds": 1,
    "sampling.max_new_tokens": 1,
    "sampling.top_k": 0,
    "sampling.batch": 0,
    "optimizer.steps_per_batch": 1,
    "micro_batch.rows": 1,
    "eval.every": 1,
    "eval.limit": 1,
    "eval.permute": 0,
    "eval.batch": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "log_groups": 0,
    "prompt.max_tokens": 1,
    "max_padding": 0,
}


def check(config: ConfigDict) -> None:
    """Raises InputError, naming the key, for an invalid value."""
    values = dict(_flat(config))
    for key, known in ONE_OF.items():
        if values[key] not in known:
            raise InputError(f"config.{key} is one of {', '.join(known)}, not {values[key]!r}")
    for key, least in AT_LEAST.items():
        if values[key] < least:
            raise InputError(f"config.{key} is {values[key]}; it must be at least {least}")
    if values["sampling.temperature"] <= 0 or not 0 < values["sampling.top_p"] <= 1:
        raise InputError("config.sampling: temperature must be above 0, and top_p above 0 and at most 1")
    try:
        re.compile(values["lora.targets"])
    except re.error as error:
        raise InputError(
            f"config.lora.targets is {values['lora.targets']!r}: no regular expression ({error})"
        ) from error
    longest = values["prompt.max_tokens"] + values["sampling.max_new_tokens"]
    if values["micro_batch.row_tokens"] < longest:
        raise InputError(
            f"config.micro_batch.row_tokens is {values['micro_batch.row_tokens']}, but a prompt and a "
            f"response may have {longest} tokens (prompt.max_tokens + sampling.max_new_tokens)"
        )
    rewards.check_weights(config.reward_weights)
    if not all(isinstance(name, str) for name in values["eval.sets"]):
        raise InputError(f"config.eval.sets must hold names of splits, such as ('eval',), not {values['eval.sets']}")
    try:
        values["warmup.caption"].format(place=1, caption="")
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"config.warmup.caption is {values['warmup.caption']!r}; it may hold {{place}} and {{caption}} "
            f"({one_line(error, kind=True)})"
        ) from error
    if values["loss.kl_coef"] and values["warmup.steps"]:
        raise InputError(
            "config.loss.kl_coef would hold the policy to what it was before the warm-up; train the "
            "warm-up with total_steps=0, export it, and give it as config.model"
        )


def check_shards(config: ConfigDict, shards: int) -> None:
    """Raises InputError where more than `config.max_padding` of a rollout's rows on the mesh would be empty."""
    orders = config.n_s + 1
    prompts = config.questions * orders
    rows = -(-prompts // shards) * shards
    if config.total_steps and 1 - prompts / rows > config.max_padding:
        raise InputError(
            f"config.questions = {config.questions}, in {orders} orders each, are {prompts} prompts; on the {shards} "
            f"shards of config.mesh {rows - prompts} of {rows} rows would be empty, more than config.max_padding = "
            f"{config.max_padding} allows: set config.questions to a multiple of {shards // math.gcd(shards, orders)}, "
            "or use fewer devices"
        )


def check_parts(config: ConfigDict) -> None:
    """Raises InputError for a sub-config that was replaced as a whole, which bypasses ml_collections' lock."""
    for name, part in config.items():
        if hasattr(part, "is_locked") and not part.is_locked and name not in ("scratch", "reward_weights"):
            raise InputError(f"config.{name} is replaced as a whole; set config.{name}.{', '.join(part)} one by one")


def _flat(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield prefix + key, value
        if hasattr(value, "items"):
            yield from _flat(value, f"{prefix}{key}.")
