"""Workers: nothing of them is left, they are not awaited in vain, and they do not fill the log."""

import concurrent.futures
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from environment import REPOSITORY

from perl_jax.runtime import workers

TASKS = """
import os, subprocess, sys, time
from pathlib import Path

def nothing():
    pass

def child(then, folder):
    process = subprocess.Popen(["sleep", "600"])
    Path(folder, "child").write_text(str(process.pid))
    if then == "die":
        os._exit(7)
    if then == "return":
        return process.pid
    time.sleep(600)

def flood():
    print("begin")
    for _ in range(20_000):
        print("x" * 100)
        print("y" * 100, file=sys.stderr)
    os.write(1, b"z" * 99_999)
    subprocess.run(["sh", "-c", "echo subprocess; echo subprocess >&2"])
    return len(sys.modules) > 0
"""


@pytest.fixture(scope="module", autouse=True)
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "worker_tasks.py").write_text(TASKS)
    sys.path.insert(0, str(folder))
    import worker_tasks

    yield worker_tasks
    sys.path.remove(str(folder))


def ended(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("then", ["hang", "die", "return"])
def test_the_children_of_a_worker_end_with_it(tasks, tmp_path, then):
    with workers.pool(1, tasks.nothing) as pool:
        future = pool.schedule(tasks.child, (then, str(tmp_path)), timeout=5.0)
        result = workers.outcome(pool, future)
        assert isinstance(result, {"hang": TimeoutError, "die": workers.ProcessExpired, "return": int}[then])
        pool.stop()
        pool.join()
    assert ended(int((tmp_path / "child").read_text()))


@pytest.mark.slow
def test_workers_and_their_children_end_with_a_killed_parent(tasks, tmp_path):
    code = (
        f"import sys; sys.path[:0] = {[str(REPOSITORY), str(Path(tasks.__file__).parent)]!r}\n"
        "import worker_tasks\nfrom perl_jax.runtime import workers\n"
        "pool = workers.pool(1, worker_tasks.nothing)\n"
        f"pool.schedule(worker_tasks.child, ('hang', {str(tmp_path)!r})).result()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        assert parent.poll() is None
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert ended(int((tmp_path / "child").read_text()))


def test_what_a_worker_prints_is_bounded(tasks, capfd):
    with workers.pool(1, tasks.nothing) as pool:
        assert workers.outcome(pool, pool.schedule(tasks.flood)) is True
    out, err = capfd.readouterr()
    assert not out and err.startswith("begin\n") and len(err) < 2 * workers.SHOWN
    assert "further output of this worker is not shown" in err and "z" not in err and "subprocess" not in err


def test_a_task_that_a_broken_pool_never_gets_to_is_not_awaited(monkeypatch):
    """As where a worker dies just when the task is given."""
    monkeypatch.setattr(workers, "ALIVE", 0.01)
    pool = types.SimpleNamespace(active=True)
    threading.Timer(0.1, lambda: setattr(pool, "active", False)).start()
    with pytest.raises(RuntimeError, match="has broken"):
        workers.outcome(pool, concurrent.futures.Future())
    done = concurrent.futures.Future()
    done.set_result(3)
    assert workers.outcome(pool, done) == 3 == workers.outcome(pool, done, end=0.0)
    late = workers.outcome(types.SimpleNamespace(active=True), concurrent.futures.Future(), time.monotonic() + 0.1)
    assert isinstance(late, workers.Unfinished)
