"""Checkpoints of a run with Orbax: asynchronous; keeps the newest and the best; resumes exactly.

A checksum of each array and of the metadata is saved too, and compared when they are read: a damaged checkpoint is
never taken for a whole one.
"""

import contextlib
import itertools
import json
import math
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from models.errors import InputError, one_line
from perl_jax import mesh
from perl_jax.runtime import bucket, disk, host_memory, processes
from perl_jax.update import State

FOLDER = "checkpoints"
ASIDE = "damaged-checkpoints"


class Damaged(InputError):
    """A checkpoint that is not what was saved."""


def last_saved(workdir: Path) -> str:
    """What a run that cannot write any more says of its checkpoints."""

    def is_whole(folder: Path) -> bool:  # on a disk a number is a name that only a whole one gets
        return folder.name.isdigit() and (not bucket.is_url(folder) or (folder / "commit_success.txt").exists())

    folders = bucket.shared(workdir / FOLDER).glob("*")
    step = max((int(folder.name) for folder in folders if is_whole(folder)), default=0)
    return f"step {step} is saved, the same command goes on from it" if step else "no step is saved yet"


class Checkpoints:
    """The checkpoints of one run, numbered by completed steps.

    Each holds `weights` (trained ones, by attribute path), `optimizer`, and `run`: their metadata as JSON (stream
    position, fingerprints of records and base weights, prompt texts).
    """

    def __init__(self, workdir: Path, keep: int = 1, best: str | None = None, read_only: bool = False):
        directory = bucket.shared(Path(os.path.abspath(workdir)) / FOLDER)
        if read_only and not directory.is_dir():
            raise InputError(f"{bucket.shared(workdir)} holds no checkpoints; give the --workdir of a training run")
        policies = [LatestN(keep)]

        def score(metrics: Mapping[str, float]) -> float:  # of one that was saved for another `best`: the least
            return metrics.get(best or "", -math.inf)

        if best:
            policies.append(BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            best_fn=score if best else None,
        )
        self._best, self._keep, self._workdir = best, keep, directory.parent
        self._saved = time.monotonic()
        handlers = {
            "weights": ocp.StandardCheckpointHandler(),
            "optimizer": ocp.StandardCheckpointHandler(),
            "run": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(directory, options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()  # waits for pending writes

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def due(self, minutes: float) -> bool:
        """Whether so many have passed since the last save, or the start, in any process; the same in all."""
        return any(processes.exchange(time.monotonic() - self._saved >= 60 * minutes))

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The step of the checkpoint saved with the highest metric, or None where none has one.

        Where the run was told to go by another metric since, that of the newest counts.
        """
        scores = {step: metrics for step in self.steps() if (metrics := self._manager.metrics(step))}
        name = next(iter(scores[max(scores)])) if scores else ""
        return max((step for step in scores if name in scores[step]), key=lambda step: scores[step][name], default=None)

    def check_space(self, state: State, saves: int) -> None:
        """Raises DiskError, in all processes, where there is no space for what `saves` more checkpoints will take."""
        if bucket.is_url(self._workdir):
            return
        size, short = sum(x.nbytes for x in jax.tree.leaves((state.trainable, state.opt_state))), ""
        count = min(saves, max(1, self._keep + 1 - len(self.steps())))  # an old one goes when the new one is whole
        try:
            disk.check_free(
                self._workdir, count * size, f"{count} more checkpoints" if count > 1 else "the next checkpoint"
            )
        except disk.DiskError as error:
            short = str(error)
        if short := processes.any_text(short):
            raise disk.DiskError(short)

    def save(self, step: int, state: State, run: Mapping, metrics: Mapping[str, float]) -> None:
        """Starts an asynchronous write; the arrays are copied before this returns, so the state may be donated.

        Raises DiskError where there is no space for it, and OSError and others where the write before has failed.
        """
        self.check_space(state, 1)
        host_memory.give_back()  # what the save before has freed
        arrays = {"weights": _named(state.trainable), "optimizer": _named(state.opt_state)}
        run = json.loads(json.dumps({**run, "checksums": {item: _checksums(tree) for item, tree in arrays.items()}}))
        args = ocp.args.Composite(
            **{item: ocp.args.StandardSave(tree) for item, tree in arrays.items()},
            run=ocp.args.JsonSave({**run, "crc": _crc(run)}),
        )
        known = {self._best: float(metrics[self._best])} if self._best and self._best in metrics else None
        self._manager.save(step, args=args, metrics=known, force=True)
        self._saved = time.monotonic()

    def run(self, step: int) -> dict:
        """The metadata that `save` got as `run`. Raises Damaged, as all that reads a checkpoint."""
        return {name: value for name, value in self._run(step).items() if name not in ("checksums", "crc")}

    def set_aside(self, step: int) -> Any:
        """Moves a damaged checkpoint out of the way, and returns where it is now."""
        folders = (
            self._workdir / ASIDE / f"{step}{more}" for more in itertools.chain([""], map("-{}".format, range(2, 99)))
        )
        target = next(folder for folder in folders if not folder.exists())
        if processes.first():
            bucket.move(self._workdir / FOLDER / str(step), target)
        processes.after_first(self._manager.reload)
        return target

    def _run(self, step: int) -> dict:
        with _noticing_damage(step, self._workdir):
            saved = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
            if saved.get("crc") not in (None, _crc(saved)):  # none: saved by an earlier version
                raise ValueError("its metadata has another checksum than was saved")
            return saved

    def restore(self, step: int, state: State) -> State:
        """`state` with the arrays of a checkpoint; its structure must be that of the saved one."""
        weights, optimizer = self._restore(step, weights=state.trainable, optimizer=state.opt_state)
        return state.replace(trainable=weights, opt_state=optimizer)

    def restore_weights(self, step: int, model: nnx.Module) -> None:
        """Loads the trained weights of a checkpoint into `model`; frozen weights are unchanged."""
        state = nnx.state(model, nnx.Param)
        saved = self._shapes(step, "weights")
        trained = nnx.filter_state(state, lambda path, _: ".".join(map(str, path)) in saved)
        (weights,) = self._restore(step, weights=trained)
        nnx.update(model, weights)

    def _restore(self, step: int, **trees: Any) -> list:
        for item, tree in trees.items():  # Orbax would cut or pad an array of another shape
            saved, expected = self._shapes(step, item), {name: x.shape for name, x in _named(tree).items()}
            if differ := sorted(name for name in saved | expected if saved.get(name) != expected.get(name)):
                raise InputError(
                    f"checkpoint {step} is of another model or optimizer: its {item} have {differ[0]} as "
                    f"{saved.get(differ[0])}, not {expected.get(differ[0])}"
                )
        args = {item: ocp.args.StandardRestore(_named(tree)) for item, tree in trees.items()}
        sums = self._run(step).get("checksums", {})
        with _noticing_damage(step, self._workdir):
            restored = self._manager.restore(step, args=ocp.args.Composite(**args))
            for item in trees:
                known = sums.get(item, {})
                for name, found in _checksums(dict(restored[item])).items():
                    saved = known.get(name, found)
                    if saved[0] == found[0] and saved[1] != found[1]:
                        raise ValueError(f"its {item} have another checksum than was saved: {name}")
        return [
            jax.tree.unflatten(
                jax.tree.structure(tree), [_placed(restored[item][name], x) for name, x in _named(tree).items()]
            )
            for item, tree in trees.items()
        ]

    def _shapes(self, step: int, item: str) -> dict[str, tuple[int, ...]]:
        """{name: shape} of the arrays in a checkpoint."""
        self._manager.wait_until_finished()
        with _noticing_damage(step, self._workdir):
            return {name: tuple(array.shape) for name, array in dict(self._manager.item_metadata(step)[item]).items()}


@contextlib.contextmanager
def _noticing_damage(step: int, workdir: Path) -> Iterator[None]:
    """Turns whatever Orbax raises for a damaged checkpoint into one line, Damaged.

    Raises another InputError where it is the bucket that cannot be read.
    """
    try:
        yield
    except Exception as error:  # of many kinds: files that lack or are cut, no JSON, no such array
        if bucket.is_url(workdir):
            bucket.check(str(workdir))
        line = one_line(error, kind=True)
        raise Damaged(f"checkpoint {step} cannot be read ({line}); remove it to use the one before") from error


def _checksums(arrays: Mapping[str, jax.Array]) -> dict[str, list]:
    """{name: [dtype, a checksum of all bits]}, the same however the arrays are sharded."""
    sums = jax.device_get(_sums(dict(arrays)))
    return {name: [str(x.dtype), int(sums[name])] for name, x in arrays.items()}


@jax.jit
def _sums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Sums of the arrays' bits modulo 2^32, each element times an odd number of its own: any single change is seen."""

    def total(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)

    return mesh.replicated({name: total(x) for name, x in arrays.items()})


def _crc(run: Mapping) -> int:
    """A checksum of the metadata, but for the base model, which may move and has a fingerprint of its own."""
    covered = {name: value for name, value in run.items() if name not in ("crc", "model", "base")}
    return zlib.crc32(json.dumps(covered, sort_keys=True).encode())


def _placed(restored: jax.Array, like: jax.Array) -> jax.Array:
    """The restored array, uncommitted if `like` is: jit would recompile for an array committed to a device."""
    return restored if like.committed else jax.numpy.array(np.asarray(restored))


def _named(tree: Any) -> dict[str, jax.Array]:
    """A pytree's arrays by name, in the tree's order: 'visual.blocks.attn.qkv.kernel'."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path: Iterable) -> str:
    keys = (str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
    return ".".join(key for key in keys if key not in ("value", "raw_value"))
