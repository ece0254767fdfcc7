"""What the vision towers share: patches to vectors, and attention among the patches of an image or window."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models import VisionConfig
from models.attention import attention
from models.config_json import VISION_ROPE_THETA
from models.layers import NORMAL, ZEROS, Linear, inverse_frequencies, product, rotate, weight

EPS = 1e-6  # of all vision norms, independent of the text tower's


class PatchEmbed(nnx.Module):
    """A linear layer on each patch's pixels, stored as a convolution kernel [C, time, p, p, D].

    A still image shows the same pixels at all times: the kernels of all times are added, and it is read once.
    """

    def __init__(self, config: VisionConfig, *, rngs, dtype, bias=False):
        c, t, p = config.in_channels, config.temporal_patch_size, config.patch_size
        self.proj = nnx.Module()
        self.proj.kernel = weight(
            rngs,
            (c, t, p, p, config.hidden_size),
            ("channels", "time", "height", "width", "vision_embed"),
            NORMAL,
            dtype,
        )
        if bias:
            self.proj.bias = weight(rngs, (config.hidden_size,), ("vision_embed",), ZEROS, dtype)

    def __call__(self, patches):
        kernel = jnp.sum(self.proj.kernel[...], axis=1, dtype=jnp.float32)
        bias = self.proj.bias[...] if hasattr(self.proj, "bias") else None
        return product(patches, kernel.reshape(-1, kernel.shape[-1]), bias)


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


def rotary(positions, config: VisionConfig):
    """Rotary angles of patches at (height, width) [N, 2]: (cos, sin), float32 [N, head / 2]: height's, then width's."""
    size = config.hidden_size // config.num_heads // 2
    angles = (positions.reshape(-1, 2, 1) * inverse_frequencies(VISION_ROPE_THETA, size)).reshape(-1, size)
    return jnp.cos(angles), jnp.sin(angles)
