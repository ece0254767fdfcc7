"""The stream of training questions: one endless, shuffled, exactly resumable sequence, the same on any number of
processes.

Grain's random-access data sets (`source`, `shuffle`, `repeat`, `mix`) define the sequence: draw number `position` is a
pure function of (data, seed). So the whole state is that one number, as in `grain.experimental.ElasticIterator`, which
is not used itself because its batches have one fixed size (a refill draws any number of questions) and are stacked
into arrays (records are ragged).
"""

import concurrent.futures
from collections.abc import Mapping

from models.errors import InputError
from perl_jax import records


class Stream:
    """Records without end: each epoch shows every record once, in an order of its own.

    Args:
        sources: a directory of records, or `{directory: weight}`: a mixture that draws from each in proportion to its
            weight, each with epochs of its own.
        split: of every directory.
        seed: of the shuffle, 0 to 2**32 - 1.
        process_index, process_count: the draws of a `take` are cut into `process_count` blocks in order, and this
            process gets its own. Every process must make the same calls.
        threads: that read records ahead.

    Raises:
        InputError: no records, a weight that is not positive, a seed or process out of range.
    """

    def __init__(self, sources: str | Mapping[str, float], *, split: str = "train", seed: int = 0,
                 process_index: int = 0, process_count: int = 1, threads: int = 4):
        if not 0 <= process_index < process_count:
            raise InputError(f"process_index {process_index} is not below process_count {process_count}")
        if not 0 <= seed < 2**32:
            raise InputError(f"the seed of a stream of records must be from 0 to 2**32 - 1, not {seed}")
        weights = {sources: 1.0} if isinstance(sources, str) else dict(sources)
        if not weights or min(weights.values()) <= 0:
            raise InputError(f"a mixture needs directories with positive weights, not {weights}")
        splits = [records.open_split(directory, split) for directory in weights]
        self._dataset = _mixture(splits, list(weights.values()), seed)
        self._identity = {
            "seed": seed,
            "split": split,
            "data": [[records.fingerprint(directory), weight] for directory, weight in weights.items()],
        }
        self.size = sum(map(len, splits))
        self._process_index, self._process_count = process_index, process_count
        self._position = 0
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._ahead = {}  # position -> future

    @property
    def position(self) -> int:
        """How many records all processes together have taken."""
        return self._position

    @property
    def epoch(self) -> int:
        """Of the next draw, from 0, counting `size` records an epoch (in a mixture: on average)."""
        return self._position // self.size

    def take(self, count: int) -> list[records.Record]:
        """The next `count` records of the global stream; this process gets the `count / process_count` of its block.

        Each carries two more keys: `position`, its global draw number (unique in the run), and `epoch`, how often its
        own data set was passed through before.

        Raises:
            InputError: `count` is not a multiple of the number of processes.
        """
        share, rest = divmod(count, self._process_count)
        if rest or count < 0:
            raise InputError(f"{count} records cannot be shared by {self._process_count} processes; use a multiple")
        block = self._block(self._position, share)
        taken = [self._ahead.pop(position, None) or self._read(position) for position in block]
        self._position += count
        self._forget()
        # Read what the next call of the same size will ask for while the caller works on this one.
        self._ahead = {position: self._read(position) for position in self._block(self._position, share)}
        return [{**future.result(), "position": position} for position, future in zip(block, taken)]

    def state(self) -> dict:
        """JSON-able: the position before the next draw, and what it counts (seed, split, fingerprints, weights)."""
        return {"position": self._position, **self._identity}

    def restore(self, state: Mapping) -> None:
        """Goes to a `state()`, of this stream or of one over any other number of processes.

        Raises:
            InputError: the state counts another stream (seed, split or data differ).
        """
        for key, value in self._identity.items():
            if state.get(key) != value:
                raise InputError(f"the saved data position belongs to {key} {state.get(key)}, but the run now has "
                                 f"{value}; restore the old data and settings, or start a new run")
        self._position = int(state["position"])
        self._forget()

    def _block(self, start, share):
        start += self._process_index * share
        return range(start, start + share)

    def _read(self, position):
        return self._pool.submit(self._dataset.__getitem__, position)

    def _forget(self):
        for future in self._ahead.values():
            future.cancel()
        self._ahead = {}


def _mixture(splits: list[records.Split], weights: list[float], seed: int):
    """A Grain data set: draw number -> record with its `epoch`."""
    import grain

    def endless(index, split):
        size = len(split)
        # Below the shuffle the index is still global (epoch * size + place), which is where the epoch is known.
        with_epoch = grain.MapDataset.source(split).map_with_index(
            lambda index, record: {**record, "epoch": index // size}
        )
        # Offset, so that two sets of equal size in one mixture are not shuffled alike.
        return with_epoch.seed((seed + index) % 2**32).shuffle().repeat()

    endless_splits = [endless(index, split) for index, split in enumerate(splits)]
    if len(endless_splits) == 1:
        return endless_splits[0]
    total = sum(weights)
    return grain.MapDataset.mix(endless_splits, weights=[weight / total for weight in weights])
