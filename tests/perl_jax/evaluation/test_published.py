"""What others have printed: the figures hang together, and each says where it stands."""

import doctest
import math

import pytest

from perl_jax import benchmarks
from perl_jax.evaluation import published
from perl_jax.evaluation.published import BENCHMARKS, MODELS, SOURCES


def test_doctests():
    assert doctest.testmod(published).failed == 0


def test_every_benchmark_is_one_of_ours_and_has_a_figure():
    assert BENCHMARKS.keys() <= set(benchmarks.names()) and len(BENCHMARKS) == 8
    for model in MODELS:
        assert model.cells.keys() == BENCHMARKS.keys() and all(model.cells.values())


def test_every_figure_has_a_source_and_every_source_a_figure():
    figures = [figure for model in MODELS for cell in (*model.cells.values(), (model.mean,)) for figure in cell]
    assert {figure.source for figure in figures} == SOURCES.keys()
    assert all(0 < figure.value < 100 for figure in figures)
    for model in MODELS:
        assert all(cell[0].source == "readme" for cell in model.cells.values())


def test_means_are_computed():
    base, perl = MODELS
    assert [str(figure) for figure in base.cells["mantis_eval"]] == ["70.80", "71.5"]
    assert str(base.mean) == "47.90" and base.computed() == pytest.approx(46.79875)
    assert perl.mean.value == pytest.approx(perl.computed(), abs=0.005)
    assert base.computed(["blink", "remi"]) == pytest.approx((55.23 + 36.38) / 2)
    assert math.isnan(base.computed([]))


def test_the_gain_on_remi_is_the_largest():
    """As the table's own text says, which guards its columns against a slip."""
    base, perl = MODELS
    gains = {name: perl.cells[name][0].value - base.cells[name][0].value for name in BENCHMARKS}
    assert max(gains, key=gains.get) == "remi" and gains["mantis_eval"] == pytest.approx(5.59)
    assert all(gain > 2 for gain in gains.values())
