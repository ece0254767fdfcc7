"""Validates a config before anything is computed or written."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from models import attention
from models.errors import InputError, one_line
from models.layers import REMAT
from models.processing import MOST_PIXELS
from perl_jax import grpo, mesh, permute, rewards
from perl_jax.runtime import config_keys
from perl_jax.training import held_out


class Range(NamedTuple):
    """The numbers that a key may be. A number must lie in it as a float64 and as a float32, as which a run uses it."""

    least: float
    most: float
    whole: bool = False  # whole numbers only
    above: bool = False  # without `least` itself
    below: bool = False  # without `most` itself
    also: tuple = ()  # further values

    def holds(self, value: object) -> bool:
        if not isinstance(value, bool) and value in self.also:
            return True
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return all(self._holds(number) for number in ([value] if self.whole else [value, _float32(value)]))

    def _holds(self, number: float) -> bool:
        after = number > self.least if self.above else number >= self.least
        return after and (number < self.most if self.below else number <= self.most)

    def __str__(self) -> str:
        bounds = [f"above {self.least:g}" if self.above else f"at least {self.least:g}"]
        if self.most not in (MOST_WHOLE, MOST):
            bounds.append(f"below {self.most:g}" if self.below else f"at most {self.most:.10g}")
        kind = "a whole number" if self.whole else "a finite number"
        return " or ".join([f"{' and '.join(bounds)}, {kind}", *map(str, self.also)])


MOST_WHOLE, MOST = 2**31 - 1, rewards.MOST  # steps and tokens are counted as int32


def _float32(value: float) -> float:
    """The value as a float32 on a device, where the smallest are 0."""
    if not abs(value) <= 2 * MOST:
        return math.nan if value != value else math.inf if value > 0 else -math.inf
    with np.errstate(over="ignore"):
        rounded = float(np.float32(value))
    return rounded if abs(rounded) >= np.finfo(np.float32).tiny else 0.0


def _count(least: int, most: int = MOST_WHOLE, also: tuple = ()) -> Range:
    return Range(least, most, whole=True, also=also)


POSITIVE, SHARE = Range(0, MOST, above=True), Range(0, 1)
POSITIVE_SHARE, SHARE_BELOW_1 = Range(0, 1, above=True), Range(0, 1, below=True)
RANGES = {
    "lora.rank": _count(0),
    "lora.alpha": _count(1),
    "prompt.min_pixels": _count(1, MOST_PIXELS[0]),
    "prompt.max_pixels": _count(1, MOST_PIXELS[1]),
    "prompt.max_tokens": _count(1),
    "seed": _count(0, 2**32 - 1),
    **{f"mesh.{axis}": _count(1, also=(-1,)) for axis in mesh.AXES},
    "max_padding": SHARE,
    "warmup.steps": _count(0),
    "warmup.questions": _count(1),
    "warmup.learning_rate": POSITIVE_SHARE,
    "total_steps": _count(0),
    "questions": _count(1),
    "n_s": _count(0),
    "rollouts": _count(1),
    "permute.start": SHARE,
    "permute.end": SHARE,
    "permute.warmup_steps": _count(0),
    "sampling.temperature": Range(0.001, 1000),
    "sampling.top_p": POSITIVE_SHARE,
    "sampling.top_k": _count(0),
    "sampling.max_new_tokens": _count(1),
    "sampling.batch": _count(0),
    "sampling.tensor": _count(0),
    "grading.workers": _count(1, 1024),
    "grading.timeout": Range(0, 86400, above=True),
    "grading.step_timeout": Range(0, 86400, above=True),
    "grading.max_failed": SHARE,
    "refill_rounds": _count(1),
    "loss.clip_low": POSITIVE_SHARE,
    "loss.clip_high": POSITIVE,
    "loss.dual_clip": Range(1, MOST, above=True, also=(None,)),
    "loss.kl_coef": Range(0, 1000),
    "loss.entropy_coef": Range(-1000, 1000),
    "loss.importance_cap": Range(1, MOST),
    "max_sampler_gap": POSITIVE,
    "overlong.buffer": _count(0),
    "overlong.penalty": Range(0, 1000),
    "optimizer.learning_rate": POSITIVE_SHARE,
    "optimizer.b1": SHARE_BELOW_1,
    "optimizer.b2": SHARE_BELOW_1,
    "optimizer.weight_decay": Range(0, 1000),
    "optimizer.clip_norm": POSITIVE,
    "optimizer.steps_per_batch": _count(1),
    "micro_batch.rows": _count(1),
    "micro_batch.row_tokens": _count(1),
    "eval.every": _count(1),
    "eval.limit": _count(1),
    "eval.permute": _count(0),
    "eval.batch": _count(1),
    "checkpoint.every": _count(1),
    "checkpoint.minutes": POSITIVE,
    "checkpoint.keep": _count(1),
    "grace": POSITIVE,
    "max_skipped": SHARE,
    "max_bad_steps": _count(1),
    "log_groups": _count(0),
}
ONE_OF = {
    "compute_dtype": ("bfloat16", "float32"),
    "online_filter": ("off", "drop", "refill"),
    "attention": attention.CHOICES,
    "data.shuffle": permute.SHUFFLES,
    "permute.schedule": permute.SCHEDULES,
    "reward_consistency": grpo.CONSISTENCY,
    "advantage_scale": grpo.SCALES,
    "advantage_scope": grpo.SCOPES,
    "loss.aggregate": grpo.AGGREGATES,
    "loss.kind": grpo.KINDS,
    "loss.importance": grpo.IMPORTANCE,
    "optimizer.mu_dtype": ("float32", "bfloat16"),
    "remat": (*REMAT, "auto", True, False),
}
SWITCHES = ("train_vision", "permute.canonical", "permute.adaptive", "reward_rounding")
TEXTS = (
    "model",
    "lora.targets",
    "data.directory",
    "data.source",
    "data.split",
    "prompt.system",
    "prompt.instruction",
    "warmup.response",
    "warmup.caption",
    "reward",
    "checkpoint.best",
    "profile",
)
NEEDED = ("data.split", "reward")  # texts that may not be empty


def check(config: ConfigDict) -> None:
    """Raises InputError, naming the key, what it may be and its value, for a value with which no run is right."""
    values = dict(config_keys.flat(config))
    for key in (*RANGES, *ONE_OF, *SWITCHES, *TEXTS, "data.options", "scratch", "reward_weights", "eval.sets"):
        if key not in values:
            raise InputError(f"config.{key} is missing: begin with what configs/base.py's get_config() returns")
    for key, range_ in RANGES.items():
        if not range_.holds(values[key]):
            raise InputError(f"config.{key} is {values[key]!r}; it must be {range_}")
    for key, known in ONE_OF.items():
        if values[key] not in known:
            raise InputError(f"config.{key} is one of {', '.join(map(str, known))}, not {values[key]!r}")
    for key in SWITCHES:
        if not isinstance(values[key], bool):
            raise InputError(f"config.{key} is {values[key]!r}; it must be True or False")
    for key in TEXTS:
        if not isinstance(values[key], str) or (key in NEEDED and not values[key].strip()):
            raise InputError(f"config.{key} is {values[key]!r}; it must be a text{' with words' * (key in NEEDED)}")
    _check_texts(values)
    _check_together(values)
    rewards.check_weights(config.reward_weights)
    if not isinstance(values["eval.sets"], tuple | list) or not all(isinstance(n, str) for n in values["eval.sets"]):
        raise InputError(f"config.eval.sets must hold names of splits, such as ('eval',), not {values['eval.sets']!r}")
    if values["eval.sets"]:
        check_best(config, held_out.possible_metrics(config.eval.permute), "an evaluation")


def _check_texts(values: Mapping[str, Any]) -> None:
    """Raises InputError for a text that cannot be filled in or is no regular expression."""
    try:
        re.compile(values["lora.targets"])
    except re.error as error:
        raise InputError(
            f"config.lora.targets is {values['lora.targets']!r}: no regular expression ({error})"
        ) from error
    try:
        values["warmup.caption"].format(place=1, caption="")
    except (AttributeError, KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"config.warmup.caption is {values['warmup.caption']!r}; it may hold {{place}} and {{caption}} "
            f"({one_line(error, kind=True)})"
        ) from error
    if not re.fullmatch(r"(\d+:\d+)?", values["profile"], re.ASCII):
        raise InputError(f"config.profile is {values['profile']!r}; it must be FIRST:LAST, such as '10:12', or ''")
    if values["warmup.steps"] and "{answer}" not in values["warmup.response"]:
        raise InputError(
            f"config.warmup.response is {values['warmup.response']!r}; without {{answer}} in it, the warm-up would "
            "teach no answer"
        )


def _check_together(values: Mapping[str, Any]) -> None:
    """Raises InputError for values that exclude each other."""
    longest = values["prompt.max_tokens"] + values["sampling.max_new_tokens"]
    if values["micro_batch.row_tokens"] < longest:
        raise InputError(
            f"config.micro_batch.row_tokens is {values['micro_batch.row_tokens']}, but a prompt and a "
            f"response may have {longest} tokens (prompt.max_tokens + sampling.max_new_tokens)"
        )
    if values["overlong.buffer"] > values["sampling.max_new_tokens"]:
        raise InputError(
            f"config.overlong.buffer is {values['overlong.buffer']}; it must be at most "
            f"config.sampling.max_new_tokens = {values['sampling.max_new_tokens']}"
        )
    if values["prompt.min_pixels"] > values["prompt.max_pixels"]:
        raise InputError(
            f"config.prompt.min_pixels is {values['prompt.min_pixels']}; it must be at most "
            f"config.prompt.max_pixels = {values['prompt.max_pixels']}"
        )
    axes = [key for key in RANGES if key.startswith("mesh.") and values[key] == -1]
    if len(axes) > 1:
        raise InputError(f"config.{axes[0]} and config.{axes[1]} are both -1, all remaining devices: set one of them")
    if values["loss.kl_coef"] and values["warmup.steps"]:
        raise InputError(
            "config.loss.kl_coef would hold the policy to what it was before the warm-up; train the "
            "warm-up with total_steps=0, export it, and give it as config.model"
        )
    if values["total_steps"] and values["rollouts"] * (values["n_s"] + 1) == 1:
        raise InputError(
            "config.rollouts is 1 and config.n_s is 0: a group of one response has no advantage, so that nothing is "
            "learned; set config.rollouts to 2 or more"
        )
    if values["total_steps"] and values["rollouts"] == 1 and values["advantage_scope"] == "order":
        raise InputError(
            "config.rollouts is 1 and config.advantage_scope is 'order': one response to an order has no advantage, so "
            "that nothing is learned; set config.rollouts to 2 or more, or the scope to 'group'"
        )
    if values["n_s"] == 0 and values["reward_consistency"] != "off":
        raise InputError(
            f"config.reward_consistency is {values['reward_consistency']!r}, but config.n_s is 0: there is no other "
            "order to be consistent with"
        )


def check_best(config: ConfigDict, names: Sequence[str], what: str) -> None:
    """Raises InputError unless `config.checkpoint.best` is empty or one of `names`, the metrics that `what` gives."""
    best = config.checkpoint.best
    source = "eval/accuracy/SOURCE"  # stands for each
    if best and best not in names and not (source in names and best.startswith(source.removesuffix("SOURCE"))):
        raise InputError(
            f"config.checkpoint.best is {best!r}, but {what} has only {', '.join(names)}; give one of these, "
            "or '' to keep none as the best"
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
