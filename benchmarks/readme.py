"""Updates the generated parts of README.md: `python -m benchmarks.readme`.

A part is between `<!-- NAME table... -->` and `<!-- /NAME table -->`; `TABLES` has its source file and formatter. Parts
without a source file are left unchanged.
"""

import os
import platform
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def machine() -> str:
    """The CPU cores of this machine."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or platform.machine()}"


CONSISTENCY_COLUMNS = (
    "",
    "accuracy",
    "permuted accuracy",
    "consistent accuracy",
    "flip rate",
    "flip rate, original order again",
    "flips by the order, points",
)  # columns of the consistency table in report.md
DIFFERENCE_COLUMNS = (
    "",
    "questions of both",
    "permuted accuracy, points",
    "consistent accuracy, points",
    "flip rate, points",
)


def demo(file: Path) -> str:
    """The demo's tables, made on this machine: greedy responses in training runs, sampled ones in all orders."""
    text = file.read_text(encoding="utf-8")
    written = datetime.fromtimestamp(file.stat().st_mtime).date()
    parts = dict(re.findall(r"^## ([^\n]+)\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    figures, *_ = tables(parts["Training runs"])
    verdict = re.findall(r"^\*\*.+\*\*$", parts["Training runs"], re.MULTILINE)
    [consistency], [differences] = (
        tables(parts[name]) for name in ("Consistency under permutation", "Differences in consistency")
    )
    return "\n\n".join(
        [
            f"`bash launch/demo.sh` on {machine()}, {written}. Greedy answers, in the original and two drawn orders:",
            figures,
            *verdict,
            "The exported models, answers drawn at temperature 1, in all orders and as often in the original alone:",
            columns(consistency, CONSISTENCY_COLUMNS),
            columns(differences, DIFFERENCE_COLUMNS),
        ]
    )


def tables(text: str) -> list[str]:
    """The Markdown tables in a text."""
    return [table.strip() for table in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE)]


def columns(table: str, names: Sequence[str]) -> str:
    """A Markdown table reduced to these columns."""
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.strip().splitlines()]
    indices = [rows[0].index(name) for name in names]
    return "\n".join("| " + " | ".join(row[place] for place in indices) + " |" for row in rows)


def speed(file: Path) -> str:
    """The conclusion of each benchmark, and the machine it ran on."""
    text = file.read_text(encoding="utf-8")
    [where] = re.findall(r"^(`python -m benchmarks.results` on [^\n]*?)\. ", text, re.MULTILINE)
    sections = re.findall(r"^## `python -m (benchmarks\.\w+)`$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [f"- `{name}`: {re.findall('[*][*](.+)[*][*]', text_of)[-1]}" for name, text_of in sections]
    return "\n".join([f"{where}:", "", *lines])


def plan(file: Path) -> str:
    """How the plans were made, and the table's first row for each config."""
    summary, table = file.read_text(encoding="utf-8").split("\n\n")[1:3]
    header, line, *rows = table.splitlines()
    first = {re.split("[`:]", row)[1]: row for row in reversed(rows)}
    return "\n".join([f"{summary} All: `benchmarks/PLANS.md`.", "", header, line, *reversed(first.values())])


TABLES = {
    "demo": ("demo/report.md", demo),
    "speed": ("benchmarks/RESULTS.md", speed),
    "plan": ("benchmarks/PLANS.md", plan),
}


def fill(readme: str, name: str, content: str) -> str:
    """The page with the content of a part replaced. Raises ValueError if its markers are missing."""
    pattern = re.compile(rf"(<!-- {name} table\b[^>]*-->\n).*?(<!-- /{name} table -->)", re.DOTALL)
    if not pattern.search(readme):
        raise ValueError(f"README.md has no place for the {name} table")
    return pattern.sub(lambda marks: f"{marks[1]}{content}\n{marks[2]}", readme)


def main() -> None:
    page = REPOSITORY / "README.md"
    text = page.read_text(encoding="utf-8")
    for name, (file, formatter) in TABLES.items():
        source = REPOSITORY / file
        if source.exists():
            text = fill(text, name, formatter(source))
            print(f"{name}: {file}")
        else:
            print(f"{name}: left as it is; there is no {file}")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
