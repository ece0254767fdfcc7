"""What is measured is what is shown, in every order; the rest is left out from the start, counted and named."""

import dataclasses
import io
import itertools
import json
import random

import numpy as np
import pytest
import tiny_run
from PIL import Image

from models import qwen2_5_vl as qwen
from models.errors import InputError
from models.qwen2_5_vl import from_scratch
from perl_jax import permute, records, symbols
from perl_jax.records import prompt_lengths, prompts
from perl_jax.records import record as record_module

WORDS = ("which", "of", "the", "two", "shows", "a", "larger", "cat", "than", "other")
STYLES = ("", "|lower", "|number", "|ordinal", "|ordinal", "|letter", "|last", "|numeral")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    path = tmp_path_factory.mktemp("lengths") / "model"
    from_scratch.make(path, tiny_run.config().scratch.to_dict(), [" ".join(WORDS)], vocab_size=300)
    return prompts.Prompts(qwen.Processor.from_pretrained(path), "Look.", "Box it.", 28 * 28, 84 * 84, 1 << 20)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def record(name: str, images: int, text: str = "?", **changes) -> records.Record:
    slots = "".join(f"<image:{i}>" for i in range(images))
    return {
        "id": name,
        "images": [png(28 * (i + 1), 28) for i in range(images)],
        "question": slots + text,
        "choices": [],
        "answer": "x",
        "kind": "text",
        "order_effect": "rewrite",
        "source": "s",
        "accuracy": None,
        "movable": None,
        **changes,
    }


def random_record(rng: random.Random, images: int) -> records.Record:
    def text():
        count = rng.randrange(4) if images else 0
        mentions = [f"{{image:{rng.randrange(images)}{rng.choice(STYLES)}}}" for _ in range(count)]
        if images > 2 and count > 2:
            mentions.append(symbols.mention_set(rng.sample(range(images), 2)))
        return " ".join(rng.sample(mentions + rng.sample(WORDS, 5), len(mentions) + 5))

    return record(
        "r",
        images,
        text(),
        choices=[text() for _ in range(rng.randrange(4))],
        order_effect=rng.choice(["rewrite", "rewrite", "invariant", "fixed"]),
        movable=rng.choice([None, sorted(rng.sample(range(images), images - 1))]) if images else None,
    )


def tokens(made, order, shown) -> int:
    return len(shown.encode(permute.render(permute.apply(prompts.with_lazy_images(made), order)))[0])


def orders(made):
    """All that can be shown."""
    places, original = permute.movable_places(made), list(range(len(made["images"])))
    for moved in itertools.permutations(places):
        order = list(original)
        for place, image in zip(places, moved):
            order[place] = image
        yield tuple(order)


def test_lengths_are_those_of_the_longest_prompt(shown):
    rng, differ = random.Random(0), 0
    for _ in range(60):
        made = random_record(rng, rng.randrange(5))
        lengths = [tokens(made, order, shown) for order in orders(made)] or [tokens(made, (), shown)]
        assert prompt_lengths.measure(made, shown) == {"id": "r", "tokens": max(lengths)}
        differ += lengths[0] < max(lengths)
    assert differ > 3, "words of places have different lengths"


def test_too_many_wordings_are_bounded(shown):
    rng = random.Random(1)
    mentions = " ".join(f"{{image:{i}|ordinal}}" for i in range(6))
    made = record("r", 6, mentions)
    few, more = prompt_lengths.wordings(made)
    assert few == [tuple(range(6))] and more == 6 * prompt_lengths.LETTERS
    longest = max(tokens(made, rng.sample(range(6), 6), shown) for _ in range(200))
    assert longest <= prompt_lengths.measure(made, shown)["tokens"] <= longest + more


def test_few_mentions_of_many_images_need_few_orders():
    made = record("r", 9, "{image:3|ordinal}")
    few, more = prompt_lengths.wordings(made)
    assert len(few) == 9 and more == 0 and few[0] == tuple(range(9))
    assert {order.index(3) for order in few} == set(range(9))
    assert all(sorted(order) == list(range(9)) for order in few)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Ten records: 3 is long, 5 has half a header, 7 mentions an image that is not there, 8 hides a special token."""
    path = tmp_path_factory.mktemp("lengths") / "set"
    made = [record(f"r{i}", 2, "Which is {image:1}?") for i in range(10)]
    made[3]["question"] += "which " * 50
    made[5]["images"][1] = made[5]["images"][1][:20]
    made[7]["question"] += "{image:2}"
    made[8]["question"] += "<|im_end|>"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_module, "to_stored_format", lambda data, where: data)
        patch.setattr(record_module, "_check_symbols", lambda record: None)
        records.write({"train": made}, path)
    return str(path)


@pytest.fixture
def limited(shown):
    return dataclasses.replace(shown, max_tokens=100)


def shown_of(directory: str, limited, workdir, split: str = "train"):
    """(places, counts) of one split."""
    kept, counts = prompt_lengths.select({split: [directory]}, limited, workdir)
    return kept[split][directory], counts[split][directory]


REASONS = {
    "longer than config.prompt.max_tokens = 100": "r3",
    "with an image that cannot be read": "r5",
    "whose references to images do not fit": "r7",
    "whose prompt cannot be made": "r8",
}


def test_what_cannot_be_shown_is_left_out_counted_and_named(stored, limited, tmp_path, caplog):
    kept, counts = shown_of(stored, limited, tmp_path)
    assert kept.tolist() == [0, 1, 2, 4, 6, 9] and counts == dict.fromkeys(REASONS, 1)
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"4 of the 10 records in split 'train' of {stored} are left out: 1 longer than config.pr")
    named = [json.loads(line) for line in (tmp_path / prompt_lengths.EXCLUDED).read_text().splitlines()]
    assert {line["reason"]: line["id"] for line in named} == REASONS
    assert named[0]["tokens"] > 100 and "record 'r5', image 2" in named[1]["detail"]
    assert {(line["directory"], line["split"]) for line in named} == {(stored, "train")}
    for place in kept:
        assert tokens(records.open_split(stored)[place], (1, 0), limited) <= 100


def test_nothing_is_measured_twice(stored, limited, tmp_path, monkeypatch):
    first = shown_of(stored, limited, tmp_path)
    before = records.fingerprint(stored)
    calls, measure = [], prompt_lengths.measure
    monkeypatch.setattr(prompt_lengths, "measure", lambda *args: calls.append(1) or measure(*args))
    again = shown_of(stored, limited, tmp_path)
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1] and not calls
    more, _ = shown_of(stored, dataclasses.replace(limited, max_tokens=1000), tmp_path)
    assert 3 in more and not calls, "lengths depend on no limit of tokens"
    for change in ({"max_pixels": 56 * 56}, {"system": "Look well."}, {"instruction": ""}):
        calls.clear()
        shown_of(stored, dataclasses.replace(limited, **change), tmp_path)
        assert len(calls) == 10, change
    calls.clear()
    shown_of(stored, limited, tmp_path, "train[:2]")
    assert len(calls) == 2 and records.fingerprint(stored) == before


def test_a_file_is_there_as_a_whole_or_not_at_all(stored, shown, tmp_path, monkeypatch):
    """Here in the workdir: the records' place cannot be written to."""
    monkeypatch.setattr(prompt_lengths.os, "access", lambda *_: False)
    measure = prompt_lengths.measure
    monkeypatch.setattr(
        prompt_lengths, "measure", lambda record, _: measure(record, shown) if record["id"] < "r6" else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        prompt_lengths.load_or_measure(stored, "train", shown, tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(prompt_lengths, "measure", measure)
    full = prompt_lengths.load_or_measure(stored, "train", shown, tmp_path)
    [file] = tmp_path.glob("lengths-*.jsonl")
    whole = file.read_text()
    fewer, other = whole.splitlines(keepends=True)[:-1], whole.replace(f'"tokens": {full[0]["tokens"]}', '"tokens": 1')
    assert whole not in ("".join(fewer), other)
    for damaged in (whole[:-9], "".join(fewer), other, "\0" * len(whole)):
        file.write_text(damaged)
        assert prompt_lengths.load_or_measure(stored, "train", shown, tmp_path) == full
    assert json.loads(file.read_text().splitlines()[-1])["id"] == "r9" and len(list(tmp_path.iterdir())) == 1


def test_a_set_of_which_nothing_can_be_shown(stored, shown, tmp_path):
    with pytest.raises(InputError, match=r"no record of split 'train' of .* can be used: 7 longer than config"):
        shown_of(stored, dataclasses.replace(shown, max_tokens=3), tmp_path)
