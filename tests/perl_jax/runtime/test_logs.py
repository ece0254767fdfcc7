"""The list of a run's starts; what else a run leaves is tested in test_train.py."""

import json
import time

import pytest
from damage import damage

from models.errors import InputError
from perl_jax.runtime import logs


@pytest.fixture
def workdir(tmp_path):
    for number in range(2):
        with logs.RunLog(tmp_path, {"seed": number, "rate": 1e-6, "sets": ("eval",)}, 3):
            pass
    return tmp_path


def test_starts_come_back_in_order(workdir):
    assert [start["config"] for start in logs.starts(workdir)] == [
        {"seed": number, "rate": 1e-6, "sets": ["eval"]} for number in range(2)
    ]
    assert logs.starts(workdir / "none") == []
    earlier = [{"config": {}}]  # without checksums
    (workdir / logs.RUN).write_text(json.dumps(earlier))
    assert logs.starts(workdir) == earlier


@pytest.mark.parametrize("kind", ["empty", "cut", "zeros", "flipped", "other", "list"])
def test_a_damaged_file_is_one_line(workdir, kind):
    file = workdir / logs.RUN
    if kind == "other":
        file.write_text(file.read_text().replace('"seed": 1', '"seed": 3'))
    elif kind == "list":
        file.write_text("[1, 2]")
    else:
        damage(file, kind)
    for read in (logs.starts, lambda workdir: logs.RunLog(workdir, {}, 3)):
        with pytest.raises(InputError, match=r"run\.json is damaged \([^\n]*\): restore it, or move it away"):
            read(workdir)


def test_tensorboard_shows_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begin, steps in ((None, (1, 2, 3)), (3, (3, 4))):
        events = logs.TensorBoard(tmp_path / "tensorboard", purge_step=begin)
        for step in steps:
            events.add_scalar("x/y", 10.0 * step + (begin or 0), step)
        events.close()
        time.sleep(1.1)  # a file is named by its second
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("x/y")
    assert [(event.step, event.value) for event in shown] == [(1, 10), (2, 20), (3, 33), (4, 43)]


def test_the_remaining_time_leaves_out_compiling(tmp_path, capsys):
    with logs.RunLog(tmp_path, {}, 10) as log:
        log.tell(["data     [bold]3 questions"])
        for step, (total, compiling) in enumerate([(100.0, 96.0), (4.0, 0.0), (5.0, 0.0)], start=1):
            log.step("perl", step, {"time/total": total, "compile/seconds": compiling, "reward/mean": 0.5})
    told, *steps = capsys.readouterr().err.splitlines()
    assert told == "data     [bold]3 questions"
    assert [line.rpartition("  ")[2] for line in steps] == ["0:36 left", "0:32 left", "0:28 left"]
