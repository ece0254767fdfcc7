"""Counts what a step must compute, in floating-point operations, and says what share of a device's peak that is (MFU).

A multiply-add is 2. Counted is what the method needs with everything shared: an image once, a prompt once, matrix
products and attention over visible pairs; not norms, softmaxes, padding or what is computed again to save memory. A
backward pass is twice its forward pass. So a number is comparable whatever the implementation does.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax

import models
from models.packing import image_runs


class Device(NamedTuple):
    """What a vendor's data sheet says of one device."""

    peak: float  # dense bfloat16 FLOPs a second
    bandwidth: float  # bytes a second from its own memory
    memory: float  # bytes
    network: float  # bytes a second from the devices of its slice or node, one way


DEVICES = {  # by JAX's `device_kind`
    "TPU v4": Device(275e12, 1.23e12, 32e9, 300e9),
    "TPU v5 lite": Device(197e12, 0.82e12, 16e9, 200e9),
    "TPU v5": Device(459e12, 2.77e12, 95e9, 600e9),
    "TPU v6 lite": Device(918e12, 1.64e12, 32e9, 448e9),
    "NVIDIA A100-SXM4-40GB": Device(312e12, 1.56e12, 42e9, 300e9),
    "NVIDIA A100-SXM4-80GB": Device(312e12, 2.04e12, 85e9, 300e9),
    "NVIDIA H100 80GB HBM3": Device(989e12, 3.35e12, 85e9, 450e9),
    "NVIDIA H200": Device(989e12, 4.8e12, 150e9, 450e9),
}


def text(config: models.TextConfig, tokens: int, pairs: int, scored: int) -> int:
    """The text tower's forward pass over `tokens` tokens that see `pairs` tokens in all, and `scored` rows of logits.

    2 tokens L (2 D H d + 2 D J d + 3 D F) + 4 pairs L H d + 2 scored D V.
    """
    D, F, L = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layer = 2 * D * q + 2 * D * kv + 3 * D * F
    return 2 * tokens * L * layer + 4 * pairs * L * q + 2 * scored * D * config.vocab_size


def group(
    config: models.Config, patches: Sequence[int], prompts: Iterable[int], responses: Iterable[Iterable[int]]
) -> int:
    """A forward pass over one question: its images, and each order's prompt and responses, by their lengths.

    Sampling computes this once (the prompt as prefill, the responses token by token), an update three times.
    """
    total = config.vision.flops(patches)
    for prompt, lengths in zip(prompts, responses):
        lengths = list(lengths)
        pairs = prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in lengths)
        total += text(config.text, prompt + sum(lengths), pairs, sum(lengths))
    return total


def decoded_bytes(config: models.TextConfig, streams: int, prompts: int, prompt: float, own: float, size: int) -> float:
    """What a decoding step reads at least: the weights, the caches of `prompts` prompts and what `streams` wrote since.

    `prompt` and `own` are tokens, mean over prompts and streams; numbers have `size` bytes.
    """
    D, d, L, J = config.hidden_size, config.head_dim, config.num_hidden_layers, config.num_key_value_heads
    layer = 2 * D * d * (config.num_attention_heads + J) + 3 * D * config.intermediate_size
    cached = 2 * L * J * d * (prompts * prompt + streams * own)
    return size * (L * layer + D * config.vocab_size + cached)


def image_patches(config: models.Config, ids: Sequence[int]) -> list[int]:
    """The patches of each image of a prompt, read off its runs of image tokens."""
    starts, ends = image_runs(config, ids)
    return ((ends - starts) * config.vision.spatial_merge_size**2).tolist()


def utilisation(flops: float, seconds: float) -> dict[str, float]:
    """{"mfu": share of all devices' peak}, or nothing where the peak of the device is not known (as on a CPU)."""
    device = DEVICES.get(jax.devices()[0].device_kind)
    return {"mfu": flops / seconds / (device.peak * jax.device_count())} if device and seconds > 0 else {}
