"""How every command starts: absl flags, plain log lines, and bad input told in one line with exit code 1."""

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging

from models.errors import InputError

flags.disclaim_key_flags()  # what is defined here is a command's own, and shown by its --help
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no torch is how it should be


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main(argv)` under absl's flags; an InputError is one line on stderr and exit code 1."""

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            refuse(InputError(f"unexpected argument {argv[1]!r}; flags look like --name=value"))
        absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax says much through it
        logging.getLogger("perl_jax").setLevel(logging.INFO)
        if not jax.config.jax_compilation_cache_dir:  # what was compiled once is not compiled again tomorrow
            jax.config.update("jax_compilation_cache_dir", str(Path(os.path.expanduser("~/.cache/perl_jax/jit"))))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        try:
            main(argv)
        except InputError as error:
            refuse(error)
        except KeyboardInterrupt:
            print("stopped; the same command goes on", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=parse)


def define_run_flags() -> None:
    """The flags of a command that works on a run: its config, its workdir, its other processes."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config",
        None,
        "The experiment: a file in configs/, e.g. configs/demo.py.",
        lock_config=False,  # base.py has locked what is not open
        accept_new_attributes=True,
    )
    flags.DEFINE_string("workdir", None, "Where the run keeps everything; started again there, it resumes.")
    flags.mark_flags_as_required(["config", "workdir"])
    define_process_flags()


def define_process_flags() -> None:
    """The flags that say where a command's other processes are."""
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where no cluster says it.")
    flags.DEFINE_integer("process_count", 0, "With --coordinator: how many processes.")
    flags.DEFINE_integer("process_index", -1, "With --coordinator: this one, from 0.")


def parse(argv: Sequence[str]) -> Sequence[str]:
    """What the flags leave of `argv`; a flag or config key that is unknown or of another type is one line too."""
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            flags.FLAGS.config.keys()  # a config file that cannot be read says so only when it is used
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        text = message(error)
        key = text.split("'")[1] if text.startswith("'") else ""  # ml_collections names the last part of a key only
        named = [a for a in argv if key and a.startswith("--config.") and key in a.partition("=")[0].split(".")]
        refuse(InputError(f"{named[0]}: no such key in the config: {text}" if named else text))


def message(error: Exception) -> str:
    """What an exception says, in one line: no quotes around a message in a message, no traceback, no list of keys."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    head, traceback, rest = text.partition("Traceback (most recent call last):")
    text = head + rest.strip().splitlines()[-1] if traceback else text
    return re.sub(r' Other fields present: ".*?"(?= Did you mean|$)', "", " ".join(text.split()))


def refuse(error: InputError) -> NoReturn:
    """One line on stderr, and exit code 1."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    sys.exit(1)
