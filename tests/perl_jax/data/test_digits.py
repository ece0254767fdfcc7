"""Digit questions: answers follow from the images' labels, places are biased as asked, evaluation has its own
images."""

import collections
import io
import re

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from models.errors import InputError
from perl_jax import permute, records, symbols
from perl_jax.data import digits

SIZE = 8


@pytest.fixture(scope="module")
def by_split():
    return {
        split: list(digits.records(split=split, train_size=1500, eval_size=500, image_size=SIZE))
        for split in digits.SPLITS
    }


@pytest.fixture(scope="module")
def number_of():
    """{PNG bytes: scikit-learn's number of the image}"""
    return {digits.digit_image(i, SIZE): i for i in range(1797)}


@pytest.fixture(scope="module")
def label_of(number_of):
    labels = load_digits().target
    return {image: int(labels[i]) for image, i in number_of.items()}


def truth(record, labels):
    """The answer that the labels give to a question in plain words."""
    question = record["question"].replace("<image>", "")
    if match := re.fullmatch(r"Which image shows (\d)\?", question):
        (place,) = (i for i, label in enumerate(labels) if label == int(match[1]))
        return str(place + 1)
    if match := re.fullmatch(r"What does image (\d) show\?", question):
        return str(labels[int(match[1]) - 1])
    if match := re.fullmatch(r"How many images show (\d)\?", question):
        return str(labels.count(int(match[1])))
    if question == "What is the largest digit?":
        return str(max(labels))
    assert question == "What digit is this?" and len(labels) == 1
    return str(labels[0])


def test_example_is_the_first_record(by_split):
    first = next(iter(digits.records()))
    assert {key: value for key, value in first.items() if key != "images"} == digits.EXAMPLE
    assert Image.open(io.BytesIO(first["images"][0])).size == (56, 56)


@pytest.mark.parametrize("split", digits.SPLITS)
def test_answers_follow_from_the_labels_in_any_order(by_split, label_of, split):
    for record in by_split[split]:
        for order in permute.uniform_orders(record, 3, seed=1):
            shown = permute.render(permute.apply(record, order))
            assert shown["answer"] == truth(shown, [label_of[image] for image in shown["images"]])


def test_records_are_whole_and_ids_unique(by_split):
    for record in by_split["eval"][:50]:
        records.validate(record)
    assert len({record["id"] for split in by_split.values() for record in split}) == 2000


def test_no_image_is_in_both_splits(by_split, number_of):
    seen = {
        split: {number_of[image] for record in part for image in record["images"]} for split, part in by_split.items()
    }
    assert not seen["train"] & seen["eval"]
    other_seed = {
        number_of[image]
        for record in digits.records(split="eval", seed=9, image_size=SIZE, eval_size=500)
        for image in record["images"]
    }
    assert not other_seed & seen["train"] and other_seed & seen["eval"]


def test_a_record_does_not_depend_on_how_many_there_are(by_split):
    for split in digits.SPLITS:
        few = list(digits.records(split=split, train_size=7, eval_size=20, image_size=SIZE))
        assert few == by_split[split][: len(few)]
    assert list(digits.records(seed=1, train_size=7, image_size=SIZE)) != by_split["train"][:7]


@pytest.mark.parametrize(("split", "bias"), [("train", 0.8), ("eval", 0.8), ("train", 0.0), ("train", 1.0)])
def test_what_matters_is_first_as_often_as_asked(label_of, split, bias):
    first, total, elsewhere = collections.Counter(), collections.Counter(), collections.Counter()
    options = {"image_size": SIZE, "bias": bias, "questions": "which,what,largest"}
    for record in digits.records(split=split, train_size=1200, eval_size=1200, **options):
        labels = [label_of[image] for image in record["images"]]
        text = record["answer"] if record["source"] == "digits_which" else record["question"]
        place = (
            labels.index(max(labels)) if record["source"] == "digits_largest" else int(symbols.MENTION.search(text)[1])
        )
        total[record["source"]] += 1
        first[record["source"]] += place == 0
        elsewhere[place] += len(labels) == 4
    assert all(abs(first[source] / total[source] - bias) < 0.06 for source in total)
    if bias < 1:
        assert min(elsewhere[place] for place in (1, 2, 3)) > 0.6 * max(elsewhere[place] for place in (1, 2, 3))


def test_kinds_effects_and_counts_of_images(by_split):
    effects = collections.defaultdict(set)
    for record in by_split["train"]:
        effects[record["source"]].add((record["order_effect"], record["kind"]))
        assert (len(record["images"]) == 1) == (record["source"] == "digits_single")
    assert effects == {
        "digits_which": {("rewrite", "number")},
        "digits_what": {("rewrite", "number")},
        "digits_count": {("invariant", "number")},
        "digits_largest": {("invariant", "number")},
        "digits_single": {("invariant", "number")},
    }
    assert {len(record["images"]) for record in by_split["train"]} == {1, 2, 3, 4}
    only = list(digits.records(questions=("count",), min_images=3, max_images=3, train_size=40, image_size=SIZE))
    assert {record["answer"] for record in only} == {"0", "1", "2", "3"}
    assert {len(record["images"]) for record in only} == {3}


def test_ragged_images_keep_the_digit():
    by_split = list(digits.records(ragged=True, train_size=60))
    sizes = {Image.open(io.BytesIO(image)).size for record in by_split for image in record["images"]}
    assert len(sizes) > 4 and all(side % digits.SIDE_STEP == 0 for size in sizes for side in size)
    plain = list(digits.records(train_size=60))
    assert [record["question"] for record in by_split[:1]] == [record["question"] for record in plain[:1]]


@pytest.mark.parametrize(
    "options",
    [
        {"split": "test"},
        {"input": "x"},
        {"bias": 2},
        {"min_images": 1},
        {"max_images": 11},
        {"questions": "who"},
        {"questions": ()},
        {"image_size": 0},
    ],
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(InputError):
        next(digits.records(**options))
