"""The policy update on packed rows: each prompt is computed once for its G rollouts, each image once for all orders.

Each response attends to its prompt and itself, and its M-RoPE positions continue those of its prompt (see
`engine.tree_packing`). Gradients are accumulated over micro-batches of one compiled shape before one optimizer step.
Token weights are known beforehand, so the split into micro-batches does not change the loss.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import DTypeLike

import models
from models.attention import Spans, spanned
from models.layers import remat_name
from perl_jax import grpo, mesh
from perl_jax.engine.chunked_head import chunked_logprobs
from perl_jax.engine.embeddings import embedded, embeddings
from perl_jax.engine.packed_groups import Packed, Tokens, pack
from perl_jax.engine.tree_packing import Group, Rows, flat

__all__ = ["Group", "Packed", "State", "init", "logprobs", "pack", "step"]


class State(flax.struct.PyTreeNode):
    """Training state carried from step to step; trained weights are float32 masters."""

    trainable: nnx.State
    frozen: nnx.State
    opt_state: optax.OptState
    graph: nnx.GraphDef = flax.struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = flax.struct.field(pytree_node=False)

    @property
    def model(self) -> models.Model:
        """The current model; it shares the state's arrays, of which the next `step` donates the trained ones."""
        return nnx.merge(self.graph, self.trainable, self.frozen)


def init(
    model: models.Model, optimizer: optax.GradientTransformation, trainable: Callable[[str], bool] | None = None
) -> State:
    """The initial training state. `trainable("visual.blocks.attn.qkv.kernel")` selects the weights to train and copy.

    Frozen weights are shared with the model and keep their dtype.
    """
    graph, trained, *rest = nnx.split(model, lambda path, _: not trainable or trainable(".".join(map(str, path))), ...)
    (frozen,) = rest
    trained = jax.tree.map(lambda w: jnp.array(w, jnp.float32, copy=True), trained)
    trained, opt_state = _first(optimizer, trained)
    return State(trained, frozen, opt_state, graph, optimizer)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _first(optimizer: optax.GradientTransformation, trained: nnx.State) -> tuple[nnx.State, optax.OptState]:
    return mesh.weights(trained), mesh.weights(optimizer.init(trained))


class Options(NamedTuple):
    """Static options of a compiled optimizer step; `losses` are those of `grpo.token_losses`."""

    losses: tuple[tuple[str, float | str | None], ...]
    temperature: float
    remat: str


def step(
    state: State,
    groups: Sequence[Group] | Packed,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
    kl_coef: float = 0.0,
    aggregate: str = "token-mean",
    kind: str = "grpo",
    entropy_coef: float = 0.0,
    importance: str = "off",
    importance_cap: float = 2.0,
    norm_length: int | None = None,
    temperature: float = 1.0,
    remat: str | bool = "none",
    **packing: int | None,
) -> tuple[State, dict[str, float]]:
    """One optimizer step over groups that share O and G: (state, metrics {name: float}). Donates `state`.

    The loss is `grpo.loss` over all groups, with the same options, independent of how they are packed: `packing` are
    options of `pack`, for groups that are not packed yet. Without KL and entropy bonus, a group whose advantages are
    all 0 has no gradient: its tokens count in the mean, but it is not computed. `remat` as in `layers.checkpointed`.
    Where the loss, a gradient, a metric or a sampler's log-prob is not finite, all of the state stays as it is.
    Metrics are means over the computed tokens (`ratio`, `kl`, `clip_*`, `importance`, `entropy`, `logprob`, and
    `sampler_gap`, of old log-probs from the sampler's), `loss`, `grad_norm` (global, before clipping), `update_norm`
    (of the weights' change: not finite if any part is not), `ratio_max`, `tokens`, `computed_share`, `padding`,
    `split_trees`, `skipped` (1 where the state stays as it is). Raises ValueError for options that `grpo.token_losses`
    refuses, as `kl_coef` > 0 without `ref_logprobs`.
    """
    clips: dict[str, Any] = {"kind": kind, "clip_low": clip_low, "clip_high": clip_high, "dual_clip": dual_clip}
    correction: dict[str, Any] = {"importance": importance, "importance_cap": importance_cap}
    losses = clips | correction | {"kl_coef": kl_coef, "entropy_coef": entropy_coef}
    options = Options(tuple(losses.items()), temperature, remat_name(remat))
    all_count = needs_all(kl_coef, entropy_coef)
    packed = _packed(state.model.config, groups, only_signal=not all_count, **packing)
    if kl_coef and any(group.ref_logprobs is None for group in packed.groups):
        raise ValueError("kl_coef > 0 needs ref_logprobs in every group: update.logprobs of the reference policy")
    if all_count and len(packed.computed) < len(packed.groups):
        raise ValueError("kl_coef and entropy_coef need all groups, but they were packed with only_signal=True")
    lengths = packed.lengths.reshape(len(packed.groups), -1)  # [Q, O * G]
    weights = grpo.response_weights(lengths, aggregate, norm_length or max(lengths.max(initial=1), 1))
    scored = lengths[packed.computed].ravel()
    fields = Tokens.of([packed.groups[q] for q in packed.computed], weights[packed.computed], scored)

    given = flat(packed.groups, "sampler_logprobs")  # also of groups that are not computed
    grads, finite = _start(state.trainable, np.bool_(given is None or np.isfinite(given).all()))
    stats = []
    for batch in packed.forest.batches:
        batch, tokens = placed(batch), mesh.place(fields.at(np.asarray(batch.index)), axis=1)
        h, pull = _embed(state, *batch.content, options.remat)
        grads, finite, h_grads, batch_stats = _add_rows(
            grads, finite, state, h, batch.without_content(), tokens, options
        )
        grads = _add_pulled(grads, pull, h_grads)
        stats.append(batch_stats)
    trained, opt_state, norms = _apply(state.optimizer, state.trainable, state.opt_state, grads, finite)
    state = state.replace(trainable=trained, opt_state=opt_state)
    stats, norms = jax.device_get((stats, norms))
    tokens_in_loss, tokens_in_all = int(scored.sum()), int(lengths.sum())
    return state, _metrics(stats, tokens_in_loss) | norms | {
        "tokens": tokens_in_all,
        "computed_share": tokens_in_loss / max(tokens_in_all, 1),
        "padding": packed.forest.padding,
        "split_trees": packed.forest.split,
    }


def needs_all(kl_coef: float, entropy_coef: float) -> bool:
    """Whether groups whose advantages are all 0 have a gradient."""
    return bool(kl_coef or entropy_coef)


def _packed(config: models.Config, groups: Sequence[Group] | Packed, **packing: Any) -> Packed:
    return groups if isinstance(groups, Packed) else pack(config, groups, **packing)


def _metrics(stats: Sequence, computed: int) -> dict[str, float]:
    """Merges the statistics of a step's micro-batches, (losses, sums, maxima) each, over `computed` tokens."""
    losses, sums, maxima = (jax.tree.map(lambda *values: np.concatenate(values), *part) for part in zip(*stats))
    return {
        **{name: values.sum() / max(computed, 1) for name, values in sums.items()},
        **{name: values.max() for name, values in maxima.items()},
        "loss": losses.sum(),
    }


def placed(batch: Rows) -> Rows:
    """The micro-batch on the devices: each shard gets its rows and its part of the images."""
    return mesh.place(batch.replace(vision=None), axis=1).replace(vision=mesh.place(batch.vision))


@jax.jit
def _start(tree: nnx.State, finite: jax.Array) -> tuple[nnx.State, jax.Array]:
    """Gradients of 0, and whether all numbers are finite so far."""
    return mesh.weights(jax.tree.map(jnp.zeros_like, tree)), mesh.replicated(finite)


# A micro-batch runs three programs, so that new image sizes recompile only `_embed`.


@partial(jax.jit, static_argnums=4)
def _embed(state: State, ids: jax.Array, image_index: jax.Array, vision: Any, remat: str) -> tuple[jax.Array, Callable]:
    """Input embeddings [B, S, C, D], each image encoded once, and the VJP to the weights."""

    of_images = "none" if remat == "none" else "full"  # all images of a micro-batch wait for their gradient together

    def of_weights(trainable: nnx.State) -> jax.Array:
        return embedded(nnx.merge(state.graph, trainable, state.frozen), ids, image_index, vision, 1, of_images)

    return jax.vjp(of_weights, state.trainable)


@partial(jax.jit, static_argnums=6, donate_argnums=(0, 1, 3))
def _add_rows(
    grads: nnx.State, finite: jax.Array, state: State, h: jax.Array, rows: Rows, tokens: Tokens, options: Options
) -> tuple[nnx.State, jax.Array, jax.Array, tuple]:
    """Accumulates the gradient over each shard's rows in turn.

    Returns (grads, whether all losses and statistics are finite, gradient of h, (loss, sums, maxima) [B]).
    """

    losses: dict[str, Any] = dict(options.losses)

    def objective(trainable: nnx.State, h: jax.Array, row: Rows, tokens: Tokens) -> tuple[jax.Array, tuple]:
        model = nnx.merge(state.graph, trainable, state.frozen)
        logp, entropy = token_logprobs(
            model, h, row, options.temperature, options.remat, entropy_gradient=bool(losses["entropy_coef"])
        )
        old = jax.lax.stop_gradient(logp) if tokens.old_logprobs is None else tokens.old_logprobs
        scored = row.index >= 0
        of_reference, of_sampler = tokens.ref_logprobs, tokens.sampler_logprobs
        token_losses, stats = grpo.token_losses(
            logp[..., None],
            old[..., None],
            tokens.advantages,
            scored[..., None],
            None if of_reference is None else of_reference[..., None],
            sampler_logp=None if of_sampler is None else of_sampler[..., None],
            entropy=entropy[..., None],
            response_sum=grpo.segment_sums(jnp.asarray(tokens.responses)),
            **losses,
        )
        more = {"entropy": entropy, "logprob": logp}
        if tokens.sampler_logprobs is not None:
            more["sampler_gap"] = jnp.abs(old - tokens.sampler_logprobs)
        stats |= {name: jnp.where(scored, x, 0.0) for name, x in more.items()}
        return jnp.sum(token_losses[..., 0] * tokens.weights), grpo.totals(jax.lax.stop_gradient(stats))

    def add(grads: nnx.State, inputs: tuple[jax.Array, Rows, Tokens]) -> tuple[nnx.State, tuple]:
        (loss, totals), (more, h_grads) = jax.value_and_grad(objective, (0, 1), has_aux=True)(state.trainable, *inputs)
        return mesh.weights(jax.tree.map(jnp.add, grads, more)), (mesh.rows(h_grads), (loss, *totals))

    grads, (h_grads, stats) = jax.lax.scan(add, grads, (h, rows, tokens))
    stats = mesh.replicated(stats)
    finite &= jnp.all(jnp.isfinite(jnp.stack(jax.tree.leaves(stats))))
    return grads, mesh.replicated(finite), h_grads, stats


@partial(jax.jit, donate_argnums=0)
def _add_pulled(grads: nnx.State, pull: Callable, h_grads: jax.Array) -> nnx.State:
    return mesh.weights(jax.tree.map(jnp.add, grads, *pull(h_grads)))


@partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _apply(
    optimizer: optax.GradientTransformation,
    trained: nnx.State,
    opt_state: optax.OptState,
    grads: nnx.State,
    finite: jax.Array,
) -> tuple[nnx.State, optax.OptState, dict[str, jax.Array]]:
    """The new weights and optimizer state; the old ones unless all is finite."""
    updates, new_state = optimizer.update(grads, opt_state, trained)
    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    finite &= jnp.isfinite(norms["grad_norm"]) & jnp.isfinite(norms["update_norm"])

    def chosen(new: Any, old: Any) -> Any:
        return mesh.weights(jax.tree.map(lambda *arrays: jnp.where(finite, *arrays), new, old))

    trained, opt_state = chosen(optax.apply_updates(trained, updates), trained), chosen(new_state, opt_state)
    return trained, opt_state, mesh.replicated(norms | {"skipped": 1.0 - finite})


def abstract_programs(
    sizes: models.Config,
    state: State,
    options: Options,
    pack: Any,
    *,
    rows: int,
    row_tokens: int,
    old_logprobs: bool,
    dtype: DTypeLike,
) -> dict[str, Callable]:
    """{name: what lowers it} of the programs of an optimizer step, without an array.

    Args:
        sizes: of the model.
        state: abstract.
        options: of the step.
        pack: an abstract vision pack of a micro-batch's images.
        rows, row_tokens: of a micro-batch, as in `step`.
        old_logprobs: whether they are given, as where a batch has several steps.
        dtype: of activations.
    """
    B, S, C = rows, mesh.shards(), row_tokens

    def row(*more: int, dtype: DTypeLike = jnp.int32) -> Any:  # in place of an array
        return mesh.abstract((B, S, C, *more), dtype, None, mesh.ROWS)

    positions: Any = mesh.abstract((B, S, 3, C), jnp.int32, None, mesh.ROWS)
    spans = Spans(row(), row(), row())
    packed = Rows(row(), positions, row(2), spans, pack, row(), row(), row(), prompts=C, window=C).without_content()
    reals = row(dtype=jnp.float32)
    of_reference = reals if dict(options.losses)["kl_coef"] else None
    tokens = Tokens(reals, reals, reals if old_logprobs else None, of_reference, reals, row())
    finite = mesh.abstract((), jnp.bool_)
    h = row(sizes.embedding_size, dtype=dtype)
    return {
        "update images": partial(_embed.lower, state, row(), row(2), pack, options.remat),
        "update": partial(_add_rows.lower, state.trainable, finite, state, h, packed, tokens, options),
        "optimizer": partial(_apply.lower, state.optimizer, state.trainable, state.opt_state, state.trainable, finite),
    }


def logprobs(
    model: models.Model, groups: Sequence[Group] | Packed, temperature: float = 1.0, **packing: int | None
) -> np.ndarray:
    """Log-probs of the groups' responses, teacher-forced on the shared prompts: float32 [Q, O, G, R].

    R is the longest response; past a response's length they are 0, and of groups that `pack` left out. Advantages and
    log-probs in the groups are ignored; `packing` are options of `pack`, for groups that are not packed yet.
    """
    packed = _packed(model.config, groups, **packing)
    lengths, batches = packed.lengths, packed.forest.batches
    graph, weights = nnx.split(model)
    batch_logprobs = jax.device_get(
        [
            _logprobs(
                graph, weights, embeddings(graph, weights, *batch.content, 1), batch.without_content(), temperature
            )
            for batch in map(placed, batches)
        ]
    )
    scored = np.zeros(lengths[packed.computed].sum(), np.float32)
    for batch, logp in zip(batches, batch_logprobs):
        scored[batch.index[batch.index >= 0]] = logp[batch.index >= 0]
    out = np.zeros((*lengths.shape, max(1, lengths.max())), np.float32)
    in_forest = np.isin(np.arange(len(out)), packed.computed)[:, None, None, None]
    out[in_forest & (np.arange(out.shape[-1]) < lengths[..., None])] = scored
    return out


@partial(jax.jit, static_argnums=(0, 4))
def _logprobs(graph: nnx.GraphDef, weights: nnx.State, h: jax.Array, rows: Rows, temperature: float) -> jax.Array:
    return mesh.replicated(rows_logprobs(nnx.merge(graph, weights), h, rows, temperature))


def rows_logprobs(model: models.Model, h: jax.Array, rows: Rows, temperature: float = 1.0) -> jax.Array:
    """`token_logprobs` of all rows of a micro-batch, on each shard in sequence, float32 [B, S, C]."""
    return jax.lax.map(lambda row: token_logprobs(model, row[0], row[1], temperature)[0], (h, rows))


def token_logprobs(
    model: models.Model,
    h: jax.Array,
    row: Rows,
    temperature: float = 1.0,
    remat: str = "none",
    entropy_gradient: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Log-probs of the scored tokens of one row per shard, and entropies of their distributions, float32 [S, C].

    h [S, C, D] are the rows' input embeddings. Where `row.index` is -1 both are 0. The entropy has a gradient only with
    `entropy_gradient`.
    """

    def hidden(h: jax.Array, positions: jax.Array, spans: Spans) -> jax.Array:
        attention = partial(spanned, prompts=row.prompts, window=row.window)

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
            return mesh.by_heads(attention)(q, k, v, spans), cache

        return model.model(h, positions, attend, remat=remat)[0]

    h = mesh.vmap_one_row(hidden)(h, row.position_ids, row.spans)
    h = jnp.take_along_axis(h, row.sources[..., None], axis=1)
    return chunked_logprobs(model, h, row.targets, row.index >= 0, temperature, entropy_gradient)
