"""Roofline estimates of a run's time, and of its memory where programs cannot be compiled.

FLOPs at a share of a device's peak, bytes at the same share of its memory and network bandwidths.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

import models
from models.layers import remat_name
from models.packing import bucket
from perl_jax.engine import chunked_head, embeddings, flops
from perl_jax.engine.prefill import FULL

FILTERED = 58_000, 10  # samples and rollouts of each in the paper's rollout filter
SCORES = 84  # numbers that XLA keeps for each score of dense attention in the vision tower, where all is kept
ATTENTION = 0.1  # share of a forward pass that is not products with weights, at a few thousand tokens
EVALUATED = {
    "Mantis-Eval": 217,
    "BLINK": 1901,
    "MMIU": 11698,
    "ReMI": 2600,
    "MV-MATH": 2009,
    "MathVista": 1000,
    "MathVerse": 3940,
    "MathVision": 3040,
}  # questions of the paper's benchmarks


class Assumed(NamedTuple):
    """Assumptions about data and devices."""

    images: int = 4  # of a mean question, each with the most pixels that the config allows
    words: int = 150  # tokens of its text
    response: int = 600  # tokens of a response
    efficiency: float = 0.4  # share of a device's rates that is achieved


def lengths(config: ConfigDict, sizes: models.Config, assumed: Assumed) -> tuple[int, int]:
    """(patches of an image, tokens of a prompt)."""
    side = sizes.vision.patch_size * sizes.vision.spatial_merge_size
    patches = int(config.prompt.max_pixels**0.5 // side) ** 2 * sizes.vision.spatial_merge_size**2
    tokens = patches // sizes.vision.spatial_merge_size**2 + 2
    return patches, min(assumed.images * tokens + assumed.words, config.prompt.max_tokens)


def question_tokens(config: ConfigDict, sizes: models.Config, assumed: Assumed) -> int:
    """Tokens of a question in an update: each order's prompt and responses."""
    _, prompt = lengths(config, sizes, assumed)
    return (config.n_s + 1) * (prompt + config.rollouts * assumed.response)


def step(
    config: ConfigDict, sizes: models.Config, assumed: Assumed, device: flops.Device, count: int, shards: int
) -> dict:
    """Seconds of a training step by part, on `count` devices with rows in `shards` shards."""
    patches, prompt = lengths(config, sizes, assumed)
    Q, O, C = config.questions, config.n_s + 1, config.micro_batch.row_tokens
    rate = device.peak * assumed.efficiency * count
    row = flops.text(sizes.text, C, C * (prompt + assumed.response // 2), C)
    rows = micro_batches(config, sizes, assumed, shards) * config.micro_batch.rows * shards  # including empty rows
    vision = sizes.vision.flops([patches] * assumed.images * Q)
    return {
        **sampling(config, sizes, assumed, device, count, shards, Q * O, config.rollouts, Q),
        "update": passes(config) * (rows * row + vision) / rate,
    }


def decode_batch(config: ConfigDict) -> int:
    """The number of prompts decoded at a time."""
    prompts = config.questions * (config.n_s + 1)
    return min(config.sampling.batch or prompts, prompts)


def shards_of_sampling(config: ConfigDict, count: int, shards: int) -> int:
    """Shards of rows while sampling on `count` devices, of which each `config.sampling.tensor` hold the weights."""
    return count // config.sampling.tensor if config.sampling.tensor else shards


def work(config: ConfigDict, sizes: models.Config, assumed: Assumed) -> int:
    """FLOPs of a training step: all groups once for sampling, three times for the update."""
    patches, prompt = lengths(config, sizes, assumed)
    responses = [[assumed.response] * config.rollouts] * (config.n_s + 1)
    prompts = [prompt] * (config.n_s + 1)
    return 4 * config.questions * flops.group(sizes, [patches] * assumed.images, prompts, responses)


def passes(config: ConfigDict) -> float:
    """The cost of an update, in forward passes. The first part of a batch needs no pass for old log-probs."""
    steps = config.optimizer.steps_per_batch
    return update_passes(config) + (1 - 1 / steps) + (config.loss.kl_coef > 0)


def update_passes(config: ConfigDict) -> float:
    """The cost of gradients, in forward passes: forward, twice backward, and what is recomputed."""
    return 3 + {"none": 0.0, "dots": ATTENTION, "full": 1.0}[remat_name(config.remat)]


def micro_batches(config: ConfigDict, sizes: models.Config, assumed: Assumed, shards: int) -> int:
    """The number of micro-batches of a training step."""
    steps = config.optimizer.steps_per_batch
    tokens = config.questions * question_tokens(config, sizes, assumed) / steps
    return steps * int(np.ceil(tokens / (config.micro_batch.row_tokens * config.micro_batch.rows * shards)))


def sampling(
    config,
    sizes: models.Config,
    assumed: Assumed,
    device: flops.Device,
    count: int,
    shards: int,
    prompts: int,
    samples: int,
    questions: int,
) -> dict[str, float]:
    """Seconds for `samples` responses to each of `prompts` prompts, of `questions` questions."""
    patches, prompt = lengths(config, sizes, assumed)
    work = sizes.vision.flops([patches] * assumed.images * questions)
    work += prompts * flops.text(sizes.text, prompt, prompt * prompt // 2, samples)
    batch = min(prompts, decode_batch(config))
    shards = shards_of_sampling(config, count, shards)
    share = -(-batch // shards)
    tokens = prompts / batch * assumed.response
    read = flops.decoded_bytes(sizes.text, share * samples, share, prompt, assumed.response / 2, 2)
    return {
        "prefill": work / (device.peak * assumed.efficiency * count),
        "decode": tokens * read / (device.bandwidth * assumed.efficiency * (count // shards)),
    }


def inference(
    config,
    sizes: models.Config,
    assumed: Assumed,
    device: flops.Device,
    count: int,
    shards: int,
    questions: int,
    samples: int,
) -> float:
    """Seconds for `samples` responses to each question, in original order, with the batch size of training."""
    return sum(sampling(config, sizes, assumed, device, count, shards, questions, samples, questions).values())


def network(
    sent: Mapping[str, float], config, sizes: models.Config, assumed: Assumed, device: flops.Device, shards: int
) -> float:
    """Seconds of communication in a training step, from the bytes that each compiled program sends."""
    batches = micro_batches(config, sizes, assumed, shards)
    times = {
        "decode": assumed.response,
        "update images": batches,
        "optimizer": config.optimizer.steps_per_batch,
        "update": batches * passes(config) / update_passes(config),
    }
    return sum(size * times.get(name, 1) for name, size in sent.items()) / (device.network * assumed.efficiency)


def temporary(
    config, sizes: models.Config, assumed: Assumed, resident: Mapping[str, float], count: int, shards: int
) -> dict[str, float]:
    """Estimated bytes on one device that each phase needs in addition to `resident`, without compilation.

    Included are what `remat` keeps of each layer for the backward pass, and all activations of one layer, forward and
    backward; the logits in memory; the gathered head and its gradient; and a second copy of the gradients, before a
    row's are added. Compared with what XLA needs for H100s (`perl_7b_8xh100.py`, without devices): full 17 GiB for
    11, dots 43 for 36, none 657 for 639.
    """
    text, vision, T = sizes.text, sizes.vision, count // shards
    sampling_shards = shards_of_sampling(config, count, shards)
    T_sampling = count // sampling_shards
    patches, prompt = lengths(config, sizes, assumed)
    D, C, size = text.hidden_size, config.micro_batch.row_tokens, np.dtype(np.float16).itemsize
    heads = 2 * (text.num_attention_heads + text.num_key_value_heads) * text.head_dim
    layer = size * (4 * D + (heads + 4 * text.intermediate_size) // T)  # activations per token
    layer_of_prefill = size * (4 * D + (heads + 4 * text.intermediate_size) // T_sampling)
    N = -(-decode_batch(config) // sampling_shards)
    encoded = min(N * assumed.images * patches, max(embeddings.PATCHES, patches))
    tower = encoded * size * (4 * vision.hidden_size + 4 * vision.intermediate_size)
    tower += 2 * encoded * patches * vision.num_heads * 4  # scores of full attention
    images = N * assumed.images * patches // sizes.vision.spatial_merge_size**2 * sizes.embedding_size * size
    in_row = patches * assumed.images * max(1.0, C / question_tokens(config, sizes, assumed))
    patches_kept = in_row * config.micro_batch.rows
    qkv = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    products = 2 * D + (qkv + 2 * text.intermediate_size) // T
    kept = D  # numbers of a token and layer, and of a patch and block
    kept_of_patch = vision.hidden_size
    remat = remat_name(config.remat)
    if remat != "full":
        kept += products
    if remat == "none":
        kept += 8 * D + 4 * text.intermediate_size // T
        kept_of_patch += 16 * vision.hidden_size + 6 * vision.intermediate_size + SCORES * patches * vision.num_heads
    activations = text.num_hidden_layers * C * kept * size
    saved = vision.depth * kept_of_patch * size * patches_kept
    return {
        "prefill": max(tower, min(N * bucket(prompt), max(bucket(prompt), FULL["gpu"])) * layer_of_prefill) + images,
        "decode": 3 * 4 * N * config.rollouts * text.vocab_size / T_sampling,
        "update": activations
        + 2 * C * layer
        + 3 * 4 * chunked_head.CHUNK
        + 6 * D * text.vocab_size / T
        + saved
        + tower
        + resident["gradients"]
        + 2 * config.micro_batch.rows * C * sizes.embedding_size * size,
        "optimizer": 0.0,
    }
