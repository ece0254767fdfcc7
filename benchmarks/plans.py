"""What the paper's runs would take, by perl_jax.plan, in benchmarks/PLANS.md: `python -m benchmarks.plans`.

TPUs are compiled for (libtpu: requirements-tpu.txt), which takes about five minutes a plan; GPUs are estimated.
"""

import os
from datetime import date
from pathlib import Path

import jax
from ml_collections import ConfigDict

from benchmarks.readme import REPOSITORY
from perl_jax import plan
from perl_jax.roofline import Assumed

FILE = Path(__file__).with_name("PLANS.md")
RUNS = [  # (config, topology)
    ("perl_3b.py:v5e-4x4", "v5e:4x4"), ("perl_3b.py:v6e-4x4", "v6e:4x4"), ("perl_3b.py:h100-1", "h100:1"),
    ("perl_7b.py", "v5e:8x8"), ("perl_7b.py", "v5p:4x4x4"), ("perl_7b.py", "v6e:16x16"), ("grpo_7b.py", "v5p:4x4x4"),
    ("perl_7b_8xh100.py", "h100:8"), ("perl_7b_8xh100.py:lora", "h100:8"), ("perl_7b_lora.py", "h100:1"),
    ("perl_72b.py", "v5p:4x4x4"), ("perl_72b.py", "v6e:16x16"),
]  # fmt: skip
ASSUMED = Assumed(images=4, words=150, response=600)  # as plan's flags have them


def config_of(name: str) -> ConfigDict:
    """The config of `FILE` or `FILE:ARGUMENT` in configs/."""
    file, _, argument = name.partition(":")
    names = {}
    exec(compile((REPOSITORY / "configs" / file).read_text(encoding="utf-8"), file, "exec"), names)
    return names["get_config"](*[argument] * bool(argument))


def row(name: str, config, found: plan.Plan) -> str:
    """A line of the table."""
    second, worst = sum(found.seconds.values()), max(found.needed, key=found.needed.get)
    network = "" if found.network is None else f" (+ up to {found.network:.1f})"
    hours = config.total_steps * second / 3600
    return (
        f"| `{name}` | {found.count} x {found.device} | {config.mesh.tensor} | "
        f"{'' if found.worst <= 1 else 'does not fit: '}{found.worst:.0%}, {worst} | {second:.0f}{network} | "
        f"{hours:.0f} | {hours * found.count:,.0f} | {'compiled' if found.compiled else 'estimated'} |"
    )


def main() -> None:
    lines, reports = [], []
    for name, topology in RUNS:
        config = config_of(name)
        found = plan.plan(config, topology, ASSUMED)
        lines.append(row(name, config, found))
        reports.append("##" + plan.report(config, found, ASSUMED, 0.0)[1:])
        print(lines[-1], flush=True)
    head = ["| config | devices | tensor | memory of a device, where most | a step, s | hours | device-hours | |",
            "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    said = (f"`python -m benchmarks.plans`, {date.today()}: memory compiled ahead of time by libtpu, or estimated; "
            "nothing was run.\nTimes by roofline at 40% of a device's rates; the network's come on top where it is not "
            "hidden.")  # fmt: skip
    text = "\n\n".join(["# What the paper's runs would take", said, "\n".join([*head, *lines]), *reports])
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_num_cpu_devices", 8)
    main()
