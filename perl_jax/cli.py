"""How every command starts: absl flags, plain log lines, and bad input told in one line with exit code 1."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app
from absl import logging as absl_logging

from models.errors import InputError


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main(argv)` under absl's flags; an InputError is one line on stderr and exit code 1."""

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}; flags look like --name=value")
        absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax says much through it
        logging.getLogger("perl_jax").setLevel(logging.INFO)
        if not jax.config.jax_compilation_cache_dir:  # what was compiled once is not compiled again tomorrow
            jax.config.update("jax_compilation_cache_dir", str(Path(os.path.expanduser("~/.cache/perl_jax/jit"))))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        try:
            main(argv)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    app.run(guarded)
