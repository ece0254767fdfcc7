"""Command-line entry point of all commands: absl flags, plain log lines, one-line input errors with exit code 1.

In addition to absl: `-h` and `--help` exit with 0, `--max-new-tokens` is `--max_new_tokens`, a repeated flag
accumulates or is refused, and a config is found by its name from any folder.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging

from models.errors import InputError

flags.disclaim_key_flags()  # flags defined here count as the command's, and are shown by its --help
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # torch is not needed

CONFIGS = Path(__file__).resolve().parents[2] / "configs"  # part of an installed perl_jax
IN_CONFIG = {"model": "config.model", "data": "config.data.directory"}  # flags of other commands


def run(main: Callable[[Sequence[str]], None], elsewhere: Mapping[str, str] | None = None) -> None:
    """Runs `main(argv)` under absl's flags; an InputError is one line on stderr and exit code 1.

    `elsewhere` maps flags that the command does not have to what to give instead.
    """

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            refuse(InputError(f"unexpected argument {argv[1]!r}; flags look like --name=value"))
        absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax logs much through it
        logging.getLogger("perl_jax").setLevel(logging.INFO)
        if not jax.config.jax_compilation_cache_dir:  # keeps compiled programs between runs
            jax.config.update("jax_compilation_cache_dir", str(Path(os.path.expanduser("~/.cache/perl_jax/jit"))))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        try:
            main(argv)
        except InputError as error:
            refuse(error)
        except KeyboardInterrupt:
            print("stopped; the same command resumes", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=partial(parse, elsewhere=elsewhere or {}))


def define_run_flags() -> None:
    """Flags of commands that work on a run: config, workdir, processes."""
    define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of the run; a restarted command resumes there.", required=True)
    define_process_flags()


def define_config_flag() -> None:
    """The flag of commands that read a config."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config of the run: a file, or a name in configs/, such as perl_7b or demo:grpo.",
        lock_config=False,  # base.py locks the keys itself
        accept_new_attributes=True,
    )
    flags.mark_flag_as_required("config")


def define_process_flags() -> None:
    """Flags that locate the other processes of a command."""
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, if no cluster provides it.")
    flags.DEFINE_integer("process_count", 0, "With --coordinator: the number of processes.")
    flags.DEFINE_integer("process_index", -1, "With --coordinator: the index of this process, from 0.")


def parse(argv: Sequence[str], elsewhere: Mapping[str, str]) -> Sequence[str]:
    """The arguments of `argv` that are not flags; unknown or mistyped flags and config keys are one-line errors."""
    argv = normalised(argv)
    if any(name in ("h", "help") for _, name in flags_in(argv)):
        app.usage(shorthelp=True, writeto_stdout=True)
        sys.exit(0)
    try:
        check_names(argv, elsewhere)
        arguments = flags.FLAGS(with_config_path(argv))
        if "config" in flags.FLAGS:
            flags.FLAGS.config.keys()  # raises now if the config file cannot be read
        return arguments
    except InputError as error:
        refuse(error)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        text = message(error)
        key = text.split("'")[1] if text.startswith("'") else ""  # ml_collections reports only the last part of a key
        named = [a for a in argv if key and a.startswith("--config.") and key in a.partition("=")[0].split(".")]
        refuse(InputError(f"{named[0]}: no such key in the config: {text}" if named else text))


def defined(name: str) -> tuple[str, str]:
    """("", flag) for the name of a defined flag, ("no", flag) where it turns a boolean off, else ("", name)."""
    known, off = name.replace("-", "_"), re.sub("^no[-_]?", "", name).replace("-", "_")
    if known not in flags.FLAGS and off != known and off in flags.FLAGS and flags.FLAGS[off].boolean:
        return "no", off
    return "", known if known in flags.FLAGS else name


def flags_in(argv: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(place, name) of each flag in `argv`, without separate values, up to a bare `--`."""
    is_value = False
    for place, text in enumerate(argv[1:], start=1):
        if text == "--":
            return
        match = None if is_value else re.match(r"--?([A-Za-z][^=]*)(=?)", text)
        is_value = False
        if match:
            yield place, match[1]
            _, flag = defined(match[1])
            is_value = not match[2] and flag in flags.FLAGS and not flags.FLAGS[flag].boolean


def normalised(argv: Sequence[str]) -> list[str]:
    """`argv` with hyphens in flag names replaced by underscores."""
    out = list(argv)
    for place, name in flags_in(argv):
        off, flag = defined(name)
        if flag in flags.FLAGS:
            out[place] = f"--{off}{flag}{out[place].partition(name)[2]}"
    return out


def check_names(argv: Sequence[str], elsewhere: Mapping[str, str]) -> None:
    """Raises InputError for a flag in `elsewhere`, and for a repeated flag that does not accumulate."""
    seen = set()
    for _, name in flags_in(argv):
        _, flag = defined(name)
        if flag not in flags.FLAGS and flag in elsewhere:
            raise InputError(f"there is no flag --{flag}: give --{elsewhere[flag]}")
        if flag in seen and not (flag in flags.FLAGS and isinstance(flags.FLAGS[flag], flags.MultiFlag)):
            raise InputError(f"--{flag} is given twice: give it once")
        seen.add(flag)


def with_config_path(argv: Sequence[str]) -> list[str]:
    """`argv` with `--config` replaced by the path of its file."""
    out = list(argv)
    for place, name in flags_in(argv):
        if name == "config" and name in flags.FLAGS:
            head, equals, value = out[place].partition("=")
            if equals:
                out[place] = head + equals + config_file(value)
            elif place + 1 < len(out):
                out[place + 1] = config_file(out[place + 1])
    return out


def config_file(text: str) -> str:
    """The config file that `--config` names, with what follows its colon: a path, or a name in configs/.

    Raises InputError, with the known names, for a missing file.
    """
    path, *arm = text.split(":", 1)
    names = [path, f"{path}.py"]
    if str(Path(path).parent) in (".", CONFIGS.name) and not Path(path).name.startswith("_"):
        names += [str(CONFIGS / Path(name).name) for name in names]
    for name in names:
        if Path(name).is_file():
            return ":".join([name, *arm])
    known = ", ".join(sorted(file.stem for file in CONFIGS.glob("[!_]*.py")))
    raise InputError(f"--config={text}: no such file; the names in configs/ are {known}")


def message(error: Exception) -> str:
    """An exception's message in one line, without nested quotes, traceback or list of keys."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    head, traceback, cause = text.partition("Traceback (most recent call last):")
    text = head + cause.strip().splitlines()[-1] if traceback else text
    return re.sub(r' Other fields present: ".*?"(?= Did you mean|$)', "", " ".join(text.split()))


def refuse(error: InputError) -> NoReturn:
    """Prints one line to stderr and exits with code 1."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    sys.exit(1)
