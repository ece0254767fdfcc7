"""FLOP counts of a step, and model FLOPs utilisation (MFU).

A multiply-add counts as 2, a backward pass as twice its forward pass. Counted is what the method needs with full
sharing: each image once, each prompt once, matrix products and attention over visible pairs. Norms, softmaxes, padding
and recomputation (remat) are not counted, so that numbers are comparable between implementations.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax

import models
from models.packing import image_runs


class Device(NamedTuple):
    """A device's data sheet values."""

    peak: float  # dense bfloat16 FLOPs a second
    bandwidth: float  # bytes a second from device memory
    memory: float  # bytes
    network: float  # bytes a second between devices of a slice or node, one way


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
    """FLOPs of a text tower forward pass: `tokens` tokens, `pairs` visible pairs in attention, `scored` rows of logits.

    2 tokens L (2 D H d + 2 D J d + 3 D F) + 4 pairs L H d + 2 scored D V.
    """
    D, F, L = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layer = 2 * D * q + 2 * D * kv + 3 * D * F
    return 2 * tokens * L * layer + 4 * pairs * L * q + 2 * scored * D * config.vocab_size


def group(
    config: models.Config, patches: Sequence[int], prompts: Iterable[int], responses: Iterable[Iterable[int]]
) -> int:
    """FLOPs of a forward pass over one question: its images, and the prompt and response lengths of each order.

    Sampling computes this once (prompts in prefill, responses in decode), an update three times.
    """
    total = config.vision.flops(patches)
    for prompt, lengths in zip(prompts, responses):
        lengths = list(lengths)
        pairs = prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in lengths)
        total += text(config.text, prompt + sum(lengths), pairs, sum(lengths))
    return total


def decoded_bytes(
    config: models.TextConfig, streams: int, prompts: int, prompt: float, decoded: float, size: int
) -> float:
    """Bytes that a decode step must read: the weights, the KV caches of `prompts` prompts and of `streams` streams.

    `prompt` and `decoded` are the mean tokens in a prompt and a per-stream KV cache; `size` is bytes per number.
    """
    D, d, L, J = config.hidden_size, config.head_dim, config.num_hidden_layers, config.num_key_value_heads
    layer = 2 * D * d * (config.num_attention_heads + J) + 3 * D * config.intermediate_size
    cached = 2 * L * J * d * (prompts * prompt + streams * decoded)
    return size * (L * layer + D * config.vocab_size + cached)


def image_patches(config: models.Config, ids: Sequence[int]) -> list[int]:
    """Patches of each image of a prompt, from its runs of image tokens."""
    starts, ends = image_runs(config, ids)
    return ((ends - starts) * config.vision.spatial_merge_size**2).tolist()


def utilisation(flops: float, seconds: float) -> dict[str, float]:
    """{"mfu": share of the peak of all devices}, or {} where the device's peak is unknown (as on a CPU)."""
    device = DEVICES.get(jax.devices()[0].device_kind)
    return {"mfu": flops / seconds / (device.peak * jax.device_count())} if device and seconds > 0 else {}
