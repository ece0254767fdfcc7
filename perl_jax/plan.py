"""What a run would take on TPUs that are not at hand: `python -m perl_jax.plan --config=FILE --topology=v5e:4x4`.

Compiles the run's own programs (pictures, update, optimizer, prefill, decoding) ahead of time with libtpu
(requirements-tpu.txt), and says what memory each phase of a step needs on a device, what the devices send each other,
and by roofline how long a step would take. No weights are read; sizes of published models are known here.
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import config_flags

from models import qwen2_5_vl as qwen
from models.errors import InputError
from models.qwen2_5_vl.attention import Spans
from models.qwen2_5_vl.config import PUBLISHED
from models.qwen2_5_vl.packing import Vision, block_size, bucket
from perl_jax import cli, embeddings, flops, mesh, rollout, settings, train, trees, update
from perl_jax.sampling import Sampling

FLAGS = flags.FLAGS
GIB = 2**30


class Chip(NamedTuple):
    """A device's own memory: bytes, and bytes a second (vendors' data sheets; FLOPs are in `flops.PEAK`)."""

    memory: float
    bandwidth: float


CHIPS = {"TPU v4": Chip(32e9, 1.23e12), "TPU v5 lite": Chip(16e9, 0.82e12), "TPU v5": Chip(95e9, 2.77e12),
         "TPU v6 lite": Chip(32e9, 1.64e12)}  # fmt: skip


class Assumed(NamedTuple):
    """What a config does not say, and no data tells: of a mean question."""

    images: int  # each with as many pixels as the config allows
    words: int  # tokens of its text
    response: int  # tokens of a response


class Compiled(NamedTuple):
    """What one program needs on one device, in bytes, and what it sends {kind: bytes of one pass over its text}."""

    arguments: float
    total: float  # with temporary memory and results, less what is donated
    results: float
    sent: dict[str, float]


def sizes_of(name: str) -> qwen.Config:
    """The sizes of `config.model`: of a published Qwen2.5-VL by its name, else those in a directory's config.json."""
    known = re.search(r"Qwen2\.5-VL-(\w+)-Instruct", name)
    if known and known[1] in PUBLISHED:
        return qwen.Config.published(known[1])
    if (file := Path(name, "config.json")).is_file():
        return qwen.Config.from_hf(json.loads(file.read_text(encoding="utf-8")))
    raise InputError(f"config.model is {name!r}: neither a directory nor one of Qwen/Qwen2.5-VL-"
                     f"({'|'.join(PUBLISHED)})-Instruct")  # fmt: skip


def devices_of(topology: str, slices: int = 1) -> list:
    """The devices of a TPU topology such as v5e:4x4, for compiling only. Raises InputError for an unknown one."""
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    from jax.experimental import topologies

    more = {"num_slices": slices} if slices > 1 else {}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **more).devices
    except Exception as error:  # libtpu raises what it likes
        line = str(error).splitlines()[0]
        raise InputError(f"--topology={topology}: {line}; it needs libtpu (pip install -r requirements-tpu.txt) and a "
                         "name like v5e:4x4, v6e:4x4 or v5p:2x2x1") from error  # fmt: skip


def lengths(config, sizes: qwen.Config, assumed: Assumed) -> tuple[int, int]:
    """(patches of a picture, tokens of a prompt)."""
    side = sizes.vision.patch_size * sizes.vision.spatial_merge_size
    patches = int(config.prompt.max_pixels**0.5 // side) ** 2 * sizes.vision.spatial_merge_size**2
    tokens = patches // sizes.vision.spatial_merge_size**2 + 2
    return patches, min(assumed.images * tokens + assumed.words, config.prompt.max_tokens)


def programs(config, sizes: qwen.Config, assumed: Assumed) -> tuple[dict[str, Callable], dict[str, float]]:
    """({name: what compiles it}, {what stays on a device: bytes}) on the current mesh, with the shapes of one step."""
    current, S = jax.sharding.get_mesh(), mesh.shards()
    dtype = jnp.dtype(config.compute_dtype)

    def array(shape, dtype=jnp.int32, *where):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(current, P(*where)))

    def weights(tree, layout="train"):
        def lay(leaf):
            where = mesh.spec(leaf.shape, leaf.get_metadata("axes"), layout) if isinstance(leaf, nnx.Variable) else P()
            shape = array(leaf.shape, leaf.dtype, *where)
            return leaf.replace(shape) if isinstance(leaf, nnx.Variable) else shape

        return jax.tree.map(lay, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))

    model = nnx.eval_shape(lambda: qwen.Qwen2_5_VL(sizes, rngs=nnx.Rngs(0), compute_dtype=dtype))
    graph, whole = nnx.split(model)
    optimizer = train.optimizer(config, config.warmup.steps + 1)
    state = jax.eval_shape(lambda model: update.init(model, optimizer, train.trainable(config)), model)
    state = state.replace(**{name: weights(getattr(state, name)) for name in ("trainable", "frozen", "opt_state")})
    whole = weights(whole)
    decoder = jax.eval_shape(rollout.for_decoding, model)
    decoder_graph, decoder_weights = nnx.split(decoder)
    decoder_weights = weights(decoder_weights, "decode")

    patches, prompt = lengths(config, sizes, assumed)
    B, C, D, R = config.micro_batch.rows, config.micro_batch.row_tokens, sizes.text.hidden_size, mesh.ROWS
    N = -(-config.questions * (config.n_s + 1) // S) * S
    T, G, longest = bucket(prompt), config.rollouts, config.sampling.max_new_tokens

    def pack(images):
        block = block_size(sizes.vision)
        room = block * bucket(-(-patches // block) + 1, least=1, between=2)
        shape = S * bucket(-(-images // S), least=1, between=2), room
        values = sizes.vision.in_channels * sizes.vision.temporal_patch_size * sizes.vision.patch_size**2
        return Vision(array((*shape, values), jnp.float32, R), *[array(shape, jnp.int32, R)] * 2,
                      array((*shape, 2), jnp.int32, R))  # fmt: skip

    def row(*more, dtype=jnp.int32):
        return array((B, S, C, *more), dtype, None, R)

    rows = trees.Rows(None, array((B, S, 3, C), jnp.int32, None, R), None, Spans(row(), row(), row()), None, row(),
                      row(), row(), prompts=C, window=C)  # fmt: skip
    reals = row(dtype=jnp.float32)
    several, reference = config.optimizer.steps_per_batch > 1, config.loss.kl_coef > 0
    tokens = update.Tokens(reals, reals, reals if several else None, reals if reference else None, reals)
    losses = ("clip_low", "clip_high", "dual_clip", "kl_coef")
    options = update.Options(tuple((name, config.loss[name]) for name in losses), config.sampling.temperature,
                             config.remat)  # fmt: skip
    questions_in_rows = max(1, B * S * C // ((config.n_s + 1) * (prompt + G * assumed.response)))

    sampling = Sampling(config.sampling.temperature, config.sampling.top_p, config.sampling.top_k, (0,))

    def stream(*more, dtype=jnp.int32):
        return array((N, *more), dtype, R)

    start = partial(rollout._start.lower, graph, whole, sampling, G, min(rollout.CAPACITY, longest - 1),
                    stream(T, D, dtype=dtype), array((3, N, T), jnp.int32, None, R), stream(), stream(),
                    stream(dtype=jnp.uint32), np.uint32(0), np.int32(N))  # fmt: skip
    J, d, L = sizes.text.num_key_value_heads, sizes.text.head_dim, sizes.text.num_hidden_layers
    tensor = current.shape["tensor"]

    def cache(*shape):
        return array(shape, dtype, R, "tensor" if J % tensor == 0 else None)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (N, G)))
    streams = rollout.Streams(
        prompt=[(cache(N, J, d, T), cache(N, J, T, d))] * L,
        own=[(cache(N * G, J, d, longest - 1), cache(N * G, J, longest - 1, d))] * L,
        lengths=stream(), starts=stream(), keys=stream(G, dtype=keys.dtype), last=stream(G), done=stream(G, dtype=bool),
    )  # fmt: skip
    compiled = {
        "prefill pictures": partial(embeddings.embeddings.lower, graph, whole, stream(T), stream(T, 2),
                                    pack(config.questions * assumed.images)),
        "prefill": start,
        "decode": partial(rollout._decode.lower, decoder_graph, decoder_weights, sampling, (0, 1), streams,
                          np.int32(1), np.int32(2)),
        "update pictures": partial(update._embed.lower, state, row(), row(2),
                                   pack(questions_in_rows * assumed.images), config.remat),
        "update": partial(update._add_rows.lower, state.trainable, state, row(D, dtype=dtype), rows, tokens, options),
        "optimizer": partial(update._apply.lower, state, state.trainable),
    }  # fmt: skip
    masters = share(state.trainable) + share(state.frozen)
    return compiled, {"weights": masters, "optimizer state": share(state.opt_state),
                      "gradients": share(state.trainable), "decoding copy": share(decoder_weights),
                      "prompt caches": share(streams.prompt), "own caches": share(streams.own)}  # fmt: skip


def share(tree) -> float:
    """The bytes of a tree's arrays on one device."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree)
               if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key))  # fmt: skip


def compiled(lower: Callable) -> Compiled | float:
    """What a program needs; or where it does not fit, what it needs over what there is."""
    try:
        program = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        return overflow(str(error))
    found = program.memory_analysis()
    total = (found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes
             - found.alias_size_in_bytes)  # fmt: skip
    return Compiled(found.argument_size_in_bytes, total, found.output_size_in_bytes, sent(program.as_text()))


def overflow(message: str) -> float:
    """How many times a device's memory a program needs, from what the compiler says. Raises RuntimeError otherwise."""
    found = re.search(r"\(([\d.]+)([MG])\) exceeds available HBM \(([\d.]+)([MG])\)", message)
    found = found or re.search(r"Used ([\d.]+)([MG]) of ([\d.]+)([MG]) hbm", message)
    if not found:
        raise RuntimeError(message)
    scale = {"M": 1.0, "G": 1024.0}
    return float(found[1]) * scale[found[2]] / (float(found[3]) * scale[found[4]])


BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}


def sent(text: str) -> dict[str, float]:
    """Bytes of the results of a compiled program's collectives, by kind; what stands in a loop is counted once."""
    found = {}
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    for shapes, kind in re.findall(rf"= (.+?) ({kinds})(?:-start)?\(", text):
        sizes = re.findall(r"\b(\w+)\[([\d,]*)\]", shapes)
        size = sum(BYTES.get(name, 0) * int(np.prod([int(n) for n in dims.split(",") if n])) for name, dims in sizes)
        found[kind] = found.get(kind, 0) + size
    return found


# What is on a device in each phase beside the program's own arguments.
RESIDENT = {
    "prefill pictures": ("optimizer state",),
    "prefill": ("optimizer state",),
    "decode": ("weights", "optimizer state"),
    "update pictures": ("optimizer state", "gradients"),
    "update": ("optimizer state",),  # and what the gradient of the pictures needs
    "optimizer": (),
}


def phases(found: Mapping[str, Compiled | float], resident: Mapping[str, float], memory: float) -> dict[str, float]:
    """What each phase needs, as a share of a device's memory."""
    out = {}
    for name, program in found.items():
        if isinstance(program, float):
            out[name] = program
            continue
        beside = sum(resident[part] for part in RESIDENT[name])
        if name == "update" and isinstance(found["update pictures"], Compiled):
            beside += found["update pictures"].results
        out[name] = (beside + program.total) / memory
    return out


def seconds(config, sizes: qwen.Config, assumed: Assumed, kind: str, count: int, shards: int,
            efficiency: float) -> dict[str, float]:  # fmt: skip
    """The seconds of a step by part, by roofline: FLOPs at `efficiency` of the peak; decoding at that of the memory."""
    patches, prompt = lengths(config, sizes, assumed)
    chip, peak, Q, O = CHIPS[kind], flops.PEAK[kind], config.questions, config.n_s + 1
    work = Q * (flops.vision(sizes.vision, [patches] * assumed.images)
                + O * flops.text(sizes.text, prompt, prompt * prompt // 2, config.rollouts))  # fmt: skip
    # Every row of a micro-batch takes its time, filled or not.
    C, B = config.micro_batch.row_tokens, config.micro_batch.rows
    rows = O * Q * (prompt + config.rollouts * assumed.response) / C / config.optimizer.steps_per_batch
    batches = int(np.ceil(rows / (shards * B))) * config.optimizer.steps_per_batch
    passes = (3 + bool(config.remat)) + (config.optimizer.steps_per_batch > 1) + (config.loss.kl_coef > 0)
    row = flops.text(sizes.text, C, C * (prompt + assumed.response // 2), C)
    per_shard = count // shards  # devices that share a row
    text = sizes.text
    layer = 2 * text.hidden_size * text.head_dim * (text.num_attention_heads + text.num_key_value_heads)
    layer += 3 * text.hidden_size * text.intermediate_size
    streams = -(-Q * O // shards)
    cached = 4 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * streams * (
        prompt + config.rollouts * assumed.response / 2)  # fmt: skip
    read = (2 * (text.num_hidden_layers * layer + text.hidden_size * text.vocab_size) + cached) / per_shard
    return {
        "prefill": work / count / peak / efficiency,
        "decode": assumed.response * read / chip.bandwidth / efficiency,
        "update": passes * batches * B * row / per_shard / peak / efficiency
        + passes * Q * flops.vision(sizes.vision, [patches] * assumed.images) / count / peak / efficiency,
    }


def report(config, sizes, assumed: Assumed, devices, efficiency: float, price: float) -> str:
    """The plan of a run, as Markdown."""
    kind, count = devices[0].device_kind, len(devices)
    if kind not in CHIPS:
        raise InputError(f"{kind} is not known here; there are {', '.join(CHIPS)}")
    with jax.set_mesh(mesh.make(devices, **config.mesh)):
        lowered, resident = programs(config, sizes, assumed)
        found = {}
        for name, lower in lowered.items():
            started = time.monotonic()
            found[name] = compiled(lower)
            print(f"compiled {name} in {time.monotonic() - started:.0f} s", flush=True)
        shards = mesh.shards()
    needed = phases(found, resident, CHIPS[kind].memory)
    worst = max(needed.values())
    lines = [f"# {config.model} on {count} x {kind}", f"mesh: {dict(config.mesh)}; {shards} shards of rows", "",
             "| stays on a device | GiB |", "|---|---|",
             *(f"| {name} | {size / GIB:.2f} |" for name, size in resident.items()), "",
             "| phase | program, GiB | of the memory | sent, GiB a pass |", "|---|---|---|---|"]  # fmt: skip
    for name, program in found.items():
        if isinstance(program, float):
            lines.append(f"| {name} | does not fit | needs {program:.2f}x | |")
        else:
            moved = ", ".join(f"{kind} {size / GIB:.2f}" for kind, size in program.sent.items())
            lines.append(f"| {name} | {program.total / GIB:.2f} | {needed[name]:.0%} | {moved} |")
    parts = seconds(config, sizes, assumed, kind, count, shards, efficiency)
    step = sum(parts.values())
    hours = config.total_steps * step / 3600
    said = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    lines += ["", f"**{'fits' if worst <= 1 else f'needs {worst:.2f}x'}** ({worst:.0%} of a device's memory).",
              f"A step by roofline: {step:.1f} s ({said}); {config.total_steps} steps: {hours:.1f} hours, "
              f"{hours * count:,.0f} device-hours" + (f", {hours * count * price:,.0f} money" if price else "") + ".",
              f"Assumed: {assumed.images} pictures of {config.prompt.max_pixels:,} pixels, {assumed.words} tokens of "
              f"text and responses of {assumed.response} tokens a question; {efficiency:.0%} of a device's peak FLOPs "
              "and memory rate; nothing for the network between devices, data, grading and evaluation. "
              "Compiled, not run."]  # fmt: skip
    return "\n".join(lines)


def main(_) -> None:
    jax.config.update("jax_enable_compilation_cache", False)  # what has no device cannot be read back
    settings.check_parts(FLAGS.config)
    settings.check(FLAGS.config)
    sizes = sizes_of(FLAGS.config.model)
    assumed = Assumed(FLAGS.images, FLAGS.words, FLAGS.response)
    devices = devices_of(FLAGS.topology, FLAGS.config.mesh.slice)
    text = report(FLAGS.config, sizes, assumed, devices, FLAGS.efficiency, FLAGS.price_per_device_hour)
    print(text)
    if FLAGS.out:
        Path(FLAGS.out).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"  # TPUs are compiled for, not used
    config_flags.DEFINE_config_file("config", None, "The experiment: a file in configs/.", lock_config=False)
    flags.DEFINE_string("topology", None, "TPU slice, such as v5e:4x4, v6e:16x16 or v5p:4x4x4.", required=True)
    flags.DEFINE_string("out", "", "A file to write what is printed to.")
    flags.DEFINE_integer("images", 4, "Pictures of a mean question.", lower_bound=0)
    flags.DEFINE_integer("words", 150, "Tokens of a mean question's text.", lower_bound=1)
    flags.DEFINE_integer("response", 600, "Tokens of a mean response.", lower_bound=1)
    flags.DEFINE_float("efficiency", 0.4, "Share of the peak that is reached.", lower_bound=0.01, upper_bound=1.0)
    flags.DEFINE_float("price_per_device_hour", 0.0, "Of one device.", lower_bound=0.0)
    flags.mark_flags_as_required(["config"])
    cli.run(main)
