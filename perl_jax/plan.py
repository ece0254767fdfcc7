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


MEMORY = {"TPU v4": 32e9, "TPU v5 lite": 16e9, "TPU v5": 95e9, "TPU v6 lite": 32e9}  # bytes a device, of data sheets


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
    model = nnx.eval_shape(lambda: qwen.Qwen2_5_VL(sizes, rngs=nnx.Rngs(0), compute_dtype=config.compute_dtype))
    optimizer = train.optimizer(config, config.warmup.steps + 1)
    state = jax.eval_shape(lambda model: update.init(model, optimizer, train.trainable(config)), model)
    state = state.replace(**{name: laid_out(getattr(state, name)) for name in ("trainable", "frozen", "opt_state")})
    decoder_graph, decoder_weights = nnx.split(jax.eval_shape(rollout.for_decoding, model))
    decoder = decoder_graph, laid_out(decoder_weights, "decode")
    graph, weights = nnx.split(model)
    caches = streams(config, sizes, assumed)
    lowered = {**sampling(config, sizes, assumed, (graph, laid_out(weights)), decoder, caches),
               **updating(config, sizes, assumed, state)}  # fmt: skip
    return lowered, {"weights": share(state.trainable) + share(state.frozen),
                     "optimizer state": share(state.opt_state), "gradients": share(state.trainable),
                     "decoding copy": share(decoder[1]), "prompt caches": share(caches.prompt),
                     "own caches": share(caches.own)}  # fmt: skip


def array(shape, dtype=jnp.int32, *where) -> jax.ShapeDtypeStruct:
    """An array cut along its dimensions as `where` says."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(jax.sharding.get_mesh(), P(*where)))


def laid_out(tree, layout: str = "train"):
    """The shapes of weights, or of what is like them, with where they lie."""

    def place(leaf):
        if not isinstance(leaf, nnx.Variable):
            return array(leaf.shape, leaf.dtype)
        where = mesh.spec(leaf.shape, leaf.get_metadata("axes"), layout)
        return leaf.replace(array(leaf.shape, leaf.dtype, *where))

    return jax.tree.map(place, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def pictures(config, sizes: qwen.Config, assumed: Assumed, count: int) -> Vision:
    """A pack of so many pictures, a row each, which may be longer than the picture."""
    vision, shards = sizes.vision, mesh.shards()
    patches, _ = lengths(config, sizes, assumed)
    block = block_size(vision)
    room = block * bucket(-(-patches // block) + 1, least=1, between=2)
    shape = shards * bucket(-(-count // shards), least=1, between=2), room
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return Vision(array((*shape, values), jnp.float32, mesh.ROWS), *[array(shape, jnp.int32, mesh.ROWS)] * 2,
                  array((*shape, 2), jnp.int32, mesh.ROWS))  # fmt: skip


def streams(config, sizes: qwen.Config, assumed: Assumed) -> rollout.Streams:
    """All streams of a step with the largest own caches that they may come to."""
    text, dtype, shards = sizes.text, jnp.dtype(config.compute_dtype), mesh.shards()
    N = -(-config.questions * (config.n_s + 1) // shards) * shards
    G, T, C = config.rollouts, bucket(lengths(config, sizes, assumed)[1]), config.sampling.max_new_tokens - 1
    J, d, L = text.num_key_value_heads, text.head_dim, text.num_hidden_layers
    heads = mesh.head_axis(J)

    def cache(n, size):
        return array((n, J, d, size), dtype, mesh.ROWS, heads), array((n, J, size, d), dtype, mesh.ROWS, heads)

    key = jax.eval_shape(lambda: jax.random.key(0)).dtype
    one, each = array((N,), jnp.int32, mesh.ROWS), array((N, G), jnp.int32, mesh.ROWS)
    keys, done = (array((N, G), kind, mesh.ROWS) for kind in (key, bool))
    return rollout.Streams([cache(N, T)] * L, [cache(N * G, C)] * L, one, one, keys, each, done)


def sampling(config, sizes: qwen.Config, assumed: Assumed, model, decoder, caches) -> dict[str, Callable]:
    """The programs of rollouts; `model` and `decoder` by `nnx.split`."""
    N, G = caches.last.shape
    T, dtype = caches.prompt[0][0].shape[-1], jnp.dtype(config.compute_dtype)
    c = config.sampling
    options = Sampling(c.temperature, c.top_p, c.top_k, (0,))
    ids, index = (array((N, T, *more), jnp.int32, mesh.ROWS) for more in ((), (2,)))
    h, positions = array((N, T, sizes.text.hidden_size), dtype, mesh.ROWS), array((3, N, T), jnp.int32, None, mesh.ROWS)
    one, keys = (array((N,), kind, mesh.ROWS) for kind in (jnp.int32, jnp.uint32))
    return {
        "prefill pictures": partial(embeddings.embeddings.lower, *model, ids, index,
                                    pictures(config, sizes, assumed, config.questions * assumed.images)),
        "prefill": partial(rollout._start.lower, *model, options, G, rollout.capacities(c.max_new_tokens)[0], h,
                           positions, one, one, keys, np.uint32(0), np.int32(N)),
        "decode": partial(rollout._decode.lower, *decoder, options, (0, 1), caches, np.int32(1), np.int32(2)),
    }  # fmt: skip


def updating(config, sizes: qwen.Config, assumed: Assumed, state: update.State) -> dict[str, Callable]:
    """The programs of an update."""
    B, S, C = config.micro_batch.rows, mesh.shards(), config.micro_batch.row_tokens

    def row(*more, dtype=jnp.int32):
        return array((B, S, C, *more), dtype, None, mesh.ROWS)

    spans = Spans(row(), row(), row())
    positions = array((B, S, 3, C), jnp.int32, None, mesh.ROWS)
    rows = trees.Rows(None, positions, None, spans, None, row(), row(), row(), prompts=C, window=C)
    reals = row(dtype=jnp.float32)
    old = reals if config.optimizer.steps_per_batch > 1 else None
    tokens = update.Tokens(reals, reals, old, reals if config.loss.kl_coef else None, reals)
    losses = tuple((name, config.loss[name]) for name in ("clip_low", "clip_high", "dual_clip", "kl_coef"))
    options = update.Options(losses, config.sampling.temperature, config.remat)
    h = row(sizes.text.hidden_size, dtype=jnp.dtype(config.compute_dtype))
    _, prompt = lengths(config, sizes, assumed)
    questions = max(1, B * S * C // ((config.n_s + 1) * (prompt + config.rollouts * assumed.response)))
    pack = pictures(config, sizes, assumed, questions * assumed.images)
    return {
        "update pictures": partial(update._embed.lower, state, row(), row(2), pack, config.remat),
        "update": partial(update._add_rows.lower, state.trainable, state, h, rows, tokens, options),
        "optimizer": partial(update._apply.lower, state, state.trainable),
    }


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
    bandwidth, peak, Q, O = flops.BANDWIDTH[kind], flops.PEAK[kind], config.questions, config.n_s + 1
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
        "decode": assumed.response * read / bandwidth / efficiency,
        "update": passes * batches * B * row / per_shard / peak / efficiency
        + passes * Q * flops.vision(sizes.vision, [patches] * assumed.images) / count / peak / efficiency,
    }


def report(config, sizes, assumed: Assumed, devices, efficiency: float, price: float) -> str:
    """The plan of a run, as Markdown."""
    kind, count = devices[0].device_kind, len(devices)
    if kind not in MEMORY:
        raise InputError(f"{kind} is not known here; there are {', '.join(MEMORY)}")
    with jax.set_mesh(mesh.make(devices, **config.mesh)):
        settings.check_shards(config, mesh.shards())
        lowered, resident = programs(config, sizes, assumed)
        found = {}
        for name, lower in lowered.items():
            started = time.monotonic()
            found[name] = compiled(lower)
            print(f"compiled {name} in {time.monotonic() - started:.0f} s", flush=True)
        shards = mesh.shards()
    needed = phases(found, resident, MEMORY[kind])
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
