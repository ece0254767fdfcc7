"""All commands as one: `perl_jax train --config=...` is `python -m perl_jax.train --config=...`."""

import ast
import difflib
import os
import runpy
import sys
from pathlib import Path

from perl_jax import __version__

COMMANDS = ("prepare", "filter", "train", "evaluate", "report", "export", "sample", "plan")  # in order of use


def main() -> None:
    """Runs the command named by the first argument; without one prints the usage."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(usage())
    elif command == "--version":
        print("perl_jax", __version__)
    elif command in COMMANDS:
        run(command, rest)
    else:  # not `cli.refuse`, whose module imports JAX
        print("error:", unknown(command), file=sys.stderr)
        sys.exit(1)


def run(command: str, arguments: list[str]) -> None:
    """Runs the command like `python -m`, so that rewards and sources in the working directory can be imported."""
    here = os.getcwd()
    if not sys.flags.safe_path and here not in sys.path:
        sys.path.insert(0, here)
    sys.argv = [sys.argv[0], *arguments]
    runpy.run_module(f"perl_jax.{command}", run_name="__main__", alter_sys=True)


def usage() -> str:
    """The usage text: one line per command."""
    lines = [f"  {command:<10}{summary(command)}" for command in COMMANDS]
    end = "`perl_jax COMMAND --help` lists its flags; `python -m perl_jax.COMMAND` is the same command."
    return "\n".join(["usage: perl_jax COMMAND [--flag=value ...]", "", *lines, "", end])


def summary(command: str) -> str:
    """The first docstring line of a command, up to the example; parsed, since an import would take seconds."""
    text = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)).splitlines()[0].partition(": `")[0]


def unknown(command: str) -> str:
    """The one-line error message for an unknown command."""
    near = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f"did you mean {near[0]}? Known" if near else "known"
    return " ".join(f"unknown command {command!r}; {hint} are {', '.join(COMMANDS)}".split())


if __name__ == "__main__":
    main()
