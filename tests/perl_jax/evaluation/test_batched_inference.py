"""How questions come into batches and answers into a file; that answers depend on neither is in test_filter.py."""

import doctest
import json
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InputError
from perl_jax.evaluation import batched_inference

NUMBER = operator.itemgetter("number")
SETTINGS = {"seed": 0, "rollouts": 2}


def test_examples():
    assert not doctest.testmod(batched_inference).failed


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 20))
def test_batches_hold_each_record_once_from_short_to_long(lengths, most):
    numbers = list(range(len(lengths)))
    parts = batched_inference.length_sorted_batches(numbers, dict(enumerate(lengths)), most)
    flat = [number for part in parts for number in part]
    assert sorted(flat) == numbers and [lengths[number] for number in flat] == sorted(lengths)
    assert len(parts) == -(-len(lengths) // most)
    sizes = [len(part) for part in parts]
    assert all(size == sizes[0] <= most for size in sizes[:-1]) and all(0 < size <= most for size in sizes)


def row(number: int, response: str = "a") -> dict:
    return {"number": number, "id": str(number), "response": response}


def test_a_file_is_begun_and_read_again(tmp_path):
    """With what a model may say in it, line separators of all kinds."""
    file, text = tmp_path / "rows.jsonl", "a\n\r\u2028\x85\x1e\0é"
    assert batched_inference.read_or_create(file, SETTINGS, NUMBER) == {}
    with batched_inference.Writer(file, {}, NUMBER) as writer:
        writer.add([row(3, text), row(1)])
        writer.add([])
        assert writer.rows.keys() == {1, 3}
    assert batched_inference.read_or_create(file, SETTINGS, NUMBER) == {3: row(3, text), 1: row(1)}


@pytest.mark.parametrize("cut", [1, 10, 40, 64])
def test_a_half_written_line_is_cut(tmp_path, cut):
    file = tmp_path / "rows.jsonl"
    batched_inference.read_or_create(file, SETTINGS, NUMBER)
    with batched_inference.Writer(file, {}, NUMBER) as writer:
        writer.add([row(0), row(1)])
    file.write_bytes(file.read_bytes()[:-cut])
    left = batched_inference.read_or_create(file, SETTINGS, NUMBER)
    assert left == ({0: row(0)} if cut < 45 else {}) and file.read_bytes().endswith(b"\n")


def test_a_file_of_which_not_even_the_settings_were_written(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"sett')
    assert batched_inference.read_or_create(tmp_path / "rows.jsonl", SETTINGS, NUMBER) == {}
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {"settings": SETTINGS}


OTHER = ("hello\n", "[1]\n", '{"a": 1}\n', '{"settings": "a"}\n', '{"settings": {"seed": 0}}\n{"id": 3}\n', "\n")


@pytest.mark.parametrize("content", OTHER)
def test_another_file_is_left_alone(tmp_path, content):
    file = tmp_path / "rows.jsonl"
    file.write_text(content)
    with pytest.raises(InputError, match=r"rows\.jsonl") as error:
        batched_inference.read_or_create(file, {"seed": 0}, NUMBER)
    assert file.read_text() == content and "\n" not in str(error.value)


def test_other_settings_are_told(tmp_path):
    batched_inference.read_or_create(tmp_path / "rows.jsonl", SETTINGS, NUMBER)
    with pytest.raises(InputError, match=r"other settings .seed 0, now 1; rollouts 2, now 3.; give those"):
        batched_inference.read_or_create(tmp_path / "rows.jsonl", {"seed": 1, "rollouts": 3}, NUMBER)


@pytest.mark.parametrize(
    ("made", "now", "said"),
    [
        ({}, {"judge": None}, "judge not set, now None"),
        ({"judge": None}, {}, "judge None, now not set"),
        ({"system": "Be brief."}, {}, "system Be brief., now not set"),
        ({}, {"system": ""}, "system not set, now "),
        ({"prompt": {"system": None}}, {"prompt": {}}, "prompt .* now {}"),
    ],
)
def test_a_setting_that_is_not_there_is_another_one(tmp_path, made, now, said):
    file = tmp_path / "rows.jsonl"
    batched_inference.read_or_create(file, SETTINGS | made, NUMBER)
    with pytest.raises(InputError, match=f"other settings .{said}.; give those"):
        batched_inference.read_or_create(file, SETTINGS | now, NUMBER)
    assert batched_inference.read_or_create(file, SETTINGS | made, NUMBER) == {}


def test_settings_are_compared_as_the_file_has_them(tmp_path):
    settings = {**SETTINGS, "sides": (1, 2), "by": {1: None}}
    assert batched_inference.read_or_create(tmp_path / "rows.jsonl", settings, NUMBER) == {}
    assert batched_inference.read_or_create(tmp_path / "rows.jsonl", settings, NUMBER) == {}


def test_work_is_done_one_part_ahead_and_no_further():
    made = []

    def make(part):
        made.append(part)
        return part

    result = batched_inference.prefetch(make, range(5))
    assert next(result) == 0
    assert list(result) == [1, 2, 3, 4] and made == list(range(5))
    assert list(batched_inference.prefetch(make, [])) == []
