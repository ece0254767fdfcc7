"""The vision tower: packed images of any size, through window and full-attention blocks, to merged tokens."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.attention import attention
from models.layers import NORMAL, Linear, RMSNorm, SwiGLU, inverse_frequencies, product, rotate, scan_layers, weight
from models.qwen2_5_vl.config import VisionConfig
from models.qwen2_5_vl.packing import Vision, block_size

EPS = 1e-6  # of all vision norms, independent of the text tower's
ROPE_THETA = 10000.0


class PatchEmbed(nnx.Module):
    """A linear layer on each patch's pixels, stored as a convolution kernel [C, time, p, p, D].

    A still image shows the same pixels at all times: the kernels of all times are added, and it is read once.
    """

    def __init__(self, config: VisionConfig, *, rngs, dtype):
        c, t, p = config.in_channels, config.temporal_patch_size, config.patch_size
        self.proj = nnx.Module()
        self.proj.kernel = weight(
            rngs,
            (c, t, p, p, config.hidden_size),
            ("channels", "time", "height", "width", "vision_embed"),
            NORMAL,
            dtype,
        )

    def __call__(self, patches):
        kernel = jnp.sum(self.proj.kernel[...], axis=1, dtype=jnp.float32)
        return product(patches, kernel.reshape(-1, kernel.shape[-1]))


def normalised(pixels, config: VisionConfig):
    """Pixels [..., X] of uint8 as float32, scaled by the mean and standard deviation of their channel."""
    mean, std = (
        np.repeat(np.array(values, np.float32), config.patch_size**2)
        for values in (config.image_mean, config.image_std)
    )
    return (pixels.astype(jnp.float32) / 255 - mean) / std


class VisionAttention(nnx.Module):
    def __init__(self, config: VisionConfig, *, rngs, dtype):
        L, D = config.depth, config.hidden_size
        self.qkv = Linear((L, D, 3 * D), ("layers", "vision_embed", "vision_heads"), bias=True, rngs=rngs, dtype=dtype)
        self.proj = Linear((L, D, D), ("layers", "vision_heads", "vision_embed"), bias=True, rngs=rngs, dtype=dtype)
        self.num_heads = config.num_heads

    def __call__(self, x, rope, segments, block: int):
        """x [N, D]; a patch attends to its own segment [N] within its block of `block` patches."""
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(len(x), 3, self.num_heads, -1), 1, 0)
        blocks = [a.reshape(-1, block, *a.shape[1:]) for a in (rotate(q, rope), rotate(k, rope), v, segments)]
        out = jax.vmap(lambda q, k, v, s: attention(q, k, v, s[:, None] == s))(*blocks)
        return self.proj(out.reshape(x.shape))


class VisionBlock(nnx.Module):
    def __init__(self, config: VisionConfig, *, rngs, dtype):
        L, D = config.depth, config.hidden_size
        self.norm1 = RMSNorm((L, D), ("layers", "norm"), EPS, rngs=rngs, dtype=dtype)
        self.norm2 = RMSNorm((L, D), ("layers", "norm"), EPS, rngs=rngs, dtype=dtype)
        self.attn = VisionAttention(config, rngs=rngs, dtype=dtype)
        self.mlp = SwiGLU(
            L, D, config.intermediate_size, ("vision_embed", "vision_mlp"), bias=True, rngs=rngs, dtype=dtype
        )

    def __call__(self, h, rope, segments, block):
        h = h + self.attn(self.norm1(h), rope, segments, block)
        return h + self.mlp(self.norm2(h))


class PatchMerger(nnx.Module):
    """Norm, then each 2x2 neighbourhood of patches becomes one token of the text width."""

    def __init__(self, config: VisionConfig, *, rngs, dtype):
        D, wide = config.hidden_size, config.hidden_size * config.spatial_merge_size**2
        self.ln_q = RMSNorm((D,), ("norm",), EPS, rngs=rngs, dtype=dtype)
        self.mlp_0 = Linear((wide, wide), ("vision_merge", "vision_mlp"), bias=True, rngs=rngs, dtype=dtype)
        self.mlp_2 = Linear((wide, config.out_hidden_size), ("vision_mlp", "embed"), bias=True, rngs=rngs, dtype=dtype)

    def __call__(self, h):
        h = self.mlp_0(self.ln_q(h).reshape(-1, self.mlp_0.kernel.shape[0]))
        return self.mlp_2(jax.nn.gelu(h, approximate=False))


class VisionTower(nnx.Module):
    def __init__(self, config: VisionConfig, *, rngs, dtype):
        self.config = config
        self.patch_embed = PatchEmbed(config, rngs=rngs, dtype=dtype)
        self.blocks = VisionBlock(config, rngs=rngs, dtype=dtype)
        self.merger = PatchMerger(config, rngs=rngs, dtype=dtype)

    def __call__(self, pack: Vision, dtype, *, remat="none", constrain=lambda h: h):
        """Merged tokens [R, C / merge^2, text width] of a pack of R rows of images, computed in `dtype`.

        Window attention is dense over blocks, full attention over whole rows; segments separate images. All other
        layers work on one matrix of R * C patches; `constrain` is called on it before each block, to shard it on a
        mesh.
        """
        (R, C), head_dim = pack.images.shape, self.config.hidden_size // self.config.num_heads
        angles = pack.positions.reshape(R * C, 2, 1) * inverse_frequencies(ROPE_THETA, head_dim // 2)
        angles = angles.reshape(R * C, -1)  # height's, then width's
        rope = (jnp.cos(angles), jnp.sin(angles))
        full = np.isin(np.arange(self.config.depth), self.config.fullatt_block_indexes)

        def step(block, h, is_full):
            h = constrain(h)

            def full_rows(h):
                return block(h, rope, pack.images.ravel(), C)

            def windows(h):
                return block(h, rope, pack.windows.ravel(), block_size(self.config))

            if isinstance(is_full, np.bool_):  # static where layers are unrolled
                return (full_rows if is_full else windows)(h), None
            return jax.lax.cond(is_full, full_rows, windows, h), None

        h = self.patch_embed(normalised(pack.patches.reshape(R * C, -1), self.config).astype(dtype))
        h, _ = scan_layers(self.blocks, h, step, full, remat=remat)
        h = self.merger(h)
        return h.reshape(R, -1, h.shape[-1])
