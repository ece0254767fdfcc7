"""Block-sparse attention over packed prompt trees as Pallas kernels, for TPUs (Mosaic) and NVIDIA GPUs (Triton).

The mask depends on the data, and as a compile-time constant it would recompile for every batch. So the kernels take
lists of blocks: for each block of queries the blocks of keys that any of them sees, computed from the spans on the
device. Scores stay on the chip, and invisible blocks cost nothing, forward or backward: FlashAttention-2 (arXiv
2307.08691) with a list instead of the causal loop.

A row is n blocks of B tokens, all arrays are [heads, n, ., .]. A program handles one query head and one block, of
queries or of keys. Scores are laid out as [keys, queries], so that per-query values (span, softmax) are rows.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton

from models.layers import precision

HEAD = 128  # the head size of the kernels, and of all published models
BLOCK = {"tpu": 128, "gpu": 64, "cpu": 16}  # B by platform; a CPU interprets the kernels, in tests
UNSEEN = -1e30  # masked score; infinity would give NaN in a block where a query sees nothing
VMEM = 64 << 20  # VMEM limit of a program in bytes: a head's keys and values, twice


def visible(i, j, start, fork, branch):
    """Whether the token at place i, with these spans (`attention.Spans`), sees the one at place j."""
    return (j <= i) & (j >= start) & ((j < fork) | (j >= branch))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(q, k, v, spans, platform: str):
    """Attention of one row: q [T, H, d], k and v [T, J, d], `attention.Spans` of int32 [T] each -> [T, H, d]."""
    return _forward(q, k, v, spans, platform)[0]


def _forward(q, k, v, spans, platform):
    B = BLOCK[platform]
    seen = _blocks_of_spans(spans, B)
    Q, K, V = (_blocks(x, B) for x in (q, k, v))
    out, lse = _call(
        _forward_kernel,
        platform,
        _seen_blocks(seen),
        blocks=[Q.mT],
        full=[seen, K, V.mT],
        out=[jax.ShapeDtypeStruct(Q.mT.shape, q.dtype), jax.ShapeDtypeStruct((*Q.shape[:2], 1, B), jnp.float32)],
    )
    out = _tokens(out.mT, len(q))
    return out, (q, k, v, spans, out, lse)


def _backward(platform, residuals, gradient):
    q, k, v, spans, out, lse = residuals
    B = BLOCK[platform]
    seen = _blocks_of_spans(spans, B)
    visits = _seen_blocks(seen)
    Q, K, V, G, O = (_blocks(x, B) for x in (q, k, v, gradient, out))
    delta = jnp.sum(O.astype(jnp.float32) * G, axis=-1)[:, :, None]
    [dq] = _call(
        _dq_kernel,
        platform,
        visits,
        blocks=[Q.mT, G.mT, lse, delta],
        full=[seen, K, V],
        out=[jax.ShapeDtypeStruct(Q.mT.shape, q.dtype)],
    )
    of_head = jax.ShapeDtypeStruct(Q.shape, jnp.float32)
    dk, dv = _call(
        _dkv_kernel, platform, visits.T, blocks=[K, V], full=[seen, Q.mT, G.mT, lse, delta], out=[of_head, of_head]
    )
    dk, dv = (_tokens(x.reshape(len(K), -1, *x.shape[1:]).sum(1), len(k)) for x in (dk, dv))
    return _tokens(dq.mT, len(q)), dk.astype(k.dtype), dv.astype(v.dtype), None


attention.defvjp(_forward, _backward)


def _blocks(x, B: int):
    """[T, heads, d] -> [heads, n, B, d]"""
    x = jnp.pad(x, [(0, -len(x) % B), (0, 0), (0, 0)])
    return x.reshape(-1, B, *x.shape[1:]).transpose(2, 0, 1, 3)


def _tokens(x, T: int):
    """[heads, n, B, d] -> [T, heads, d]"""
    return x.reshape(x.shape[0], -1, x.shape[-1]).swapaxes(0, 1)[:T]


def _blocks_of_spans(spans, B: int):
    """[T] each -> int32 [1, n, 3, B]; a padding token is a separate tree."""
    T = len(spans[0])
    places = jnp.arange(T, T + -T % B, dtype=jnp.int32)
    spans = jnp.stack([jnp.concatenate([x, places]) for x in spans])
    return spans.reshape(1, 3, -1, B).swapaxes(1, 2)


def _seen_blocks(spans):
    """Which blocks of keys (columns) the blocks of queries (rows) need, bool [n, n], from their spans."""
    _, n, _, B = spans.shape
    start, fork, branch = spans[0].swapaxes(0, 1)  # [n, B] each
    block = jnp.arange(n)

    def between(low, high):  # places [n]
        return (block >= low[:, None] // B) & (block < -(-high[:, None] // B))

    end = (block + 1) * B
    return between(start.min(1), jnp.minimum(fork.max(1), end)) | between(branch.min(1), end)


def _call(kernel, platform: str, visits, blocks, full, out):
    """Runs `kernel(count, index, *blocks, *full, *out)` for each query head and each block.

    `visits` [n, n] are the other blocks that a block needs: the first `count` numbers in `index`. Of `blocks` a program
    gets its own block, of `full` all blocks of its head; arrays with fewer heads are shared. Each output is one block.
    """
    n, H = len(visits), out[0].shape[0]
    count = visits.sum(1, dtype=jnp.int32).reshape(n, 1, 1)
    index = jnp.argsort(~visits, axis=1, stable=True).astype(jnp.int32).reshape(n, 1, n)

    def head(h, x):
        return jax.lax.div(h * x.shape[0], H)  # `//` does not lower to a TPU

    def block_spec(x):
        return pl.BlockSpec((None, None, *x.shape[2:]), lambda h, i: (head(h, x), i, 0, 0))

    def head_spec(x):
        return pl.BlockSpec((None, *x.shape[1:]), lambda h, i: (head(h, x), 0, 0, 0))

    def scalars(x):
        memory = {"memory_space": pltpu.SMEM} if platform == "tpu" else {}
        return pl.BlockSpec((None, *x.shape[1:]), lambda h, i: (i, 0, 0), **memory)

    compiler = {
        "tpu": pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM),
        "gpu": triton.CompilerParams(num_warps=4, num_stages=2),
    }
    return pl.pallas_call(
        kernel,
        grid=(H, n),
        in_specs=[*map(scalars, (count, index)), *map(block_spec, blocks), *map(head_spec, full)],
        out_specs=list(map(block_spec, out)),
        out_shape=out,
        compiler_params=compiler.get(platform),
        interpret=platform == "cpu",
    )(count, index, *blocks, *full)


def _dot(a, b, over: tuple[int, int]):
    """The matrix product over dimension over[0] of a and over[1] of b, float32."""
    dims = ((over[:1], over[1:]), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=precision(a.dtype), preferred_element_type=jnp.float32)


def _scores(k, q, spans, key_block, query_block):
    """Scores [keys, queries] of k [B, d] and q [d, B], UNSEEN where the query does not see the key."""
    B = q.shape[-1]
    i = query_block * B + jax.lax.broadcasted_iota(jnp.int32, (B, B), 1)
    j = key_block * B + jax.lax.broadcasted_iota(jnp.int32, (B, B), 0)
    seen = visible(i, j, *(spans[query_block, pl.ds(row, 1), :] for row in range(3)))
    return jnp.where(seen, _dot(k, q, (1, 0)) * k.shape[-1] ** -0.5, UNSEEN)


def _forward_kernel(count, index, q, spans, k, v, out, lse):
    """For a block of queries: its output [d, B] and the log-sum-exp of its scores [1, B]."""
    block, queries = pl.program_id(1), q[...]

    def visit(n, carry):
        largest, total, values = carry
        other = index[0, n]
        scores = _scores(k[other], queries, spans, other, block)
        new = jnp.maximum(largest, jnp.max(scores, axis=0, keepdims=True))
        weights, scale = jnp.exp(scores - new), jnp.exp(largest - new)
        values = values * scale + _dot(v[other], weights.astype(v.dtype), (1, 0))
        return new, total * scale + jnp.sum(weights, axis=0, keepdims=True), values

    row = (1, queries.shape[1])
    start = jnp.full(row, UNSEEN), jnp.zeros(row), jnp.zeros(queries.shape)
    largest, total, values = jax.lax.fori_loop(0, count[0, 0], visit, start)
    out[...] = (values / total).astype(out.dtype)
    lse[...] = largest + jnp.log(total)


def _weights_gradient(scores, lse, delta, v, g):
    """Softmax weights and the gradient of their scores before scaling, both [keys, queries]."""
    weights = jnp.exp(scores - lse)
    return weights, weights * (_dot(v, g, (1, 0)) - delta)


def _dq_kernel(count, index, q, g, lse, delta, spans, k, v, dq):
    """For a block of queries: the gradient of q [d, B], from the output gradient g."""
    block, queries, gradient, lse, delta = pl.program_id(1), q[...], g[...], lse[...], delta[...]

    def visit(n, total):
        other = index[0, n]
        keys = k[other]
        scores = _scores(keys, queries, spans, other, block)
        _, ds = _weights_gradient(scores, lse, delta, v[other], gradient)
        return total + _dot(keys, ds.astype(keys.dtype), (0, 0))

    total = jax.lax.fori_loop(0, count[0, 0], visit, jnp.zeros(queries.shape))
    dq[...] = (total * queries.shape[0] ** -0.5).astype(dq.dtype)


def _dkv_kernel(count, index, k, v, spans, q, g, lse, delta, dk, dv):
    """For a block of keys: the gradients of k and v [B, d] through one query head."""
    block, keys, values = pl.program_id(1), k[...], v[...]

    def visit(n, carry):
        dk, dv = carry
        other = index[0, n]
        queries, gradient = q[other], g[other]
        scores = _scores(keys, queries, spans, block, other)
        weights, ds = _weights_gradient(scores, lse[other], delta[other], values, gradient)
        return dk + _dot(ds.astype(q.dtype), queries, (1, 1)), dv + _dot(weights.astype(g.dtype), gradient, (1, 1))

    total = jax.lax.fori_loop(0, count[0, 0], visit, (jnp.zeros(keys.shape), jnp.zeros(keys.shape)))
    dk[...], dv[...] = total[0] * keys.shape[1] ** -0.5, total[1]
