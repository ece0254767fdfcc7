"""Command-line entry point of all commands: absl flags, plain log lines, one-line input errors with exit code 1.

In addition to absl: `-h` and `--help` exit with 0, `--max-new-tokens` is `--max_new_tokens`, a repeated flag
accumulates or is refused, and a config is found by its name from any folder.
"""

import contextlib
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging

from models.errors import InputError, one_line
from perl_jax.runtime import bucket, compilations, config_keys, device_settings, disk, host_memory, peers

flags.disclaim_key_flags()  # flags defined here count as the command's, and are shown by its --help
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # torch is not needed

CONFIGS = Path(__file__).resolve().parents[2] / "configs"  # part of an installed perl_jax
A_CONFIG = (  # in one line
    "a config is a Python file whose get_config() returns that of configs/base.py with changes, as configs/demo.py; "
    "single values are set by --config.KEY=VALUE"
)
PATHS = frozenset({"workdir", "out", "input", "images", "data", "results", "decontaminate", "against"})  # flags
IN_BUCKETS = frozenset({"train", "export", "report"})  # commands whose --workdir may be in a bucket
IN_CONFIG = {"model": "config.model", "data": "config.data.directory"}  # flags of other commands


def run(main: Callable[[Sequence[str]], None], elsewhere: Mapping[str, str] | None = None) -> None:
    """Runs `main(argv)` under absl's flags; an InputError is one line on stderr and exit code 1.

    `elsewhere` maps flags that the command does not have to what to give instead.
    """

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            refuse(unexpected(normalised(sys.argv), argv[1]))
        quieten()
        host_memory.one_arena()
        device_settings.apply()
        if not jax.config.jax_compilation_cache_dir:  # keeps compiled programs between runs
            jax.config.update("jax_compilation_cache_dir", str(Path(os.path.expanduser("~/.cache/perl_jax/jit"))))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        with telling():
            main(argv)

    app.run(guarded, flags_parser=partial(parse, elsewhere=elsewhere or {}))


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Ends this process in one line on stderr where that says it all; tells the other processes of the run in any case.

    So ends what is an InputError, a disk's or a device's trouble, or Ctrl-C; other exceptions pass.
    """
    try:
        yield
    except InputError as error:
        peers.failed(error)
        refuse(error)
    except Exception as error:
        peers.failed(error)
        if line := disk.trouble(error):
            folders = [flags.FLAGS[name].value for name in ("out", "workdir") if name in flags.FLAGS]
            refuse(InputError(line if line.startswith("/") else f"{folders[0]}: {line}" if folders else line))
        if (told := without_device(error)) is None:
            raise
        refuse(told)
    except KeyboardInterrupt as error:
        peers.failed(error)
        print("stopped; the same command resumes", file=sys.stderr)
        sys.exit(130)


def quieten() -> None:
    """Leaves it to us to tell what libraries raise: Orbax and its threads print their errors too, with tracebacks."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs through it
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.getLogger("perl_jax").setLevel(logging.INFO)
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(Line())
    if not ("verbose" in flags.FLAGS and flags.FLAGS.verbose):
        handler.addFilter(without_details)

    def hook(left: "sys.UnraisableHookArgs") -> None:
        if str(left.exc_value) != "Event loop is closed":  # as TensorStore's threads find it after a save has failed
            sys.__unraisablehook__(left)

    sys.unraisablehook = hook


class Line(logging.Formatter):
    """A log record as it is; a warning says that it is one."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def without_details(record: logging.LogRecord) -> bool:
    """A filter of log records that passes those without details."""
    return not getattr(record, compilations.DETAIL, False)


def define_run_flags() -> None:
    """Flags of commands that work on a run: config, workdir, processes."""
    define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of the run; a restarted command resumes there.", required=True)
    flags.DEFINE_bool("verbose", False, "Also say of each program that is compiled why.")
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


RAISED_BY_CONFIGS = (  # by their own code, and by ml_collections for a key or value that it does not take
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    OSError,
    SyntaxError,
    ImportError,
    NameError,
    ArithmeticError,
)


def parse(argv: Sequence[str], elsewhere: Mapping[str, str]) -> Sequence[str]:
    """The arguments of `argv` that are not flags; unknown or mistyped flags and config keys are one-line errors."""
    argv = normalised(argv)
    if any(name in ("h", "help") for _, name in flags_in(argv)):
        app.usage(shorthelp=True, writeto_stdout=True)
        sys.exit(0)
    try:
        check_names(argv, elsewhere)
        arguments = flags.FLAGS(with_config_path(argv))
        check_finite()
        check_paths(buckets=Path(argv[0]).stem in IN_BUCKETS)
        if "config" in flags.FLAGS:
            check_kind(flags.FLAGS.config)  # raises now if the config file cannot be read
        return arguments
    except InputError as error:
        refuse(error)
    except (flags.Error, *RAISED_BY_CONFIGS) as error:
        where = "" if isinstance(error, flags.Error) else config_line(argv, error)
        refuse(unknown_key(argv, error) or InputError(where + explained(message(error), argv)))


def check_finite() -> None:
    """Raises InputError for a flag whose number is infinite or none at all."""
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"--{name}={value}: give a finite number")


def check_paths(buckets: bool = False) -> None:
    """Raises InputError for a path that is a URL: it would be a folder such as `gs:` on each machine.

    With `buckets` --workdir may be one of a bucket that can be used.
    """
    for name in PATHS.intersection(flags.FLAGS):
        value = flags.FLAGS[name].value
        for path in value if isinstance(value, list) else [value]:
            if url := re.match(r"(?:[^/:=]*=)?(([A-Za-z][A-Za-z0-9+.-]+):/.*)", str(path)):  # NAME=DIR, too
                if buckets and name == "workdir" and bucket.is_url(url[1]):
                    try:
                        bucket.check(url[1])
                    except InputError as error:
                        raise InputError(f"--{name}={path}: {error}") from error
                    continue
                raise InputError(
                    f"--{name}={path}: {url[2]}:// is not read or written; give a path on this machine, which may be "
                    "shared or a bucket mounted there"
                )


def check_kind(config: object) -> None:
    """Raises InputError unless the config is a ConfigDict."""
    from ml_collections import ConfigDict

    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config: its get_config() returns a {type(config).__name__}; let it return what configs/base.py's "
            "get_config() gives, with changes"
        )


def config_line(argv: Sequence[str], error: BaseException) -> str:
    """ "FILE, line N: " of an error that the config's file raises; "" for others."""
    file = config_given(argv).partition(":")[0]
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: "
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f"{file}, line {lines[-1]}: " if file and lines else ""


def explained(text: str, argv: Sequence[str]) -> str:
    """What absl and ml_collections say of flags, as what to do."""
    if missing := re.match(r"flag --(\w+)=None: Flag --\w+ must have a value", text):
        if missing[1] == "config" and any(name == "config" for _, name in flags_in(argv)):
            return "--config: its get_config() returns nothing; end it with `return config`"
        example = f", such as --config=demo; the names in configs/ are {config_names()}" * (missing[1] == "config")
        return f"--{missing[1]} is missing: give --{missing[1]}={missing[1].upper()}{example}"
    if text.endswith("has no attribute 'get_config'"):
        return f"--config: the file has no function get_config(); {A_CONFIG}"
    return text


def unknown_key(argv: Sequence[str], error: Exception) -> InputError | None:
    """What to say of an unknown config key, given in `argv` or used in the config's file; None for other errors."""
    if "config" not in flags.FLAGS:
        return None
    config = flags.FLAGS["config"].value or config_alone(argv)
    for name in [name for _, name in flags_in(argv) if name.startswith("config.")] if config else ():
        if is_unknown(config, path := name.removeprefix("config.")):
            return InputError(f"--{name}: {no_key(config, path)}")
    root, section, key, place = in_file(error)
    if root is None or not key:
        return None
    path = f"{section}.{key}".removeprefix(".")
    return InputError(f"{place}: {no_key(root, path)}") if is_unknown(root, path) else None


def config_alone(argv: Sequence[str]):
    """The config of the file in `argv`, without the keys that are set there; None if it cannot be read."""
    with contextlib.suppress(Exception):  # the caller tells why
        return flags.FLAGS["config"].parser.parse(config_given(argv))
    return None


def config_given(argv: Sequence[str]) -> str:
    """The path of the config's file in `argv`, with what follows its colon; "" if there is none."""
    argv = with_config_path(argv)
    places = [place for place, name in flags_in(argv) if name == "config"]
    return argv[places[0]].partition("=")[2] or "".join(argv[places[0] + 1 : places[0] + 2]) if places else ""


def is_unknown(config, path: str) -> bool:
    """Whether `config` has no key `path`, and none may be added there."""
    for part in path.split("."):
        if not hasattr(config, "is_locked"):
            return True
        if part not in config:
            return config.is_locked
        config = config[part]
    return False


def no_key(config, path: str) -> str:
    """One line on an unknown key of the config."""
    meant = config_keys.suggestion(config, path)
    section = path.rpartition(".")[0]
    at = config
    for part in filter(None, section.split(".")):
        at = at[part] if hasattr(at, "is_locked") and part in at else None
    there = ", ".join(at) if hasattr(at, "is_locked") else ", ".join(config)
    where = f"config.{section}" if section and hasattr(at, "is_locked") else "config"
    hint = f"did you mean config.{meant}?" if meant else f"{where} has {there}"
    return f"no such key in the config: {path!r}; {hint}"


def in_file(error: BaseException) -> tuple:
    """(config, section, key, "FILE, line N") of an access to a key that there is not, from where it was raised."""
    frames = list(traceback.walk_tb(error.__traceback__))
    inside = [frame.f_locals for frame, _ in frames if hasattr(frame.f_locals.get("self"), "is_locked")]
    theirs = [(frame, line) for frame, line in frames if frame.f_code.co_name == "get_config"]
    if not inside or not theirs:
        return None, "", "", ""
    part, key = inside[-1]["self"], inside[-1].get("name", inside[-1].get("key", inside[-1].get("attribute", "")))
    frame, line = theirs[-1]
    for root in [value for value in frame.f_locals.values() if hasattr(value, "is_locked")]:
        sections = {"": root} | {path: value for path, value in config_keys.flat(root) if hasattr(value, "is_locked")}
        for path, section in sections.items():
            if section is part:
                return root, path, str(key), f"{frame.f_code.co_filename}, line {line}"
    return None, "", "", ""


def unexpected(argv: Sequence[str], argument: str) -> InputError:
    """What to say of an argument that is no flag, by what stands before it."""
    text = f"unexpected argument {argument!r}; flags look like --name=value"
    if re.match(r"[A-Za-z][\w.]*=", argument):
        return InputError(f"{text}: --{argument}")
    before = [name for place, name in flags_in(argv) if argument in argv and place < list(argv).index(argument)]
    flag = before[-1] if before else ""
    if flag not in flags.FLAGS:
        return InputError(text)
    value = flags.FLAGS[flag].value
    if isinstance(flags.FLAGS[flag], flags.MultiFlag):
        last = (value or [""])[-1]
        return InputError(f"{text}; give --{flag} again for each: --{flag}={last} --{flag}={argument}")
    if isinstance(value, str):
        return InputError(f'{text}; a value with spaces goes in quotes: --{flag}="{value} {argument}"')
    return InputError(text)


def without_device(error: BaseException) -> InputError | None:
    """What to say where JAX finds no device of the platform that it is told to use; None for other errors."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or Path(frames[-1].filename).name != "xla_bridge.py":
        return None
    platforms = os.environ.get("JAX_PLATFORMS", "")
    why = f" ({one_line(error)})" if str(error) else ""
    return InputError(
        f"JAX_PLATFORMS={platforms}: JAX finds no such device{why}; install JAX for it (requirements-gpu.txt, "
        "requirements-tpu.txt), look whether the device is visible, or set JAX_PLATFORMS=cpu"
    )


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
        if Path(name).is_file() and Path(name).suffix == ".py":
            return ":".join([name, *arm])
    if Path(path).suffix.lower() in (".yaml", ".yml", ".json", ".toml", ".ini", ".cfg") or Path(path).is_file():
        raise InputError(f"--config={text}: no Python file; {A_CONFIG}")
    raise InputError(f"--config={text}: no such file; the names in configs/ are {config_names()}")


def config_names() -> str:
    """The names of the configs in configs/, in one line."""
    return ", ".join(sorted(file.stem for file in CONFIGS.glob("[!_]*.py")))


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
