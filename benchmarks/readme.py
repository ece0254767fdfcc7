"""Puts what commands have written into README.md: `python -m benchmarks.readme`.

A part stands between `<!-- NAME table... -->` and `<!-- /NAME table -->`; `TABLES` says which file holds it and how it
is shown. What has no file keeps what stands there.
"""

import os
import platform
import re
from datetime import datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def machine() -> str:
    """What this machine computes with."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or platform.machine()}"


def demo(file: Path) -> str:
    """The demo's tables, which are of this machine."""
    written = datetime.fromtimestamp(file.stat().st_mtime).date()
    return f"`bash launch/demo.sh` on {machine()}, {written}:\n\n{file.read_text(encoding='utf-8').strip()}"


def speed(file: Path) -> str:
    """What each benchmark concluded, and where that was."""
    text = file.read_text(encoding="utf-8")
    [where] = re.findall(r"^(`python -m benchmarks.results` on [^\n]*?)\. ", text, re.MULTILINE)
    sections = re.findall(r"^## `python -m (benchmarks\.\w+)`$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [f"- `{name}`: {re.findall('[*][*](.+)[*][*]', said)[-1]}" for name, said in sections]
    return "\n".join([f"{where}:", "", *lines])


def plan(file: Path) -> str:
    """The table of plans, and how they came about."""
    said, table = file.read_text(encoding="utf-8").split("\n\n")[1:3]
    return f"{said}\n\n{table}"


TABLES = {
    "demo": ("demo/report.md", demo),
    "speed": ("benchmarks/RESULTS.md", speed),
    "plan": ("benchmarks/PLANS.md", plan),
}


def fill(readme: str, name: str, content: str) -> str:
    """The page with a part between its two marks. Raises ValueError where a mark is missing."""
    pattern = re.compile(rf"(<!-- {name} table\b[^>]*-->\n).*?(<!-- /{name} table -->)", re.DOTALL)
    if not pattern.search(readme):
        raise ValueError(f"README.md has no place for the {name} table")
    return pattern.sub(lambda marks: f"{marks[1]}{content}\n{marks[2]}", readme)


def main() -> None:
    page = REPOSITORY / "README.md"
    text = page.read_text(encoding="utf-8")
    for name, (file, shown) in TABLES.items():
        source = REPOSITORY / file
        if source.exists():
            text = fill(text, name, shown(source))
            print(f"{name}: {file}")
        else:
            print(f"{name}: left as it is; there is no {file}")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
