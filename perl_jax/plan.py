"""Estimates a run's memory and time without the devices: `python -m perl_jax.plan --config=FILE --topology=v5e:4x4`.

For a TPU topology the run's own programs (image encoding, update, optimizer, prefill, decode) are compiled ahead of
time with libtpu (requirements-tpu.txt). Reported are the device memory of each phase of a step, the bytes sent between
devices, and a roofline estimate of the step time. A name without a size, such as v5e, finds the smallest that fits. For
GPUs (h100:8) nothing is compiled: all is estimated. No weights are read; the sizes of published models are built in.
"""

import bisect
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from absl import flags
from ml_collections import ConfigDict

import models
from models import attention
from models.errors import InputError
from models.layers import remat_name
from perl_jax import mesh
from perl_jax.engine import flops
from perl_jax.planning import fitting, programs, roofline
from perl_jax.planning.programs import LIVES, Compiled, resident_bytes
from perl_jax.planning.roofline import Assumed
from perl_jax.runtime import cli, device_settings
from perl_jax.training import check_config

FLAGS = flags.FLAGS
GIB = 2**30

SIZES = {  # TPU slice sizes, by the prefix of the topology's name
    **dict.fromkeys(("v5e", "v6e"), ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")),
    **dict.fromkeys(("v4", "v5p"), ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")),
}
GPUS = {"a100": "NVIDIA A100-SXM4-80GB", "h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}
USABLE = device_settings.GPU_MEMORY  # share of a GPU's memory for XLA

ARGUMENTS = {  # buffers that are inputs or outputs of each program
    "prefill images": ("weights", "frozen weights"),
    "prefill": ("weights", "frozen weights"),
    "decode": ("decoding copy", "prompt caches", "response caches"),
    "update images": ("weights", "frozen weights"),
    "update": ("weights", "frozen weights", "gradients"),
    "optimizer": ("weights", "optimizer state", "gradients"),
}


class Plan(NamedTuple):
    """Memory and time of a run on `count` devices."""

    device: str
    count: int
    shards: int
    compiled: bool  # else estimated
    remat: str  # of `layers.REMAT`
    sampling_tensor: int  # devices that hold each copy of the weights in sampling
    resident: dict[str, float]  # bytes of each resident buffer on one device
    needed: dict[str, float]  # share of a device's memory, by phase
    sent: dict[str, dict[str, float]]  # bytes sent by program and kind of collective; for decode, per token
    work: float  # FLOPs of a training step
    seconds: dict[str, float]  # of a training step, by part
    network: float | None  # seconds of communication in a training step, without overlap
    filtering: float  # seconds of the rollout filter
    evaluating: float  # seconds of one evaluation

    @property
    def worst(self) -> float:
        return max(self.needed.values())


def sizes_of(name: str) -> models.Config:
    """The sizes of `config.model`: of a published model by its name, else those in a directory's config.json."""
    published = models.published()
    known = [config for hub_id, config in published.items() if hub_id.partition("/")[2] in name]
    if known:
        return known[0]
    if Path(name, "config.json").is_file():
        return models.read_config(name)
    raise InputError(f"config.model is {name!r}: neither a directory nor one of {', '.join(published)}")


def topologies(name: str) -> list[str]:
    """The topologies matching a name: itself, or all sizes of a TPU, smallest first. Raises InputError."""
    family, _, size = name.partition(":")
    if size and (family in SIZES or family in GPUS):
        return [name]
    if family in SIZES:
        return [f"{family}:{size}" for size in SIZES[family]]
    raise InputError(
        f"--topology={name}: expected a TPU such as v5e:4x4, v5p:4x4x4, v5e (the smallest that fits), or "
        f"GPUs such as h100:8; known are {', '.join([*SIZES, *GPUS])}"
    )


def plan(config: ConfigDict, topology: str, assumed: Assumed) -> Plan:
    """The plan of a run on a topology. Raises InputError for an unknown one."""
    sizes = sizes_of(config.model)
    family, _, count = topology.partition(":")
    if family in GPUS:
        if not count.isdigit() or not 0 < int(count) <= jax.device_count("cpu"):
            raise InputError(f"--topology={topology}: expected 1 to {jax.device_count('cpu')} GPUs")
        return estimate(config, sizes, assumed, GPUS[family], jax.devices("cpu")[: int(count)])
    return compile_for(config, sizes, assumed, programs.devices_of(topology, config.mesh.slice))


def compile_for(config: ConfigDict, sizes: models.Config, assumed: Assumed, devices) -> Plan:
    """A plan with memory use reported by the compiler."""
    kind, compiled = devices[0].device_kind, {}
    attention.choose(config.attention)
    with jax.set_mesh(mesh.make(devices, **config.mesh)):
        check_config.check_shards(config, mesh.shards())
        config = fitting.fitted(config, sizes, flops.DEVICES[kind].memory, assumed)
        lowered, resident = programs.programs(config, sizes, assumed)
        for name, lower in lowered.items():
            started = time.monotonic()
            compiled[name] = programs.compiled(lower)
            print(f"compiled {name} in {time.monotonic() - started:.0f} s", flush=True)
        shards = mesh.shards()
    needed = phases(compiled, resident, flops.DEVICES[kind].memory)
    sent = {name: program.sent for name, program in compiled.items() if isinstance(program, Compiled)}
    totals = {name: sum(kinds.values()) for name, kinds in sent.items()}
    network = roofline.network(totals, config, sizes, assumed, flops.DEVICES[kind], shards)
    timing = times(config, sizes, assumed, kind, len(devices), shards)
    return Plan(compiled=True, resident=resident, needed=needed, sent=sent, network=network, **timing)


def estimate(config: ConfigDict, sizes: models.Config, assumed: Assumed, kind: str, devices) -> Plan:
    """A plan with estimated memory use, for as many devices of this kind as `devices`."""
    memory = flops.DEVICES[kind].memory * USABLE
    with jax.set_mesh(mesh.make(devices, **config.mesh)):
        check_config.check_shards(config, mesh.shards())
        config = fitting.fitted(config, sizes, memory, assumed)
        resident, needed = programs.estimated(config, sizes, assumed)
        shards = mesh.shards()
    needed = {phase: size / memory for phase, size in needed.items()}
    timing = times(config, sizes, assumed, kind, len(devices), shards)
    return Plan(compiled=False, resident=resident, needed=needed, sent={}, network=None, **timing)


def times(config: ConfigDict, sizes: models.Config, assumed: Assumed, kind: str, count: int, shards: int) -> dict:
    """The fields of a plan that do not depend on memory."""
    on = config, sizes, assumed, flops.DEVICES[kind], count, shards
    return {
        "device": kind,
        "count": count,
        "shards": shards,
        "remat": remat_name(config.remat),
        "sampling_tensor": config.sampling.tensor,
        "work": roofline.work(config, sizes, assumed),
        "seconds": roofline.step(*on),
        "filtering": roofline.inference(*on, *roofline.FILTERED),
        "evaluating": roofline.inference(*on, sum(roofline.EVALUATED.values()), 1),
    }


def phases(compiled: Mapping[str, Compiled | float], resident: Mapping[str, float], memory: float) -> dict[str, float]:
    """The share of device memory that each phase needs, from its compiled program."""
    out = {}
    for name, program in compiled.items():
        if isinstance(program, float):
            out[name] = program
            continue
        of_program = ARGUMENTS[name]
        if resident.get("weights to prefill") and name in ("prefill images", "prefill"):
            of_program = ("weights to prefill",)
        beside = resident_bytes(resident, name, of_program)
        if name == "update" and isinstance(compiled["update images"], Compiled):
            beside += compiled["update images"].results  # kept for the images' gradient
        out[name] = (beside + program.total) / memory
    return out


def largest_rows(config: ConfigDict, topology: str, assumed: Assumed) -> int | None:
    """The largest `micro_batch.row_tokens`, in steps of 2,048, that fits by estimate; None where none does."""
    config, sizes = config.copy_and_resolve_references(), range(2048, 2**17, 2048)

    def too_large(tokens: int) -> bool:
        config.micro_batch.row_tokens = tokens
        return plan(config, topology, assumed).needed["update"] > 1

    fitting = bisect.bisect_left(sizes, True, key=too_large)
    return sizes[fitting - 1] if fitting else None


def report(config: ConfigDict, planned: Plan, assumed: Assumed, price: float) -> str:
    """A plan as Markdown."""
    memory = flops.DEVICES[planned.device].memory
    method = "compiled ahead of time, not run" if planned.compiled else "estimated, not compiled"
    columns = list(planned.needed)
    lines = [
        f"# {config.model} on {planned.count} x {planned.device}: {method}",
        f"mesh: {dict(config.mesh)}; {planned.shards} shards of rows; "
        f"sampling.tensor: {planned.sampling_tensor}; remat: {planned.remat}",
        "",
        f"| GiB on a device, in | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
    ]
    for part, size in planned.resident.items():
        cells = [f"{size / GIB:.2f}" if phase in LIVES[part] and size else "" for phase in columns]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    total = [f"{planned.needed[phase] * memory / GIB:.2f}" for phase in columns]
    lines += [
        f"| all, with temporary memory | {' | '.join(total)} |",
        f"| of the memory | {' | '.join(f'{planned.needed[phase]:.0%}' for phase in columns)} |",
    ]
    if any(planned.sent.values()):
        lines += ["", "| collectives | GiB by kind |", "|---|---|"]
        lines += [
            f"| {name} | {', '.join(f'{kind} {size / GIB:.2f}' for kind, size in kinds.items())} |"
            for name, kinds in planned.sent.items()
            if kinds
        ]
    second, steps = sum(planned.seconds.values()), config.total_steps
    hours = {
        f"{steps} steps": steps * second / 3600,
        "the rollout filter ({:,} samples, {} rollouts each)".format(*roofline.FILTERED): planned.filtering / 3600,
        f"one evaluation ({sum(roofline.EVALUATED.values()):,} questions)": planned.evaluating / 3600,
    }
    money = f"; {price:g} an hour of one device" if price else ""
    parts = ", ".join(f"{name} {value:.1f}" for name, value in planned.seconds.items())
    worst = planned.worst
    bound = planned.work / (second * assumed.efficiency * flops.DEVICES[planned.device].peak * planned.count)
    network = "" if planned.network is None else f"; the network takes {planned.network:.1f} s, hidden or on top"
    lines += [
        "",
        f"**{'fits' if worst <= 1 else f'needs {worst:.2f}x'}** ({worst:.0%} of a device's "
        f"memory). A step by roofline: {second:.1f} s ({parts}{network}).",
        f"The work is {planned.work / 1e15:,.0f} PFLOP: MFU is at most {bound:.0%}, at the device's full rates and "
        "with the network hidden.",
        "",
        f"| | hours | device-hours |{' money |' if price else ''}",
        "|---|---|---|" + "---|" * bool(price),
    ]
    for name, value in hours.items():
        cost = f" {value * planned.count * price:,.0f} |" if price else ""
        lines.append(f"| {name} | {value:,.1f} | {value * planned.count:,.0f} |{cost}")
    lines += [
        "",
        f"Assumed: {assumed.images} images of {config.prompt.max_pixels:,} pixels, {assumed.words} tokens "
        f"of text a question and responses of {assumed.response} tokens; {assumed.efficiency:.0%} of a device's "
        f"rates{money}; data, grading and evaluation within the run are not counted.",
    ]
    return "\n".join(lines)


def main(_) -> None:
    jax.config.update("jax_platforms", "cpu")  # the planned devices are not used
    jax.config.update("jax_num_cpu_devices", 64)  # stand in for GPUs
    jax.config.update("jax_enable_compilation_cache", False)  # entries without a device cannot be read back
    config = FLAGS.config
    check_config.check_parts(config)
    check_config.check(config)
    assumed = Assumed(FLAGS.images, FLAGS.words, FLAGS.response, FLAGS.efficiency)
    for topology in topologies(FLAGS.topology):
        planned = plan(config, topology, assumed)
        if planned.worst <= 1:
            break
        print(f"{topology}: needs {planned.worst:.2f}x", flush=True)
    text = report(config, planned, assumed, FLAGS.price_per_device_hour)
    if not planned.compiled:
        rows = largest_rows(config, topology, assumed)
        text += f"\nThe largest micro_batch.row_tokens would be {rows:,}." if rows else ""
        text += f"\n{USABLE:.0%} of the memory are for XLA: a run sets {device_settings.FRACTION}={USABLE} by itself."
    print(text)
    if FLAGS.out:
        Path(FLAGS.out).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.define_config_flag()
    flags.DEFINE_string(
        "topology",
        None,
        "Devices, such as v5e:4x4, v6e:16x16, v5p:4x4x4 or h100:8; v5e finds the smallest that fits.",
        required=True,
    )
    flags.DEFINE_string("out", "", "Also write the plan to this file.")
    flags.DEFINE_integer("images", Assumed().images, "Images of an average question.", lower_bound=0)
    flags.DEFINE_integer("words", Assumed().words, "Text tokens of an average question.", lower_bound=1)
    flags.DEFINE_integer("response", Assumed().response, "Tokens of an average response.", lower_bound=1)
    flags.DEFINE_float(
        "efficiency",
        Assumed().efficiency,
        "Share of a device's peak rates that is reached.",
        lower_bound=0.01,
        upper_bound=1,
    )
    flags.DEFINE_float("price_per_device_hour", 0.0, "Price of one device for an hour.", lower_bound=0.0)
    cli.run(main, elsewhere=cli.IN_CONFIG)
