"""The decoder of all families: grouped-query attention, RMSNorm, SwiGLU and M-RoPE, over one row of tokens.

A family's `Variant` says what differs.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from models import TextConfig
from models.layers import NORMAL, Linear, RMSNorm, SwiGLU, inverse_frequencies, rotate, scan_layers, weight


class Variant(NamedTuple):
    """How a family's decoder differs from the others."""

    biases: bool  # of the projections to queries, keys and values
    head_norms: bool  # an RMSNorm on each head of queries and keys
    axes: np.ndarray  # int [d / 2]: the axis (0 time, 1 height, 2 width) that each rotary frequency follows


def mrope(positions, config: TextConfig, axes: np.ndarray):
    """M-RoPE angles of positions [3, T] (time, height, width): (cos, sin), float32 [T, d / 2].

    Each frequency takes its position from one of the axes (Qwen2-VL, section 2.1).
    """
    angles = positions.T.astype(jnp.float32)[:, axes] * inverse_frequencies(config.rope_theta, config.head_dim)
    return jnp.cos(angles), jnp.sin(angles)


class TextAttention(nnx.Module):
    def __init__(self, config: TextConfig, variant: Variant, *, rngs, dtype):
        L, D, d = config.num_hidden_layers, config.hidden_size, config.head_dim
        heads, kv = config.num_attention_heads * d, config.num_key_value_heads * d
        bias = variant.biases
        self.q_proj = Linear((L, D, heads), ("layers", "embed", "heads"), bias=bias, rngs=rngs, dtype=dtype)
        self.k_proj = Linear((L, D, kv), ("layers", "embed", "kv_heads"), bias=bias, rngs=rngs, dtype=dtype)
        self.v_proj = Linear((L, D, kv), ("layers", "embed", "kv_heads"), bias=bias, rngs=rngs, dtype=dtype)
        self.o_proj = Linear((L, heads, D), ("layers", "heads", "embed"), rngs=rngs, dtype=dtype)
        if variant.head_norms:
            self.q_norm = RMSNorm((L, d), ("layers", "norm"), config.rms_norm_eps, rngs=rngs, dtype=dtype)
            self.k_norm = RMSNorm((L, d), ("layers", "norm"), config.rms_norm_eps, rngs=rngs, dtype=dtype)
        self.head_dim = d

    def __call__(self, x, rope, attend, cache):
        q, k, v = (proj(x).reshape(len(x), -1, self.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        out, cache = attend(rotate(q, rope), rotate(k, rope), v, cache)
        return self.o_proj(out.reshape(len(x), -1)), cache


class TextLayer(nnx.Module):
    def __init__(self, config: TextConfig, variant: Variant, *, rngs, dtype):
        L, D, eps = config.num_hidden_layers, config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm((L, D), ("layers", "norm"), eps, rngs=rngs, dtype=dtype)
        self.self_attn = TextAttention(config, variant, rngs=rngs, dtype=dtype)
        self.post_attention_layernorm = RMSNorm((L, D), ("layers", "norm"), eps, rngs=rngs, dtype=dtype)
        self.mlp = SwiGLU(L, D, config.intermediate_size, ("embed", "mlp"), rngs=rngs, dtype=dtype)

    def __call__(self, h, rope, attend, cache):
        out, cache = self.self_attn(self.input_layernorm(h), rope, attend, cache)
        h = h + out
        return h + self.mlp(self.post_attention_layernorm(h)), cache


class Decoder(nnx.Module):
    """A `models.Decoder`. The features that come with h after its first D values, D at a time, are added to the outputs
    of the first layers (DeepStack, https://arxiv.org/abs/2406.04334)."""

    def __init__(self, config: TextConfig, variant: Variant, *, rngs, dtype):
        V, D = config.vocab_size, config.hidden_size
        self.config = config
        self.axes = tuple(variant.axes.tolist())
        self.embed_tokens = nnx.Module()
        self.embed_tokens.embedding = weight(rngs, (V, D), ("vocab", "embed"), NORMAL, dtype)
        self.layers = TextLayer(config, variant, rngs=rngs, dtype=dtype)
        self.norm = RMSNorm((D,), ("norm",), config.rms_norm_eps, rngs=rngs, dtype=dtype)

    def __call__(self, h, positions, attend, caches=None, *, remat="none"):
        """Embeddings h [T, E] at positions [3, T] -> (hidden [T, D] after the final norm, caches).

        `attend` is each layer's attention (see attention.py); `caches` is a pytree with a leading layer axis that it
        reads, and the returned caches are stacked likewise (lists if the layers are unstacked).
        """
        rope = mrope(positions, self.config, np.array(self.axes))
        h, *features = jnp.split(h, h.shape[-1] // self.config.hidden_size, axis=-1)

        def step(layer, h, x):
            number, cache = x
            h, cache = layer(h, rope, attend, cache)
            # Each layer reads its own feature, by its number as it may be one of a scan; most have none.
            for k, feature in enumerate(features):
                h = h + jnp.where(number == k, feature, 0)
            return h, cache

        numbers = np.arange(self.config.num_hidden_layers)
        xs = list(zip(numbers, caches)) if isinstance(self.layers, nnx.List) else (numbers, caches)
        h, caches = scan_layers(self.layers, h, step, xs, remat=remat)
        return self.norm(h), caches
