"""A workdir has one run at a time; what a dead one left is taken over."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from models.errors import InputError
from perl_jax.runtime import lock, processes


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "DEAD", 1.0)


def holder(workdir):
    return json.loads((workdir / lock.FILE).read_text())


def left_behind(workdir, age=0.0, **changes):
    """Writes the lock of another run, last renewed `age` seconds ago."""
    other = lock.Lock(workdir)._mine | changes
    (workdir / lock.FILE).write_text(json.dumps(other))
    os.utime(workdir / lock.FILE, (time.time() - age,) * 2)


def test_a_second_run_is_refused_with_host_and_process_of_the_first(tmp_path):
    with lock.Lock(tmp_path):
        before = holder(tmp_path)
        words = rf"in use by process {os.getpid()} on {before['host']}, since [^\n]*another --workdir"
        for _ in range(2):
            with pytest.raises(InputError, match=words), lock.Lock(tmp_path):
                pass
        assert holder(tmp_path) == before
    assert not list(tmp_path.iterdir())
    with lock.Lock(tmp_path):
        pass


def test_a_dead_process_of_this_machine_gives_way_at_once(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    for changes in ({"process": gone.pid}, {"born": "1"}):  # a number is used again
        left_behind(tmp_path, **changes)
        with lock.Lock(tmp_path):
            assert holder(tmp_path)["process"] == os.getpid() and holder(tmp_path)["born"] == lock._born(os.getpid())


def test_a_living_process_of_another_host_is_refused_after_its_next_renewal(tmp_path):
    left_behind(tmp_path, machine="far", host="far-1", process=7)
    done = threading.Event()

    def renew():
        while not done.wait(0.1):
            os.utime(tmp_path / lock.FILE)

    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(InputError, match="process 7 on far-1"), lock.Lock(tmp_path):
        pass
    done.set()
    thread.join()
    assert holder(tmp_path)["host"] == "far-1"


@pytest.mark.parametrize("age", [0, 60])
def test_a_dead_process_of_another_host_gives_way_when_it_has_renewed_nothing_for_long(tmp_path, age):
    left_behind(tmp_path, age, machine="far")
    started = time.time()
    with lock.Lock(tmp_path):
        assert holder(tmp_path)["machine"] != "far" and (time.time() - started > lock.DEAD - 0.1 or age)


@pytest.mark.parametrize("content", ["", '{"host": "x', "[1]"])
def test_a_lock_that_was_left_half_written_gives_way(tmp_path, content):
    (tmp_path / lock.FILE).write_text(content)
    with lock.Lock(tmp_path):
        assert holder(tmp_path)["process"] == os.getpid()


def test_it_is_renewed_and_released_and_a_run_whose_lock_is_taken_ends(tmp_path, monkeypatch, capsys):
    ended = threading.Event()  # in a thread that does not go on
    monkeypatch.setattr(lock.os, "_exit", lambda code: ended.set() or time.sleep(1e6))
    with lock.Lock(tmp_path):
        os.utime(tmp_path / lock.FILE, (1, 1))
        time.sleep(0.3)
        assert (tmp_path / lock.FILE).stat().st_mtime > 1 and not ended.is_set()
        left_behind(tmp_path, process=7, host="far-1")
        assert ended.wait(10)
    assert "is in use by process 7 on far-1" in capsys.readouterr().err
    assert holder(tmp_path)["process"] == 7, "not ours to remove"


def test_all_processes_are_refused_where_the_first_is(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "first", lambda: False)
    monkeypatch.setattr(processes, "exchange", lambda text: ["in use by process 7", text])
    with pytest.raises(InputError, match="in use by process 7"), lock.Lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
