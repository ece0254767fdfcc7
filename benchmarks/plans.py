"""Plans the paper's runs with perl_jax.plan, in benchmarks/PLANS.md: `python -m benchmarks.plans [NAME ...]`.

With names, such as h100 or perl_7b.py, only runs whose config or topology starts with one are updated. TPU runs are
compiled (libtpu: requirements-tpu.txt), which takes about five minutes per run; GPU runs are estimated.
"""

import os
import re
import sys
from datetime import date
from pathlib import Path

import jax
from ml_collections import ConfigDict

from benchmarks.readme import REPOSITORY
from perl_jax import plan
from perl_jax.planning.roofline import Assumed

FILE = Path(__file__).with_name("PLANS.md")
RUNS = [  # (config, topology)
    ("perl_3b.py:v5e-4x4", "v5e:4x4"),
    ("perl_3b.py", "v6e:4x4"),
    ("perl_3b.py:h100-1", "h100:1"),
    ("perl_7b.py", "v5e:8x8"),
    ("perl_7b.py", "v5p:4x4x4"),
    ("perl_7b.py", "v6e:16x16"),
    ("grpo_7b.py", "v5p:4x4x4"),
    ("perl_7b_8xh100.py", "h100:8"),
    ("perl_7b_8xh100.py:lora", "h100:8"),
    ("perl_7b_lora.py", "h100:1"),
    ("qwen3_vl_4b.py", "v6e:4x4"),
    ("qwen3_vl_4b.py", "h100:8"),
    ("qwen3_vl_8b.py", "v6e:8x8"),
    ("qwen3_vl_8b.py:8xh100", "h100:8"),
    ("perl_72b.py", "v5p:4x4x4"),
    ("perl_72b.py", "v6e:16x16"),
]
SUMMARY = """\
By `python -m benchmarks.plans`, 900 steps with the paper's lengths: memory compiled ahead of time by libtpu, or
estimated; times by roofline at 40% of a device's rates, the network's on top where not hidden. Nothing was run."""
HEAD = """\
| config | devices | most memory of one | a step, s | network, s | hours | device-hours | how |
|---|---|---|---|---|---|---|---|"""
ASSUMED = Assumed()


def config_of(name: str) -> ConfigDict:
    """The config of `FILE` or `FILE:ARGUMENT` in configs/."""
    file, _, argument = name.partition(":")
    names = {}
    exec(compile((REPOSITORY / "configs" / file).read_text(encoding="utf-8"), file, "exec"), names)
    return names["get_config"](*[argument] * bool(argument))


def planned(name: str, topology: str) -> tuple[str, str]:
    """(a run's line in the table, its report)."""
    config = config_of(name)
    estimate = plan.plan(config, topology, ASSUMED)
    second, worst = sum(estimate.seconds.values()), max(estimate.needed, key=estimate.needed.get)
    hours = config.total_steps * second / 3600
    line = (
        f"| `{name}` | {topology} | {estimate.worst:.0%} in {worst}{'' if estimate.worst <= 1 else ': does not fit'} | "
        f"{second:.0f} | {'' if estimate.network is None else f'{estimate.network:.0f}'} | {hours:.0f} | "
        f"{hours * estimate.count:,.0f} | {'compiled' if estimate.compiled else 'estimated'}, {date.today()} |"
    )
    _, _, body = plan.report(config, estimate, ASSUMED, 0.0).partition("\n")
    return line, f"## `{name}` on {topology}\n\n{estimate.count} x {estimate.device}, {body.strip()}"


def existing(file: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """{(config, topology): (line, report)} of the existing file."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    keys = r"^\| `(\S+)` \| (\S+) \|"
    lines = {tuple(re.match(keys, line).groups()): line for line in text.splitlines() if re.match(keys, line)}
    reports = re.findall(r"^(## `(\S+)` on (\S+)$.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return {(name, on): (lines[name, on], report.strip()) for report, name, on in reports if (name, on) in lines}


def main(names: list[str]) -> None:
    for run in RUNS:
        if not names or any(part.startswith(name) for part in run for name in names):
            line, report = planned(*run)
            print(line, flush=True)
            runs = existing(FILE) | {run: (line, report)}
            lines, reports = zip(*(runs[run] for run in RUNS if run in runs))
            table = "\n".join([HEAD, *lines])
            text = "\n\n".join(["# What the paper's runs would take", SUMMARY, table, *reports]) + "\n"
            FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_num_cpu_devices", 8)
    main(sys.argv[1:])
