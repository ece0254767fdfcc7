"""Steps whose numbers are not finite: told, counted, and after too many in a row saved, to be run again.

`update.step` leaves all of its state as it is where something is not finite, so the weights that are saved are those
that the step was computed with.
"""

import dataclasses
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax
from ml_collections import ConfigDict

import models
from models.errors import InputError
from models.image_files import Encoded
from perl_jax import policy, update
from perl_jax.engine import tree_packing
from perl_jax.records.prompts import Prompts
from perl_jax.runtime import bucket, disk, files, processes
from perl_jax.training import schedule
from perl_jax.training.checkpoint import Checkpoints

logger = logging.getLogger(__name__)

GROUPS, QUESTIONS = "groups.npz", "questions.jsonl"  # in the folder of a step: to run it again, and to read
LOGPROBS = {  # fields of a group: what they are called
    "sampler_logprobs": "sampler's log-prob",
    "old_logprobs": "old log-prob",
    "ref_logprobs": "reference's log-prob",
}


def folder(workdir: Path, step: int) -> Path:
    return workdir / f"bad-step-{step}"


def is_finite(values: Mapping[str, float]) -> bool:
    return bool(np.isfinite(list(values.values())).all())


@dataclasses.dataclass
class BadSteps:
    """The bad steps in a row at the end of a run so far."""

    workdir: Path
    most: int  # `config.max_bad_steps`: as many in a row end the run
    last: int  # step of the run
    prompts: Prompts
    in_a_row: int = 0
    first: str = ""  # what the first of them said

    def note(
        self,
        step: int,
        values: Mapping[str, float],
        groups: Sequence[update.Group],
        state: update.State,
        run: Mapping[str, Any],
    ) -> None:
        """Counts and tells a step whose metrics `values` are not all finite or whose update was skipped.

        Its last optimizer step was on `groups`. Raises InputError where it is one too many in a row, or where no step
        of a whole run was any good; the groups, the state and its metadata `run`, as for a checkpoint, are then saved.
        """
        if is_finite(values) and not values.get("update/skipped"):
            self.in_a_row, self.first = 0, ""
            return
        self.in_a_row += 1
        bad = [f"{name} {value}" for name, value in values.items() if not np.isfinite(value)]
        line = f"step {step}: {', '.join(bad) or 'a log-prob of the sampler is not finite'}"
        self.first = self.first or line
        logger.warning(
            "%s; this update is skipped, %d in a row now. Its questions: %s. The largest values: %s",
            line,
            self.in_a_row,
            ", ".join(group.id for group in groups),
            largest(groups),
        )
        if self.in_a_row < min(self.most, self.last):
            return
        line = f"{self.first}; {self.in_a_row} such steps in a row (config.max_bad_steps = {self.most}): the last one's"
        try:
            save(folder(self.workdir, step), step, groups, state, run, self.prompts.processor)
        except Exception as error:
            if not (trouble := disk.trouble(error)):
                raise
            raise InputError(f"{line} batch and weights are not saved ({trouble})") from error
        place = bucket.shared(folder(self.workdir, step))
        raise InputError(f"{line} batch and weights are in {place}; to run it again: {command(step)}")


def command(step: int) -> str:
    """The command that runs a saved step again: this run's, with one flag more."""
    given = sys.argv[1:] if Path(sys.argv[0]).name == "train.py" else ["--config=CONFIG", "--workdir=WORKDIR"]
    return shlex.join(["python", "-m", "perl_jax.train", *given, f"--bad_step={step}"])


def largest(groups: Sequence[update.Group]) -> str:
    """The largest value of each kind, by magnitude, with the id of its question; NaN counts as the largest."""
    told = []
    for field, name in {"advantages": "advantage", **LOGPROBS}.items():
        if any(getattr(group, field) is None for group in groups):
            continue
        values = np.concatenate([_flat(group, field) for group in groups])
        ids = np.repeat([group.id for group in groups], [len(_flat(group, field)) for group in groups])
        if len(values):
            at = np.argmax(np.where(np.isnan(values), np.inf, np.abs(values)))
            told.append(f"{name} {values[at]:.6g} ({ids[at]})")
    return ", ".join(told)


def _flat(group: update.Group, field: str) -> np.ndarray:
    if field == "advantages":
        return np.ravel(group.advantages)
    values = tree_packing.flat([group], field)
    assert values is not None
    return values


def save(
    folder: Path,
    step: int,
    groups: Sequence[update.Group],
    state: update.State,
    run: Mapping[str, Any],
    processor: models.Processor,
) -> None:
    """Writes the groups of a step and the state that it was computed with, in place of an earlier try's."""

    def write() -> None:
        if processes.first():
            bucket.remove(folder)
            folder.mkdir(parents=True)
            arrays: dict[str, Any] = dict(_arrays(groups))
            np.savez(folder / GROUPS, **arrays)
            files.write(folder / QUESTIONS, files.lines(_readable(group, processor) for group in groups))

    processes.after_first(write)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(step, state, run, {})


def read(folder: Path) -> list[update.Group]:
    """The groups of a saved step. Raises InputError where there are none."""
    if not (folder / GROUPS).is_file():
        raise InputError(f"{folder} holds no step that ended a run")
    with np.load(folder / GROUPS) as file:
        count = len({name.partition("/")[0] for name in file})
        return [_group({name: file[f"{q}/{name}"] for name in _names(file, q)}) for q in range(count)]


def again(
    config: ConfigDict, model: models.Model, prompts: Prompts, workdir: Path, step: int, groups: Sequence[update.Group]
) -> Iterator[str]:
    """Runs a saved step again, on its groups and `model`, the base of the run; yields what it says, line by line.

    Where something is not finite, each of its questions is tried alone, too.
    """
    options = {**schedule.update_options(config, step), **config.micro_batch, **prompts.limits}
    state = update.init(model, schedule.optimizer(config, step), policy.trainable(config))
    with Checkpoints(folder(workdir, step), read_only=True) as checkpoints:
        state = checkpoints.restore(step, state)
    state, values = update.step(state, groups, **options)
    yield f"step {step} again: " + ", ".join(f"{name} {value:.6g}" for name, value in values.items())
    if not values["skipped"]:
        return
    still = optax.set_to_zero()  # so that the weights stay as they are
    state = state.replace(optimizer=still, opt_state=still.init(state.trainable))
    for group in groups:
        state, values = update.step(state, [group], **options)
        yield f"{group.id}: loss {values['loss']:.6g}, grad_norm {values['grad_norm']:.6g}, {largest([group])}"


def _arrays(groups: Sequence[update.Group]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of all that the groups hold; what is ragged as flat arrays beside its lengths."""
    for q, group in enumerate(groups):
        yield f"{q}/id", np.array(group.id)
        yield f"{q}/orders", np.array(group.orders, np.int32)
        yield f"{q}/advantages", np.asarray(group.advantages)
        yield f"{q}/prompts", np.concatenate(group.prompts).astype(np.int32)
        yield f"{q}/prompt_lengths", np.array([len(prompt) for prompt in group.prompts])
        yield f"{q}/lengths", np.array([[len(response) for response in order] for order in group.responses])
        yield f"{q}/responses", np.array([token for o in group.responses for r in o for token in r], np.int32)
        for field in LOGPROBS:
            if getattr(group, field) is not None:
                yield f"{q}/{field}", _flat(group, field)
        for k, image in enumerate(group.images):
            yield f"{q}/image{k}", np.frombuffer(image.data, np.uint8)


def _names(file: Mapping[str, np.ndarray], q: int) -> list[str]:
    return [name.partition("/")[2] for name in file if name.startswith(f"{q}/")]


def _group(arrays: Mapping[str, np.ndarray]) -> update.Group:
    """The group whose `_arrays` these are."""
    lengths, name = arrays["lengths"], str(arrays["id"])

    def ragged(values: np.ndarray) -> list[list[np.ndarray]]:
        parts = iter(np.split(values, np.cumsum(lengths.ravel())[:-1]))
        return [[next(parts) for _ in order] for order in lengths]

    images = [arrays[f"image{k}"].tobytes() for k in range(sum(key.startswith("image") for key in arrays))]
    return update.Group(
        images=[Encoded(data, f"record {name!r}, image {k + 1}") for k, data in enumerate(images)],
        orders=[tuple(order) for order in arrays["orders"].tolist()],
        prompts=[x.tolist() for x in np.split(arrays["prompts"], np.cumsum(arrays["prompt_lengths"])[:-1])],
        responses=[[x.tolist() for x in order] for order in ragged(arrays["responses"])],
        advantages=arrays["advantages"],
        id=name,
        **{field: ragged(arrays[field]) for field in LOGPROBS if field in arrays},
    )


def _readable(group: update.Group, processor: models.Processor) -> dict[str, Any]:
    """A line of questions.jsonl."""
    return {
        "id": group.id,
        "orders": [list(order) for order in group.orders],
        "advantages": files.without_nan(np.asarray(group.advantages).tolist()),
        "responses": [[processor.decode(response) for response in order] for order in group.responses],
        "largest": largest([group]),
    }
