"""A signal is noted, by all processes, and the end comes within the time that there is."""

import os
import signal
import subprocess
import sys
import time

import pytest
from environment import REPOSITORY

from perl_jax.runtime.stop import SIGNALS, Stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_handlers_are_put_back(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with Stop(60) as stop:
        assert stop.asked() == ""
        os.kill(os.getpid(), number)
        assert stop.asked() == number.name == stop.asked()
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_second_ctrl_c_stops_at_once():
    with Stop(60) as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked() == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_another_process_was_asked(monkeypatch):
    monkeypatch.setattr("perl_jax.runtime.processes.exchange", lambda name: ["", "SIGHUP", name])
    with Stop(60) as stop:
        assert stop.asked() == "SIGHUP"


@pytest.mark.slow
def test_what_takes_longer_than_there_is_time_is_given_up():
    """Also where nothing asks: a long step, or a save that hangs."""
    code = (
        "import os, signal, time\nfrom perl_jax.runtime.stop import Stop\n"
        "with Stop(0.3):\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(60)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0 and time.monotonic() - started < 50
    assert done.stderr == (
        "stopped by SIGTERM, which a step and its checkpoint outlasted by config.grace = 0.3 s; "
        "the same command goes on from the last checkpoint\n"
    )
