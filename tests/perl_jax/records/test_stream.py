"""The stream of questions is one sequence, whatever the number of processes and wherever it is resumed."""

import collections
import io
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from perl_jax import records
from perl_jax.records.stream import Stream, directories_with_split, first_records, open_subsets, sources


def write(directory, name, count):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    made = [
        records.Record(
            id=f"{name}{i}",
            images=[buffer.getvalue()] * (i % 3),
            question="?",
            choices=[],
            answer="1",
            kind="number",
            order_effect="invariant",
            source=name,
            accuracy=None,
            movable=None,
        )
        for i in range(count)
    ]
    records.write({"train": made}, directory / name)
    return str(directory / name)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pipeline")
    return {name: write(directory, name, count) for name, count in (("big", 23), ("small", 5), ("one", 1))}


def ids(taken):
    return [record["id"] for record in taken]


def test_every_record_once_an_epoch_in_an_order_of_its_own(sets):
    stream = Stream(sets["big"], seed=3)
    epochs = []
    for epoch in range(4):
        assert (stream.epoch, stream.position) == (epoch, 23 * epoch)
        taken = stream.take(23)
        assert {record["epoch"] for record in taken} == {epoch}
        assert [record["position"] for record in taken] == list(range(23 * epoch, 23 * epoch + 23))
        epochs.append(ids(taken))
    assert all(len(set(epoch)) == 23 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert ids(Stream(sets["big"], seed=4).take(23)) not in epochs


def test_records_are_those_stored(sets):
    split = records.open_split(sets["big"])
    stored = {record["id"]: record for record in (split[i] for i in range(len(split)))}
    for record in Stream(sets["big"]).take(30):
        extra = {key: record.pop(key) for key in ("epoch", "position")}
        assert record == stored[record["id"]] and extra["epoch"] == extra["position"] // 23


def test_the_sizes_of_takes_do_not_matter(sets):
    full, parts = Stream(sets["big"]).take(60), Stream(sets["big"])
    assert full == [record for count in (7, 0, 1, 16, 16, 3, 16, 1) for record in parts.take(count)]


def test_resume_is_exact_at_any_point(sets):
    full = ids(Stream(sets["big"], seed=1).take(70))
    for position in (*range(0, 50, 7), 22, 23, 24):
        first = Stream(sets["big"], seed=1)
        first.take(position)
        state = json.loads(json.dumps(first.state()))
        resumed = Stream(sets["big"], seed=1)
        resumed.restore(state)
        assert ids(resumed.take(20)) == full[position : position + 20]
        first.take(9)
        first.restore(state)  # also backwards, on a stream that has read ahead
        assert ids(first.take(20)) == full[position : position + 20]


def test_processes_share_one_stream(sets):
    mixture = {sets["big"]: 2, sets["small"]: 1}
    one = Stream(mixture, seed=5)
    two = [Stream(mixture, seed=5, process_index=i, process_count=2) for i in range(2)]
    for count in (8, 8, 2, 14):
        assert one.take(count) == [record for stream in two for record in stream.take(count)]
    assert one.state() == two[0].state() == two[1].state()
    four = [Stream(mixture, seed=5, process_index=i, process_count=4) for i in range(4)]
    for stream in four:
        stream.restore(two[1].state())
    assert one.take(8) == [record for stream in four for record in stream.take(8)]
    with pytest.raises(InputError, match="multiple"):
        two[0].take(3)


def test_a_set_smaller_than_a_batch_repeats(sets):
    taken = Stream(sets["small"]).take(12)
    assert collections.Counter(record["epoch"] for record in taken) == {0: 5, 1: 5, 2: 2}
    assert set(ids(Stream(sets["one"]).take(3))) == {"one0"}


def test_mixture_keeps_its_weights_and_each_set_its_epochs(sets):
    taken = Stream({sets["big"]: 3, sets["small"]: 1}).take(92)
    by_source = collections.defaultdict(list)
    for record in taken:
        by_source[record["source"]].append(record)
    assert {name: len(part) for name, part in by_source.items()} == {"big": 69, "small": 23}
    for number, (name, size) in enumerate((("big", 23), ("small", 5)), start=1):
        for epoch in range(3):
            part = [record["id"] for record in by_source[name] if record["epoch"] == epoch]
            assert sorted(part) == sorted({f"{number}:{name}{i}" for i in range(size)})


KEPT = {"big": np.array([0, 2, 3, 5, 7, 11, 13, 17, 19]), "small": np.array([1, 4])}


def test_only_what_is_kept_is_drawn_the_same_by_any_number_of_processes(sets):
    """Of a mixture, resumed in the middle by another number of processes than had begun."""
    mixture, kept = {sets["big"]: 22, sets["small"]: 36}, {sets[name]: places for name, places in KEPT.items()}
    complete = Stream(mixture, seed=7, kept=kept).take(96)
    by_set = collections.Counter(record["source"] for record in complete)
    assert abs(by_set["big"] - 96 * 22 / 58) < 1 and by_set.total() == 96
    for number, (name, places) in enumerate(KEPT.items(), start=1):
        drawn = collections.Counter((record["epoch"], record["id"]) for record in complete if record["source"] == name)
        assert set(drawn.values()) == {1}
        full = [{identifier for epoch, identifier in drawn if epoch == e} for e in range(by_set[name] // len(places))]
        assert len(full) > 1 and all(ids == {f"{number}:{name}{i}" for i in places} for ids in full)
    for before, after in ((1, 2), (2, 4), (4, 1)):
        first, then = (
            [Stream(mixture, seed=7, kept=kept, process_index=i, process_count=count) for i in range(count)]
            for count in (before, after)
        )
        taken = [record for stream in first for record in stream.take(40)]
        for stream in then:
            stream.restore(json.loads(json.dumps(first[-1].state())))
        assert taken + [record for stream in then for record in stream.take(56)] == complete


def test_nothing_kept_is_refused(sets):
    with pytest.raises(InputError, match=r"no record of split 'train' of .*small can be used"):
        Stream(sets["small"], kept={sets["small"]: np.array([], int)})


def test_sets_that_share_ids_stay_apart(sets):
    twin = sets["small"] + "/../twin"
    shutil.copytree(sets["small"], twin)
    drawn = Stream({sets["small"]: 1, twin: 1}).take(10)
    assert sorted(ids(drawn)) == sorted(f"{number}:small{i}" for number in (1, 2) for i in range(5))


def test_records_in_turn_of_those_that_have_the_split(sets, tmp_path):
    directories = [sets["big"], sets["one"], sets["small"]]
    result = ids(first_records(open_subsets(directories, "train"), 8))
    assert result == ["1:big0", "2:one0", "3:small0", "1:big1", "3:small1", "1:big2", "3:small2", "1:big3"]
    assert len(list(first_records(open_subsets(directories, "train"), 99))) == 29
    held_out = str(tmp_path / "held-out")
    records.write({"eval": [open_subsets(directories, "train")[1][0]]}, held_out)
    assert directories_with_split([*directories, held_out], "eval[:1]") == [held_out]
    [part] = open_subsets(directories, "train", {sets["small"]: np.array([3])})
    assert [part[i]["id"] for i in range(len(part))] == ["3:small3"]
    with pytest.raises(InputError, match=r"has a split 'eval': .*big has train; .*one has train"):
        directories_with_split(directories, "eval")


def test_a_mixture_in_words():
    assert sources("runs/a=1/data") == {"runs/a=1/data": 1.0}
    assert sources("a=22, b=x=36.5") == {"a": 22.0, "b=x": 36.5}
    for text in (
        "a,b",
        "a=1,b",
        "a=1,b=",
        "a=1,=2",
        "a=1,b=0",
        "a=1,b=-1",
        "a=1,b=nan",
        "a=1,b=inf",
        "a=1,",
        "a=x,b=1",
        ",",
    ):
        with pytest.raises(InputError, match=r"expected DIR, or DIR=WEIGHT,DIR=WEIGHT with weights above 0, which"):
            sources(text)
    with pytest.raises(InputError, match="a is named twice"):
        sources("a=1,a=2")


def test_a_state_of_another_stream_is_refused(sets):
    state = Stream(sets["big"], seed=1).state()
    for other in (
        Stream(sets["big"], seed=2),
        Stream(sets["small"], seed=1),
        Stream({sets["big"]: 1, sets["one"]: 1}, seed=1),
    ):
        with pytest.raises(InputError, match="saved data position"):
            other.restore(state)
    other = Stream(sets["big"], seed=1, kept={sets["big"]: KEPT["big"]})
    with pytest.raises(InputError, match=r"belongs to excluded \['0 of 23 .*now has \['14 of 23 "):
        other.restore(state)


@pytest.mark.parametrize("options", [{"seed": -1}, {"process_index": 2, "process_count": 2}, {"split": "test"}])
def test_bad_settings_are_named(sets, options):
    with pytest.raises(InputError):
        Stream(sets["big"], **options)
    for none in ({}, {sets["big"]: 0}, "/nowhere"):
        with pytest.raises(InputError):
            Stream(none)


def test_stored_splits_go_to_workers(sets):
    split = pickle.loads(pickle.dumps(records.open_split(sets["big"])))
    assert split[3]["id"] == "big3"
