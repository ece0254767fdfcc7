"""The text tower: a decoder with grouped-query attention, RMSNorm, SwiGLU and M-RoPE, over one row of tokens."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.layers import NORMAL, Linear, RMSNorm, SwiGLU, inverse_frequencies, rotate, scan_layers, weight
from models.qwen2_5_vl.config import TextConfig


def mrope(positions, config: TextConfig):
    """M-RoPE angles of positions [3, T] (time, height, width): (cos, sin), float32 [T, d / 2].

    Consecutive sections of the frequencies take their position from consecutive axes (Qwen2-VL, section 2.1).
    """
    axis = np.concatenate([np.full(size, i % 3) for i, size in enumerate(config.mrope_section)])
    angles = positions.T.astype(jnp.float32)[:, axis] * inverse_frequencies(config.rope_theta, config.head_dim)
    return jnp.cos(angles), jnp.sin(angles)


class TextAttention(nnx.Module):
    def __init__(self, config: TextConfig, *, rngs, dtype):
        L, D, d = config.num_hidden_layers, config.hidden_size, config.head_dim
        heads, kv = config.num_attention_heads * d, config.num_key_value_heads * d
        self.q_proj = Linear((L, D, heads), ("layers", "embed", "heads"), bias=True, rngs=rngs, dtype=dtype)
        self.k_proj = Linear((L, D, kv), ("layers", "embed", "kv_heads"), bias=True, rngs=rngs, dtype=dtype)
        self.v_proj = Linear((L, D, kv), ("layers", "embed", "kv_heads"), bias=True, rngs=rngs, dtype=dtype)
        self.o_proj = Linear((L, heads, D), ("layers", "heads", "embed"), rngs=rngs, dtype=dtype)
        self.head_dim = d

    def __call__(self, x, rope, attend, cache):
        q, k, v = (proj(x).reshape(len(x), -1, self.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj))
        out, cache = attend(rotate(q, rope), rotate(k, rope), v, cache)
        return self.o_proj(out.reshape(len(x), -1)), cache


class TextLayer(nnx.Module):
    def __init__(self, config: TextConfig, *, rngs, dtype):
        L, D, eps = config.num_hidden_layers, config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm((L, D), ("layers", "norm"), eps, rngs=rngs, dtype=dtype)
        self.self_attn = TextAttention(config, rngs=rngs, dtype=dtype)
        self.post_attention_layernorm = RMSNorm((L, D), ("layers", "norm"), eps, rngs=rngs, dtype=dtype)
        self.mlp = SwiGLU(L, D, config.intermediate_size, ("embed", "mlp"), rngs=rngs, dtype=dtype)

    def __call__(self, h, rope, attend, cache):
        out, cache = self.self_attn(self.input_layernorm(h), rope, attend, cache)
        h = h + out
        return h + self.mlp(self.post_attention_layernorm(h)), cache


class TextTower(nnx.Module):
    def __init__(self, config: TextConfig, *, rngs, dtype):
        V, D = config.vocab_size, config.hidden_size
        self.config = config
        self.embed_tokens = nnx.Module()
        self.embed_tokens.embedding = weight(rngs, (V, D), ("vocab", "embed"), NORMAL, dtype)
        self.layers = TextLayer(config, rngs=rngs, dtype=dtype)
        self.norm = RMSNorm((D,), ("norm",), config.rms_norm_eps, rngs=rngs, dtype=dtype)

    def __call__(self, h, positions, attend, caches=None, *, remat="none"):
        """Embeddings h [T, D] at positions [3, T] -> (hidden [T, D] after the final norm, caches).

        `attend` is each layer's attention (see attention.py); `caches` is a pytree with a leading layer axis that it
        reads, and the returned caches are stacked likewise (lists if the layers are unstacked).
        """
        rope = mrope(positions, self.config)
        h, caches = scan_layers(
            self.layers, h, lambda layer, h, cache: layer(h, rope, attend, cache), caches, remat=remat
        )
        return self.norm(h), caches
