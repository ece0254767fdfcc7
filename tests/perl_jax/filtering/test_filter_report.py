"""A filter's table adds up, says why a target was missed, and its image is drawn for any number of sources."""

import numpy as np
import pytest
from PIL import Image

from perl_jax.filtering import filter_report, selection
from perl_jax.filtering.selection import Candidate

BAND = {"low": 0.1, "high": 0.9, "target": 0.38}


def some(sources: int, each: int = 30) -> list[Candidate]:
    rng = np.random.default_rng(0)
    return [
        Candidate(f"{s}-{i}", f"source {s}", None if i == 0 else float(rng.integers(0, 11)) / 10)
        for s in range(sources)
        for i in range(each + s)
    ]


@pytest.mark.parametrize("sources", [1, 3])
def test_the_table_adds_up(sources):
    records = some(sources)
    table = filter_report.table(records, selection.select(records, **BAND))
    assert len(table.rows) == (sources + 1 if sources > 1 else 1), "one source is all"
    for row in table.rows:
        counts = dict(zip(table.header, row))
        assert sum(int(counts[outcome]) for outcome in selection.OUTCOMES) == int(counts["records"])
        assert float(counts["mean after"]) == pytest.approx(0.38, abs=0.05)
    assert [int(row[1]) for row in table.rows[:sources]] == sorted((30 + s for s in range(sources)), reverse=True)
    assert int(table.rows[-1][1]) == len(records)


@pytest.mark.parametrize(
    ("accuracies", "why"),
    [
        ([0.6, 0.8] * 40, "no record of the band is harder"),
        ([0.1, 0.2] * 40, "no record of the band is easier"),
        ([0.8] * 3000 + [0.3] * 2, "too many are easy, and the furthest are already thinned to 2%"),
        ([0.3, 0.6, 0.6], "the records are too few to come nearer"),
        ([0.0, 1.0], "no record is kept"),
    ],
)
def test_why_a_target_is_missed(accuracies, why):
    records = [Candidate(str(i), "mine", accuracy) for i, accuracy in enumerate(accuracies)]
    [line] = filter_report.shortfalls(records, selection.select(records, **BAND), 0.38)
    assert line.startswith("mine: ") and why in line


def test_a_target_that_is_met_is_not_told():
    records = some(2, each=300)
    assert filter_report.shortfalls(records, selection.select(records, **BAND), 0.38) == []


@pytest.mark.parametrize("sources", [1, 2, 12])
def test_the_image(tmp_path, sources):
    """It shows something, and no more panels than fit, of all records."""
    records = some(sources)
    outcomes = selection.select(records, **BAND)
    filter_report.histogram(records, outcomes, tmp_path / "a.png", **BAND, rollouts=10)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG" and min(image.size) > 300
        assert {(11, 95, 179), (182, 190, 200)} <= {colour for _, colour in image.convert("RGB").getcolors(10**6)}
    panels = filter_report._panels(records)
    assert len(panels) == {1: 1, 2: 3, 12: 9}[sources]
    parts = panels[1:] if sources > 1 else panels
    assert sorted(record for _, group in parts for record in group) == sorted(records)


def test_nothing_kept_is_drawn_too(tmp_path):
    records = [Candidate("a", "mine", 0.0), Candidate("b", "mine", None)]
    filter_report.histogram(records, selection.select(records, **BAND), tmp_path / "a.png", **BAND, rollouts=4)
    assert (tmp_path / "a.png").stat().st_size > 1000
