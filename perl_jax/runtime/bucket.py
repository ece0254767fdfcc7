"""Workdirs in a bucket, `gs://BUCKET/FOLDER`: its checkpoints and its lock lie there; Orbax writes the former itself.

All other files of a run are in a folder of this machine, whose name is the URL (`local`). Process 0 brings what has
changed to the bucket (`Mirror`), each file whole, and then the list of them: what the list does not name, as half of a
folder, was not brought to its end and counts for nothing. Whoever starts or reads a run gets these files from there.
"""

import atexit
import contextlib
import functools
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from models.errors import InputError, one_line
from perl_jax.runtime import processes

logger = logging.getLogger(__name__)

ROOT = Path(os.path.expanduser("~/.cache/perl_jax/buckets"))
LIST = "files.json"  # in the bucket: {name: [size, time of modification in ns]} of the files brought there
INSTALL = "install gcsfs (pip install -r requirements-gcs.txt)"


def is_url(workdir: str | Path) -> bool:
    return str(workdir).startswith("gs://")


def check(url: str) -> None:
    """Raises InputError where a `gs://` URL names no folder of a bucket that exists and this machine may use."""
    if not re.fullmatch(r"gs://[\w.-]+(/(?!\.\.?(/|$))[^/*?\[\]#%]+)+/?", url):
        raise InputError("give gs://BUCKET/FOLDER, in plain characters")
    try:
        import gcsfs  # noqa: F401
        from google.cloud import storage
    except ImportError as error:
        raise InputError(f"gs:// is not read or written without a library: {INSTALL}") from error
    name = url.split("/")[2]
    try:
        storage.Client().get_bucket(name, retry=None, timeout=30)  # as Orbax does
        with contextlib.suppress(FileNotFoundError):
            _files().ls(url)
    except Exception as error:
        raise InputError(
            f"gs:// is not read or written from here ({one_line(error, kind=True)}): see that the bucket exists, and "
            "that this machine's account may read it and its objects (gcloud auth application-default login)"
        ) from error


def local(workdir: str, owner: str = "") -> Path:
    """The folder on this machine of a process's files in `workdir`: that folder itself, unless it is a URL."""
    if not is_url(workdir):
        return Path(workdir)
    return ROOT / (owner or f"process-{jax.process_index()}") / workdir.rstrip("/").replace("/", "%2F")


def shared(path: Path) -> Any:
    """Where all processes find what has the path `path` here: the path itself, or within `local` one of the bucket."""
    if ROOT not in path.parents:
        return path
    from etils import epath

    _files()
    _, url, *parts = path.relative_to(ROOT).parts
    return epath.Path(url.replace("%2F", "/"), *parts)


def brought(workdir: str) -> Path:
    """`workdir`, or where it is a URL a folder with its files as they are now, for who only reads, until it ends.

    Raises InputError where no run is in the bucket's folder.
    """
    if not is_url(workdir):
        return Path(workdir)
    ROOT.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="read-", dir=ROOT))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    mirror = Mirror(local(workdir, folder.name))
    mirror.pull()
    if not any(mirror.folder.iterdir()):
        raise InputError(f"{workdir} holds no run; give the --workdir of a training run")
    return mirror.folder


def remove(folder: Path) -> None:
    """Removes a folder, here and where all see it, or nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    if (there := shared(folder)) is not folder and there.exists():
        there.rmtree()


def move(source: Any, target: Any) -> None:
    """Moves a folder to another name, both as `shared` gives them."""
    if is_url(source):
        for file in _files().find(str(source)):
            _files().mv(f"gs://{file}", f"{target}{f'gs://{file}'.removeprefix(str(source))}")
    else:
        target.parent.mkdir(exist_ok=True)
        shutil.move(source, target)


class Mirror:
    """Keeps a run's folder and the bucket's the same in its context; does nothing for a workdir that is in none.

    At its start the folder becomes what the bucket has. `processes.after_first` hands new files on to all processes.
    """

    def __init__(self, folder: Path):
        self.folder, self._there = folder, shared(folder)
        self._known: dict[str, list[int]] = {}  # what is the same here and there, as in the list
        self._sharing = contextlib.ExitStack()

    def __enter__(self) -> "Mirror":
        if self._there is not self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.pull()
            self._sharing.enter_context(processes.sharing(self._share))
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._there is self.folder:
            return
        with self._sharing:
            if kind is None:
                processes.after_first(lambda: None)
            elif processes.first():
                try:
                    self.push()
                except InputError as error:  # the one that ends the run is told
                    logger.warning("%s", error)

    def _share(self) -> None:
        self.push() if processes.first() else self.pull()

    def push(self) -> None:
        """In process 0: brings the files that have changed to the bucket. Raises InputError where that fails."""
        if self._there is self.folder or not processes.first():
            return
        with _telling(self._there):
            here = {str(file.relative_to(self.folder)): file for file in _files_in(self.folder)}
            gone, before = self._known.keys() - here.keys(), dict(self._known)
            for name, file in here.items():
                if (now := _stamp(file)) != self._known.get(name):
                    _files().put_file(str(file), f"{self._there}/{name}")
                    self._known[name] = now
            for name in gone:
                del self._known[name]
            if self._known != before:
                (self._there / LIST).write_text(json.dumps(self._known))
            for name in gone:
                (self._there / name).unlink(missing_ok=True)

    def pull(self) -> None:
        """Gets the files that the list in the bucket names and that are not known to be here."""
        with _telling(self._there):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, stamp in _listed(self._there / LIST).items():
                if self._known.get(name) == stamp:
                    continue
                file = self.folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # removed there, by hand
                    _files().get_file(f"{self._there}/{name}", str(file))
                    os.utime(file, ns=(stamp[1], stamp[1]))
                self._known[name] = stamp


class Object:
    """An object of a bucket as a lock: as `lock.File`, for which see there."""

    def __init__(self, there: Any):
        self._url = str(there)

    def create(self, text: str) -> None:
        with _telling(self._url):
            _files().pipe_file(self._url, text.encode(), mode="create")  # the bucket refuses a second one

    def read(self) -> str:
        with _telling(self._url):
            return _files().cat_file(self._url).decode()

    def replace(self, text: str) -> None:
        with _telling(self._url):
            _files().pipe_file(self._url, text.encode())

    renew = replace

    def renewed(self) -> float:
        with _telling(self._url), contextlib.suppress(FileNotFoundError):
            return _files().modified(self._url).timestamp()
        return 0.0

    def now(self) -> float:
        other = Object(f"{self._url}-{os.urandom(8).hex()}")
        other.replace("")
        try:
            return other.renewed()
        finally:
            other.remove()

    def remove(self) -> None:
        with _telling(self._url), contextlib.suppress(FileNotFoundError):
            _files().rm_file(self._url)


@functools.cache
def _files() -> Any:
    """The file system of buckets, through which `etils.epath` and so Orbax go, too.

    It keeps no listings: other processes write to the same folder.
    """
    import fsspec

    os.environ["EPATH_USE_TF"] = "false"  # TensorFlow, where it is installed, would be taken
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return fsspec.filesystem("gcs", finalize_on_close=True)


@contextlib.contextmanager
def _telling(url: Any) -> Iterator[None]:
    """Turns what a bucket's library raises into InputError, but for files that are there, or not."""
    try:
        yield
    except (InputError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        raise InputError(
            f"{url} cannot be read or written ({one_line(error, kind=True)}); the same command goes on from what is "
            "saved there"
        ) from error


def _listed(file: Any) -> dict[str, list[int]]:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return {}


def _files_in(folder: Path) -> list[Path]:
    """The whole files of a folder, also in folders within."""
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and ".partial" not in str(file)]


def _stamp(file: Path) -> list[int]:
    facts = file.stat()
    return [facts.st_size, facts.st_mtime_ns]
