"""Runs all benchmarks and writes benchmarks/RESULTS.md: `python -m benchmarks.results` (needs torch; 8 to 13 min).

With names, as `python -m benchmarks.results lengths long_tail`, only their sections are replaced, on the same machine.
"""

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

from benchmarks.readme import REPOSITORY, machine

NAMES = (
    "generate",
    "lengths",
    "long_tail",
    "refill",
    "update",
    "real_sizes",
    "permutations",
    "padding",
    "compilations",
    "data",
    "grading",
)
FILE = Path(__file__).with_name("RESULTS.md")


def main(names: list[str]) -> None:
    if unknown := set(names) - {*NAMES, "accelerator"}:
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}, accelerator")
    # in a subprocess, because a process that queries a device holds it
    ask = "import jax; print(jax.device_count(), jax.devices()[0].device_kind)"
    devices = subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    cpu = devices.endswith("cpu")
    when = f"{'up to ' * bool(names)}{date.today()}"
    parts = [
        "# What the benchmarks printed",
        f"`python -m benchmarks.results` on {machine()} ({devices} device), {when}. Each section is one "
        "command;\npeers run in the same process, in turns. "
        "The machine's other load moves a ratio by a tenth from run to run.",
    ]
    before = {}
    if names and FILE.exists():
        head, *sections = re.split(r"^## ", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
        if not head.split(", ")[0] == "\n\n".join(parts).split(", ")[0]:
            raise SystemExit(f"{FILE.name} is of another machine: run all benchmarks, without names")
        before = {section.partition("\n")[0].strip("`"): section.partition("\n")[2] for section in sections}
    for name in NAMES if cpu else (*NAMES, "accelerator"):
        command = f"python -m benchmarks.{name}"
        if command in before and name not in names:
            parts += [f"## `{command}`", before[command].strip()]
            continue
        print(f"{command} ...", flush=True)
        run = subprocess.run([sys.executable, *command.split()[1:]], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        if run.returncode:
            raise SystemExit(f"{command} ended with exit code {run.returncode}; {FILE.name} is left as it was")
        print(run.stdout)
        parts += [f"## `{command}`", run.stdout.strip()]
    if cpu:
        parts += ["## Not run", "`python -m benchmarks.accelerator`: it needs a GPU or a TPU, and none was at hand."]
    FILE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
