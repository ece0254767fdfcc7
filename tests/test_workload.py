"""What the benchmarks compare before they time it."""

import math

import pytest

from benchmarks import workload


@pytest.mark.parametrize(
    ("gaps", "near"),
    [
        ([0.0, 1e-5], True),
        ([1e-4], True),
        ([2e-4, 0.0], False),
        ([math.nan, 0.0], False),
        ([0.0, math.nan], False),
        ([math.nan, math.nan], False),
        ([math.inf], False),
    ],
)
def test_what_is_no_number_is_not_near(gaps, near):
    assert workload.within(gaps, 1e-4) is near
