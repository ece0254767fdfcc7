"""Storage of record sets: written atomically, read by random access.

A record set is a TFDS directory on ArrayRecord, written and read without TensorFlow; others can open it with
`tfds.builder_from_directory`. Reading needs the packages `tensorflow-datasets` and `array_record`. Both are imported
only when a set is opened, so that the rest of perl_jax runs without them.
"""

import collections
import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from models.errors import InputError, one_line
from perl_jax.records.record import Record, validated
from perl_jax.runtime import checksums, files

_TEXTS = ("id", "question", "answer", "kind", "order_effect", "source")
_EVERY_PLACE = -1  # stored value for `movable` None: an empty list means that no image may move
_CHUNK = 64  # records passed to the TFDS writer at a time; it rewrites its metadata after each batch
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
    """Writes splits of records as one data set, in the given order, and returns its summary.

    RGB PNG and JPEG images keep their bytes; all others become RGB PNG (rotated upright by EXIF, transparency on
    white). Nothing appears at `directory` until everything is written.

    Args:
        records: `{split: records}`; ids are unique across all splits.
        directory: must not exist, or be empty.
        name: of the data set, in lower_snake_case; the prefix of its file names.
        reject: called with (split, record, error) for each invalid record, which is then skipped; None: raise instead.
        finish: called with the still hidden directory once all records are written, to add further files.

    Returns:
        `{"name": name, "splits": {split: {"records", "sha256", "source", "kind", "order_effect"}}}`, the last three
        being counts by value; also stored as records.json.

    Raises:
        InputError: an invalid record (without `reject`), a split with no records, a directory that is not empty.
    """
    directory = os.path.abspath(directory)
    if os.path.exists(directory) and (not os.path.isdir(directory) or os.listdir(directory)):
        raise InputError(f"{directory} exists and is not empty; remove it or choose another directory")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"name {name!r} of a set of records must be in lower_snake_case")
    if not records:
        raise InputError(f"{directory} would hold no splits; give at least one")
    with files.atomic_directory(directory) as partial:
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
        checksums.write(partial, "*.json")  # ArrayRecord files have checksums of their own
    return summary


def open_split(directory: str, split: str = "train") -> "Split":
    """Opens a stored split with `len()` and `[i]`; `split` may be sliced as in TFDS (`"train[:50%]"`).

    Raises:
        InputError: no record set there, a damaged one, an unknown split, or an empty one. Reading a damaged record
            raises it, too.
    """
    return Split(directory, split)


def splits(directory: str) -> list[str]:
    """The split names of a data set. Raises InputError: no record set there, or a damaged one."""
    _require_set(directory)
    with _noticing_damage(directory):
        return list(_tfds().builder_from_directory(directory).info.splits)


def fingerprint(directory: str) -> str:
    """16 hex digits that depend on the content of a data set, not on its location. Reads no records: it hashes
    records.json, which holds content hashes, and the size of each data file.

    Raises:
        InputError: no record set there.
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
    """The summary that `write` returned for a data set. Raises InputError: no record set there, or without summary."""
    _require_set(directory)
    try:
        with open(os.path.join(directory, _SUMMARY), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{directory}: {_SUMMARY} cannot be read ({one_line(error)}); prepare it again") from error


class Split:
    """A random-access view of a stored split: `len(split)`, `split[i] -> Record`. It pickles as its path, so each
    worker process opens its own files."""

    def __init__(self, directory: str, split: str):
        self.directory, self.split = os.path.abspath(directory), split
        self._open()

    def _open(self):
        _require_set(self.directory)
        tfds = _tfds()
        with _noticing_damage(self.directory):
            builder = tfds.builder_from_directory(self.directory)
            known = builder.info.splits
        try:
            known[self.split]
        except (ValueError, KeyError) as error:
            there = ", ".join(f"{name} of {known[name].num_examples:,} records" for name in known) or "none"
            raise InputError(
                f"{self.directory} has no split {self.split!r}, it has {there}: {one_line(error)}"
            ) from error
        with _noticing_damage(self.directory):
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._source = builder.as_data_source(split=self.split, deserialize_method=raw)
        if not len(self._source):
            raise InputError(f"split {self.split!r} of {self.directory} holds no records")

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """The record. Raises InputError where its data are damaged."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return _from_example(self._source[index])
        except Exception as error:  # of many kinds: damage that array_record sees, and what is no record
            raise InputError(
                f"record {index} of split {self.split!r} of {self.directory} cannot be read "
                f"({one_line(error, kind=True)}): {_MEND}"
            ) from error

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
            "captions": texts,  # empty if absent
            "accuracy": tfds.features.Scalar(np.float32),  # NaN if unknown
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
    """Decodes a stored record: a tf.train.Example, each feature a list of values. (TFDS's own decoder takes four times
    as long, and would need a further decoder for images in stored format.)"""
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
            record = validated(item)
            if record["id"] in seen:
                raise InputError(
                    f"record {record['id']!r} of split {split!r} has an id that an earlier record has; make ids unique"
                )
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
    """Counts the records that pass through, by kind, and hashes their content."""

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


_MEND = "copy the set anew, or prepare it again"


def _require_set(directory: str):
    if not os.path.isfile(os.path.join(directory, "dataset_info.json")):
        raise InputError(f"{directory} holds no records (no dataset_info.json); write some with perl_jax.prepare")
    checksums.check(directory, _MEND)


@contextlib.contextmanager
def _noticing_damage(directory: str) -> Iterator[None]:
    """Turns whatever TFDS and ArrayRecord raise for a damaged data set into an InputError."""
    try:
        yield
    except Exception as error:  # RuntimeErrors of ArrayRecord, which has checksums; ParseErrors, KeyErrors, OSErrors
        raise InputError(f"{directory} holds no readable records ({one_line(error, kind=True)}): {_MEND}") from error
