"""Workdirs in a bucket: a run that changes machines, its lock, what reads it, and what is refused."""

import importlib.util
import json
import os
import shutil
import sys
import threading
import time

import command_line
import pytest
import tiny_run
from fake_gcs import FakeGCS
from subprocesses import finish

from models.errors import InputError
from perl_jax import train
from perl_jax.runtime import bucket, lock, processes
from perl_jax.training import checkpoint

if not importlib.util.find_spec("gcsfs"):
    pytest.skip("gcsfs is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def store():
    """The store that all of this process talks to: the libraries keep its address."""
    import fsspec

    server = FakeGCS()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.variables.items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        yield server
    server.close()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this process another machine: with a folder of its own."""

    def change(name):
        monkeypatch.setattr(bucket, "ROOT", tmp_path / name)

    change("a")
    return change


def lines(file):
    """metrics.jsonl without times."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if not key.startswith(("time/", "speed/", "compile/"))}
        for row in rows
    ]


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.2)
    monkeypatch.setattr(lock, "DEAD", 2.0)


def files_of(folder, content):
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def holder(store, folder):
    return json.loads(store.objects["bucket", f"{folder}/lock"])


def put_lock(store, folder, **changes):
    """The lock of another run, just renewed."""
    mine = lock.Lock(bucket.local(f"gs://bucket/{folder}"))._mine
    store.put(("bucket", f"{folder}/lock"), json.dumps(mine | changes).encode())


# The lock


def test_a_second_run_is_refused_with_host_and_process_of_the_first(store, machine):
    folder = bucket.local("gs://bucket/held")
    with lock.Lock(folder):
        before = holder(store, "held")
        machine("b")
        words = rf"^gs://bucket/held is in use by process {os.getpid()} on {before['host']}, .*gs://bucket/held/lock"
        with pytest.raises(InputError, match=words):
            train.train(tiny_run.config(), bucket.local("gs://bucket/held"))
        assert holder(store, "held") == before
    assert store.names("bucket") & {"held/lock"} == set()
    again = lock.Lock(bucket.local("gs://bucket/held"))
    store.put(("bucket", "held/lock"), json.dumps(again._mine).encode())  # the answer to its creation was lost
    with again:
        pass


def test_a_living_process_of_another_host_is_refused_and_a_dead_one_gives_way(store, machine, soon):
    done = threading.Event()

    def renew():
        while not done.wait(0.2):
            put_lock(store, "far", machine="far", host="far-1", process=7)

    put_lock(store, "far", machine="far", host="far-1", process=7)
    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(InputError, match="process 7 on far-1"), lock.Lock(bucket.local("gs://bucket/far")):
        pass
    done.set()
    thread.join()
    with lock.Lock(bucket.local("gs://bucket/far")):
        stamp, started = store.facts["bucket", "far/lock"]["generation"], time.time()
        assert holder(store, "far")["process"] == os.getpid()
        while store.facts["bucket", "far/lock"]["generation"] == stamp and time.time() < started + 20:
            time.sleep(0.05)
        assert store.facts["bucket", "far/lock"]["generation"] != stamp, "it is renewed"
    assert not {name for name in store.names("bucket") if name.startswith("far/")}


# The other files


def test_what_process_0_makes_is_found_by_the_others_and_what_it_removes_is_gone(store, machine, monkeypatch):
    with bucket.Mirror(bucket.local("gs://bucket/files")) as mirror:
        processes.after_first(lambda: files_of(mirror.folder, {"data/x": "1", "log": "a"}))
        (mirror.folder / ".init.partial-1").mkdir()
        (mirror.folder / ".init.partial-1" / "x").write_text("half")
        machine("b")
        monkeypatch.setattr(processes, "first", lambda: False)
        with bucket.Mirror(bucket.local("gs://bucket/files")) as other:
            assert processes.after_first(lambda: (other.folder / "data" / "x").read_text()) == "1"
            monkeypatch.setattr(processes, "first", lambda: True)
            sent = len([request for request in store.requests if "/upload/" in request])
            mirror.push()
            assert len([request for request in store.requests if "/upload/" in request]) == sent, "nothing is new"
            (mirror.folder / "log").unlink()
            mirror.push()
            monkeypatch.setattr(processes, "first", lambda: False)
        monkeypatch.setattr(processes, "first", lambda: True)
    assert {name for name in store.names("bucket") if name.startswith("files/")} == {"files/files.json", "files/data/x"}
    assert not processes._shares


def test_what_was_not_brought_to_its_end_counts_for_nothing(store, machine, monkeypatch):
    """A machine is lost while `data` is on its way: the next one makes it again."""
    folder, put = bucket.local("gs://bucket/half"), bucket._files().put_file

    def put_one(file, url):
        assert url.endswith("/1"), "the line is cut"
        put(file, url)

    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"^gs://bucket/half cannot be .*line is cut"):
        patch.setattr(bucket._files(), "put_file", put_one)
        with bucket.Mirror(folder) as mirror:
            files_of(mirror.folder, {"data/1": "1", "data/2": "2"})
            mirror.push()
    assert "half/data/1" in store.names("bucket")
    files_of(folder, {"data/old": "of this machine"})  # the bucket counts
    with bucket.Mirror(folder):
        assert not list(folder.iterdir())


def test_checkpoints_are_told_whole_and_moved(store, machine):
    for name in ("3/commit_success.txt", "4/x"):
        store.put(("bucket", f"run/checkpoints/{name}"), b"")
    folder = bucket.local("gs://bucket/run")
    assert checkpoint.last_saved(folder).startswith("step 3 is saved")
    bucket.move(*(bucket.shared(folder / name) for name in ("checkpoints/4", "damaged-checkpoints/4")))
    bucket.remove(folder / "checkpoints")
    assert {name for name in store.names("bucket") if name.startswith("run/")} == {"run/damaged-checkpoints/4/x"}


def test_a_bucket_that_is_away_makes_no_checkpoint_a_damaged_one(store, machine):
    for name, kind in (("unknown", InputError), ("bucket", checkpoint.Damaged)):
        folder = bucket.shared(bucket.local(f"gs://{name}/run"))
        with pytest.raises(InputError) as told, checkpoint._noticing_damage(3, folder):
            raise OSError("cut")
        assert type(told.value) is kind


# What is refused


def test_what_cannot_be_used_is_said_in_one_line(store, monkeypatch, tmp_path):
    def said(url):
        done = command_line.run("export", f"--workdir={url}", f"--out={tmp_path / 'out'}")
        assert done.code == 1 and not done.out and done.err.count("\n") == 1, done
        return done.err

    assert "gs:// is not read or written from here (NotFound: 404 " in said("gs://unknown/run")
    assert "error: gs://bucket/nothing holds no run" in said("gs://bucket/nothing")
    for url in ("gs://bucket", "gs://bucket/", "gs:///run", "gs://bucket/a/../b", "gs://bucket//a", "gs://bucket/a*"):
        assert f"error: --workdir={url}: give gs://BUCKET/FOLDER" in said(url)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert "--workdir=gs://bucket/run: gs:// is not read or written without a library: install gcsfs" in said(
        "gs://bucket/run"
    )
    done = command_line.run("train", "--config=demo", "--workdir=gs://bucket/run", "--inspect=2")
    assert done.code == 1 and "gs:// is not read or written" in done.err


# A whole run


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_the_bucket_on_another_machine(store, machine, tmp_path, monkeypatch):
    url, whole = "gs://bucket/runs/tiny", tiny_run.trained()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    [(code, said)] = finish(tiny_run.start(url, 1, 1, die="4:SIGKILL"))
    assert code == -9, said
    names = store.names("bucket")
    assert "runs/tiny/lock" in names and "runs/tiny/init/model.safetensors" in names, names
    assert any(name.startswith("runs/tiny/checkpoints/3/") for name in names), names
    left = tmp_path / "home" / ".cache" / "perl_jax" / "buckets"
    assert not list(left.rglob("checkpoints")), "are in the bucket alone"
    shutil.rmtree(left)

    folder = tiny_run.run(bucket.local(url))

    assert lines(folder / "metrics.jsonl") == lines(whole / "metrics.jsonl")
    assert len(json.loads((folder / "run.json").read_text())) == 2
    names = store.names("bucket")
    assert "runs/tiny/lock" not in names and store.objects["bucket", "runs/tiny/finished"] == b"step 6\n"
    here = {str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file() and "/" not in file.name}
    for name in here - {name for name in here if name.split("/")[0] in ("checkpoints", "tensorboard")}:
        assert f"runs/tiny/{name}" in names
    assert store.objects["bucket", "runs/tiny/rollouts.jsonl"] == (folder / "rollouts.jsonl").read_bytes()

    machine("c")
    for name, workdir in (("there", url), ("here", whole)):
        done = command_line.run("export", f"--workdir={workdir}", f"--out={tmp_path / name}")
        assert done.code == 0, done.err
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()
    done = command_line.run("report", f"--workdir=x={url}", f"--workdir={url}", f"--out={tmp_path / 'report.html'}")
    assert done.code == 0 and "tiny" in done.out, done
