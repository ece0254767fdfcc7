"""What benchmarks share: rows become items, counted; slots, options and the boxed protocol."""

import doctest
import subprocess
import sys

import pytest
from public_files import jsonl

from models.errors import InputError
from perl_jax import symbols
from perl_jax.benchmarks import Item, _common, blink, mmiu
from perl_jax.curation import references
from perl_jax.data import Rejected, Row


def make(row, name):
    if "id" not in row:
        raise InputError("no id")
    return Item(Row(row["id"], [], row.get("question", "Why?"), "So.", "mine"), row.get("category", ""), {})


def read(tmp_path, published, *rows, **options):
    return list(_common.read([jsonl(tmp_path / "rows.jsonl", *rows)], make, published, "some/set", **options))


def test_examples():
    assert (
        doctest.testmod(_common) == (0, doctest.testmod(_common).attempted) and doctest.testmod(_common).attempted > 5
    )


def test_scoring_needs_no_jax():
    """It runs in workers that can be killed, which are to start at once."""
    code = (
        "import sys; from perl_jax.benchmarks import blink, mantis_eval, mmiu, remi; "
        "sys.exit('jax' in sys.modules or 'pyarrow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_bad_row_is_one_item_rejected(tmp_path):
    made = read(tmp_path, 5, {"id": "1"}, b"{", {"id": "1"}, {"x": 2}, {"id": "5", "question": "An <image>?"})
    assert made[0].row.id == "1"
    assert [(one.id, one.reason) for one in made[1:]] == [
        ("rows-2", "malformed row"),
        ("rows-3", "duplicate id"),
        ("rows-4", "malformed row"),
        ("rows-5", "malformed row"),
    ]


@pytest.mark.parametrize("published", [1, 3, {"a": 1, "b": 2}, {"a": 2}, {"b": 2}])
def test_another_number_is_told_after_the_last_row(tmp_path, published):
    rows = {"id": "1", "category": "a"}, {"id": "2", "category": "b"}
    with pytest.raises(InputError, match=r"rows.* published: download some/set"):
        read(tmp_path, published, *rows)
    assert len(read(tmp_path, published, *rows, allow_partial=True)) == 2


def test_the_published_number_passes_with_rejected_rows_counted(tmp_path):
    made = read(tmp_path, {"a": 1, "b": 1}, {"id": "1", "category": "a"}, {"category": "b"})
    assert isinstance(made[1], Rejected)


def test_files_are_those_of_the_first_pattern(tmp_path):
    for name in ("b-2.parquet", "b-1.parquet", "c.parquet"):
        (tmp_path / name).touch()
    result = _common.files(tmp_path, ("a-*.parquet", "b-*.parquet", "*.parquet"), "some/set")
    assert [path.name for path in result] == ["b-1.parquet", "b-2.parquet"]
    with pytest.raises(InputError, match=r"holds no a\*: download the data set some/set"):
        _common.files(tmp_path, ("a*",), "some/set")


@pytest.mark.parametrize(
    ("question", "inside"),
    [
        ("Which is older?", False),
        ("<image><image>\nWhich?", False),
        ("Which? <image> <image>\n", False),
        ("<image> Is it?", False),
        ("Is <image> it?", False),
        ("<image> is like <image>", True),
        ("Of <image><image>, which?", True),
        ("Image 1: <image>\nImage 2: <image>\nWhich?", True),
    ],
)
def test_where_images_stand(question, inside):
    assert _common.inside_sentences(question) == inside


def test_slots_are_added_in_front_and_never_too_many():
    assert _common.with_slots("Which?", 2) == "<image><image>Which?"
    assert _common.with_slots("Which?", 2, shown=2) == "Which?"
    with pytest.raises(InputError, match="3 slots, 2 images"):
        _common.with_slots("<image>", 2, shown=2)


def test_a_boxed_prompt_is_that_of_training():
    row = Row("1", [None] * 2, "Which?", "B", "mine", choices=["a cat", "a dog"])
    assert _common.boxed_prompt(row) == _common.user("<image><image>\nWhich?\nA. a cat\nB. a dog")
    assert _common.boxed_prompt(row._replace(choices=["<image>", "<image>"])) == _common.user(
        "Which?\nA. <image>\nB. <image>"
    )


def test_a_box_is_right_by_any_of_several_answers():
    row = Row("1", [], "Which?", "1, 3", "mine", kind="number")
    assert _common.boxed_score(row, r"\boxed{3}", ["1", "3"]) == (1, "3")
    assert _common.boxed_score(row, r"\boxed{2}", ["1", "3"]) == (0, "2")


@pytest.mark.parametrize("value", ["['a']", 3, {"a": 1}])
def test_a_list_is_a_list(value):
    with pytest.raises(InputError, match="not a list"):
        _common.column_list({"options": value}, "options")
    assert _common.column_list({"options": None}, "options") == [] == _common.column_list({}, "options")


@pytest.mark.parametrize("benchmark", [blink, mmiu])
@pytest.mark.parametrize("word", ["first", "second", "former", "left one", "right one"])
@pytest.mark.parametrize("form", [str, str.upper, str.capitalize])
def test_places_that_no_rule_moves_are_the_same_in_both(benchmark, word, form):
    """A word that is left where symbols stand for what can move; and no other word that begins or ends like it."""
    for text in ("{}", "the {} shows", "Is it the {}?", "the {},", "{{image:1|ordinal}} and the {}"):
        assert benchmark._PLACE.search(text.format(form(word))), text
    for text in ("{}ly", "un{}", "{}_", "x{}x"):
        assert not benchmark._PLACE.search(text.format(form(word))), text


@pytest.mark.parametrize(
    ("word", "in_blink", "in_mmiu"), [("third", True, False), ("fourth", True, False), ("latter", False, True)]
)
def test_places_that_only_one_has(word, in_blink, in_mmiu):
    assert bool(blink._PLACE.search(f"the {word}")) == in_blink
    assert bool(mmiu._PLACE.search(f"the {word}")) == in_mmiu


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_place_that_became_a_symbol_is_none_that_is_left(count):
    for number, ordinal in enumerate(symbols.ORDINALS[:count], start=1):
        for text in (f"Is it the {ordinal} image?", f"Is it image {number}?", f"Is it the {ordinal} one?"):
            moved = references.to_symbols(text, count)
            assert moved != text and not blink._PLACE.search(moved) and not mmiu._PLACE.search(moved)


@pytest.mark.parametrize("benchmark", [blink, mmiu])
@pytest.mark.parametrize("kind", ["choices", "options"])
@pytest.mark.parametrize("end", ["", ".", ":", ".\n"])
def test_what_stands_before_the_choices_is_the_same_in_both(benchmark, kind, end):
    assert benchmark._SELECT.sub("", f"Which one?\nSelect from the following {kind}{end}") == "Which one?"
    assert benchmark._SELECT.sub("", "Select from these.") == "Select from these."
