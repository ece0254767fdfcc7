"""Checkpoints of a run with Orbax: asynchronous; keeps the newest and the best; resumes exactly."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from models.errors import InputError
from perl_jax.update import State

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one run, numbered by completed steps.

    Each holds `weights` (trained ones, by attribute path), `optimizer`, and `run`: their metadata as JSON (stream
    position, fingerprints of records and base weights, prompt texts).
    """

    def __init__(self, workdir: Path, keep: int = 1, best: str | None = None, read_only: bool = False):
        directory = Path(os.path.abspath(workdir)) / FOLDER
        if read_only and not directory.is_dir():
            raise InputError(f"{workdir} holds no checkpoints; give the --workdir of a training run")
        policies = [LatestN(keep)]
        if best:
            policies.append(
                BestN(get_metric_fn=lambda metrics: metrics[best], n=1, keep_checkpoints_without_metrics=False)
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            best_fn=(lambda metrics: metrics[best]) if best else None,
        )
        self._best = best
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

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The step of the checkpoint saved with the highest metric, or None where none has one."""
        scores = {step: self._manager.metrics(step) for step in self.steps()}
        scores = {step: next(iter(metrics.values())) for step, metrics in scores.items() if metrics}
        return max(scores, key=lambda step: scores[step], default=None)

    def save(self, step: int, state: State, run: Mapping, metrics: Mapping[str, float]) -> None:
        """Starts an asynchronous write; the arrays are copied before this returns, so the state may be donated."""
        args = ocp.args.Composite(
            weights=ocp.args.StandardSave(_named(state.trainable)),
            optimizer=ocp.args.StandardSave(_named(state.opt_state)),
            run=ocp.args.JsonSave(dict(run)),
        )
        known = {self._best: float(metrics[self._best])} if self._best and self._best in metrics else None
        self._manager.save(step, args=args, metrics=known, force=True)

    def run(self, step: int) -> dict:
        """The metadata that `save` got as `run`."""
        with _damage_as_input_error(step):
            return self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run

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
        with _damage_as_input_error(step):
            restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return [
            jax.tree.unflatten(
                jax.tree.structure(tree), [_placed(restored[item][name], x) for name, x in _named(tree).items()]
            )
            for item, tree in trees.items()
        ]

    def _shapes(self, step: int, item: str) -> dict[str, tuple[int, ...]]:
        """{name: shape} of the arrays in a checkpoint."""
        self._manager.wait_until_finished()
        with _damage_as_input_error(step):
            return {name: tuple(array.shape) for name, array in dict(self._manager.item_metadata(step)[item]).items()}


@contextlib.contextmanager
def _damage_as_input_error(step: int) -> Iterator[None]:
    """Turns Orbax's errors about a damaged checkpoint into a one-line InputError."""
    try:
        yield
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        line = (str(error).splitlines() or ["?"])[0]
        raise InputError(f"checkpoint {step} cannot be read ({line}); remove it to use the one before") from error


def _placed(restored: jax.Array, like: jax.Array) -> jax.Array:
    """The restored array, uncommitted if `like` is: jit would recompile for an array committed to a device."""
    return restored if like.committed else jax.numpy.array(np.asarray(restored))


def _named(tree: Any) -> dict[str, jax.Array]:
    """A pytree's arrays by name, in the tree's order: 'visual.blocks.attn.qkv.kernel'."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path: Iterable) -> str:
    keys = (str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
    return ".".join(key for key in keys if key not in ("value", "raw_value"))
