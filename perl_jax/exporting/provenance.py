"""Provenance of an exported model: recorded facts about its base model, its run and its evaluations."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from models.errors import InputError, one_line
from perl_jax import policy, records
from perl_jax.evaluation import results as evaluated
from perl_jax.evaluation import training_runs
from perl_jax.evaluation.statistics import Estimate
from perl_jax.records import prompts

CARD = "README.md"


class Base(NamedTuple):
    """The base model of a run."""

    name: str | None  # the hub id, or the last part of a directory's path; None: a new model
    hub: bool  # it is a hub id
    revision: str | None
    fingerprint: str
    from_nothing: bool  # trained from random weights, with no published weights
    license: Mapping[str, str]  # Hugging Face metadata, from the base's own card
    license_file: str | None


class Data(NamedTuple):
    """A record set that a run used."""

    name: str
    fingerprint: str
    counts: Mapping[str, int]  # {split: records}; empty if the set is gone or has changed
    sources: Sequence[str]


class Evaluation(NamedTuple):
    """The answers to a held-out set at one step of the run."""

    name: str
    step: int
    rows: Sequence[Mapping]


class Result(NamedTuple):
    """A result of `perl_jax.evaluate` on one benchmark."""

    benchmark: str
    protocol: str
    fingerprint: str  # of the evaluated weights
    accuracy: Estimate  # as the benchmark reports it
    macro: bool  # whether that is the mean over categories
    questions: int
    judge: str | None
    settings: Mapping[str, object]
    partial: bool
    consistency: "Consistency | None"


class Consistency(NamedTuple):
    """Consistency over several orders of the images."""

    questions: int
    mean: Estimate
    all: Estimate
    flip: Estimate
    control: Estimate  # flip rate when asked again in the same order


def base(path: Path, name: Mapping[str, str | None], fingerprint: str, new: bool) -> Base:
    """The base model in `path`, which PEFT would call `name` (`export.base_name`); `new`: created by the run itself."""
    model_name = name["base_model_name_or_path"]
    hub = bool(policy.HUB_ID.fullmatch(model_name))
    settings_file = path / prompts.FILE  # exported by perl_jax, possibly from a new model
    run = json.loads(settings_file.read_text(encoding="utf-8")).get("run") if settings_file.exists() else None
    texts = sorted(file.name for file in path.glob("LICENSE*"))
    return Base(
        name=None if new else model_name if hub else Path(model_name).name,
        hub=hub,
        revision=name.get("revision"),
        fingerprint=fingerprint,
        from_nothing=new or ((run or {}).get("config") or {}).get("model") == "",
        license=license_metadata(path),
        license_file=texts[0] if texts else None,
    )


def license_metadata(path: Path) -> dict[str, str]:
    """The licence metadata in the model card of a directory; {} if there is none."""
    import yaml
    from huggingface_hub import ModelCard

    file = path / CARD
    try:
        data = ModelCard.load(file).data.to_dict() if file.is_file() else {}
    except (yaml.YAMLError, ValueError, TypeError, OSError):
        return {}  # a malformed card is ignored
    fields = {key: data[key] for key in ("license", "license_name", "license_link") if isinstance(data.get(key), str)}
    link = fields.get("license_link", "https://")
    if not re.match(r"https?://", link) and not (path / link).is_file():
        del fields["license_link"]
    return fields if fields.keys() & {"license", "license_name"} else {}


def data(fingerprints: Mapping[str, str]) -> list[Data]:
    """The record sets with these fingerprints, by directory."""
    out = []
    for directory, fingerprint in fingerprints.items():
        try:
            splits = records.summary(directory)["splits"] if records.fingerprint(directory) == fingerprint else {}
        except InputError:  # no longer there
            splits = {}
        sources = sorted({source for each in splits.values() for source in each["source"]})
        out.append(Data(Path(directory).name, fingerprint, {name: s["records"] for name, s in splits.items()}, sources))
    return out


def evaluations(workdir: Path, step: int) -> list[Evaluation]:
    """The last evaluation of each held-out set in a run, up to `step`.

    Raises InputError for prediction rows of another format.
    """
    last: dict[str, tuple[int, Path]] = {}
    for file in (workdir / "evaluations").glob("*.jsonl"):
        match = training_runs.EVALUATION.fullmatch(file.name)
        if match and int(match[2]) <= step:
            last[match[1]] = max(last.get(match[1], (-1, file)), (int(match[2]), file))
    evaluated_sets = [
        Evaluation(name, number, training_runs.predictions(file)) for name, (number, file) in sorted(last.items())
    ]
    return [evaluation for evaluation in evaluated_sets if evaluation.rows]


def results(directories: Sequence[Path]) -> list[Result]:
    """Reads results in directories written by `perl_jax.evaluate`. Raises InputError: none there, or another format."""
    read = [each for directory in directories for each in evaluated.read("", directory).results.values()]
    out = []
    for each in read:
        try:
            out.append(_result(each))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"--results: {' '.join(each.key)} is not as perl_jax.evaluate writes it "
                f"({one_line(error, kind=True)}); evaluate again"
            ) from error
    return out


def check(results: Sequence[Result], fingerprint: str) -> None:
    """Raises InputError if a result belongs to weights with another fingerprint."""
    for result in results:
        if result.fingerprint != fingerprint:
            raise InputError(
                f"--results: {result.benchmark}-{result.protocol} is of the weights {result.fingerprint}, "
                f"this step has {fingerprint}; evaluate an export of the same step, or leave it "
                "out"
            )


def _result(result: evaluated.Result) -> Result:
    facts, summary = result.facts, result.consistency
    consistency = (
        Consistency(
            summary["questions"],
            *(Estimate.from_json(summary[key]) for key in ("permuted", "consistent", "flip")),
            Estimate.from_json(summary["control"]["flip"]),
        )
        if summary
        else None
    )
    name, protocol = result.key
    return Result(
        benchmark=f"{name} {Path(facts['data']).name}" if name == "records" else name,  # a user's own record set
        protocol=protocol,
        fingerprint=facts["model"]["fingerprint"],
        accuracy=result.headline,
        macro=facts["figures"]["headline"] == "macro",
        questions=facts["figures"]["questions"],
        judge=facts["judge"]["model"] if facts["judge"] else None,
        settings=dict(facts["settings"]),
        partial=facts["partial"],
        consistency=consistency,
    )
