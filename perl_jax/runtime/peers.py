"""The processes of a run watch each other: where one is killed, hangs or is cut off, the others name it and end.

JAX's own watch ends them too, later, by an abort without a name. This one speaks through JAX's coordination service,
which lives in process 0: each process says there every few seconds that it lives, and as it ends, how.
"""

import atexit
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import jax

from models.errors import one_line

KEYS = "perl_jax/processes/"
BEATS = 12  # signs of life within the time after which a process without one is lost
WAIT = 5  # beats until what one has said is known to all, and acted upon
RUNS, ENDED, FAILED = "runs", "ended", "failed"
GOES_ON = "this process ends; the same command goes on from what is saved"

_watch: "Watch | None" = None


def watch(seconds: float) -> None:
    """Begins to watch the other processes, which all must do; one without a sign of life for `seconds` is lost."""
    global _watch
    _watch = Watch(seconds)


def failed(error: BaseException) -> None:
    """Tells the others why this process ends.

    Where the error may only be what a lost process has caused, waits until that is known, and then ends this process.
    """
    if _watch:
        _watch.failed(error)


def reach(address: str, seconds: float) -> None:
    """Returns where somebody listens at HOST:PORT. Raises OSError where nobody does, ValueError for no such address."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()


class Watch:
    """What this process knows of the others, by process index: (host, process number, beat, state, why)."""

    def __init__(self, seconds: float):
        from jax._src import distributed  # has no public name

        self._client, self._address = distributed.global_state.client, distributed.global_state.coordinator_address
        self._seconds, self._beat = seconds, seconds / BEATS
        self._mine = [socket.gethostname(), os.getpid(), 0, RUNS, ""]
        self._known: dict[int, list] = {}
        self._silent = dict.fromkeys(set(range(jax.process_count())) - {jax.process_index()}, 0)  # beats
        self._waiting = 0  # beats since another process failed
        self._ending = False
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)
        ctypes.CDLL(None).signal(int(signal.SIGABRT), self._handler)  # Python's own handlers come too late
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(act,), daemon=True) for act in (self.exchange, self.judge)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self._finish)

    def _repeat(self, act: Callable[[], None]) -> None:
        while True:
            act()
            if self._over.wait(self._beat):
                return

    def _finish(self) -> None:
        """As Python ends, before JAX leaves its service: a thread within it then would abort the process."""
        self._say(ENDED)
        self._over.set()
        for thread in self._threads:
            thread.join(WAIT * self._beat)
        ctypes.CDLL(None).signal(int(signal.SIGABRT), 0)

    def failed(self, error: BaseException) -> None:
        self._say(FAILED, one_line(error, kind=True))
        if not isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" not in str(error):
            return
        beats = 0
        while self._ending or beats < BEATS + WAIT:  # `judge` ends this process where another is lost
            if all(self._state(peer) != RUNS for peer in self._silent):
                return
            time.sleep(self._beat)
            beats += 1

    def _say(self, state: str, why: str = "") -> None:
        """Tells the others at once, unless nobody can be reached or this process has said how it ends."""
        if self._mine[3] == RUNS:
            self._mine[3:] = state, why
            teller = threading.Thread(target=self.exchange, daemon=True)
            teller.start()
            teller.join(2 * self._beat)

    def exchange(self) -> None:
        """Says that this process lives, or how it ends, and hears the others."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 cannot be reached: `judge` will notice
            with self._lock:
                self._mine[2] += 1
                self._client.key_value_set(f"{KEYS}{jax.process_index()}", json.dumps(self._mine), allow_overwrite=True)
                found = self._client.key_value_dir_get(KEYS)
            for key, value in found:
                peer, said = int(key.rpartition("/")[2]), json.loads(value)
                if said != self._known.get(peer):
                    self._known[peer], self._silent[peer] = said, 0

    def judge(self) -> None:
        """Ends this process where another is lost or has failed.

        It counts beats, not time: while this process is stopped, or its machine sleeps, nobody is lost.
        """
        for peer in sorted(self._silent):
            self._silent[peer] += self._state(peer) == RUNS
            if self._silent[peer] > BEATS:
                silence = f"no sign of life for {self._seconds:g} s"
                self._end(f"{self._named(peer)} is lost: {silence} (killed, hung or cut off)")
        fallen = [peer for peer in self._silent if self._state(peer) == FAILED]
        self._waiting += bool(fallen) and self._mine[3] == RUNS
        if self._waiting >= WAIT:
            self._end(f"{self._named(fallen[0])} has failed: {self._known[fallen[0]][4]}")

    def _state(self, peer: int) -> str:
        return self._known[peer][3] if peer in self._known else RUNS

    def _named(self, peer: int) -> str:
        return f"process {peer} on {self._known[peer][0]}" if peer in self._known else f"process {peer}"

    def _end(self, reason: str) -> NoReturn:
        self._ending = True
        _print(reason)
        self._say(FAILED, reason)
        if jax.process_index() == 0:  # the others still have to hear it
            time.sleep(WAIT * self._beat)
        os._exit(1)

    def _aborted(self, _: int) -> None:
        """As XLA aborts, which it does at once where process 0 is gone: says so, else lets it."""
        if self._ending:
            os._exit(1)
        try:
            reach(self._address, self._beat)
        except OSError:
            _print(f"{self._named(0)} is lost: nobody answers at {self._address}")
            os._exit(1)
        ctypes.CDLL(None).signal(int(signal.SIGABRT), 0)
        os.abort()


def _print(reason: str) -> None:
    print(f"error: {reason}; {GOES_ON}", file=sys.stderr, flush=True)
