"""LoRA adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685): trains a low-rank product for each kernel.

A linear layer with an adapter is `x @ kernel + (x @ A) @ B * (alpha / rank)` (`Linear.__call__`). A and B are linear
layers themselves, `lora_A` [..., inputs, rank] and `lora_B` [..., rank, outputs], stacked like the kernel and with its
logical axes; so their hub names are PEFT's. B starts at zero: a new adapter changes nothing.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import models
from models.errors import InputError
from models.layers import ZEROS, Linear, precision
from models.source import memory_name
from models.weights import named, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's


def add(
    model: models.Model,
    *,
    rank: int,
    alpha: float,
    targets: str,
    seed: int,
    sharding: Callable[[tuple[int, ...], tuple[str, ...]], jax.sharding.Sharding] | None = None,
) -> models.Model:
    """Adds float32 adapters in place, and returns the model.

    `targets` is a regular expression for the whole path of a linear layer, such as "model.layers.self_attn.q_proj" or
    "visual.blocks.attn.qkv" (not of the head, which may be the embedding); `sharding` as for `load`. Raises InputError
    where nothing matches.
    """
    linears = {path: linear for path, linear in _linears(model) if path != "lm_head"}
    selected = {path: linear for path, linear in linears.items() if re.fullmatch(targets, path)}
    if not selected:
        raise InputError(f"LoRA's targets {targets!r} match none of {', '.join(linears)}")
    rngs = nnx.Rngs(seed)

    def adapter(shape, axes, init):
        # Initialised sharded: on a mesh no device holds all of it.
        where = sharding and sharding(shape, axes)
        placed = jax.jit(init, static_argnums=(1, 2), out_shardings=where)
        return Linear(shape, axes, init=placed, rngs=rngs, dtype=jnp.float32)

    for linear in selected.values():
        *stack, inputs, outputs = linear.kernel.shape
        *layers, of_inputs, of_outputs = linear.kernel.get_metadata("axes")
        linear.lora_A = adapter((*stack, inputs, rank), (*layers, of_inputs, "rank"), _uniform)
        linear.lora_B = adapter((*stack, rank, outputs), (*layers, "rank", of_outputs), ZEROS)
        linear.lora_scale = alpha / rank
    return model


def _uniform(key, shape, dtype):
    """PEFT's initialisation of A: Kaiming uniform with a = sqrt(5)."""
    bound = shape[-2] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def is_adapter(path: str) -> bool:
    """Whether the parameter at `path` belongs to an adapter: a `trainable` of `update.init`."""
    return ".lora_" in path


def without(model: models.Model) -> models.Model:
    """The model without its adapters, sharing its arrays."""
    base = nnx.merge(*nnx.split(model))
    for _, linear in _adapted(base):
        del linear.lora_A, linear.lora_B, linear.lora_scale
    return base


def merge(model: nnx.Module) -> nnx.Module:
    """Merges the adapters into their kernels in place, in float32, cast to the kernel's dtype; returns the model."""
    for _, linear in _adapted(model):
        merged = _merged(*(w.kernel[...] for w in (linear, linear.lora_A, linear.lora_B)), linear.lora_scale)
        linear.kernel = linear.kernel.replace(merged)  # a new variable, since other models may share the old one
        del linear.lora_A, linear.lora_B, linear.lora_scale
    return model


@partial(jax.jit, static_argnums=3)
def _merged(kernel, a, b, scale: float):
    added = jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision=precision(jnp.float32)) * scale
    return (kernel.astype(jnp.float32) + added).astype(kernel.dtype)


def save(model: models.Model, path: Path, base: dict[str, Any]) -> None:
    """Writes the adapters to the directory `path` in PEFT's format, with transformers 5's module names.

    `base` names the base model: PEFT's `base_model_name_or_path`, and `revision`. Raises InputError where the model has
    no adapters.
    """
    adapted = list(_adapted(model))
    if not adapted:
        raise InputError("the model has no adapters")
    tensors = {name: value for name, value in named(model).items() if is_adapter(name)}
    write_tensors(path / WEIGHTS, {f"base_model.model.{memory_name(name)}": value for name, value in tensors.items()})
    modules = sorted(
        {re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(memory_name(name.partition(".lora_")[0]))) for name in tensors}
    )
    _, first = adapted[0]
    rank = first.lora_A.kernel.shape[-1]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        **base,
        "r": rank,
        "lora_alpha": first.lora_scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": "|".join(modules),
        "inference_mode": True,
    }
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _linears(model: nnx.Module) -> list[tuple[str, Linear]]:
    modules = nnx.iter_modules(model)
    return [(".".join(map(str, path)), module) for path, module in modules if isinstance(module, Linear)]


def _adapted(model: nnx.Module) -> list[tuple[str, Linear]]:
    return [(path, linear) for path, linear in _linears(model) if hasattr(linear, "lora_A")]
