"""Sets of records on disk: written whole or not at all, and read at random places.

A set of records is a TFDS directory on ArrayRecord, written and read without TensorFlow; other people open it with
`tfds.builder_from_directory`. Reading needs the packages `tensorflow-datasets` and `array_record`; both are imported
when a set is opened, so that the rest of perl_jax runs on machines that lack them.
"""

import collections
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from models.errors import InputError
from perl_jax.records.record import Record, checked
from perl_jax.runtime import files

_TEXTS = ("id", "question", "answer", "kind", "order_effect", "source")
_EVERY_PLACE = -1  # how "no `movable` given" is stored: an empty list says that nothing may move
_CHUNK = 64  # records handed to the TFDS writer at a time; it rewrites its metadata after each hand-over
_RECORDS_PER_SHARD = 20_000
_SUMMARY = "records.json"


def write(
    records: dict[str, Iterable[Record]],
    directory: str,
    *,
    name: str = "records",
    reject: Callable[[str, Record, InputError], None] | None = None,
    finish: Callable[[str], None] | None = None,
) -> dict:
    """Writes splits of records as one set, in the order given, and returns its summary.

    Pictures that are RGB PNG or JPEG keep their bytes; all others become RGB PNG (turned upright as their EXIF says,
    transparency on white). Nothing appears at `directory` until all of it is written.

    Args:
        records: `{split: records}`; ids are unique over all splits.
        directory: must not exist yet, or be empty.
        name: of the set, in lower_snake_case; it prefixes the file names.
        reject: called with (split, record, error) for each bad record, which is then left out; None: raise instead.
        finish: called with the still hidden directory when all records are in it, to add files of its own.

    Returns:
        `{"name": name, "splits": {split: {"records", "sha256", "source", "kind", "order_effect"}}}`, the last three
        being counts by value; also stored as records.json.

    Raises:
        InputError: a bad record (without `reject`), a split with no records, a directory that is in use.
    """
    directory = os.path.abspath(directory)
    if os.path.exists(directory) and (not os.path.isdir(directory) or os.listdir(directory)):
        raise InputError(f"{directory} exists and is not empty; remove it or choose another directory")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"name {name!r} of a set of records must be in lower_snake_case")
    if not records:
        raise InputError(f"{directory} would hold no splits; give at least one")
    with files.whole_directory(directory) as partial:
        writer = _tfds_writer(partial, name)
        writer.initialize_splits(list(records))
        seen, splits = set(), {}
        for split, items in records.items():
            tally = _Tally()
            for chunk in _chunks(tally.watch(_accepted(split, items, seen, reject))):
                writer.add_examples({split: [_to_example(record) for record in chunk]})
            if not tally.records:
                raise InputError(f"split {split!r} of {directory} would hold no records; check the source's input")
            splits[split] = tally.summary()
        writer.close_all()
        summary = {"name": name, "splits": splits}
        with open(os.path.join(partial, _SUMMARY), "w", encoding="utf-8") as file:
            json.dump(summary, file, indent=1, sort_keys=True)
        if finish:
            finish(partial)
    return summary


def open_split(directory: str, split: str = "train") -> "Split":
    """A stored split with `len()` and `[i]`; `split` may be sliced as in TFDS (`"train[:50%]"`).

    Raises:
        InputError: no set of records there, an unknown split, or one without records.
    """
    return Split(directory, split)


def splits(directory: str) -> list[str]:
    """The names of a set's splits. Raises InputError: no set of records there."""
    _require_set(directory)
    return list(_tfds().builder_from_directory(directory).info.splits)


def fingerprint(directory: str) -> str:
    """16 hex digits that change with the content of a set, and not with its place. Reads no record: the content's own
    hashes are in records.json, and the size of each data file counts too.

    Raises:
        InputError: no set of records there.
    """
    _require_set(directory)
    digest = hashlib.sha256()
    for file in sorted(os.listdir(directory)):
        path = os.path.join(directory, file)
        if ".array_record" in file:
            digest.update(f"{file}:{os.path.getsize(path)}\n".encode())
        elif file.endswith(".json"):
            with open(path, "rb") as content:
                digest.update(content.read())
    return digest.hexdigest()[:16]


def summary(directory: str) -> dict:
    """What `write` returned of a set. Raises InputError: no set of records there, or not written by `write`."""
    _require_set(directory)
    try:
        with open(os.path.join(directory, _SUMMARY), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{directory}: {_SUMMARY} cannot be read ({_line(error)}); prepare it again") from error


class Split:
    """A random-access view of a stored split: `len(split)`, `split[i] -> Record`. It pickles as its path, so that a
    worker process opens its own files."""

    def __init__(self, directory: str, split: str):
        self.directory, self.split = os.path.abspath(directory), split
        self._open()

    def _open(self):
        _require_set(self.directory)
        tfds = _tfds()
        try:
            builder = tfds.builder_from_directory(self.directory)
        except (ValueError, KeyError, OSError) as error:
            raise InputError(f"{self.directory} holds no readable records: {_line(error)}; prepare it again") from error
        try:
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._source = builder.as_data_source(split=self.split, deserialize_method=raw)
        except (ValueError, KeyError, OSError) as error:
            known = ", ".join(builder.info.splits) or "none"
            raise InputError(f"{self.directory} has no split {self.split!r}, it has {known}: {_line(error)}") from error
        if not len(self._source):
            raise InputError(f"split {self.split!r} of {self.directory} holds no records")

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return _from_example(self._source[index])

    def __getstate__(self):
        return {"directory": self.directory, "split": self.split}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()


def _tfds():
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(f"records need the packages of requirements.txt; install them ({error})") from error
    return tfds


def _tfds_writer(directory, name):
    tfds = _tfds()
    text, texts = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())
    features = tfds.features.FeaturesDict(
        {
            **dict.fromkeys(_TEXTS, text),
            "images": tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3))),
            "choices": texts,
            "captions": texts,  # empty: none
            "accuracy": tfds.features.Scalar(np.float32),  # NaN: not known
            "movable": tfds.features.Sequence(tfds.features.Scalar(np.int32)),
        }
    )
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=directory, module_name="perl_jax.records"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features, description=Record.__doc__)
    return tfds.core.SequentialWriter(info, max_examples_per_shard=_RECORDS_PER_SHARD, file_format="array_record")


def _to_example(record: Record) -> dict:
    example = {key: record[key] for key in Record.__required_keys__}
    example["captions"] = record.get("captions", [])
    example["accuracy"] = math.nan if record["accuracy"] is None else record["accuracy"]
    example["movable"] = [_EVERY_PLACE] if record["movable"] is None else record["movable"]
    return example


def _from_example(data: bytes) -> Record:
    """A stored record: a tf.train.Example, each feature a list of values. (TFDS's own decoder takes four times as long,
    and for pictures as they are stored it would need one more decoder.)"""
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(data).features.feature

    def texts(key: str) -> list[str]:
        return [value.decode() for value in features[key].bytes_list.value]

    record = {key: text for key in _TEXTS for text in texts(key)}
    record["images"] = list(features["images"].bytes_list.value)
    record["choices"] = texts("choices")
    [accuracy] = features["accuracy"].float_list.value
    record["accuracy"] = None if math.isnan(accuracy) else round(accuracy, 6)
    if captions := texts("captions"):
        record["captions"] = captions
    movable = list(features["movable"].int64_list.value)
    record["movable"] = None if movable == [_EVERY_PLACE] else movable
    return record


def _accepted(split, items, seen: set[str], reject) -> Iterator[Record]:
    for item in items:
        try:
            record = checked(item)
            if record["id"] in seen:
                raise InputError(f"record {record['id']!r} of split {split!r} has an id that was used before")
        except InputError as error:
            if reject is None:
                raise
            reject(split, item, error)
            continue
        seen.add(record["id"])
        yield record


def _chunks(items: Iterable) -> Iterator[list]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _Tally:
    """What went by: how many records, of what kinds, and the hash of their content."""

    def __init__(self):
        self.records, self._digest = 0, hashlib.sha256()
        self._counts = {key: collections.Counter() for key in ("source", "kind", "order_effect")}

    def watch(self, items: Iterable[Record]) -> Iterator[Record]:
        for record in items:
            self.records += 1
            for key, counter in self._counts.items():
                counter[record[key]] += 1
            content = [record[key] for key in sorted(Record.__required_keys__)] + list(record.get("captions") or ())
            self._digest.update(repr(content).encode())
            yield record

    def summary(self) -> dict:
        counts = {key: dict(sorted(counter.items())) for key, counter in self._counts.items()}
        return {"records": self.records, "sha256": self._digest.hexdigest(), **counts}


def _require_set(directory: str):
    if not os.path.isfile(os.path.join(directory, "dataset_info.json")):
        raise InputError(f"{directory} holds no records (no dataset_info.json); write some with perl_jax.prepare")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
