"""`python tests/support/evaluate_run.py OUT OPTIONS [COORDINATOR COUNT INDEX [DIE]]`: one process of an evaluation.

It is killed as by `kill -9` in the middle of a line while writing batch number DIE.
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for running as a script

import environment  # noqa: F401  (before the first import of jax)
import filter_run

from perl_jax import evaluate
from perl_jax.runtime import cli, processes

SMALL = {"benchmark": "records", "max_new_tokens": 8, "dtype": "float32", "batch": 4, "max_prompt_tokens": 300}


def run(out: Path, **options) -> dict:
    """Evaluates a micro model; returns the content of results.json."""
    return evaluate.evaluate(evaluate.Options(**{**SMALL, **options, "out": str(out)}))


def rows(folder: Path, name: str = "scores.jsonl") -> list[dict]:
    """The rows of a file, without its settings line."""
    lines = map(json.loads, (folder / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "settings" not in line]


def main(out: str, options: str, coordinator: str = "", count: str = "1", index: str = "0", die: str = "0") -> None:
    processes.TIMEOUT, processes.LOST = 60, 20
    filter_run.die_while_writing(int(die))
    with cli.telling():
        processes.join(coordinator, int(count), int(index))
        run(Path(out), **json.loads(options))


if __name__ == "__main__":
    main(*sys.argv[1:])
