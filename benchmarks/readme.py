"""Puts the tables that commands have written into README.md: `python -m benchmarks.readme`.

A table stands between `<!-- NAME table... -->` and `<!-- /NAME table -->`; `TABLES` says which file holds it and which
command wrote that. What has no file keeps what stands there.
"""

import os
import platform
import re
from datetime import date, datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TABLES = {"demo": ("demo/report.md", "bash launch/demo.sh")}


def machine() -> str:
    """What this machine computes with."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or platform.machine()}"


def fill(readme: str, name: str, table: str, command: str, written: date) -> str:
    """The page with a table between its two marks. Raises ValueError where a mark is missing."""
    pattern = re.compile(rf"(<!-- {name} table\b[^>]*-->\n).*?(<!-- /{name} table -->)", re.DOTALL)
    if not pattern.search(readme):
        raise ValueError(f"README.md has no place for the {name} table")
    said = f"`{command}` on {machine()}, {written}:\n\n{table.strip()}\n"
    return pattern.sub(lambda marks: f"{marks[1]}{said}{marks[2]}", readme)


def main() -> None:
    page = REPOSITORY / "README.md"
    text = page.read_text(encoding="utf-8")
    for name, (file, command) in TABLES.items():
        source = REPOSITORY / file
        if source.exists():
            written = datetime.fromtimestamp(source.stat().st_mtime).date()
            text = fill(text, name, source.read_text(encoding="utf-8"), command, written)
            print(f"{name}: {file} of {written}")
        else:
            print(f"{name}: left as it is; {command} writes {file}")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
