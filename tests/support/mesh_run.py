"""Results that tests compare between meshes: rollouts, logprobs and an update of a tiny model.

As a program, `python tests/support/mesh_run.py MODELS OUT DEVICES JSON`: the same on virtual CPU devices, with a file
OUT/NAME.npz for each {NAME: (mesh sizes, a case below)}, and OUT/NAME.json with what was compiled. MODELS has a
model of each family.
"""

import dataclasses
import json
import os
import re
import sys
from pathlib import Path

PROMPTS, SAMPLES = 5, 3  # 5 prompts: divisible by no mesh


def configs() -> dict:
    """{family: 6 query and 2 key heads, few layers, unrolled: each one more is compiled for each mesh}."""
    import tiny

    def cut(config, **vision):
        vision = dataclasses.replace(config.vision, depth=2, **vision)
        return dataclasses.replace(config, vision=vision, text=dataclasses.replace(config.text, num_hidden_layers=2))

    return {
        "qwen2_5_vl": cut(tiny.CONFIGS["untied"], fullatt_block_indexes=(1,)),
        "qwen3_vl": cut(tiny.QWEN3["qwen3-untied"], deepstack_visual_indexes=(0, 1)),
    }


def all_weights(model, sharding=None):
    """Trains all weights."""
    return model, None


def adapters(model, sharding=None):
    """Trains adapters in both towers."""
    import tiny

    from models import lora

    return tiny.with_adapters(model, sharding=sharding), lora.is_adapter


def text(model, sharding=None):
    """Freezes the vision tower."""
    return model, lambda path: not path.startswith("visual.")


TENSOR = {"cut": 2}  # of sampling alone, by the mesh's name
# name: (the family, the model and which of its weights train, new tokens). Only "long" takes pages and moves streams,
# which takes eight decoding programs instead of one, and recomputes activations.
CASES = {
    "long": ("qwen2_5_vl", all_weights, 80),
    "short": ("qwen2_5_vl", all_weights, 40),
    "adapters": ("qwen2_5_vl", adapters, 40),
    "text": ("qwen2_5_vl", text, 40),
    "second family": ("qwen3_vl", all_weights, 40),
}


def sampled(model, max_new_tokens: int, tensor: int = 0) -> dict:
    """{name: array} of rollouts."""
    import tiny

    from perl_jax import rollout

    prompts = [*tiny.prompts(model.config), tiny.prompt(model.config, [5], seed=7)]
    assert len(prompts) == PROMPTS
    out = rollout.generate(
        model,
        prompts,
        samples=SAMPLES,
        max_new_tokens=max_new_tokens,
        eos_ids=range(10, 20),
        min_pixels=tiny.MIN_PIXELS,
        max_pixels=tiny.MAX_PIXELS,
        tensor=tensor,
    )
    return {"tokens": out.tokens, "lengths": out.lengths, "sampled": out.logprobs}


def groups_and_rows(model) -> tuple[list, dict]:
    """(groups of an update, options of how they are packed)."""
    import numpy as np
    import tiny

    from perl_jax import update

    rng = np.random.default_rng(0)
    groups = []
    for q in range(5):
        ids, images = tiny.prompt(model.config, [(84, 84), 3, (84, 84), 6], seed=q)
        responses = [[tiny.text_tokens(model.config, rng, rng.integers(1, 9)) for _ in range(3)] for _ in range(2)]
        groups.append(update.Group(images, [(0, 1), (1, 0)], [ids, ids], responses, rng.normal(size=(2, 3))))
    return groups, {"rows": 1, "row_tokens": 96, "min_pixels": tiny.MIN_PIXELS, "max_pixels": tiny.MAX_PIXELS}


def results(model, trainable, optimizer, max_new_tokens: int, remat: bool = False, tensor: int = 0) -> dict:
    """{name: array} of all results that must be equal on any mesh; without rollouts for 0 new tokens."""
    import numpy as np

    import models
    from perl_jax import update

    groups, rows = groups_and_rows(model)
    logprobs = update.logprobs(model, groups, **rows)
    state, metrics = update.step(update.init(model, optimizer, trainable), groups, remat=remat, **rows)
    names = ("loss", "grad_norm", "entropy", "logprob", "ratio_max", "update_norm")
    return {
        **(sampled(model, max_new_tokens, tensor) if max_new_tokens else {}),
        "logprobs": logprobs,
        **{f"metric {name}": metrics[name] for name in names},
        **{f"weight {name}": np.asarray(value) for name, value in models.named(state.model).items()},
    }


def in_bfloat16(model, optimizer) -> dict[str, float]:
    """Metrics of an update in bfloat16 compute."""
    import jax.numpy as jnp

    from perl_jax import update

    groups, rows = groups_and_rows(model)
    model.compute_dtype = jnp.dtype(jnp.bfloat16)
    _, metrics = update.step(update.init(model, optimizer), groups, **rows)
    return {name: float(metrics[name]) for name in ("loss", "grad_norm", "logprob", "entropy")}


def gathered(text: str) -> set[tuple[int, ...]]:
    """The shapes of all all-gathers in a compiled program, inside and outside loops."""
    shapes = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather", text)
    return {tuple(map(int, filter(None, shape.split(",")))) for shape in shapes}


def main(folder: str, out: str, devices: str, meshes: str) -> None:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import numpy as np
    import optax
    from environment import CACHE

    import models
    from models import weights
    from perl_jax import mesh, rollout
    from perl_jax.engine import embeddings
    from perl_jax.runtime.compilations import Compilations

    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    weights.PIECE = 4096  # so that the larger weights are assembled on each device
    descent = optax.sgd(0.01)
    decode, shapes = rollout._decode, set()

    def spied(*args):
        shapes.update(gathered(decode.lower(*args).compile().as_text()))
        return decode(*args)

    spied.lower = decode.lower
    patches = embeddings.PATCHES
    rollout._decode = spied
    for name, (sizes, case) in json.loads(meshes).items():
        embeddings.PATCHES = 1 if name == "all" else patches  # a shard's images one by one
        with jax.set_mesh(mesh.make(**sizes)):
            family, make, tokens = CASES[case]
            model, trainable = make(models.load(Path(folder, family), sharding=mesh.sharding), mesh.sharding)
            options = descent, tokens, case == "long", TENSOR.get(name, 0)
            np.savez(Path(out, f"{name}.npz"), **results(model, trainable, *options))
            in_decoding = sorted(shapes)
            with Compilations() as compilations:
                results(model, trainable, *options)
            shapes.clear()
            if name == "fsdp":
                reshard, mesh.reshard = mesh.reshard, lambda state, layout: state  # decodes in the training layout
                sampled(model, tokens)
                mesh.reshard = reshard
            half = in_bfloat16(model, descent) if name == "fsdp" else {}
        summary = {
            "bfloat16": half,
            "compiled": compilations.count,
            "gathered": in_decoding,
            "gathered in the training layout": sorted(shapes),
        }
        shapes.clear()
        Path(out, f"{name}.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main(*sys.argv[1:])
