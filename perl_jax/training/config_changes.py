"""What may change in the config of a run that goes on: what changes no result; all else is refused unless allowed."""

import logging
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.errors import InputError
from perl_jax.runtime import config_keys

logger = logging.getLogger(__name__)

FREE = (  # keys and sections that change no result, or nothing but its rounding; all others do
    "model",  # where the base lies: its fingerprint is compared
    "data.directory",  # where the records lie: their fingerprints are compared
    "data.source",
    "data.options",
    "mesh",
    "processes",  # not in the config, as "chat_template"
    "attention",
    "max_padding",
    "sampling.batch",
    "sampling.tensor",
    "grading",
    "max_sampler_gap",
    "micro_batch",
    "remat",
    "eval.every",
    "eval.batch",
    "checkpoint.every",
    "checkpoint.minutes",
    "checkpoint.keep",
    "grace",
    "max_bad_steps",
    "max_skipped",
    "log_groups",
    "profile",
)
WHY = {"total_steps": " (over which the permutation decays)"}  # of what people may not expect to be refused


def check(saved: Mapping[str, Any] | None, now: Mapping[str, Any], done: int, allow: Sequence[str] = ()) -> None:
    """Compares the metadata of the checkpoint of step `done` with that of the run that goes on from it.

    Of both, "config" (nested, JSON-able), "processes" and the chat template of "prompt" are read. Differences that
    change no result (`FREE`), or that `allow` names by key or section, are logged. Raises InputError with all others,
    for an unknown key in `allow` (which alone is checked where nothing is `saved`), and where the config has fewer
    steps than are done.
    """
    before, after = _leaves(saved or {}), _leaves(now)
    allowed = [key.removeprefix("config.") for text in allow for key in text.split(",")]
    for key in allowed:
        if not any(_within(leaf, [key]) for leaf in before | after) and key not in now["config"]:
            meant = config_keys.suggestion(now["config"], key)
            raise InputError(f"--allow={key}: no such key in the config" + f"; did you mean {meant}?" * bool(meant))
    if saved is None:
        return
    last = after["warmup.steps"] + after["total_steps"]
    if last < done:
        raise InputError(
            f"{done} steps are done, but config.warmup.steps + config.total_steps is {last}: give more, or a new "
            "--workdir"
        )
    if "config" not in saved:
        logger.info("step %d was saved by an earlier version, without its config: nothing is compared", done)
        return
    changed = [key for key in after | before if before.get(key, _NOT_SET) != after.get(key, _NOT_SET)]
    refused = [key for key in changed if not _within(key, (*FREE, *allowed))]
    if refused:
        raise InputError(
            f"step {done} was made with another config: {_told(refused, before, after)}; give what it was, a new "
            f"--workdir, or --allow={','.join(refused)}"
        )
    if free := [key for key in changed if _within(key, FREE)]:
        logger.info("changed since step %d, to the same results: %s", done, _told(free, before, after))
    if others := [key for key in changed if not _within(key, FREE)]:
        logger.warning("changed since step %d, as --allow says: %s", done, _told(others, before, after))


_NOT_SET = "not set"


def _leaves(run: Mapping[str, Any]) -> dict[str, Any]:
    """{key: value} of a run's config, and of what else counts."""
    leaves = {key: value for key, value in config_keys.flat(run.get("config", {})) if not hasattr(value, "items")}
    return leaves | {"processes": run.get("processes"), "chat_template": run.get("prompt", {}).get("template_sha256")}


def _within(key: str, names: Iterable[str]) -> bool:
    """Whether one of the names is the key, or a section that it is in."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def _told(keys: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The keys with both values, in one line."""

    def shown(values: Mapping[str, Any], key: str) -> str:
        return textwrap.shorten(repr(values[key]), 80, placeholder=" ...") if key in values else _NOT_SET

    return ", ".join(f"{key} {shown(before, key)}, now {shown(after, key)}{WHY.get(key, '')}" for key in keys)
