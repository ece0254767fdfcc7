"""Shared layers of both towers: weights with logical axes, Linear, norms, SwiGLU, rotary embedding, logits.

Weights carry the metadata `axes`, one logical name per dimension, which callers map to a device mesh. Every weight of a
stack of layers has a leading `layers` dimension, over which the tower scans. Matrix products run in the dtype of their
activations, in full precision if that is float32 (an accelerator's default would round inputs to bfloat16 or TF32).
Gradients of weights are summed in the weights' dtype, float32 in training, over tokens, chunks and devices: a sum of
thousands of terms in bfloat16 stops growing.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

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


def product(x, kernel, bias=None, copy=None, dtype=None):
    """`x @ kernel (+ bias)` in `dtype`, by default x's: x [..., inputs], kernel [inputs, outputs].

    The gradients of kernel and bias are summed in their own dtypes. `copy` is the kernel in x's dtype, where a caller
    has it: cast or gathered once, it serves several products.
    """
    copy = kernel.astype(x.dtype) if copy is None else copy
    return _product(jnp.dtype(dtype or x.dtype), x, kernel, bias, jax.lax.stop_gradient(copy))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(dtype, x, kernel, bias, copy):
    y = jnp.matmul(x, copy, precision=precision(x.dtype), preferred_element_type=dtype)
    return y if bias is None else y + bias.astype(dtype)


def _product_forward(dtype, x, kernel, bias, copy):
    like = jnp.zeros(0, kernel.dtype), None if bias is None else jnp.zeros(0, bias.dtype)
    return _product(dtype, x, kernel, bias, copy), (x, copy, like)


def _product_backward(dtype, residuals, g):
    x, copy, (like_kernel, like_bias) = residuals
    exact, g, tokens = precision(x.dtype), g.astype(x.dtype), tuple(range(x.ndim - 1))
    of_kernel = jax.lax.dot_general(
        x, g, ((tokens, tokens), ((), ())), precision=exact, preferred_element_type=like_kernel.dtype
    )
    of_bias = None if like_bias is None else jnp.sum(g, axis=tokens, dtype=like_bias.dtype)
    return jnp.matmul(g, copy.T, precision=exact), of_kernel, of_bias, None


_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def scaled(x, scale):
    """`x * scale` in x's dtype: x [..., D], scale [D], whose gradient is summed in its own dtype."""
    return x * scale.astype(x.dtype)


def _scaled_backward(residuals, g):
    x, scale = residuals
    terms = x.astype(scale.dtype) * g.astype(scale.dtype)
    return g * scale.astype(x.dtype), jnp.sum(terms, axis=tuple(range(x.ndim - 1)))


scaled.defvjp(lambda x, scale: (scaled(x, scale), (x, scale)), _scaled_backward)


class Linear(nnx.Module):
    """`x @ kernel (+ bias)` in x's dtype; kernel [..., inputs, outputs]. lora.py may add an adapter."""

    def __init__(self, shape, axes, *, rngs, dtype, bias=False, init=NORMAL):
        self.kernel = weight(rngs, shape, axes, init, dtype)
        if bias:
            self.bias = weight(rngs, (*shape[:-2], shape[-1]), (*axes[:-2], axes[-1]), ZEROS, dtype)

    def __call__(self, x):
        y = checkpoint_name(product(x, self.kernel[...], self.bias[...] if hasattr(self, "bias") else None), PRODUCT)
        return y + self.lora_B(self.lora_A(x)) * self.lora_scale if hasattr(self, "lora_A") else y


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, in float32; scale [..., D]."""

    def __init__(self, shape, axes, eps, *, rngs, dtype):
        self.scale = weight(rngs, shape, axes, ONES, dtype)
        self.eps = eps

    def __call__(self, x):
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return scaled(x32.astype(x.dtype), self.scale[...])


class LayerNorm(nnx.Module):
    """Layer norm over the last axis, in float32; scale and bias [..., D]."""

    def __init__(self, shape, axes, eps, *, rngs, dtype):
        self.scale = weight(rngs, shape, axes, ONES, dtype)
        self.bias = weight(rngs, shape, axes, ZEROS, dtype)
        self.eps = eps

    def __call__(self, x):
        x32 = x.astype(jnp.float32)
        x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        scale, bias = (part[...].astype(jnp.float32) for part in (self.scale, self.bias))
        return (x32 * scale + bias).astype(x.dtype)


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


def logits(h, head, copy=None):
    """Logits, float32 [..., V], of hidden states [..., D] by a head [D, V]; `copy` is as in `product`."""
    return product(h, head, copy=copy, dtype=jnp.float32)


PRODUCT = "product"  # the name by which checkpoint policies know what `Linear` computes
REMAT = ("none", "dots", "full")  # what the backward pass recomputes of a layer: nothing, all but products, all


def remat_name(remat):
    """The name in REMAT of a `remat`, which may also be True (full) or False (none). Raises ValueError."""
    name = {True: "full", False: "none"}.get(remat, remat)
    if name not in REMAT:
        raise ValueError(f"remat is one of {', '.join(REMAT)}, True or False, not {remat!r}")
    return name


def checkpointed(f, remat, **options):
    """`f`, of which the backward pass recomputes what `remat` says; "dots" keeps the products of `Linear`."""
    if remat_name(remat) == "none":
        return f
    kept = jax.checkpoint_policies.save_only_these_names(PRODUCT) if remat_name(remat) == "dots" else None
    return jax.checkpoint(f, policy=kept, **options)


UNROLLED = 4  # most layers that are unrolled, which runs faster; more are scanned, which compiles faster


def scan_layers(layers: nnx.Module | nnx.List, h, step, xs, *, remat="none"):
    """Runs `step(layer, h, x) -> (h, y)` over stacked `layers`; returns (h, ys). `remat` as in `checkpointed`.

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
        return jax.lax.scan(checkpointed(body, remat, prevent_cse=False), h, (weights, xs))
    ys = []
    for i in range(depth):
        layer_weights, x = jax.tree.map(lambda a, i=i: a[i], (weights, xs))
        h, y = checkpointed(partial(body, inputs=(layer_weights, x)), remat)(h)
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
