"""Several models side by side, in Markdown and as a page."""

import re
from html import escape

import evaluation_results
import pytest
from markup import Tags

from perl_jax.evaluation import comparison, results
from perl_jax.runtime import html

ATTACK = "<script>alert('x')</script>"


def read(*directories):
    return [results.read(path.name, path) for path in directories]


def tables(models):
    """{title: rows of the table, as in Markdown}."""
    parts = re.split(r"^## (.*)$", comparison.markdown(models), flags=re.M)[1:]
    return {
        title: [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
        for title, text in zip(parts[::2], parts[1::2])
    }


@pytest.fixture
def three(tmp_path):
    """base, GRPO and PeRL on BLINK under both protocols, in several orders under one; and some have more."""
    data = evaluation_results.snapshot(tmp_path / "data")
    for name, right, permuted in (("base", 8, (6, 3)), ("GRPO", 12, (7, 5)), ("PeRL", 14, (13, 12))):
        out = tmp_path / name
        evaluation_results.write(out, evaluation_results.rows(right, permuted=permuted, say=ATTACK), data)
        evaluation_results.write(out, evaluation_results.rows(right + 2), data, protocol="official", partial=False)
        evaluation_results.write(out, evaluation_results.rows(right - 4), data, benchmark="mantis_eval", partial=False)
    evaluation_results.write(tmp_path / "PeRL", evaluation_results.rows(10), data, benchmark="records")
    evaluation_results.write(tmp_path / "base", evaluation_results.rows(10), data, benchmark="remi")
    return read(*(tmp_path / name for name in ("base", "GRPO", "PeRL")))


def test_accuracy(three):
    header, _, base, grpo, perl, *printed = tables(three)["Accuracy"]
    assert header == [
        "mantis_eval, boxed",
        "blink, boxed",
        "remi, boxed",
        "records, boxed",
        "blink, official",
        "mean, boxed",
    ]
    assert grpo == [
        "GRPO",
        "40.0% [21.9, 61.3] of 20",
        "60.0% [38.7, 78.1] of 20 †",
        "–",
        "–",
        "70.0% [48.1, 85.5] of 20",
        "50.0% †",
    ]
    assert base[3] != "–" and perl[3] == "–" and perl[4].startswith("50.0%")
    assert printed[0] == [
        "Qwen2.5-VL-7B, as printed",
        "70.80 [1] or 71.5 [2]",
        "55.23 [1] or 56 [3]",
        "36.38 [1]",
        "–",
        "55.23 [1] or 56 [3]",
        f"{(70.80 + 55.23) / 2:.2f}",
    ]
    text = comparison.markdown(three)
    assert "Mean, boxed: over mantis_eval, blink, which all rows of ours have" in text and "Mean, official" not in text
    assert "† part of the benchmark" in text and text.count("[1] github.com/alchemistyzz/PeRL") == 1


def test_what_is_printed(three):
    header, _, base, perl = tables(three)["As printed elsewhere"]
    assert header[-2:] == ["mean, printed", "mean of the cells"] and base[-2:] == ["47.90 [1]", "46.80"]
    assert perl[-2:] == ["51.13 [1]", "51.13"] and len(base) == 1 + 8 + 2


def test_consistency(three):
    _, _, base, grpo, perl = tables(three)["Consistency under permutation"]
    for name, row in (("base", base), ("GRPO", grpo), ("PeRL", perl)):
        assert row[:3] == [name, "blink, boxed", "20"]
    assert perl[3].startswith("70.0%") and perl[4].startswith("62.5%") and perl[5].startswith("60.0%")
    assert perl[6].startswith("10.0%") and perl[7].startswith("0.0%") and perl[8].startswith("+10.0 [")
    assert re.match(r"image \d: \+", perl[9]) and re.match(r"image \d: ", perl[10])
    assert "the flip rate is 0 by construction" in comparison.markdown(three)


def test_a_control_that_was_drawn_is_not_by_construction(tmp_path):
    scored = evaluation_results.rows(5, permuted=(4, 2), control=True)
    models = read(evaluation_results.write(tmp_path / "a", scored, "d"))
    assert "by construction" not in comparison.markdown(models)
    assert "Differences" not in tables(models)  # there is no other model


def test_differences(three):
    _, _, *rows = tables(three)["Differences"]
    assert [row[0] for row in rows] == ["PeRL minus base"] * 3 + ["PeRL minus GRPO"] * 3
    assert {row[1] for row in rows} == {"mantis_eval, boxed", "blink, boxed", "blink, official"}
    assert rows[1][1:6] == ["blink, boxed", "20", "6", "0", "0.031"] and rows[1][6].startswith("+30.0 [+10.0, ")


def test_results_that_share_no_question(tmp_path):
    other = [{**row, "id": "other" + row["id"]} for row in evaluation_results.rows(5)]
    models = read(
        evaluation_results.write(tmp_path / "a", evaluation_results.rows(5), "d"),
        evaluation_results.write(tmp_path / "b", other, "d"),
    )
    assert tables(models)["Differences"][2][2:] == ["0", "–", "–", "–", "–"]


def test_what_is_not_alike_is_said(tmp_path):
    a = evaluation_results.write(
        tmp_path / "a",
        evaluation_results.rows(5),
        "d",
        judge={"model": "m|1", "url": "u"},
        settings={"model": "x", "samples": 1, "temperature": 0.0, "prompt": {"system": "Be\nbrief."}},
    )
    b = evaluation_results.write(
        tmp_path / "b",
        evaluation_results.rows(5, 10),
        "d",
        settings={"model": "y", "samples": 1, "temperature": 0.7, "prompt": {"system": "Look."}},
    )
    [line] = [line for line in comparison.markdown(read(a, b)).splitlines() if line.startswith("Not the same")]
    assert line == (
        "Not the same for all in blink, boxed: temperature (a 0.0, b 0.7); prompt's system (a Be brief., b "
        "Look.); questions (a 20, b 10); judge (a m|1, b none)."
    )
    assert "Not the same" not in comparison.markdown(read(a, a))


def test_a_setting_that_is_not_said_is_not_one_that_is_none(tmp_path):
    made = [
        evaluation_results.write(tmp_path / name, evaluation_results.rows(5), "d", settings={"samples": 1, **more})
        for name, more in (("a", {}), ("b", {"blind": None}), ("c", {"blind": "None"}), ("d", {"blind": None}))
    ]
    assert "blind (a not set, b None)" in comparison.markdown(read(*made[:2]))
    assert "blind (b None, c None)" in comparison.markdown(read(*made[1:3]))
    assert "Not the same" not in comparison.markdown(read(made[1], made[3]))


def test_names_keep_tables_whole(tmp_path):
    out = evaluation_results.write(tmp_path / "a|b", evaluation_results.rows(5), "d", benchmark="my|own", protocol="x")
    header, _, row = tables(read(out))["Accuracy"]
    assert header == ["my\\|own, x"] and row == ["a\\|b", "25.0% [11.2, 46.9] of 20 †"]


def test_the_page_holds_everything_and_no_script(three):
    page = html.page("title", comparison.body(three), comparison.STYLE)
    seen = Tags(page)
    assert "script" not in seen.tags and ATTACK not in page and escape(ATTACK) in page
    sources = [value for name, value in seen.attributes if name == "src"]
    assert sources and all(value.startswith("data:image/") for value in sources)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name == "href"]
    for words in (
        "46.80",
        "McNemar's p",
        "accuracy by place of the decisive image: blink, boxed",
        "True answer: B",
        "answered better by PeRL than by base: 6",
        "order 2 3 1",
        "How the results were made",
        "70.80\xa0[1]",
        "temperature",
        "Without images: ",
    ):
        assert words in seen.words, words
    assert len(page) < 3e6


def test_a_benchmark_that_the_last_model_has_not(tmp_path):
    a = evaluation_results.write(tmp_path / "a", evaluation_results.rows(5, permuted=(3, 3)), "d")
    b = evaluation_results.write(tmp_path / "b", evaluation_results.rows(5), "d", protocol="official")
    result = tables(read(a, b))
    assert "Differences" not in result and result["Accuracy"][2][1:] == ["25.0% [11.2, 46.9] of 20 †", "–"]
    assert "Example questions" not in Tags("".join(comparison.body(read(a, b)))).words
