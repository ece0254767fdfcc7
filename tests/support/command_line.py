"""Runs commands in this process, so that JAX and other modules are imported only once."""

import contextlib
import io
import runpy
import sys
import warnings
from typing import NamedTuple

from absl import flags


class Done(NamedTuple):
    """A command's output and exit code."""

    code: int
    out: str
    err: str


def run(command: str, *arguments: str) -> Done:
    """Runs `python -m perl_jax.<command> <arguments>`; uncaught exceptions are raised here."""
    argv, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv, code = [f"perl_jax/{command}.py", *map(str, arguments)], 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
            runpy.run_module(f"perl_jax.{command}", run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        for name in list(flags.FLAGS):
            if flags.FLAGS.find_module_defining_flag(name) == sys.argv[0] or name.startswith("config."):
                delattr(flags.FLAGS, name)
        sys.argv = argv
    return Done(code, out.getvalue(), err.getvalue())
