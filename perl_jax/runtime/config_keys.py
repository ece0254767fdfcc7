"""Which key of a config somebody meant who wrote another."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NAMES = {  # of other trainers, and short ones, without "_": ours
    "lr": "optimizer.learning_rate",
    "learningrate": "optimizer.learning_rate",
    "steps": "total_steps",
    "actorlr": "optimizer.learning_rate",
    "maxgradnorm": "optimizer.clip_norm",
    "gradclip": "optimizer.clip_norm",
    "clipgrad": "optimizer.clip_norm",
    "adambeta1": "optimizer.b1",
    "adambeta2": "optimizer.b2",
    "beta1": "optimizer.b1",
    "beta2": "optimizer.b2",
    "betas": "optimizer.b1",
    "wd": "optimizer.weight_decay",
    "beta": "loss.kl_coef",
    "kl": "loss.kl_coef",
    "klbeta": "loss.kl_coef",
    "klcoeff": "loss.kl_coef",
    "epsilon": "loss.clip_low",
    "epsilonlow": "loss.clip_low",
    "epsilonhigh": "loss.clip_high",
    "clipratio": "loss.clip_low",
    "clipratiolow": "loss.clip_low",
    "clipratiohigh": "loss.clip_high",
    "clipratioc": "loss.dual_clip",
    "losstype": "loss.kind",
    "lossmode": "loss.kind",
    "lossaggmode": "loss.aggregate",
    "entropycoeff": "loss.entropy_coef",
    "rolloutis": "loss.importance",
    "vllmimportancesamplingcorrection": "loss.importance",
    "vllmimportancesamplingmode": "loss.importance",
    "vllmimportancesamplingcap": "loss.importance_cap",
    "rolloutisthreshold": "loss.importance_cap",
    "overlongbuffer": "overlong.buffer",
    "scalerewards": "advantage_scale",
    "fixedshuffle": "data.shuffle",
    "numgenerations": "rollouts",
    "groupsize": "rollouts",
    "samples": "rollouts",
    "n": "rollouts",
    "batchsize": "questions",
    "trainbatchsize": "questions",
    "rolloutbatchsize": "questions",
    "ppominibatchsize": "optimizer.steps_per_batch",
    "minibatches": "optimizer.steps_per_batch",
    "maxsteps": "total_steps",
    "epochs": "total_steps",
    "numtrainepochs": "total_steps",
    "totalepochs": "total_steps",
    "totaltrainingsteps": "total_steps",
    "maxtokens": "sampling.max_new_tokens",
    "maxlength": "sampling.max_new_tokens",
    "maxresponselength": "sampling.max_new_tokens",
    "maxcompletionlength": "sampling.max_new_tokens",
    "maxpromptlength": "prompt.max_tokens",
    "temp": "sampling.temperature",
    "savefreq": "checkpoint.every",
    "savesteps": "checkpoint.every",
    "savetotallimit": "checkpoint.keep",
    "evalsteps": "eval.every",
    "testfreq": "eval.every",
    "modelname": "model",
    "modelpath": "model",
    "modelnameorpath": "model",
    "dataset": "data.directory",
    "dataname": "data.directory",
    "trainfiles": "data.directory",
    "r": "lora.rank",
    "lorar": "lora.rank",
    "lorarank": "lora.rank",
    "loraalpha": "lora.alpha",
    "targetmodules": "lora.targets",
    "systemprompt": "prompt.system",
    "rewardfunction": "reward",
    "rewardfuncs": "reward",
    "gradientcheckpointing": "remat",
    "rematpolicy": "remat",
    "dtype": "compute_dtype",
    "tp": "mesh.tensor",
    "tensorparallelsize": "mesh.tensor",
    "dynamicsampling": "online_filter",
    "filtergroups": "online_filter",
}


def suggestion(config: Mapping[str, Any], path: str) -> str:
    """The key of `config` that an unknown `path` is likely to mean, such as "optimizer.lr"; "" without one.

    >>> suggestion({"optimizer": {"learning_rate": 1, "b1": 2}, "seed": 0}, "optimizer.lr")
    'optimizer.learning_rate'
    """
    keys = dict(flat(config))
    section, _, name = path.rpartition(".")
    for key, value in keys.items():
        if path.startswith(f"{key}.") and not hasattr(value, "items"):  # a part of what has none
            return key
    within = _section(keys, section)
    keys = {key: value for key, value in keys.items() if not path.startswith(f"{key}.")}  # not its own section
    siblings = [key for key in keys if key.rpartition(".")[0] == within] if within is not None else []
    return (
        _named(siblings, name)
        or _named(keys, name, elsewhere=True)
        or _named(siblings, name, cutoff=0.6)
        or _closest(keys, path, 0.75)
        or _named(keys, name, cutoff=0.75)
    )


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of all sections and keys."""
    for key, value in config.items():
        yield prefix + key, value
        if hasattr(value, "items"):
            yield from flat(value, f"{prefix}{key}.")


def _section(keys: Mapping[str, Any], section: str) -> str | None:
    """The section of this name, or of one like it."""
    known = ["", *(key for key, value in keys.items() if hasattr(value, "items"))]
    if section in known:
        return section
    return next(iter(difflib.get_close_matches(section, known, 1, 0.6)), None)


def _named(keys: Sequence[str] | Mapping[str, Any], name: str, elsewhere: bool = False, cutoff: float = 0.0) -> str:
    """The key whose last part is `name`, another word for it, its first letters or beginning, or with `cutoff` one
    like it."""
    ours = {key: key.rpartition(".")[2] for key in keys}
    if cutoff:
        close = difflib.get_close_matches(name, list(ours.values()), 1, cutoff)
        return next((key for key, last in ours.items() if close and last == close[0]), "")
    plain = name.replace("_", "").replace("-", "").lower()
    target = NAMES.get(plain, "")
    same = [key for key, last in ours.items() if last.replace("_", "") == plain]
    short = [key for key, last in ours.items() if "_" in last and "".join(w[0] for w in last.split("_") if w) == plain]
    begins = [key for key, last in ours.items() if len(plain) > 2 and last.startswith(name.lower())]
    another = [key for key in keys if target and (key == target if elsewhere else ours[key] == target.split(".")[-1])]
    for found in (same, another, short, begins):
        if len(found) == 1 or (found and not elsewhere):
            return found[0]
    return ""


def _closest(keys: Mapping[str, Any], path: str, cutoff: float) -> str:
    return next(iter(difflib.get_close_matches(path, list(keys), 1, cutoff)), "")
