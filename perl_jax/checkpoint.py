"""Checkpoints of a run with Orbax: written in the background, the newest and the best kept, exact to resume from."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from models.errors import InputError
from perl_jax.update import State

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one run, numbered by its steps done.

    Each holds `weights` (those that train, by attribute path), `optimizer`, and `run`: what belongs to the weights, as
    JSON (data position, fingerprint of the base weights, metrics).
    """

    def __init__(self, workdir: Path, keep: int = 1, best: str | None = None, read_only: bool = False):
        directory = Path(os.path.abspath(workdir)) / FOLDER
        if read_only and not directory.is_dir():
            raise InputError(f"{workdir} holds no checkpoints; give the --workdir of a training run")
        kept = [LatestN(keep)]
        if best:
            kept.append(BestN(get_metric_fn=lambda metrics: metrics[best], n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(kept), create=not read_only, read_only=read_only,
            cleanup_tmp_directories=not read_only, best_fn=(lambda metrics: metrics[best]) if best else None,
        )  # fmt: skip
        self._best = best
        self._manager = ocp.CheckpointManager(directory, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()  # waits for what is being written

    def latest(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: State, run: Mapping, metrics: Mapping[str, float]) -> None:
        """Starts writing; the arrays are copied before this returns, so the state may be donated."""
        args = ocp.args.Composite(
            weights=ocp.args.StandardSave(_named(state.trainable)),
            optimizer=ocp.args.StandardSave(_named(state.opt_state)),
            run=ocp.args.JsonSave(dict(run)),
        )
        known = {self._best: float(metrics[self._best])} if self._best in metrics else None
        self._manager.save(step, args=args, metrics=known, force=True)

    def run(self, step: int) -> dict:
        """What `save` was given as `run`."""
        return self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run

    def restore(self, step: int, state: State) -> State:
        """`state` with the arrays of a checkpoint; its structure must be the one that was saved."""
        weights, optimizer = self._restore(step, weights=state.trainable, optimizer=state.opt_state)
        return state.replace(step=jax.numpy.int32(step), trainable=weights, opt_state=optimizer)

    def restore_weights(self, step: int, model: nnx.Module) -> None:
        """Puts the weights of a checkpoint into `model` (those that did not train stay as they are)."""
        state = nnx.state(model, nnx.Param)
        saved = self._manager.item_metadata(step).weights
        trained = nnx.filter_state(state, lambda path, _: ".".join(map(str, path)) in saved)
        if len(jax.tree.leaves(trained)) != len(jax.tree.leaves(dict(saved))):
            raise InputError(f"checkpoint {step} was written by a model of other sizes; give the same base model")
        (weights,) = self._restore(step, weights=trained)
        nnx.update(model, weights)

    def _restore(self, step: int, **trees):
        args = {name: ocp.args.StandardRestore(_named(tree)) for name, tree in trees.items()}
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        except (ValueError, KeyError, FileNotFoundError) as error:
            line = (str(error).splitlines() or ["?"])[0]
            raise InputError(f"checkpoint {step} cannot be restored into this model and optimizer: {line}") from error
        return [jax.tree.unflatten(jax.tree.structure(tree), [restored[name][key] for key in _named(tree)])
                for name, tree in trees.items()]  # fmt: skip


def _named(tree) -> dict[str, jax.Array]:
    """A pytree's arrays by name, in the tree's order: 'visual.blocks.attn.qkv.kernel'."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path) -> str:
    keys = (str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
    return ".".join(key for key in keys if key not in ("value", "raw_value"))
