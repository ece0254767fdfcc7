"""The training data stream: an endless, shuffled, exactly resumable sequence, identical for any number of processes.

Grain's random-access data sets (`range`, `shuffle`, `repeat`, `mix`) define the sequence: draw number `position` is a
pure function of (data, seed). That number is therefore the whole state, as in `grain.experimental.ElasticIterator`,
which is not used because its batches have a fixed size (a refill draws any number of questions) and are stacked into
arrays (records are ragged).
"""

import concurrent.futures
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from models.errors import InputError
from perl_jax import records


def sources(text: str) -> dict[str, float]:
    """Parses `config.data.directory` to {directory: weight}: `DIR`, or the mixture `DIR=22,DIR2=36`.

    Raises:
        InputError: a part of a mixture without a positive weight, or a repeated directory.
    """
    if "," not in text:
        return {text: 1.0}
    weights = {}
    for part in text.split(","):
        directory, _, number = part.strip().rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not directory or not 0 < weight < math.inf:
            raise InputError(
                f"config.data.directory={text}: expected DIR, or DIR=WEIGHT,DIR=WEIGHT with weights above "
                f"0, which {part!r} is not"
            )
        if directory in weights:
            raise InputError(f"config.data.directory={text}: {directory} is named twice; give it one weight")
        weights[directory] = weight
    return weights


class Subset:
    """The records of a stored split that a run uses, with `len()` and `[i]`.

    In a mixture a record's id becomes `NUMBER:ID`, because data sets may share ids and ids must be unique in a run.

    Args:
        kept: ascending indices into the split; None: all records.
        number: of the data set in its mixture, from 1; 0: not a mixture.
    """

    def __init__(self, directory: str, split: str, kept: np.ndarray | None = None, number: int = 0):
        self._split = records.open_split(directory, split)
        self._kept = np.arange(len(self._split)) if kept is None else np.asarray(kept, np.int64)
        self._prefix = f"{number}:" if number else ""
        if not len(self._kept):
            raise InputError(f"no record of split {split!r} of {directory} can be used")

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> records.Record:
        record = self._split[int(self._kept[index])]
        return {**record, "id": self._prefix + record["id"]}

    def name(self, index: int) -> str:
        """What to call a record that cannot be read."""
        return f"{self._prefix}#{self._kept[index]}"

    @property
    def excluded(self) -> str:
        """How many records are excluded, with a hash that identifies them."""
        digest = hashlib.sha256(self._kept.tobytes()).hexdigest()[:8]
        return f"{len(self._split) - len(self)} of {len(self._split)} ({digest})"


def open_subsets(
    directories: Sequence[str], split: str, indices: Mapping[str, np.ndarray] | None = None
) -> list[Subset]:
    """The subset of each directory; with `indices`, only its directories and the records at its indices."""
    numbers = range(1, len(directories) + 1) if len(directories) > 1 else (0,)
    return [
        Subset(directory, split, indices and indices[directory], number)
        for number, directory in zip(numbers, directories)
        if indices is None or directory in indices
    ]


def directories_with_split(directories: Sequence[str], split: str) -> list[str]:
    """The directories that have a split; InputError if none does."""
    known = {directory: records.splits(directory) for directory in directories}
    name = re.split(r"[\[+]", split)[0]
    matching = [directory for directory, names in known.items() if name in names]
    if not matching:
        splits = "; ".join(f"{directory} has {', '.join(names)}" for directory, names in known.items())
        raise InputError(f"no set of config.data has a split {split!r}: {splits}")
    return matching


def first_records(subsets: Sequence[Subset], limit: int) -> Iterator[records.Record]:
    """The first `limit` records of several parts, round-robin."""
    indices = sorted((i, n) for n, subset in enumerate(subsets) for i in range(min(len(subset), limit)))
    return (subsets[n][i] for i, n in indices[:limit])


class Stream:
    """An endless stream of records: each epoch yields every record once, in a new shuffled order.

    Args:
        sources: a directory of records, or `{directory: weight}`: a mixture that draws from each in proportion to its
            weight, with separate epochs per directory.
        split: of every directory.
        seed: of the shuffle, 0 to 2**32 - 1.
        kept: `{directory: indices}` of the records to draw, from `prompt_lengths.select`; None: all.
        process_index, process_count: the draws of a `take` are cut into `process_count` blocks in order, and this
            process gets its block. Every process must make the same calls.
        threads: number that read records.

    Raises:
        InputError: no records, a weight that is not positive, a seed or process index out of range.
    """

    def __init__(
        self,
        sources: str | Mapping[str, float],
        *,
        split: str = "train",
        seed: int = 0,
        kept: Mapping[str, np.ndarray] | None = None,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 4,
    ):
        if not 0 <= process_index < process_count:
            raise InputError(f"process_index {process_index} is not below process_count {process_count}")
        if not 0 <= seed < 2**32:
            raise InputError(f"the seed of a stream of records must be from 0 to 2**32 - 1, not {seed}")
        weights = {sources: 1.0} if isinstance(sources, str) else dict(sources)
        if not weights or min(weights.values()) <= 0:
            raise InputError(f"a mixture needs directories with positive weights, not {weights}")
        self._parts = open_subsets(list(weights), split, kept)
        sizes = [len(part) for part in self._parts]
        self._draws = _mixture(sizes, list(weights.values()), seed)
        self._identity = {
            "seed": seed,
            "split": split,
            "data": [[records.fingerprint(directory), weight] for directory, weight in weights.items()],
            "excluded": [part.excluded for part in self._parts],
        }
        self.size = sum(sizes)
        self._process_index, self._process_count = process_index, process_count
        self._position = 0
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)

    @property
    def position(self) -> int:
        """Number of records taken by all processes together."""
        return self._position

    @property
    def epoch(self) -> int:
        """Epoch of the next draw, from 0, with `size` records per epoch (in a mixture: on average)."""
        return self._position // self.size

    def take(self, count: int) -> list[records.Record]:
        """The next `count` records of the global stream; this process gets the `count / process_count` of its block.

        Each has two additional keys: `position`, its global draw number (unique in the run), and `epoch`, the number of
        earlier passes over its data set. One that cannot be read has only these, an `id`, and `fault`: why.

        Raises:
            InputError: `count` is not a multiple of the number of processes.
        """
        share, rest = divmod(count, self._process_count)
        if rest or count < 0:
            raise InputError(f"{count} records cannot be shared by {self._process_count} processes; use a multiple")
        start = self._position + self._process_index * share
        taken = list(self._pool.map(self._record, range(start, start + share)))
        self._position += count
        return taken

    def state(self) -> dict:
        """JSON-able state: the position of the next draw and the identity of the stream: seed, split, fingerprints and
        weights, and which records are excluded."""
        return {"position": self._position, **self._identity}

    def restore(self, state: Mapping) -> None:
        """Continues from a `state()`, of this stream or of the same stream over another number of processes.

        Raises:
            InputError: the state is of a different stream (seed, split, data or excluded records differ).
        """
        for key, value in self._identity.items():
            if state.get(key) != value:
                raise InputError(
                    f"the saved data position belongs to {key} {state.get(key)}, but the run now has "
                    f"{value}; restore the old data and settings, or start a new run"
                )
        self._position = int(state["position"])

    def _record(self, position) -> records.Record:
        number, place, epoch = self._draws[position]
        part, drawn = self._parts[number], {"epoch": epoch, "position": position}
        try:
            return {**part[place], **drawn}
        except InputError as error:
            return {"id": part.name(place), "fault": str(error), **drawn}


def _mixture(sizes: list[int], weights: list[float], seed: int):
    """A Grain data set of draws, for parts of `sizes`: draw number -> (part, index in it, epoch)."""
    import grain

    def endless(number, size):
        # Below the shuffle the index is still global (epoch * size + place), so the epoch is known here.
        draws = grain.MapDataset.range(size).map_with_index(lambda index, place: (number, place, index // size))
        # The offset keeps two data sets of equal size in one mixture from the same shuffle.
        return draws.seed((seed + number) % 2**32).shuffle().repeat()

    parts = [endless(number, size) for number, size in enumerate(sizes)]
    if len(parts) == 1:
        return parts[0]
    total = sum(weights)
    return grain.MapDataset.mix(parts, weights=[weight / total for weight in weights])
