"""Models of a few thousand weights and ragged prompts for them, shared by the tests and by make_golden.py.

The configs of a family differ in everything the network's code branches on: tied or separate head, loops unrolled (up
to four layers) or not, heads per key/value head, and the special token ids; window sizes and full-attention blocks, or
the table of positions and the blocks and order of deepstack.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import models
from models import images, lora, qwen3_vl
from models import qwen2_5_vl as qwen
from models.packing import Inputs

MIN_PIXELS, MAX_PIXELS = 3136, 28 * 28 * 30  # at most 30 tokens per image, so that larger images below are downscaled

CONFIGS = {
    "untied": qwen.Config(
        qwen.VisionConfig(4, 32, 48, 2, 48, window_size=112, fullatt_block_indexes=(1, 3)),
        qwen.TextConfig(320, 48, 64, 3, 6, 2, 1e6, (2, 1, 1), 1e-6, tie_word_embeddings=False),
        image_token_id=310,
        video_token_id=311,
        vision_start_token_id=308,
        vision_end_token_id=309,
    ),
    "tied": qwen.Config(
        qwen.VisionConfig(6, 24, 40, 3, 32, window_size=56, fullatt_block_indexes=(0,)),
        qwen.TextConfig(300, 32, 56, 5, 4, 1, 1e4, (1, 2, 1), 1e-5, tie_word_embeddings=True),
        image_token_id=3,
        video_token_id=4,
        vision_start_token_id=1,
        vision_end_token_id=2,
    ),
}

QWEN3 = {
    "qwen3-untied": qwen3_vl.Config(
        qwen3_vl.VisionConfig(4, 40, 48, 2, 48, num_position_embeddings=9, deepstack_visual_indexes=(3, 1)),
        qwen3_vl.TextConfig(320, 48, 64, 3, 6, 2, 16, 1e6, (4, 2, 2), 1e-6, tie_word_embeddings=False),
        image_token_id=310,
        video_token_id=311,
        vision_start_token_id=308,
        vision_end_token_id=309,
    ),
    "qwen3-tied": qwen3_vl.Config(
        qwen3_vl.VisionConfig(6, 24, 40, 3, 32, num_position_embeddings=64, deepstack_visual_indexes=(0, 2, 4)),
        qwen3_vl.TextConfig(300, 32, 56, 5, 4, 1, 8, 1e4, (2, 1, 1), 1e-5, tie_word_embeddings=True),
        image_token_id=3,
        video_token_id=4,
        vision_start_token_id=1,
        vision_end_token_id=2,
    ),
}
ALL = CONFIGS | QWEN3  # of all families

# Prompts by their parts: a number is that many text tokens, a pair the (height, width) of an image.
LAYOUTS = {
    "two adjacent, first": [(84, 84), (56, 140), 6],
    "none": [9],
    "five, some made smaller or larger": [3, (290, 200), 2, (28, 56), (60, 60), (140, 168), 4, (90, 250), 5],
    "one in the middle": [4, (113, 57), 3],
}


def random_model(config: models.Config, seed: int = 0, dtype=jnp.float32) -> models.Model:
    """A model with all weights random, norms and biases included, at a scale that keeps activations near 1."""
    network = models.family(config).Model
    graph, state = nnx.split(nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0), dtype=dtype)))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        leaf_name = [str(getattr(key, "key", "")) for key in path if getattr(key, "key", None)][-1]
        noise = rng.normal(size=leaf.shape)
        if leaf_name == "kernel":  # shape [C, time, p, p, D] for the patch embedding, [layers, D, E] for a layer
            fan_in = leaf.shape[-2] if leaf.ndim < 5 else np.prod(leaf.shape[:-1])
            noise *= fan_in**-0.5
        elif leaf_name == "embedding":
            noise *= 0.5
        else:
            noise = 0.1 * noise + (leaf_name == "scale")
        return jnp.asarray(noise, leaf.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))


EVERYWHERE = r"(model\.layers|visual)\..*"  # LoRA targets: all linear layers except the head


def with_adapters(model: models.Model, targets: str = EVERYWHERE, seed: int = 0, **options) -> models.Model:
    """A copy of the model with non-zero adapters."""
    adapted = lora.add(nnx.merge(*nnx.split(model)), rank=3, alpha=6, targets=targets, seed=seed, **options)
    rng = np.random.default_rng(seed)
    for path, weight in nnx.to_flat_state(nnx.state(adapted)):
        if "lora_B" in path:
            noise = rng.normal(size=weight.shape).astype(np.float32) / 4
            weight[...] = jax.device_put(noise, weight[...].sharding)
    return adapted


def noise_image(height: int, width: int, seed: int) -> np.ndarray:
    """A noisy image, uint8 [H, W, 3], from integer arithmetic only: the same bytes with any library version."""
    x = np.arange(height * width * 3, dtype=np.uint32) + np.uint32(seed * 7919)
    for factor in (2654435761, 0x2C1B3C6D):
        x = x * np.uint32(factor)
        x ^= x >> np.uint32(15)
    y, x_axis, channel = np.indices((height, width, 3))
    ramp = (3 * y + 5 * x_axis + 40 * channel + 17 * seed) % 256
    return ((x >> np.uint32(24)).reshape(height, width, 3) // 2 + ramp // 2).astype(np.uint8)


def image_tokens(config: models.Config, image: np.ndarray, max_pixels: int = MAX_PIXELS) -> list[int]:
    """The tokens of an image: a start, one token per merged patch, an end."""
    height, width = images.grid(image.shape[:2], config.vision, MIN_PIXELS, max_pixels)
    merged = height * width // config.vision.spatial_merge_size**2
    return [config.vision_start_token_id, *[config.image_token_id] * merged, config.vision_end_token_id]


def text_tokens(config: models.Config, rng: np.random.Generator, count: int) -> list[int]:
    """Random ordinary tokens."""
    return rng.integers(10, 290, count).tolist()


def prompt(config: models.Config, parts, seed: int = 0, max_pixels: int = MAX_PIXELS):
    """(ids, images) of a prompt given by its parts, as in LAYOUTS."""
    rng = np.random.default_rng(seed)
    ids, images = [], []
    for place, part in enumerate(parts):
        if isinstance(part, int):
            ids += text_tokens(config, rng, part)
        else:
            images.append(noise_image(*part, seed=100 * seed + place))
            ids += image_tokens(config, images[-1], max_pixels)
    return ids, images


def prompts(config: models.Config):
    """One prompt for each layout."""
    return [prompt(config, parts, seed) for seed, parts in enumerate(LAYOUTS.values())]


def features(model: models.Model, inputs: Inputs, row: int) -> np.ndarray:
    """The merged image tokens [S, E] of one prompt in packed inputs, in its order."""
    tokens = np.asarray(model.encode(inputs.vision))
    index = inputs.image_index[row][inputs.image_index[row, :, 0] >= 0]
    return tokens[index[:, 0], index[:, 1]]


def next_token_loss(logits, ids, mask):
    """The negative sum of each prompt's next-token logprobs, over 100; its gradient reaches every weight."""
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), jnp.asarray(ids)[:, 1:, None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(mask[:, 1:], logp, 0.0)) / 100


def array_shapes(jaxpr):
    """The shapes of all values that a program computes, including nested programs."""
    for equation in jaxpr.eqns:
        yield from (tuple(v.aval.shape) for v in equation.outvars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from array_shapes(inner)
