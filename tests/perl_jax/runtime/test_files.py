"""Files are whole or not there; lines go on where a killed run has cut one; a directory appears when it is full."""

import os
import subprocess
import sys

import pytest

from perl_jax.runtime import files


def test_files_are_whole_and_half_lines_skipped(tmp_path):
    file = tmp_path / "deep" / "page.html"
    files.write(file, "one \ud800")
    files.write(file, "two \ud800")
    assert file.read_text() == "two ?" and list(file.parent.iterdir()) == [file]
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b'{"a": 1}\n\n[2]\n{"a": \xff\n{"a": 2}\n{"a"')
    assert list(files.json_lines(lines)) == [{"a": 1}, {"a": 2}]
    assert list(files.json_lines(tmp_path / "none.jsonl")) == []


def test_a_cut_line_is_removed_before_more_come(tmp_path):
    file = tmp_path / "lines.jsonl"
    for content, kept in ((b"one\ntw", "one\n"), (b"tw", ""), (b"", ""), (b"one\n", "one\n")):
        file.write_bytes(content)
        with files.appended(file) as lines:
            lines.write("three\n")
        assert file.read_text() == kept + "three\n"


@pytest.mark.parametrize(
    "steps, done, kept", [("123", 2, "12"), ("1234345", 3, "123"), ("122", 2, "122"), ("001", -1, ""), ("", 5, "")]
)
def test_what_comes_after_a_step_is_cut(tmp_path, steps, done, kept):
    """Also where a run of before has lines twice; what is no line of a step stays between those that stay."""
    file = tmp_path / "metrics.jsonl"
    written = ['{"cut', "[]", *(f'{{"step": {step}}}' for step in steps)]
    file.write_text("".join(f"{line}\n" for line in written))
    files.cut_back(file, done)
    assert file.read_text() == "".join(f"{line}\n" for line in written[: 2 + len(kept)])
    files.cut_back(tmp_path / "none.jsonl", done)
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_json_has_no_nan():
    nan, inf = float("nan"), float("inf")
    assert files.without_nan({"a": [nan, (1.5, -inf)], "b": {"c": inf, "d": "nan"}, "e": 2}) == {
        "a": [None, [1.5, None]],
        "b": {"c": None, "d": "nan"},
        "e": 2,
    }


def test_a_directory_appears_when_it_is_full(tmp_path):
    with files.atomic_directory(tmp_path / "a") as partial:
        open(os.path.join(partial, "x"), "w").close()
        assert not (tmp_path / "a").exists()
    assert os.listdir(tmp_path / "a") == ["x"]
    with pytest.raises(KeyError), files.atomic_directory(tmp_path / "b"):
        raise KeyError
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_killed_run_left_goes_and_what_another_writes_stays(tmp_path):
    (tmp_path / ".a.partial-killed").mkdir()
    code = f"""
from perl_jax.runtime import files
with files.atomic_directory({str(tmp_path / "a")!r}):
    print("ready", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "ready\n"
    [theirs] = os.listdir(tmp_path)
    with files.atomic_directory(tmp_path / "a") as ours:
        assert sorted(os.listdir(tmp_path)) == sorted([theirs, os.path.basename(ours)])
    other.kill()
    other.wait()
    os.rmdir(tmp_path / "a")
    with files.atomic_directory(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == ["a"]
