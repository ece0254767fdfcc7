"""Shared layers of both towers: weights with logical axes, Linear, RMSNorm, SwiGLU, rotary embedding, logits.

Weights carry the metadata `axes`, one logical name per dimension, which callers map to a device mesh. Every weight of a
stack of layers has a leading `layers` dimension, over which the tower scans. Matrix products run in the dtype of their
activations, in full precision if that is float32 (an accelerator's default would round inputs to bfloat16 or TF32).
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

NORMAL = nnx.initializers.normal(0.02)  # `initializer_range` of all published models
ONES = nnx.initializers.ones
ZEROS = nnx.initializers.zeros


def precision(dtype):
    """The matmul precision for activations of `dtype`: HIGHEST in float32, otherwise the device's default."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def weight(rngs: nnx.Rngs, shape, axes, init, dtype) -> nnx.Param:
    """One weight of `shape` with its logical `axes`, initialised by `init`; ValueError if their lengths differ."""
    if len(shape) != len(axes):
        raise ValueError(f"a weight of shape {shape} has axes {axes}")
    return nnx.Param(init(rngs.params(), shape, dtype), axes=axes)


class Linear(nnx.Module):
    """`x @ kernel (+ bias)` in x's dtype; kernel [..., inputs, outputs]. lora.py may add an adapter."""

    def __init__(self, shape, axes, *, rngs, dtype, bias=False, init=NORMAL):
        self.kernel = weight(rngs, shape, axes, init, dtype)
        if bias:
            self.bias = weight(rngs, (*shape[:-2], shape[-1]), (*axes[:-2], axes[-1]), ZEROS, dtype)

    def __call__(self, x):
        y = jnp.matmul(x, self.kernel[...].astype(x.dtype), precision=precision(x.dtype))
        if hasattr(self, "lora_A"):
            y = y + self.lora_B(self.lora_A(x)) * self.lora_scale
        return y + self.bias[...].astype(x.dtype) if hasattr(self, "bias") else y


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, in float32; scale [..., D]."""

    def __init__(self, shape, axes, eps, *, rngs, dtype):
        self.scale = weight(rngs, shape, axes, ONES, dtype)
        self.eps = eps

    def __call__(self, x):
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return self.scale[...].astype(x.dtype) * x32.astype(x.dtype)


class SwiGLU(nnx.Module):
    """The gated MLP of both towers: `stack` layers of width `width` with `hidden` hidden units."""

    def __init__(self, stack, width, hidden, axes, *, rngs, dtype, bias=False):
        embed, mlp = axes
        self.gate_proj = Linear((stack, width, hidden), ("layers", embed, mlp), bias=bias, rngs=rngs, dtype=dtype)
        self.up_proj = Linear((stack, width, hidden), ("layers", embed, mlp), bias=bias, rngs=rngs, dtype=dtype)
        self.down_proj = Linear((stack, hidden, width), ("layers", mlp, embed), bias=bias, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


def inverse_frequencies(theta: float, size: int):
    """Rotary inverse frequencies, float32 [size / 2]."""
    return 1.0 / (theta ** (jnp.arange(0, size, 2, dtype=jnp.float32) / size))


def rotate(x, rope):
    """Rotary position embedding of heads x [T, H, d] by rope = (cos, sin), float32 [T, d / 2]; pairs (i, i + d/2)."""
    cos, sin = (angle[:, None, :] for angle in rope)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def logits(h, head):
    """Logits, float32 [..., V], of hidden states [..., D] by a head [D, V]."""
    return jnp.matmul(h, head, precision=precision(h.dtype), preferred_element_type=jnp.float32)


UNROLLED = 4  # most layers that are unrolled, which runs faster; more are scanned, which compiles faster


def scan_layers(layers: nnx.Module | nnx.List, h, step, xs, *, remat=False):
    """Runs `step(layer, h, x) -> (h, y)` over stacked `layers`; returns (h, ys). `remat` recomputes a layer backward.

    xs and ys are stacked like the layers; numpy arrays among xs are constants in an unrolled layer. Unstacked layers
    (`unstacked`) are always unrolled, with lists of xs and ys: a decode step then neither slices weights out of a stack
    for each token nor copies a cache that is updated in place.
    """
    if isinstance(layers, nnx.List):
        ys = []
        for layer, x in zip(layers, xs):
            h, y = step(layer, h, x)
            ys.append(y)
        return h, ys
    graph, weights = nnx.split(layers)
    depth = jax.tree.leaves(weights)[0].shape[0]

    def body(h, inputs):
        layer_weights, x = inputs
        return step(nnx.merge(graph, layer_weights), h, x)

    if depth > UNROLLED:
        return jax.lax.scan(jax.checkpoint(body, prevent_cse=False) if remat else body, h, (weights, xs))
    ys = []
    for i in range(depth):
        layer_weights, x = jax.tree.map(lambda a, i=i: a[i], (weights, xs))
        run = partial(body, inputs=(layer_weights, x))
        h, y = (jax.checkpoint(run) if remat else run)(h)
        ys.append(y)
    return h, jax.tree.map(lambda *y: jnp.stack(y), *ys)


def unstacked(layers: nnx.Module, dtype) -> nnx.List:
    """Stacked layers as a list of single layers, copied in `dtype`."""
    graph, weights = nnx.split(layers)
    return nnx.List([nnx.merge(graph, layer) for layer in _unstacked(weights, dtype)])


@partial(jax.jit, static_argnums=1)
def _unstacked(weights, dtype):
    depth = jax.tree.leaves(weights)[0].shape[0]
    return [jax.tree.map(lambda w, i=i: w[i].astype(dtype), weights) for i in range(depth)]
