"""The vision tower: packed images of any size, through window and full-attention blocks, to merged tokens."""

import jax
import numpy as np
from flax import nnx

from models.layers import Linear, RMSNorm, SwiGLU, scan_layers
from models.qwen2_5_vl.config import VisionConfig
from models.qwen2_5_vl.packing import Vision, block_size
from models.vision_layers import EPS, PatchEmbed, VisionAttention, normalised, rotary


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
        (R, C), rope = pack.images.shape, rotary(pack.positions, self.config)
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
