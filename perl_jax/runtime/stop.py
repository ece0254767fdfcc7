"""Ends a run in good order on a signal: SIGTERM (clusters, spot machines), SIGHUP (a closed terminal) or Ctrl-C."""

import os
import signal
import sys
import threading
from types import FrameType

from perl_jax.runtime import processes

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Stop:
    """Notes in its context that a signal asked for the end, and sees to it that the end comes.

    `grace` seconds after the signal the process exits with code 0, whatever it does then, and says that it goes on from
    its last checkpoint. A second Ctrl-C raises KeyboardInterrupt. Signals are noted in the main thread alone; they
    replace JAX's own handler of SIGTERM, which only notes it for those who ask.
    """

    def __init__(self, grace: float):
        self._grace = grace
        self._name = ""  # of the signal
        self._end: threading.Timer | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        if self._end:
            self._end.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def asked(self) -> str:
        """The name of a signal that some process got, the same in all processes, which all must ask; "" for none."""
        name = processes.any_text(self._name)
        if name:
            self._begin(name)
        return name

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._begin(signal.Signals(number).name)

    def _begin(self, name: str) -> None:
        self._name = self._name or name
        if self._end is None:
            self._end = threading.Timer(self._grace, self._give_up)
            self._end.daemon = True
            self._end.start()

    def _give_up(self) -> None:
        print(
            f"stopped by {self._name}, which a step and its checkpoint outlasted by config.grace = {self._grace:g} s; "
            "the same command goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(0)
