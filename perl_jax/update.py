"""The policy update on shared prompts: one row per (question, order), `[prompt | r_1 | ... | r_G]`.

Each response sees the prompt and itself, and takes up the M-RoPE position after its own order's prompt; so a prompt is
computed once for its G rollouts, and an image once for all orders, forward and backward. The loss of a row needs only
that row's log-probs, its advantages and the token count of the whole optimizer step: rows are vmapped, micro-batches
of questions are a scan.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from models import qwen2_5_vl as qwen
from models.qwen2_5_vl.attention import attention, causal
from models.qwen2_5_vl.packing import bucket, check_ids, pack_many
from perl_jax import grpo

CHUNK = 1 << 26  # logits held at a time by `token_logprobs`: 256 MiB in float32


class Group(NamedTuple):
    """One question: K images, O orders of them, G rollouts of each order. Log-probs are ragged, [O][G][length]."""

    images: Sequence  # [K]
    orders: Sequence  # [O][K]: order[j] is the image shown at place j
    prompts: Sequence  # [O] token ids
    responses: Sequence  # [O][G] token ids
    advantages: np.ndarray  # [O, G]
    old_logprobs: Sequence | None = None
    ref_logprobs: Sequence | None = None
    sampler_logprobs: Sequence | None = None  # only to measure their gap to the update's


@flax.struct.dataclass
class Rows:
    """B rows of a micro-batch (B = questions x O), padded to P prompt and R response tokens."""

    inputs: qwen.Inputs
    responses: np.ndarray  # int32 [B, G, R]
    mask: np.ndarray  # bool [B, G, R]
    advantages: np.ndarray  # float32 [B, G]
    old_logprobs: np.ndarray | None  # float32 [B, G, R]; None: this forward's own
    ref_logprobs: np.ndarray | None
    sampler_logprobs: np.ndarray | None


@flax.struct.dataclass
class State:
    """What training carries from step to step; weights that train are float32 masters."""

    step: jax.Array
    trainable: nnx.State
    frozen: nnx.State
    opt_state: optax.OptState
    graph: nnx.GraphDef = flax.struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = flax.struct.field(pytree_node=False)

    @property
    def model(self) -> qwen.Qwen2_5_VL:
        """The current model; it shares the state's arrays, which the next `step` donates."""
        return nnx.merge(self.graph, self.trainable, self.frozen)


def init(model: qwen.Qwen2_5_VL, optimizer: optax.GradientTransformation,
         trainable: Callable[[str], bool] | None = None) -> State:  # fmt: skip
    """A state whose arrays are copies of the model's. `trainable("visual.blocks.attn.qkv.kernel")` says what trains."""
    graph, trained, frozen = nnx.split(model, lambda path, _: not trainable or trainable(".".join(map(str, path))), ...)
    trained = jax.tree.map(lambda w: jnp.array(w, jnp.float32, copy=True), trained)
    frozen = jax.tree.map(jnp.copy, frozen)
    return State(jnp.int32(0), trained, frozen, optimizer.init(trained), graph, optimizer)


class Options(NamedTuple):
    """The static part of an optimizer step: those of `grpo.token_losses` and `grpo.token_weights`, and how to run."""

    losses: tuple[tuple[str, float | None], ...]
    aggregate: str
    temperature: float
    remat: bool


def step(state: State, groups: Sequence[Group], *, clip_low=0.2, clip_high=0.2, dual_clip=3.0, kl_coef=0.0,
         aggregate="token-mean", norm_length: int | None = None, temperature=1.0, questions: int | None = None,
         micro_batches=1, remat=False, min_pixels: int | None = None, max_pixels: int | None = None):  # fmt: skip
    """One optimizer step over groups that share O and G: (state, metrics {name: float32 []}). Donates `state`.

    The loss is `grpo.loss` of all groups together, whatever the number of `micro_batches` that their gradients are
    summed over. Without KL, a group whose advantages are all 0 has no gradient: its tokens count in the mean, and it is
    computed only where it shares a micro-batch with another one. `questions` says how many groups there are room for,
    so that a varying number keeps one shape. Metrics are means over the computed tokens (`ratio`, `kl`, `clip_*`,
    `entropy`, `logprob`, `sampler_gap`), `loss`, `grad_norm` (global, before clipping), `update_norm` (of what is added
    to the weights: not finite if any of it is not), `ratio_max`, `tokens` and `computed_share`. Raises ValueError for
    `kl_coef` > 0 without `ref_logprobs`.
    """
    if kl_coef and any(group.ref_logprobs is None for group in groups):
        raise ValueError("kl_coef > 0 needs ref_logprobs in every group: update.logprobs of the reference policy")
    losses = {"clip_low": clip_low, "clip_high": clip_high, "dual_clip": dual_clip, "kl_coef": kl_coef}
    options = Options(tuple(losses.items()), aggregate, temperature, remat)
    groups = sorted(groups, key=lambda group: not (kl_coef or np.any(group.advantages)))  # those with a signal first
    taught = sum(bool(kl_coef or np.any(group.advantages)) for group in groups)
    rows = pack_rows(state.model.config, groups, micro_batches, questions, min_pixels, max_pixels)
    per_batch = rows.mask.shape[1] // len(groups[0].responses)
    if norm_length is None:
        norm_length = max(len(r) for group in groups for responses in group.responses for r in responses)
    # Without a signal anywhere one micro-batch is computed all the same: its gradient is 0, its metrics are true.
    return _step(state, rows, max(1, -(-taught // per_batch)), np.float32(max(norm_length, 1)), options)


@partial(jax.jit, static_argnums=4, donate_argnums=0)
def _step(state: State, rows: Rows, used, norm_length, options: Options):
    """`used`: how many of the M micro-batches, from the first on, have a gradient."""
    weights = grpo.token_weights(rows.mask, options.aggregate, norm_length)  # over all of them

    def objective(trainable, rows: Rows, weights):
        model = nnx.merge(state.graph, trainable, state.frozen)
        logp, entropy = token_logprobs(model, rows, options.temperature, options.remat)
        old = jax.lax.stop_gradient(logp) if rows.old_logprobs is None else rows.old_logprobs
        losses, stats = grpo.token_losses(
            logp, old, rows.advantages, rows.mask, rows.ref_logprobs, **dict(options.losses)
        )
        more = {"entropy": entropy, "logprob": logp}
        if rows.sampler_logprobs is not None:
            more["sampler_gap"] = jnp.abs(logp - rows.sampler_logprobs)
        stats |= {name: jnp.where(rows.mask, x, 0.0) for name, x in more.items()}
        return jnp.sum(losses * weights), grpo.totals(jax.lax.stop_gradient(stats))

    def micro_batch(m, carry):
        part = jax.tree.map(lambda x: x[m], (rows, weights))
        (loss, (sums, maxima)), grads = jax.value_and_grad(objective, has_aux=True)(state.trainable, *part)
        added = jax.tree.map(jnp.add, carry[:3], (loss, grads, sums))
        return *added, jax.tree.map(jnp.maximum, carry[3], maxima)

    # A loop of a count that is not static, each turn with its own gradient: the other micro-batches cost nothing.
    (loss, (sums, maxima)), grads = jax.eval_shape(
        jax.value_and_grad(objective, has_aux=True), state.trainable, *jax.tree.map(lambda x: x[0], (rows, weights)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, grads, sums, maxima))
    loss, grads, sums, maxima = jax.lax.fori_loop(0, used, micro_batch, zeros)
    updates, opt_state = state.optimizer.update(grads, state.opt_state, state.trainable)
    computed = rows.mask.sum(where=(jnp.arange(len(rows.mask)) < used)[:, None, None, None])
    tokens = rows.mask.sum().astype(jnp.float32)
    metrics = grpo.metrics(sums, maxima, computed) | {
        "loss": loss, "grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates),
        "tokens": tokens, "computed_share": computed / jnp.maximum(tokens, 1),
    }  # fmt: skip
    trainable = optax.apply_updates(state.trainable, updates)
    return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), metrics


def logprobs(model: qwen.Qwen2_5_VL, groups: Sequence[Group], temperature: float = 1.0, *, questions: int | None = None,
             micro_batches=1, min_pixels: int | None = None, max_pixels: int | None = None) -> np.ndarray:  # fmt: skip
    """Log-probs of the groups' responses, teacher-forced on the shared prompts: float32 [Q, O, G, R].

    R is the longest response; past a response's length they are 0. Advantages and given log-probs are not read;
    `questions` and `micro_batches` as in `step`.
    """
    plain = [group._replace(advantages=None, old_logprobs=None, ref_logprobs=None, sampler_logprobs=None)
             for group in groups]  # fmt: skip
    rows = pack_rows(model.config, plain, micro_batches, questions, min_pixels, max_pixels)
    logp = jax.device_get(_logprobs(*nnx.split(model), rows, temperature))  # [M, B, G, R]
    longest = max(1, max(len(r) for group in groups for order in group.responses for r in order))
    orders, rollouts = len(groups[0].responses), len(groups[0].responses[0])
    return logp.reshape(-1, orders, rollouts, logp.shape[-1])[: len(groups), ..., :longest]


@partial(jax.jit, static_argnums=(0, 3))
def _logprobs(graph, weights, rows: Rows, temperature: float):
    model = nnx.merge(graph, weights)
    return jax.lax.map(lambda rows: jnp.where(rows.mask, token_logprobs(model, rows, temperature)[0], 0.0), rows)


def token_logprobs(model: qwen.Qwen2_5_VL, rows: Rows, temperature: float = 1.0, remat: bool = False):
    """Log-probs of the rows' response tokens and entropies of their distributions, both float32 [B, G, R].

    Under a row's mask only; elsewhere unspecified. The entropy carries no gradient.
    """
    inputs = rows.inputs
    image_tokens = model.encode(inputs.vision, remat=remat)

    def row(ids, image_index, positions, length, start, responses):
        P, (G, R) = len(ids), responses.shape
        h = model.embed(jnp.concatenate([ids, responses.ravel()]))
        h = h.at[:P].set(model.embed(ids, image_index, image_tokens))
        own_positions = jnp.broadcast_to(start + jnp.arange(R), (3, G, R)).reshape(3, -1)
        h, _ = model.model(h, jnp.concatenate([positions, own_positions], axis=1),
                           shared_prompt(P, G, R, length), remat=remat)  # fmt: skip
        predicts_first = jnp.broadcast_to(h[length - 1], (G, 1, h.shape[-1]))
        return jnp.concatenate([predicts_first, h[P:].reshape(G, R, -1)[:, :-1]], axis=1)

    hidden = jax.vmap(row, in_axes=(0, 0, 1, 0, 0, 0))(
        inputs.ids, inputs.image_index, inputs.position_ids, inputs.lengths, inputs.starts, rows.responses
    )
    return chunked_logprobs(model, hidden, rows.responses, temperature)


def shared_prompt(P: int, G: int, R: int, length):
    """The attention of a row `[prompt | r_1 | ... | r_G]`: the prompt is causal, a response sees prompt and itself."""

    def attend(q, k, v, cache):
        (q_prompt, q), (k_prompt, k), (v_prompt, v) = ((x[:P], x[P:].reshape(G, R, *x.shape[1:])) for x in (q, k, v))
        prompt, _ = causal(q_prompt, k_prompt, v_prompt, None)
        own = attention(q, (k_prompt, v_prompt, jnp.arange(P)[None] < length), (k, v, jnp.tri(R, dtype=bool)))
        return jnp.concatenate([prompt, own.reshape(G * R, *own.shape[2:])]), cache

    return attend


def chunked_logprobs(model: qwen.Qwen2_5_VL, hidden, targets, temperature: float):
    """Log-probs of targets [...] under hidden [..., D], and entropies, both float32 [...].

    No more than `CHUNK` logits exist at a time, forward or backward.
    """

    @jax.checkpoint
    def chunk(inputs):
        h, target = inputs
        logits = model.logits(h) / temperature
        logp = jax.nn.log_softmax(logits, axis=-1)
        entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
        return jnp.take_along_axis(logp, target[:, None], axis=-1)[:, 0], jax.lax.stop_gradient(entropy)

    h, target = hidden.reshape(-1, hidden.shape[-1]), targets.ravel()
    size = max(1, min(len(target), CHUNK // model.config.text.vocab_size))
    pad = -len(target) % size
    h, target = jnp.pad(h, ((0, pad), (0, 0))).reshape(-1, size, h.shape[-1]), jnp.pad(target, (0, pad))
    results = jax.lax.map(chunk, (h, target.reshape(-1, size)))
    return tuple(x.ravel()[: targets.size].reshape(targets.shape) for x in results)


def pack_rows(config: qwen.Config, groups: Sequence[Group], micro_batches: int, questions: int | None,
              min_pixels: int | None, max_pixels: int | None) -> Rows:  # fmt: skip
    """Packs groups to rows with leading micro-batches, [M, B, ...] (host side); rows of no token fill the last ones."""
    if not groups:
        raise ValueError("an update needs at least one group")
    O, G = len(groups[0].responses), len(groups[0].responses[0])
    for q, group in enumerate(groups):
        if not len(group.orders) == len(group.prompts) == len(group.responses) == O:
            raise ValueError(f"group {q}: {len(group.orders)} orders, {len(group.prompts)} prompts and "
                             f"{len(group.responses)} lists of responses; all groups need {O} of each")  # fmt: skip
        if any(len(order) != G for order in group.responses):
            raise ValueError(f"group {q}: every order needs {G} responses, as the first group has")
    per_batch = -(-max(len(groups), questions or 0) // micro_batches) * O
    prompts = [(ids, [group.images[i] for i in order]) for group in groups
               for ids, order in zip(group.prompts, group.orders)]  # fmt: skip
    count = per_batch * micro_batches
    prompts += [([0], [])] * (count - len(prompts))
    inputs = pack_many(config, [prompts[i : i + per_batch] for i in range(0, count, per_batch)], min_pixels, max_pixels)
    inputs = jax.tree.map(lambda *leaves: np.stack(leaves), *inputs)

    streams = [[check_ids(config, r, f"group {q}, order {o}, response {g}") if len(r) else np.zeros(0, np.int32)
                for g, r in enumerate(order)] for q, group in enumerate(groups)
               for o, order in enumerate(group.responses)]  # fmt: skip
    R = bucket(max(len(stream) for row in streams for stream in row))

    def ragged(rows, dtype):
        out = np.zeros((count, G, R), dtype)
        for b, row in enumerate(rows):
            for g, values in enumerate(row):
                out[b, g, : len(streams[b][g])] = np.asarray(values)[: len(streams[b][g])]
        return out.reshape(micro_batches, per_batch, G, R)

    def optional(name):
        given = [getattr(group, name) for group in groups]
        if len({x is None for x in given}) > 1:
            raise ValueError(f"{name} must be given for all groups or for none")
        return None if given[0] is None else ragged([row for x in given for row in x], np.float32)

    advantages = np.zeros((count, G), np.float32)
    for q, group in enumerate(groups):
        advantages[q * O : (q + 1) * O] = 0.0 if group.advantages is None else group.advantages
    return Rows(
        inputs=inputs,
        responses=ragged(streams, np.int32),
        mask=ragged([[np.ones(len(r)) for r in row] for row in streams], bool),
        advantages=advantages.reshape(micro_batches, per_batch, G),
        old_logprobs=optional("old_logprobs"),
        ref_logprobs=optional("ref_logprobs"),
        sampler_logprobs=optional("sampler_logprobs"),
    )
