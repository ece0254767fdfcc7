"""The records that fail in a run, as their pictures or rows cannot be read: counted, listed, limited."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from models.errors import InputError
from perl_jax.runtime import files, logs, processes

AT_LEAST = 100  # records that the limit is a share of, so that a single failure ends no small run


class Skipped:
    """The failed records of a run over a stream of `size` records.

    Args:
        workdir: where they are listed, in skipped.jsonl; None: nowhere.
        most: the largest share that may fail, of at least `AT_LEAST` records (`config.max_skipped`).
    """

    def __init__(self, workdir: Path | None, most: float, size: int):
        self._file, self._most, self._size = workdir and workdir / logs.SKIPPED, most, size
        self._ids: dict[str, str | None] = {}  # each once, in order
        self._new = 0

    def add(self, step: int, failures: Sequence[tuple[str, str]]) -> None:
        """Notes the (id, reason) of records that failed in a step, the same ones in all processes.

        Raises InputError where more records have failed than may.
        """
        if not failures:
            return
        self._ids |= {name: None for name, _ in failures}
        self._new += len(failures)
        if self._file and processes.first():
            with files.appended(self._file) as file:
                file.write(files.lines({"step": step, "id": name, "reason": reason} for name, reason in failures))
        if self.too_many():
            listed = f" ({self._file} lists them)" if self._file else ""
            raise InputError(
                f"step {step}: {len(self._ids)} of {self._size:,} records have failed{listed}, more than "
                f"config.max_skipped = {self._most:g} allows: mend them, or set it higher; the last: {failures[-1][1]}"
            )

    def too_many(self, more: Sequence[tuple[str, str]] = ()) -> bool:
        """Whether more records have failed than may, with these (id, reason)."""
        return len(self._ids | dict(more)) > self._most * max(self._size, AT_LEAST)

    def count(self) -> int:
        """Failures since the last call."""
        count, self._new = self._new, 0
        return count

    def state(self) -> list[str]:
        """The ids so far, for a checkpoint."""
        return list(self._ids)

    def restore(self, ids: Iterable[str]) -> None:
        self._ids = dict.fromkeys(ids)
