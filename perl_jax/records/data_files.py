"""The files of one input: a file, a folder of shards, a pattern, or a data set of the hub, each with `@split`."""

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from models.errors import InputError, one_line
from perl_jax.records import hub_files

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)")
_SHARD = re.compile(r"(.+?)-(\d{5})-of-(\d{5})(?:\D.*)?")  # train-00000-of-00003.parquet
_SPLITS = {  # a word in a file's name: the split that it means
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    "eval": "eval",
}
_NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "state.json", "config.json"}
_BESIDE_ROWS = ("*.zip", *(f"*{suffix}" for suffix in hub_files.IMAGE_SUFFIXES))


class Files(NamedTuple):
    """Data files of one input, and where their images are."""

    paths: list[Path]
    folder: Path  # their images are in it, beside each file or below it
    name: str
    zips: list[Path] | None = None  # of a published data set
    within: Path | None = None  # what images must not leave, if it is not the folder


def find(given: str) -> Files:
    """The data files that an input names, in natural order.

    Args:
        given: a file, a folder, a pattern such as `data/*.parquet`, or a hub id `owner/name`, all with `@split` or
            without; a subset of a data set of the hub is `owner/name/subset`. Hub files are downloaded, or taken from
            the cache where there is no network.

    Raises:
        InputError: no such file, several splits of which none is named, several formats, a missing shard; a data set
            that is neither cached nor can be downloaded.
    """
    path, split = Path(given), ""
    if not path.exists() and "@" in given:
        start, _, split = given.rpartition("@")
        path = Path(start)
    text = str(path)
    if path.is_file():
        if split and _split_of(path.name) != _SPLITS.get(split, split):
            raise InputError(f"{given}: {path.name} is one file; leave out @{split}")
        return Files([path], path.parent, path.stem)
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        return Files([path / name for name in _chosen(names, text, split)], path, path.resolve().name)
    if glob.has_magic(text):
        folder = _fixed_part(path)
        matches = sorted(file for file in glob.glob(text, recursive=True) if Path(file).is_file())
        names = [Path(file).relative_to(folder).as_posix() for file in matches]
        if not names:
            raise InputError(f"{text}: no file matches this pattern")
        chosen = _chosen(names, text, split, any_split=True)
        return Files([folder / name for name in chosen], folder, folder.resolve().name)
    hub_id = _HUB_ID.fullmatch(text)
    if hub_id is None or path.suffix.lower() in hub_files.FORMATS:
        raise InputError(f"{text}: no such file or folder")
    return _from_hub(hub_id[1], hub_id[2].strip("/"), split)


def _fixed_part(pattern: Path) -> Path:
    """The folder that all matches of a pattern are in."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts) if parts else Path(".")


def _chosen(names: Iterable[str], where: str, split: str, any_split: bool = False) -> list[str]:
    """The names of the data files of the split, in natural order; InputError where they are not of one kind."""
    rows = [name for name in names if _may_hold_rows(name)]
    if not rows:
        raise InputError(f"{where} holds no data files; rows are read from {', '.join(hub_files.FORMATS)}")
    splits = {name: _split_of(name) for name in rows}
    known = sorted(set(filter(None, splits.values())))
    if split and (known or split != "train"):  # files that name no split are for training
        wanted = _SPLITS.get(split, split)
        rows = [name for name in rows if splits[name] == wanted]
        if not rows:
            raise InputError(f"{where} has no files of the split {split!r}; it has {', '.join(known) or 'no splits'}")
    elif len(known) > 1 and not any_split:
        example = "train" if "train" in known else known[0]
        raise InputError(f"{where} holds the splits {', '.join(known)}: name one, as --input={where}@{example}")
    if len(formats := sorted({PurePosixPath(name).suffix.lower() for name in rows})) > 1:
        raise InputError(
            f"{where} holds files in {' and '.join(formats)}: name one kind, as --input='{where}/*{formats[0]}'"
        )
    _check_shards(rows, where)
    return sorted(rows, key=_natural)


def _may_hold_rows(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return path.suffix.lower() in hub_files.FORMATS and path.name not in _NOT_ROWS and not hidden


def _split_of(name: str) -> str | None:
    """The split that a file's name says, or else its nearest folder.

    >>> _split_of("data/train-00000-of-00001.parquet"), _split_of("my_val.jsonl"), _split_of("test/a.csv")
    ('train', 'validation', 'test')
    """
    path = PurePosixPath(name)
    if shard := _SHARD.fullmatch(path.name):
        return _SPLITS.get(shard[1], shard[1])
    for part in (path.stem, *reversed(path.parts[:-1])):
        words = [_SPLITS[word] for word in re.findall(r"[a-z]+", part.lower()) if word in _SPLITS]
        if words:
            return words[0]
    return None


def _check_shards(names: Sequence[str], where: str) -> None:
    """InputError unless each shard that the names count is there."""
    found: dict[tuple[str, str], set[int]] = {}
    for name in names:
        path = PurePosixPath(name)
        if shard := _SHARD.fullmatch(path.name):
            found.setdefault((str(path.parent / shard[1]), shard[3]), set()).add(int(shard[2]))
    for (start, total), numbers in found.items():
        if missing := set(range(int(total))) - numbers:
            raise InputError(f"{where} lacks {start}-{min(missing):05}-of-{total}: download all {int(total)} shards")


def _natural(name: str) -> list:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _from_hub(repo: str, subset: str, split: str) -> Files:
    from huggingface_hub import HfApi, snapshot_download

    def chosen(names: Iterable[str]) -> list[str]:
        inside = [name for name in names if not subset or name.startswith(f"{subset}/")]
        made = _chosen(inside, f"{repo}/{subset}" if subset else repo, split)
        if len(folders := sorted({str(PurePosixPath(name).parent) for name in made})) > 1:
            raise InputError(f"{repo} has the subsets {', '.join(folders)}: name one, as --input={repo}/{folders[0]}")
        return made

    try:
        names = chosen(file.rfilename for file in HfApi().dataset_info(repo).siblings or ())
        beside = [] if names[0].endswith(".parquet") else _BESIDE_ROWS
        folder = Path(snapshot_download(repo, repo_type="dataset", allow_patterns=[*names, *beside]))
    except InputError:
        raise
    except Exception as error:  # the hub client passes on any exception of its network libraries
        try:
            folder = Path(snapshot_download(repo, repo_type="dataset", local_files_only=True))
        except Exception:
            raise InputError(
                f"{repo} is no file or folder here, is not cached, and cannot be downloaded ({one_line(error)}): run, "
                f"where there is a network, `hf download {repo} --repo-type dataset`"
            ) from error
        names = chosen(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    zips = sorted(folder.rglob("*.zip"))
    # Cached files are links to files beside the snapshots.
    return Files([folder / name for name in names], folder, repo.partition("/")[2], zips, folder.parent.parent)
