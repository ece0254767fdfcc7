"""The vision tower: packed images of any size, through blocks of full attention, to merged tokens and features."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.layers import NORMAL, LayerNorm, Linear, scan_layers, weight
from models.qwen3_vl.config import VisionConfig
from models.qwen3_vl.packing import Vision
from models.vision_layers import EPS, PatchEmbed, VisionAttention, normalised, rotary


class VisionMLP(nnx.Module):
    def __init__(self, config: VisionConfig, *, rngs, dtype):
        L, D, F = config.depth, config.hidden_size, config.intermediate_size
        into, out = ("layers", "vision_embed", "vision_mlp"), ("layers", "vision_mlp", "vision_embed")
        self.linear_fc1 = Linear((L, D, F), into, bias=True, rngs=rngs, dtype=dtype)
        self.linear_fc2 = Linear((L, F, D), out, bias=True, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        return self.linear_fc2(jax.nn.gelu(self.linear_fc1(x), approximate=True))


class VisionBlock(nnx.Module):
    def __init__(self, config: VisionConfig, *, rngs, dtype):
        norm = (config.depth, config.hidden_size), ("layers", "norm"), EPS
        self.norm1 = LayerNorm(*norm, rngs=rngs, dtype=dtype)
        self.norm2 = LayerNorm(*norm, rngs=rngs, dtype=dtype)
        self.attn = VisionAttention(config, rngs=rngs, dtype=dtype)
        self.mlp = VisionMLP(config, rngs=rngs, dtype=dtype)

    def __call__(self, h, rope, images, row: int):
        h = h + self.attn(self.norm1(h), rope, images, row)
        return h + self.mlp(self.norm2(h))


class PatchMerger(nnx.Module):
    """Each 2x2 neighbourhood of patches becomes one token of the text width. The norm is of patches, or in a `stack` of
    mergers (for deepstack) of whole neighbourhoods."""

    def __init__(self, config: VisionConfig, stack: int | None = None, *, rngs, dtype):
        D, wide = config.hidden_size, config.hidden_size * config.spatial_merge_size**2
        many, layers = ((), ()) if stack is None else ((stack,), ("layers",))
        self.norm = LayerNorm((*many, D if stack is None else wide), (*layers, "norm"), EPS, rngs=rngs, dtype=dtype)
        into, out = (*layers, "vision_merge", "vision_mlp"), (*layers, "vision_mlp", "embed")
        self.linear_fc1 = Linear((*many, wide, wide), into, bias=True, rngs=rngs, dtype=dtype)
        self.linear_fc2 = Linear((*many, wide, config.out_hidden_size), out, bias=True, rngs=rngs, dtype=dtype)

    def __call__(self, h):
        h = self.norm(h.reshape(-1, self.norm.scale.shape[-1])).reshape(-1, self.linear_fc1.kernel.shape[-2])
        return self.linear_fc2(jax.nn.gelu(self.linear_fc1(h), approximate=False))


class VisionTower(nnx.Module):
    def __init__(self, config: VisionConfig, *, rngs, dtype):
        self.config = config
        self.patch_embed = PatchEmbed(config, bias=True, rngs=rngs, dtype=dtype)
        self.pos_embed = nnx.Module()
        shape = config.num_position_embeddings, config.hidden_size
        self.pos_embed.embedding = weight(rngs, shape, ("vision_positions", "norm"), NORMAL, dtype)
        self.blocks = VisionBlock(config, rngs=rngs, dtype=dtype)
        self.merger = PatchMerger(config, rngs=rngs, dtype=dtype)
        if config.deepstack_visual_indexes:
            count = len(config.deepstack_visual_indexes)
            self.deepstack_merger_list = PatchMerger(config, count, rngs=rngs, dtype=dtype)

    def __call__(self, pack: Vision, dtype, *, remat="none", constrain=lambda h: h):
        """Merged tokens and their features [R, C / merge^2, E] of a pack of R rows of images, computed in `dtype`.

        Attention is dense over rows; image ids separate images. All other layers work on one matrix of R * C patches;
        `constrain` is called on it before each block, to shard it on a mesh.
        """
        (R, C), rope = pack.images.shape, rotary(pack.positions, self.config)
        indexes = self.config.deepstack_visual_indexes
        h = self.patch_embed(normalised(pack.patches.reshape(R * C, -1), self.config).astype(dtype))
        h = h + self.learned_positions(pack.spread.reshape(R * C, 2)).astype(dtype)

        def step(block, h_and_kept, number):
            h, kept = h_and_kept
            h = block(constrain(h), rope, pack.images.ravel(), C)
            # What deepstack reads, by number as the block may be one of a scan: later ones leave it as it is.
            return (h, [jnp.where(number == index, h, old) for index, old in zip(indexes, kept)]), None

        (h, kept), _ = scan_layers(
            self.blocks, (h, [h] * len(indexes)), step, np.arange(self.config.depth), remat=remat
        )
        tokens = [self.merger(h)]
        if self.config.deepstack_mergers:
            _, features = scan_layers(
                self.deepstack_merger_list, None, lambda merger, _, h: (None, merger(h)), jnp.stack(kept), remat=remat
            )
            tokens += [features[merger] for merger in self.config.deepstack_mergers]
        return jnp.concatenate(tokens, axis=-1).reshape(R, C // self.config.spatial_merge_size**2, -1)

    def learned_positions(self, spread):
        """The table of learned positions at spread [N, 2], bilinear between its four neighbours: float32 [N, D]."""
        side = self.config.table_side
        place = spread * (side - 1)
        low = jnp.floor(place).astype(jnp.int32)
        high, part = jnp.minimum(low + 1, side - 1), place - low
        table, total = self.pos_embed.embedding[...], 0.0
        for rows, of_rows in ((low[:, 0], 1 - part[:, 0]), (high[:, 0], part[:, 0])):
            for columns, of_columns in ((low[:, 1], 1 - part[:, 1]), (high[:, 1], part[:, 1])):
                total += table[rows * side + columns].astype(jnp.float32) * (of_rows * of_columns)[:, None]
        return total
