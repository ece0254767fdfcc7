"""What kills and soak go by: which processes a run leaves behind, what differs, which rows are bad."""

import os
import signal
import sys
import time

import pytest

from benchmarks import faults, soak
from models.errors import InputError
from perl_jax import records
from perl_jax.records.prompts import with_lazy_images

CHILD = "import time; time.sleep(60)"
PARENT = (
    "import subprocess, sys, time\n"
    f"subprocess.Popen([sys.executable, '-c', {CHILD!r}], start_new_session=True)\n"
    "print('started', flush=True)\ntime.sleep(60)\n"
)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_a_process_that_outlives_its_run_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "PATIENCE", 0.2)
    run = faults.Run(tmp_path / "run", [])
    run._command = [sys.executable, "-c", PARENT]
    process, end = run.start(), time.monotonic() + 60
    while "started" not in run.log.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert len(run.processes()) == 2
    [left] = run.kill()
    assert left != process.pid
    os.kill(left, signal.SIGKILL)
    assert not run.left()


@linux
def test_what_a_process_holds():
    before = faults.open_files(os.getpid())
    with open(os.devnull):
        assert faults.open_files(os.getpid()) == before + 1
    assert faults.memory(os.getpid()) > 1 << 20
    assert faults.memory(2**22 + 1) == faults.open_files(2**22 + 1) == 0


def test_one_bit_differs():
    assert faults.differing({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"2"}) == []
    assert faults.differing({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"3", "c": b""}) == ["b", "c"]


def test_a_section_takes_the_place_of_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "FILE", tmp_path / "FAULTS.md")
    for name, line in (("soak", "| old |"), ("kills", "| 1 |"), ("soak", "| new |")):
        with faults.told(name) as lines:
            lines.append(line)
    text = (tmp_path / "FAULTS.md").read_text()
    assert "old" not in text and text.index("## kills") < text.index("| 1 |") < text.index("## soak")
    assert text.index("## soak") < text.index("| new |")


def test_one_row_of_a_hundred_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "RECORDS", 200)
    soak.write_data(tmp_path / "set")
    bad = []
    for number, record in enumerate(records.open_split(str(tmp_path / "set"), "train")):
        try:
            for image in with_lazy_images(record)["images"]:
                image.decoded()
        except InputError:
            bad.append(number)
    assert bad == [50, 150]


def test_each_promise_of_a_soak_can_be_broken():
    found = {"kills -9": 3, "full disk": "one line", "processes left": 0, "most steps done again": 4}
    steps = [{"step": number, "compile/count": float(number < 30)} for number in range(1, 101)]
    seen = [(1 << 20, 40)] * 20

    def broken(found=found, steps=steps, seen=seen, code=0) -> list[str]:
        return [name for name, held in soak.report(found, steps, 20, seen, code, True)[1].items() if not held]

    assert broken() == []
    facts = soak.report(found, steps, 20, seen, 0, True)[0]
    assert facts["programs that it compiled from then on"] == "9, the last in step 29"
    assert broken(steps=steps[:50] + steps[51:]) == broken(steps=[*steps, steps[-1]])
    assert broken(steps=[*steps, steps[-1]]) == ["each step once in metrics.jsonl"]
    assert broken({**found, "most steps done again": 11}) == ["at most 10 steps done again"]
    assert broken({**found, "full disk": "NOT one line"}) == ["full disk told in one line"]
    assert broken({**found, "processes left": 1}) == ["no process left"]
    assert broken(code=1) == ["exit code 0 on SIGTERM"]
    assert broken(seen=seen + [(1 << 21, 40)] * 9) == ["memory within 5%"]
    assert broken(seen=seen + [(1 << 20, 41)] * 9) == ["open files flat"]
    compiled = [*steps[:70], {"step": 71, "compile/count": 1.0}, *steps[71:]]
    assert broken(steps=compiled) == ["nothing compiled in the second half of that"]
