"""Rewards: one module each, looked up by name; add one as a new file here, or as any importable function.

A reward is `score(record, text) -> float | dict[str, float]`. `record` is the record as rendered for the order that the
model saw (`perl_jax.permute.render`), without its images, and with `rounding` if `config.reward_rounding` is on; `text`
is the whole response. A dict has the key "reward" and any named parts of it, the same keys for each response; the parts
are logged, and `config.reward_weights` can reweight them. Rewards run in worker processes with limits on time and
memory (`perl_jax.grading`) and must be deterministic.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping

from models.errors import InputError, one_line

Score = Callable[[Mapping[str, object], str], float | dict[str, float]]


def names() -> list[str]:
    """Names of the reward modules in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> Score:
    """Returns the reward called `name`: a module of this folder ("boxed"), or "package.module:function".

    Raises InputError, listing the known names, if there is none.

    >>> find("boxed").__module__
    'perl_jax.rewards.boxed'
    """
    if ":" in name:
        module, function = name.split(":", 1)
    elif name in names():
        module, function = f"{__name__}.{name}", "score"
    else:
        raise InputError(f"no reward {name!r}: known are {', '.join(names())}, or give package.module:function")
    try:
        score = getattr(importlib.import_module(module), function)
    except Exception as error:  # a user's module may raise anything on import
        why = one_line(error, kind=True)
        raise InputError(f"reward {name!r} cannot be imported: {why}") from error
    if not callable(score):
        raise InputError(f"reward {name!r} is a {type(score).__name__}, not a function")
    return score


def is_right(score: Mapping[str, float]) -> bool:
    """Whether a response counts as correct: its accuracy, or its reward if it has no such part, is at least 0.5.

    >>> is_right({"reward": 0.1, "accuracy": 1.0}), is_right({"reward": 0.4})
    (True, False)
    """
    return score.get("accuracy", score["reward"]) >= 0.5


def check_weights(weights: Mapping[str, object]) -> None:
    """Raises InputError unless each part's weight is a finite number.

    >>> check_weights({"accuracy": 1, "format": 0.5})
    """
    for part, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise InputError(f"reward_weights.{part} is {weight!r}; it must be a finite number")
        if part == "reward":
            raise InputError("reward_weights.reward would weigh the sum itself; name a part of the reward")
