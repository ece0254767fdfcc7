"""All commands as one: `perl_jax train --config=...` is `python -m perl_jax.train --config=...`."""

import ast
import difflib
import os
import runpy
import sys
from pathlib import Path

from perl_jax import __version__

COMMANDS = ("prepare", "filter", "train", "evaluate", "report", "export", "sample", "plan")  # in a project's order


def main() -> None:
    """Runs the command that the first argument names; without one says which there are."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(usage())
    elif command == "--version":
        print("perl_jax", __version__)
    elif command in COMMANDS:
        run(command, rest)
    else:  # not `cli.refuse`, which stands beside JAX
        print("error:", unknown(command), file=sys.stderr)
        sys.exit(1)


def run(command: str, arguments: list[str]) -> None:
    """As `python -m` does it, which also finds a reward or a source that lies in the working directory."""
    here = os.getcwd()
    if not sys.flags.safe_path and here not in sys.path:
        sys.path.insert(0, here)
    sys.argv = [sys.argv[0], *arguments]
    runpy.run_module(f"perl_jax.{command}", run_name="__main__", alter_sys=True)


def usage() -> str:
    """The commands, a line each, and where to read on."""
    lines = [f"  {command:<10}{summary(command)}" for command in COMMANDS]
    end = "`perl_jax COMMAND --help` lists its flags; `python -m perl_jax.COMMAND` is the same command."
    return "\n".join(["usage: perl_jax COMMAND [--flag=value ...]", "", *lines, "", end])


def summary(command: str) -> str:
    """What a command is for: its docstring up to the example. Read and not imported, which would take seconds."""
    text = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)).splitlines()[0].partition(": `")[0]


def unknown(command: str) -> str:
    """What is wrong with a command that there is not, in one line."""
    near = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f"did you mean {near[0]}? Known" if near else "known"
    return " ".join(f"unknown command {command!r}; {hint} are {', '.join(COMMANDS)}".split())


if __name__ == "__main__":
    main()
