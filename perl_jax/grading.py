"""Computes rewards in killable worker processes, sharded over the processes of a run.

A reward may hang (a tower of powers) or crash its process, and no signal stops either. So responses go to a pool of
workers (`runtime/workers.py`) in chunks; a chunk that exceeds the wall-clock limit or loses its worker is graded again
one response at a time, and the failing response gets zero. What a step's responses take together is bounded, too.

A worker imports this module and the reward, and nothing of the program that started it. A custom reward must therefore
live in an importable module.
"""

import collections
import contextlib
import logging
import math
import textwrap
import time
import traceback
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from models.errors import InputError, one_line
from perl_jax import rewards
from perl_jax.runtime.workers import ALIVE, Unfinished, limit, outcome, pool

__all__ = ["ALIVE", "Failure", "Grader", "limit", "outcome", "pool"]

log = logging.getLogger(__name__)

MAX_CHUNK = 64
# A record for any reward: `weights` are checked on an empty response to it.
_TRIAL: dict[str, object] = {
    "id": "trial",
    "question": "1 + 1 = ?",
    "choices": [],
    "answer": "2",
    "kind": "number",
    "source": "trial",
    "order_effect": "invariant",
    "accuracy": None,
    "movable": None,
    "truncated": False,
}
_Pair = tuple[Mapping[str, object], str]
MAX_PARTS = 64  # of a reward: each is a metric
MAX_WARNINGS = 20  # different errors that are shown
PROBE = 8  # responses that must all take too long before the others of a batch are not tried


class Failure(NamedTuple):
    """Why a response has no score; failures of the same kind are warned once."""

    kind: str
    text: str


_Scored = dict[str, float] | Failure


class Grader:
    """Scores (record, response text) pairs with one reward.

    Args:
        reward_name: as for `rewards.find`; an unknown one raises InputError here, not in a worker.
        workers: processes.
        timeout: seconds of wall-clock time for a chunk, and then for a single response.
        memory_gib: data memory of a worker; a reward that needs more fails with MemoryError.
        weights: by part; "reward" is then the sum of weight * part, instead of the reward's own value. Raises
            InputError, here or in the first `grade`, for a weight that is not finite or an unknown part.
        max_failed: `grade` raises InputError where the reward fails on a larger share of its pairs, or on all pairs of
            the first `grade`. None: never.
        step_timeout: seconds for all responses of a `grade`; what is unfinished then counts as failed. None: no limit.
        rounding: the reward gets records with `rounding` set to True: answers may be rounded further than the
            reference (`config.reward_rounding`).

    `timeouts`, `crashes` and `errors` count the responses that were given zero because the reward hung, crashed its
    worker, or raised an exception or returned something other than finite numbers. Each different error is logged once,
    with the id of a record.
    """

    def __init__(
        self,
        reward_name: str,
        workers: int = 2,
        timeout: float = 10.0,
        memory_gib: float = 2.0,
        weights: Mapping[str, float] | None = None,
        max_failed: float | None = None,
        rounding: bool = False,
        step_timeout: float | None = None,
    ):
        rewards.find(reward_name)
        self._weights = dict(weights or {})
        self._added: dict[str, object] = {"rounding": True} if rounding else {}
        rewards.check_weights(self._weights)
        self.timeouts = self.crashes = self.errors = self._elsewhere = 0
        self._reward_name, self._workers, self._timeout = reward_name, workers, timeout
        self._memory = int(memory_gib * 2**30)
        self._max_failed, self._step_timeout = max_failed, step_timeout
        self._end: float | None = None  # of the current `grade`, by time.monotonic
        self._parts: set[str] = set()  # names seen so far: a failed response has zeros for all of them
        self._warned: set[str] = set()  # kinds of failures
        self._first_failure = ""  # of the current `grade`
        self._graded = self._closed = False
        self._started: dict[
            tuple, tuple[ProcessFuture, int]
        ] = {}  # pair: (the future of its chunk, its index in the chunk)
        self._pool = self._start()
        if self._weights:
            self._try_weights()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def failed(self) -> int:
        """Responses that got zero because their reward failed, so far, in all processes of the run."""
        return self.timeouts + self.crashes + self.errors + self._elsewhere

    def close(self) -> None:
        """Stops the workers, even during a response."""
        self._stop()
        self._closed = True

    def start(self, pairs: Iterable[_Pair]) -> None:
        """Begins scoring pairs for a later `grade`; returns immediately."""
        with contextlib.suppress(RuntimeError):  # a broken pool: `grade` restarts it
            self._schedule(_local_share(self._distinct(pairs)[1]))

    def grade(self, pairs: Iterable[_Pair]) -> list[dict[str, float]]:
        """One dict for each pair, in order: "reward" and its named parts. Equal pairs are scored once.

        The reward gets the record without its images, which stay in this process. All processes of a run must pass the
        same pairs; each scores its share.
        """
        keys, every = self._distinct(pairs)
        distinct, failed, self._first_failure = _local_share(every), self.failed, ""
        self._end = None if self._step_timeout is None else time.monotonic() + self._step_timeout
        outcomes = self._outcomes(distinct)
        together = collections.Counter(id(future) for future, _ in self._started.values())
        lost = [
            key
            for key, score in outcomes.items()
            if isinstance(score, TimeoutError | ProcessExpired) and together[id(self._started[key][0])] > 1
        ]
        self._started = {}
        some = any(isinstance(score, dict) for score in outcomes.values())
        outcomes |= self._one_by_one({key: distinct[key] for key in lost}, some)  # to find the failing one
        if unfinished := sum(isinstance(score, Unfinished) for score in outcomes.values()):
            log.warning(
                "reward %r was not done with %d of %d responses in config.grading.step_timeout = %g s; counted as 0",
                self._reward_name,
                unfinished,
                len(outcomes),
                self._step_timeout,
            )
            self._restart()
        local = {key: self._settle(distinct[key][0], score) for key, score in outcomes.items()}
        scored = self._exchanged(every, [local[key] for key in distinct], self.failed - failed)
        self._check_weights()
        self._check_failures([not scored[key] for key in keys])
        return [self._weighed({"reward": 0.0} | dict.fromkeys(self._parts, 0.0) | scored[key]) for key in keys]

    def _one_by_one(self, lost: Mapping[tuple, _Pair], some: bool) -> dict:
        """The outcomes of single responses.

        Where none of the batch has a score (`some`) and the first ones all take too long, so would the others: with a
        limit on failures they are not tried.
        """
        probe = PROBE if self._max_failed is not None and not some else 0
        outcomes = self._outcomes(dict(list(lost.items())[:probe]), size=1)
        self._started = {}
        rest = {key: lost[key] for key in list(lost)[probe:]}
        if outcomes and all(isinstance(score, TimeoutError) for score in outcomes.values()):
            outcomes |= dict.fromkeys(rest, next(iter(outcomes.values())))
        else:
            outcomes |= self._outcomes(rest, size=1)
        self._started = {}
        return outcomes

    def _check_failures(self, failures: Sequence[bool]) -> None:
        """Raises InputError where the reward failed on too many of the responses."""
        first, self._graded = not self._graded, self._graded or bool(failures)
        if self._max_failed is None or not any(failures):
            return
        failed = sum(failures)
        too_many = failed > self._max_failed * len(failures)
        if too_many or (first and failed == len(failures)):
            which = f"all {failed} responses" if failed == len(failures) else f"{failed} of {len(failures)} responses"
            limit = f", more than config.grading.max_failed = {self._max_failed:g} allows" * too_many
            raise InputError(f"{self._first_failure}; so or alike on {which}{limit}: mend the reward")

    def _weighed(self, score: dict[str, float]) -> dict[str, float]:
        if self._weights:
            score["reward"] = sum(weight * score.get(part, 0.0) for part, weight in self._weights.items())
            if not abs(score["reward"]) <= rewards.LARGEST:
                raise InputError(
                    f"reward_weights make of {_shown(score)} a reward that is no float32 up to {rewards.LARGEST:g}; "
                    "give smaller ones"
                )
        return score

    def _check_weights(self) -> None:
        if self._parts and (unknown := self._weights.keys() - self._parts):
            known = ", ".join(sorted(self._parts - {"reward"})) or "none, it gives a plain number"
            raise InputError(
                f"reward_weights has {', '.join(sorted(unknown))}; reward {self._reward_name!r} has the parts: {known}"
            )

    def _try_weights(self) -> None:
        """Checks the weights' parts on an empty response, before time is spent on rollouts."""
        trial = self._pool.schedule(_score, (self._reward_name, [(_TRIAL, "")]), timeout=self._timeout)
        result = outcome(self._pool, trial)
        if isinstance(result, list) and isinstance(result[0], dict):  # otherwise checked in the first `grade`
            self._parts |= result[0].keys()
        try:
            self._check_weights()
        except InputError:
            self.close()
            raise

    def _exchanged(self, every: Mapping[tuple, _Pair], scores: Sequence[_Scored], failed: int) -> dict:
        """The scores of all processes, given those of this one."""
        from perl_jax.runtime import processes

        scored: dict[tuple, dict[str, float]] = {}
        shares = processes.exchange([scores, failed, self._first_failure])
        self._first_failure = next(filter(None, (text for *_, text in shares)), "")
        for index, (theirs, failures, _) in enumerate(shares):
            scored |= zip([key for key in every if _number(key) % len(shares) == index], theirs)
            self._elsewhere += failures
        self._elsewhere -= failed
        self._parts |= {part for score in scored.values() for part in score}
        if len(self._parts) > MAX_PARTS:
            some = ", ".join(sorted(self._parts)[:3])
            raise InputError(
                f"reward {self._reward_name!r} has {len(self._parts)} parts, such as {some}; "
                f"it must give each response the same parts, {MAX_PARTS} at most"
            )
        return scored

    def _distinct(self, pairs: Iterable[_Pair]) -> tuple[list[tuple], dict[tuple, _Pair]]:
        """The key of each pair, and one pair without images for each key."""
        slim: dict[int, tuple[Mapping[str, object], dict[str, object], str]] = {}
        keys: list[tuple] = []
        distinct: dict[tuple, _Pair] = {}
        for record, text in pairs:
            if id(record) not in slim:
                light = {key: value for key, value in record.items() if key != "images"} | self._added
                slim[id(record)] = record, light, repr(light)  # keeps the record alive, so that its id is not reused
            _, light, printed = slim[id(record)]
            keys.append((printed, text))
            distinct.setdefault(keys[-1], (light, text))
        return keys, distinct

    def _schedule(self, distinct: Mapping[tuple, _Pair], size: int | None = None) -> None:
        """Sends pairs that are not yet scheduled to the workers, `size` pairs at a time."""
        fresh = [key for key in distinct if key not in self._started]
        size = size or min(MAX_CHUNK, max(1, math.ceil(len(fresh) / (2 * self._workers))))
        for start in range(0, len(fresh), size):
            chunk = fresh[start : start + size]
            future = self._pool.schedule(
                _score, (self._reward_name, [distinct[key] for key in chunk]), timeout=self._timeout
            )
            self._started |= {key: (future, place) for place, key in enumerate(chunk)}

    def _outcomes(self, distinct: Mapping[tuple, _Pair], size: int | None = None, fresh: bool = False) -> dict:
        """The score of each pair, or the exception with which its chunk's worker was stopped or lost."""
        try:
            self._schedule(distinct, size)
            futures = [self._started[key] for key in distinct]
            done = {id(future): outcome(self._pool, future, self._end) for future, _ in futures}
            results = [(done[id(future)], place) for future, place in futures]
            return {
                key: result if isinstance(result, Exception) else result[place]
                for key, (result, place) in zip(distinct, results)
            }
        except RuntimeError as error:
            # pebble's pool breaks when a worker dies between two tasks, as when out of memory: retry once.
            if fresh or self._closed:
                why = "the grader is closed" if self._closed else "its workers die while they start"
                raise RuntimeError(f"reward {self._reward_name!r}: {why}") from error
            self._restart()
            return self._outcomes(distinct, size, fresh=True)

    def _settle(self, record: Mapping[str, object], score: Any) -> dict[str, float]:
        """Passes a score on; counts and logs a failure, which scores zero."""
        if isinstance(score, dict):
            self._parts |= score.keys()
            return score
        if isinstance(score, TimeoutError):
            self.timeouts += 1
            limit = " (config.grading.timeout)" * (self._max_failed is not None)
            score = Failure("timeout", f"took more than {self._timeout:g} s{limit} and was stopped")
        elif isinstance(score, Unfinished):
            self.timeouts += 1
            score = Failure("unfinished", f"was not done in config.grading.step_timeout = {self._step_timeout:g} s")
        elif isinstance(score, ProcessExpired):
            self.crashes += 1
            score = Failure(f"exit {score.exitcode}", f"ended its process (exit code {score.exitcode})")
        else:
            self.errors += 1
        line = f"record {record.get('id')!r}: reward {self._reward_name!r} {score.text}"
        self._first_failure = self._first_failure or line
        if score.kind not in self._warned | {"unfinished"} and len(self._warned) < MAX_WARNINGS:
            log.warning("%s; counted as 0 (more of these are only counted)", line)
        self._warned.add(score.kind)
        return {}

    def _restart(self) -> None:
        self._stop()
        self._pool, self._started = self._start(), {}

    def _start(self) -> ProcessPool:
        return pool(self._workers, _prepare, self._reward_name, self._memory)

    def _stop(self) -> None:
        self._pool.stop()
        self._pool.join()


def _local_share(distinct: Mapping[tuple, _Pair]) -> dict[tuple, _Pair]:
    """This process's share of the pairs."""
    from perl_jax.runtime import processes  # not at module level: workers would import JAX

    return {key: pair for key, pair in distinct.items() if processes.is_mine(_number(key))}


def _number(key: tuple) -> int:
    """A hash of a pair's key, the same in every process."""
    return zlib.crc32("\0".join(key).encode(errors="surrogatepass"))


# In a worker


def _prepare(reward_name: str, memory: int) -> None:
    limit(memory)
    rewards.find(reward_name)  # imported before the first chunk's time limit starts


def _score(reward_name: str, pairs: Sequence[_Pair]) -> list[_Scored]:
    reward = rewards.find(reward_name)
    return [_checked(reward, record, text) for record, text in pairs]


def _checked(reward: rewards.Score, record: Mapping[str, object], text: str) -> _Scored:
    try:
        score = reward(record, text)
        parts = score if isinstance(score, Mapping) else {"reward": score}
        parts = {str(name): float(value) for name, value in parts.items()}
    except (Exception, SystemExit) as error:  # user code: an exception costs one response, not the run
        where = _place(error)
        return Failure(f"{type(error).__name__} {where}", f"failed: {one_line(error, kind=True)}{where}")
    if "reward" not in parts:
        return Failure("parts", f"returned {_shown(sorted(parts))}, without 'reward'")
    if len(parts) > MAX_PARTS:
        return Failure("parts", f"returned {len(parts)} parts, more than {MAX_PARTS}: {_shown(sorted(parts))}")
    if not all(abs(value) <= rewards.MOST for value in parts.values()):
        return Failure("not finite", f"returned {_shown(parts)}, which is not finite as float32")
    if not all(abs(value) <= rewards.LARGEST for value in parts.values()):
        return Failure("too large", f"returned {_shown(parts)}, beyond {rewards.LARGEST:g}: too large to learn from")
    return parts


def _place(error: BaseException) -> str:
    """Where in the reward's own file an error came up, " (file:line)"; "" for an error of this one."""
    ours = (__file__, rewards.__file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ours]
    theirs = [frame for frame in frames if frame.filename == frames[0].filename]
    return f" ({Path(theirs[-1].filename).name}:{theirs[-1].lineno})" if theirs else ""


def _shown(value: object) -> str:
    """A value in one short line."""
    return textwrap.shorten(repr(value), 200, placeholder=" ...")
