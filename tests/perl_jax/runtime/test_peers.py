"""A process that is killed, hangs or is cut off is named by the others, which end; an error in one is told to all."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import pytest
from environment import REPOSITORY
from subprocesses import free_port

from models.errors import InputError
from perl_jax.runtime import peers


class Store:
    """JAX's coordination service, shared by the watches of one test."""

    def __init__(self):
        self.values, self.reachable = {}, True

    def key_value_set(self, key, value, allow_overwrite):
        if not self.reachable:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE")
        self.values[key] = value

    def key_value_dir_get(self, prefix):
        if not self.reachable:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE")
        return [(key, value) for key, value in self.values.items() if key.startswith(prefix)]

    def say(self, peer: int, beat: int = 0, state: str = peers.RUNS, why: str = ""):
        self.values[f"{peers.KEYS}{peer}"] = json.dumps([f"host{peer}", 100 + peer, beat, state, why])


@pytest.fixture
def watched(monkeypatch):
    """(store, watch of process 1 of 3, its ends) with beats that a test makes, none by threads."""
    from jax._src import distributed

    store, ends = Store(), []
    monkeypatch.setattr(distributed, "global_state", SimpleNamespace(client=store, coordinator_address="localhost:1"))
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(peers.Watch, "_start", lambda watch: None)
    monkeypatch.setattr(os, "_exit", lambda code: ends.append(code))
    return store, peers.Watch(0.12), ends


def beat(watch, store, *living):
    """One beat of the watch, after signs of life of others."""
    for peer in living:
        store.say(peer, beat=time.monotonic_ns())
    watch.exchange()
    watch.judge()


def test_who_gives_no_sign_of_life_is_lost(watched, capsys):
    store, watch, ends = watched
    for _ in range(3):
        beat(watch, store, 0, 2)
    for _ in range(peers.BEATS - 1):
        beat(watch, store, 0)
    assert not ends
    beat(watch, store, 0)
    assert ends == [1]
    assert capsys.readouterr().err == (
        "error: process 2 on host2 is lost: no sign of life for 0.12 s (killed, hung or cut off); this process ends; "
        "the same command goes on from what is saved\n"
    )
    assert json.loads(store.values[f"{peers.KEYS}1"])[3] == peers.FAILED


def test_who_was_never_heard_is_lost_too(watched, capsys):
    store, watch, ends = watched
    for _ in range(peers.BEATS + 1):
        beat(watch, store, 2)
    assert ends == [1] and capsys.readouterr().err.startswith("error: process 0 is lost: ")


def test_where_nobody_is_reached_it_is_the_first_that_is_lost(watched, capsys):
    store, watch, ends = watched
    beat(watch, store, 0, 2)
    store.reachable = False
    for _ in range(peers.BEATS):
        beat(watch, store)
    assert ends[0] == 1 and "process 0 on host0 is lost" in capsys.readouterr().err.splitlines()[0]


def test_who_has_ended_is_not_lost(watched):
    store, watch, ends = watched
    beat(watch, store, 0, 2)
    store.say(2, state=peers.ENDED)
    for _ in range(3 * peers.BEATS):
        beat(watch, store, 0)
    assert not ends


def test_who_has_failed_is_named_with_the_reason(watched, capsys):
    """After a while: mostly all fail of the same, and each says so itself."""
    store, watch, ends = watched
    beat(watch, store, 0, 2)
    store.say(2, state=peers.FAILED, why="InputError: no space")
    for _ in range(peers.WAIT - 1):
        beat(watch, store, 0)
    assert not ends
    beat(watch, store, 0)
    assert ends == [1] and "error: process 2 on host2 has failed: InputError: no space; " in capsys.readouterr().err


@pytest.mark.parametrize("error", [InputError("x"), OSError("disk"), KeyboardInterrupt()])
def test_an_error_of_its_own_is_told_and_not_waited_with(watched, error):
    store, watch, _ = watched
    started = time.monotonic()
    watch.failed(error)
    assert time.monotonic() - started < 1
    assert json.loads(store.values[f"{peers.KEYS}1"])[3] == peers.FAILED


@pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("UNAVAILABLE: reset"), ValueError("UNKNOWN: Gloo AllGather failed")]
)
def test_with_what_a_lost_process_may_have_caused_is_waited(watched, error):
    """Until it is known who is lost, or that all others have ended by themselves."""
    store, watch, _ = watched
    beat(watch, store, 0, 2)
    waiting = threading.Thread(target=watch.failed, args=(error,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    store.say(0, state=peers.FAILED)
    store.say(2, state=peers.ENDED)
    watch.exchange()
    waiting.join(5)
    assert not waiting.is_alive()


def test_one_process_watches_nobody():
    peers.failed(ValueError("x"))


PROCESS = """
import os, signal, sys, time
import environment
from perl_jax.runtime import cli, processes
coordinator, index, which, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), getattr(signal, sys.argv[4])
processes.LOST = 9
with cli.telling():
    processes.join(coordinator, 2, index)
    for step in range(10_000):
        processes.exchange(step)
        time.sleep(0.1)
        if step == 30 and index == which:
            os.kill(os.getpid(), number)
"""


@pytest.mark.slow
@pytest.mark.parametrize("which, number", [(1, "SIGKILL"), (1, "SIGSTOP"), (0, "SIGKILL"), (0, "SIGSTOP")])
def test_a_lost_process_is_named_by_the_others(which, number):
    """Killed or hung, the first, which the others talk through, or another; also in a whole run (test_processes)."""
    coordinator = f"localhost:{free_port()}"
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "support")])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, coordinator, str(index), str(which), number],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    other = running[1 - which]
    try:
        text = other.communicate(timeout=300)[1]
    finally:
        for process in running:
            process.kill()
            process.wait()
    lines = text.splitlines()
    told = [line for line in lines if line.startswith(f"error: process {which} on {socket.gethostname()} is lost: ")]
    assert [line.rpartition("; ")[2] for line in told] == ["the same command goes on from what is saved"], text
    assert other.returncode == 1 and "Traceback" not in text and len(lines) < 40, text
