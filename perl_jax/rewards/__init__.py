"""Rewards: one module each, looked up by name; add one as a new file here, or as a function in any module or file.

A reward is `score(record, text) -> float | dict[str, float]`. `record` is the record as rendered for the order that the
model saw (`perl_jax.permute.render`), without its images, and with `rounding` if `config.reward_rounding` is on; `text`
is the whole response. A dict has the key "reward" and any named parts of it, the same keys for each response; the parts
are logged, and `config.reward_weights` can reweight them. Rewards run in worker processes with limits on time and
memory (`perl_jax.grading`) and must be deterministic.

A function with veRL's signature, `compute_score(data_source, solution_str, ground_truth, extra_info)`, is taken as it
is. One with TRL's or another is refused, as what else it would be called with is not known.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from models.errors import InputError, one_line

Score = Callable[[Mapping[str, object], str], float | dict[str, float]]


def names() -> list[str]:
    """Names of the reward modules in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> Score:
    """Returns the reward called `name`: a module of this folder ("boxed"), "package.module:function", or
    "path/file.py:function".

    Raises InputError, listing the known names, if there is none, or if it cannot be called as a reward.

    >>> find("boxed").__module__
    'perl_jax.rewards.boxed'
    """
    module, colon, function = name.rpartition(":")
    if not colon and name in names():
        module, function = f"{__name__}.{name}", "score"
    elif not colon and name.endswith(".py"):
        raise InputError(f"reward {name!r} names no function of the file: give {name}:function")
    elif not (module and function):
        known = ", ".join(names())
        raise InputError(
            f"no reward {name!r}: known are {known}, or give package.module:function or path/file.py:function"
        )
    try:
        loaded = _file(module) if module.endswith(".py") else importlib.import_module(module)
        score = getattr(loaded, function)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a user's module may raise anything on import
        why = one_line(error, kind=True)
        raise InputError(f"reward {name!r} cannot be imported: {why}") from error
    if not callable(score) or inspect.isclass(score):
        raise InputError(f"reward {name!r} is a {type(score).__name__}, not a function")
    return _as_score(name, score)


def _file(path: str) -> ModuleType:
    """The module in a Python file, executed once in a process."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise InputError(f"no file {path} for a reward (from {Path.cwd()})")
    name = f"{file.stem}_{hashlib.blake2b(str(file).encode(), digest_size=6).hexdigest()}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


_VERL = {"data_source", "solution_str", "ground_truth", "extra_info"}
_TRL = {"completions", "prompts"}
_EASYR1 = {"reward_input", "reward_inputs"}
_RESPONSES = {"text", "response", "completion", "prediction", "predict_str", "solution_str", "output", "generation"}
_ANSWERS = {"record", "sample", "answer", "ground_truth", "gold", "label", "target", "reference", "solution", "truth"}
_WRAP = "; wrap it: def score(record, text): return "


def _as_score(name: str, function: Callable) -> Score:
    """`function` as it is called here. Raises InputError for a signature whose arguments would be others than it takes.

    Where it cannot be known, as of a built-in function, the first responses show it.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return function
    parameters = signature.parameters
    shown = f"reward {name!r} takes ({', '.join(map(str, map(_plain, parameters.values())))})"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise InputError(f"reward {name!r} is an async function or a generator; make it a plain function")
    if parameters.keys() >= {"solution_str", "ground_truth"}:
        required = {key for key, each in parameters.items() if _is_required(each)}
        if required <= _VERL:
            every = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
            return functools.partial(_of_verl, function, frozenset(_VERL if every else _VERL & parameters.keys()))
        raise InputError(f"{shown}, more than veRL gives a reward ({', '.join(sorted(_VERL))})")
    if _TRL & parameters.keys():
        columns = "answer=[record['answer']]"
        raise InputError(f"{shown}, as in TRL{_WRAP}{_called(name)}(completions=[text], {columns})[0]")
    if _EASYR1 & parameters.keys():
        fields = "{'response': text, 'ground_truth': record['answer']}"
        raise InputError(f"{shown}, as in EasyR1{_WRAP}{_called(name)}({fields})['overall']")
    try:
        signature.bind({}, "")
    except TypeError as error:
        raise InputError(f"{shown}, but it is called with (record, text)") from error
    first, *second = (key for key, each in parameters.items() if each.kind is not inspect.Parameter.VAR_KEYWORD)
    if first in _RESPONSES or (second and second[0] in _ANSWERS):
        fields = "text, record['answer']"
        raise InputError(f"{shown}, but it is called with (record, text){_WRAP}{_called(name)}({fields})")
    return function


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """Without annotation and default, for one short line."""
    return parameter.replace(annotation=inspect.Parameter.empty, default=inspect.Parameter.empty)


def _is_required(parameter: inspect.Parameter) -> bool:
    variable = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and not variable


def _called(name: str) -> str:
    return name.rpartition(":")[2]


def _of_verl(
    function: Callable[..., Any], keys: frozenset[str], record: Mapping[str, object], text: str
) -> float | dict[str, float]:
    """The score of a function with veRL's signature: its number, or the "score" of its dict and its numbers."""
    every = {
        "data_source": record.get("source"),
        "solution_str": text,
        "ground_truth": record["answer"],
        "extra_info": dict(record),
    }
    result = function(**{key: every[key] for key in keys})
    if not isinstance(result, Mapping) or "score" not in result:
        return result
    numbers = {key: value for key, value in result.items() if isinstance(value, int | float)}
    return {("reward" if key == "score" else key): value for key, value in numbers.items()}


def is_right(score: Mapping[str, float]) -> bool:
    """Whether a response counts as correct: its accuracy, or its reward if it has no such part, is at least 0.5.

    >>> is_right({"reward": 0.1, "accuracy": 1.0}), is_right({"reward": 0.4})
    (True, False)
    """
    return score.get("accuracy", score["reward"]) >= 0.5


MOST = (2 - 2**-23) * 2.0**127  # the largest float32, in which rewards are computed with
LARGEST = 1e15  # of a reward, whose square and sums are float32 numbers, too


def check_weights(weights: Mapping[str, object]) -> None:
    """Raises InputError unless each part's weight is a finite number, as a float32, and one is not 0.

    >>> check_weights({"accuracy": 1, "format": 0.5})
    """
    for part, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= MOST:
            raise InputError(f"reward_weights.{part} is {weight!r}; it must be a finite number")
        if part == "reward":
            raise InputError("reward_weights.reward would weigh the sum itself; name a part of the reward")
    if weights and not any(weights.values()):
        raise InputError("reward_weights are all 0: each response would earn the same; give one part a weight")
