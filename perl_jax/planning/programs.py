"""Compiles a run's programs ahead of time for devices that are not available.

Shapes are those of the largest step that a config allows; no weights are read.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import models
from models.errors import InputError
from models.layers import remat_name
from perl_jax import mesh, policy, rollout, update
from perl_jax.engine import decode_batch as batches
from perl_jax.engine.sampling import Sampling
from perl_jax.planning.roofline import Assumed, decode_batch, lengths, question_tokens, temporary
from perl_jax.training import schedule

PHASES = ("prefill images", "prefill", "decode", "update images", "update", "optimizer")
LIVES = {  # phases during which each buffer is on a device
    **dict.fromkeys(("weights", "frozen weights", "reference", "optimizer state"), PHASES),
    "gradients": ("update images", "update", "optimizer"),
    "weights to prefill": ("prefill images", "prefill", "decode"),  # where sampling has a mesh of its own
    "decoding copy": ("prefill images", "prefill", "decode"),
    "prompt caches": ("prefill images", "prefill", "decode"),
    "response caches": ("prefill images", "prefill", "decode"),  # prompts are prefilled while others decode
}


class Compiled(NamedTuple):
    """Memory of one program on one device, in bytes, and the bytes it communicates {kind: bytes}, as in `sent`."""

    arguments: float
    total: float  # with temporary memory and results, less donated arguments
    results: float
    sent: dict[str, float]


def devices_of(topology: str, slices: int = 1) -> list:
    """The devices of a TPU topology such as v5e:4x4, for compilation only. Raises InputError for an unknown one."""
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    from jax.experimental import topologies

    more = {"num_slices": slices} if slices > 1 else {}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **more).devices
    except Exception as error:  # libtpu raises various exceptions
        line = str(error).splitlines()[0]
        raise InputError(
            f"--topology={topology}: {line}; it needs libtpu (pip install -r requirements-tpu.txt) and a "
            "name like v5e:4x4, v6e:4x4 or v5p:2x2x1"
        ) from error


def programs(
    config: ConfigDict, sizes: models.Config, assumed: Assumed
) -> tuple[dict[str, Callable], dict[str, float]]:
    """({name: function that lowers it}, {resident buffer: bytes on a device}) on the current mesh, for one step."""
    model = model_of(config, sizes)
    optimizer = schedule.optimizer(config, config.warmup.steps + 1)
    state = jax.eval_shape(lambda model: update.init(model, optimizer, policy.trainable(config)), model)
    state = state.replace(
        **{name: with_sharding(getattr(state, name)) for name in ("trainable", "frozen", "opt_state")}
    )
    of_rollouts, of_sampling = sampling(config, sizes, assumed, model)
    return of_rollouts | updating(config, sizes, assumed, state), {
        "weights": share(state.trainable),
        "frozen weights": share(state.frozen),
        "reference": of_reference(config, model),
        "optimizer state": share(state.opt_state),
        "gradients": share(state.trainable),
        **of_sampling,
    }


def resident_bytes(resident: Mapping[str, float], phase: str, but: tuple[str, ...] = ()) -> float:
    """Bytes of all buffers resident on a device in a phase, except those in `but`."""
    return sum(size for part, size in resident.items() if phase in LIVES[part] and part not in but)


def estimated(config: ConfigDict, sizes: models.Config, assumed: Assumed) -> tuple[dict[str, float], dict[str, float]]:
    """({resident buffer: bytes on a device}, {phase: bytes that it needs in all}), without compilation."""
    _, resident = programs(config, sizes, assumed)
    more = temporary(config, sizes, assumed, resident, jax.sharding.get_abstract_mesh().size, mesh.shards())
    return resident, {phase: resident_bytes(resident, phase) + size for phase, size in more.items()}


def model_of(config: ConfigDict, sizes: models.Config) -> models.Model:
    """The abstract model that the config trains, each weight in the dtype of `policy.load`."""
    network = models.family(sizes).Model
    model = nnx.eval_shape(
        lambda: policy.adapted(config, network(sizes, rngs=nnx.Rngs(0), compute_dtype=config.compute_dtype))
    )
    graph, weights = nnx.split(model)
    dtype_of = policy.dtypes(config)
    weights = [
        (path, leaf.replace(jax.ShapeDtypeStruct(leaf.shape, dtype_of(".".join(path)))))
        for path, leaf in nnx.to_flat_state(weights)
    ]
    return nnx.merge(graph, nnx.from_flat_state(weights))


def of_reference(config: ConfigDict, model: models.Model) -> float:
    """Bytes on one device of a reference policy that shares no weights."""
    if not config.loss.kl_coef or config.lora.rank:
        return 0.0
    return share(with_sharding(nnx.state(jax.eval_shape(partial(policy.reference, config), model))))


def with_sharding(tree, layout: str = "train"):
    """Abstract weights, or a pytree like them, with their shardings."""

    def place(leaf):
        if not isinstance(leaf, nnx.Variable):
            return mesh.abstract(leaf.shape, leaf.dtype)
        where = mesh.partition_spec(leaf.shape, leaf.get_metadata("axes"), layout)
        return leaf.replace(mesh.abstract(leaf.shape, leaf.dtype, *where))

    return jax.tree.map(place, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def images(config: ConfigDict, sizes: models.Config, assumed: Assumed, count: int):
    """An abstract vision pack of `count` images, one per row, which may be longer than the image."""
    patches, _ = lengths(config, sizes, assumed)
    pack = models.family(sizes).pack_shapes(sizes.vision, patches, count, mesh.shards())
    return jax.tree.map(lambda x: mesh.abstract(x.shape, x.dtype, mesh.ROWS), pack)


def sampling(
    config: ConfigDict, sizes: models.Config, assumed: Assumed, model: models.Model
) -> tuple[dict[str, Callable], dict[str, float]]:
    """The programs of rollouts of the largest shapes, and their resident buffers, on the mesh of `sampling.tensor`."""
    c, at_once, prompts = config.sampling, decode_batch(config), config.questions * (config.n_s + 1)
    tokens = lengths(config, sizes, assumed)[1]
    in_prompts = -(-at_once // (config.n_s + 1)) * assumed.images
    with mesh.with_tensor(c.tensor) as is_other:
        graph, weights = nnx.split(model)
        decoder_graph, decoder_weights = nnx.split(jax.eval_shape(rollout.for_decoding, model))
        weights, decoder_weights = with_sharding(weights), with_sharding(decoder_weights, "decode")
        lowered, caches = rollout.abstract_programs(
            sizes,
            (graph, weights),
            (decoder_graph, decoder_weights),
            Sampling(c.temperature, c.top_p, c.top_k, (0,)),
            images(config, sizes, assumed, in_prompts),
            shapes=batches.shapes(
                [tokens] * at_once, at_once, config.rollouts, c.max_new_tokens, mesh.shards(), prompts > at_once, False
            ),
            prompt_tokens=tokens,
            dtype=jnp.dtype(config.compute_dtype),
        )
        return {name: mesh.in_any_thread(lower) for name, lower in lowered.items()}, {
            "weights to prefill": share(weights) if is_other else 0.0,
            "decoding copy": share(decoder_weights),
            "prompt caches": share(caches.prompts),
            "response caches": share((caches.recent, caches.pages)),
        }


def updating(config: ConfigDict, sizes: models.Config, assumed: Assumed, state: update.State) -> dict[str, Callable]:
    """The programs of an update."""
    tokens = config.micro_batch.rows * mesh.shards() * config.micro_batch.row_tokens
    questions = max(1, tokens // question_tokens(config, sizes, assumed))
    losses = tuple((name, value) for name, value in config.loss.items() if name != "aggregate")
    return update.abstract_programs(
        sizes,
        state,
        update.Options(losses, config.sampling.temperature, remat_name(config.remat)),
        images(config, sizes, assumed, questions * assumed.images),
        **config.micro_batch,
        old_logprobs=config.optimizer.steps_per_batch > 1,
        dtype=jnp.dtype(config.compute_dtype),
    )


def share(tree) -> float:
    """Bytes of a tree's arrays on one device."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def compiled(lower: Callable) -> Compiled | float:
    """Memory of a program; if it does not fit, the ratio of needed to available memory."""
    try:
        program = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        return overflow(str(error))
    memory = program.memory_analysis()
    total = (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return Compiled(memory.argument_size_in_bytes, total, memory.output_size_in_bytes, sent(program.as_text()))


def overflow(message: str) -> float:
    """The ratio of needed to available memory, from the compiler's message. Raises RuntimeError for other messages."""
    match = re.search(r"\(([\d.]+)([MG])\) exceeds available HBM \(([\d.]+)([MG])\)", message)
    match = match or re.search(r"Used ([\d.]+)([MG]) of ([\d.]+)([MG]) hbm", message)
    if not match:
        raise RuntimeError(message)
    scale = {"M": 1.0, "G": 1024.0}
    return float(match[1]) * scale[match[2]] / (float(match[3]) * scale[match[4]])


BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
COLLECTIVE = re.compile(r"= (.+?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\((.*)")


def sent(text: str) -> dict[str, float]:
    """Bytes of the results of a compiled program's collectives, by kind.

    Collectives in a loop are multiplied by its trip count; where that is unknown, as in decode, they count once.
    """
    bodies, times = computations(text), {}
    for name in bodies:
        times[name] = 1
    for name in reversed(list(bodies)):  # callers come after their callees
        for condition, body in re.findall(r" while\(.*?condition=%?([\w.-]+), body=%?([\w.-]+)", bodies[name]):
            times[body] = times[name] * trips(bodies[condition])
        for callees in re.findall(r"(?:calls|\w+_computations?)=(\{[^}]*\}|[%\w.-]+)", bodies[name]):
            for callee in re.findall(r"[\w.-]+", callees):
                times[callee] = max(times[callee], times[name])
    sizes_by_channel = {}  # by channel: an asynchronous operation appears several times
    for name, body in bodies.items():
        for number, (shapes, kind, start, rest) in enumerate(COLLECTIVE.findall(body)):
            sizes = [
                BYTES.get(kind, 0) * int(np.prod([int(n) for n in dims.split(",") if n]))
                for kind, dims in re.findall(r"\b(\w+)\[([\d,]*)\]", shapes)
            ]
            size = sum(sizes) if kind == "all-reduce" or not start else max(sizes)  # others start with (input, output)
            channel = re.search(r"channel_id=(\d+)", rest)
            key = kind, channel[1] if channel else (name, number)
            sizes_by_channel[key] = max(sizes_by_channel.get(key, 0), size * times[name])
    total = {}
    for (kind, _), size in sizes_by_channel.items():
        total[kind] = total.get(kind, 0) + size
    return total


def computations(text: str) -> dict[str, str]:
    """{name: body} of a compiled program's computations, in order of appearance."""
    parts = re.split(r"^(?:ENTRY )?%?([\w.-]+) \([^\n]*\{\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def trips(condition: str) -> int:
    """The trip count of a loop from 0 to the only constant of its condition; 1 if there is no such constant, or if it
    may also end earlier."""
    constants = [int(n) for n in re.findall(r"[su]32\[\]\S* constant\((\d+)\)", condition)]
    counts = re.search(r"ROOT \S+ = pred\[\]\S* compare\(", condition)
    return constants[0] if counts and len(constants) == 1 and constants[0] else 1
