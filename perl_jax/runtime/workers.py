"""Killable worker processes for code that may hang, crash, flood the log or start processes of its own.

The parent has JAX's threads, so workers are spawned, never forked. A worker imports the modules of its tasks, and
nothing of the program that started it: no JAX, no second claim on the accelerator, no need of a main guard.
"""

import contextlib
import io
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from multiprocessing import connection, context, parent_process, spawn
from typing import Any, TextIO

from pebble import CONSTS, ProcessExpired, ProcessFuture, ProcessPool

ALIVE = 1.0  # seconds between two looks at whether a pool still works
SHOWN = 1000  # characters of what a worker prints


class Unfinished(Exception):
    """A task that was not finished by the time at which its result was needed."""


def pool(workers: int, initializer: Callable[..., None], *arguments: object) -> ProcessPool:
    """Killable worker processes that do not import the main module.

    Each leads a process group, which is killed with it and ends with this process. A signal that ends a run may reach
    workers, too; they ignore it, since the step that they grade for is still saved. Of what a worker prints the first
    `SHOWN` characters go to stderr; what it writes otherwise, as by processes of its own, goes nowhere.
    """
    CONSTS.term_timeout = 0.2  # seconds
    return ProcessPool(workers, context=_Context(), initializer=_begin, initargs=(initializer, *arguments))


def outcome(pool: ProcessPool, future: ProcessFuture, end: float | None = None) -> Any:
    """A task's result, or the exception with which its worker was stopped or lost; Unfinished after `end`.

    `end` is a time of `time.monotonic`. Raises RuntimeError where the pool has broken and will never get to the task:
    pebble leaves such a future pending.
    """
    while not future.done():
        left = ALIVE if end is None else min(ALIVE, end - time.monotonic())
        if left <= 0:
            return Unfinished()
        wait([future], timeout=left)
        if not future.done() and not pool.active:
            raise RuntimeError("the pool of workers has broken")
    try:
        return future.result()
    except (TimeoutError, ProcessExpired) as error:
        return error


# In a worker


def limit(memory: int) -> None:
    """Limits the data memory of this process, in bytes."""
    if sys.platform != "darwin":  # macOS does not support this limit; only the time limit applies
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        least = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (least, hard))


def _begin(initializer: Callable[..., None], *arguments: object) -> None:
    os.setpgrp()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    shown = os.fdopen(os.dup(2), "w", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.stdout = sys.stderr = _Bounded(shown)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    initializer(*arguments)


class _Bounded(io.TextIOBase):
    """Passes the first characters on."""

    def __init__(self, stream: TextIO):
        self._stream, self._left = stream, SHOWN

    def write(self, text: str) -> int:
        if self._left > 0:
            more = "\n(further output of this worker is not shown)\n" if len(text) > self._left else ""
            self._stream.write(text[: self._left] + more)
            self._stream.flush()
            self._left -= len(text)
        return len(text)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker has one"
    connection.wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


# Starts workers without the parent's main module, which `spawn` would import again: for a trainer with JAX,
# several seconds and a gigabyte each.

_lock = threading.Lock()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    full = spawn.get_preparation_data

    def partial(name: str) -> dict[str, object]:
        return {key: value for key, value in full(name).items() if not key.startswith("init_main_from")}

    with _lock:
        spawn.get_preparation_data = partial
        try:
            yield
        finally:
            spawn.get_preparation_data = full


class _Process(context.SpawnProcess):
    """A worker, of which nothing is left when it has ended or is told to end."""

    def start(self) -> None:
        with _without_main():
            super().start()

    def is_alive(self) -> bool:
        alive = super().is_alive()
        if not alive:
            self._kill_group()
        return alive

    def terminate(self) -> None:
        self._kill_group()
        super().terminate()  # it may not lead a group yet

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # there is none; on macOS, of zombies alone
            os.killpg(self.pid, signal.SIGKILL)


class _Context(context.SpawnContext):
    Process = _Process
