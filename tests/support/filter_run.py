"""One process of a filter run: `filter_run.py WORKDIR CHANGES OPTIONS [COORDINATOR COUNT INDEX [DIE]]`.

It is killed as by `kill -9` in the middle of a line while writing batch number DIE.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for running as a script

import environment  # noqa: F401  (before the first import of jax)
import tiny_run

from perl_jax import filter
from perl_jax.evaluation import batched_inference
from perl_jax.runtime import cli, processes

CHANGES = {"warmup.steps": 0, "data.source": "", "reward": "tiny_reward:score"}


def run(workdir: Path, changes: dict, **options) -> str:
    """Runs the filter with a micro model: `changes` to its config, `options` of the filter."""
    return filter.apply(tiny_run.config(**{**CHANGES, **changes}), Path(workdir), filter.Options(**options))


def die_while_writing(number: int) -> None:
    """Makes this process die in the middle of a line of its batch `number`, counted from 1; 0: never."""
    add, batches = batched_inference.Writer.add, []

    def add_and_die(writer, new):
        batches.extend([new] if new else [])
        if new and len(batches) == number:
            text = "".join(json.dumps(row) + "\n" for row in new)
            writer._file.write(text[: 2 * len(text) // 3])
            writer._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        add(writer, new)

    batched_inference.Writer.add = add_and_die


def main(
    workdir: str, changes: str, options: str, coordinator: str = "", count: str = "1", index: str = "0", die: str = "0"
) -> None:
    processes.TIMEOUT, processes.LOST = 60, 20
    die_while_writing(int(die))
    with cli.telling():
        processes.join(coordinator, int(count), int(index))
        run(Path(workdir), json.loads(changes), **json.loads(options))


if __name__ == "__main__":
    main(*sys.argv[1:])
