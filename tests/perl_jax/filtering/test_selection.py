"""Which records are kept: the band, the mean of each source, nothing that depends on order or machine."""

import doctest
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perl_jax.filtering import selection
from perl_jax.filtering.selection import Candidate

LOW, HIGH = 0.1, 0.9
ACCURACIES = st.lists(st.integers(0, 10).map(lambda right: right / 10), min_size=1, max_size=120)
TARGETS = st.sampled_from([0.2, 0.38, 0.5, 0.75])


def candidates(accuracies, source: str = "s") -> list[Candidate]:
    return [Candidate(f"{source}-{i}", source, accuracy) for i, accuracy in enumerate(accuracies)]


def kept(records, target: float = 0.38, seed: int = 0) -> list[Candidate]:
    outcomes = selection.select(records, LOW, HIGH, target, seed)
    return [record for record in records if outcomes[record.id] == "kept"]


def test_examples():
    assert not doctest.testmod(selection).failed


@given(ACCURACIES, TARGETS)
def test_only_the_band_is_kept(accuracies, target):
    records = candidates(accuracies)
    outcomes = selection.select(records, LOW, HIGH, target)
    assert list(outcomes) == [record.id for record in records]
    for record in records:
        place = "below" if record.accuracy < LOW else "above" if record.accuracy > HIGH else "inside"
        assert outcomes[record.id] in (("thinned", "kept") if place == "inside" else (place,))


def test_the_band_holds_its_ends_and_what_is_not_measured_or_blind_has_a_fate_of_its_own():
    records = [
        Candidate("low", "s", 0.1),
        Candidate("none", "s", None),
        Candidate("blind", "s", 0.5, blind=True),
        Candidate("easy and blind", "s", 1.0, blind=True),
    ]
    assert selection.select(records, 0.1, 0.9, 0.1) == {
        "low": "kept",
        "none": "skipped",
        "blind": "blind",
        "easy and blind": "above",
    }


@given(ACCURACIES, TARGETS)
def test_the_mean_comes_to_the_target_where_no_share_is_at_its_least(accuracies, target):
    share = selection.shares(accuracies, target)
    assert (share >= selection.LEAST - 1e-12).all() and (share <= 1).all()
    away = np.array(accuracies) - target
    if share.min() > selection.LEAST + 1e-9:
        assert (share * away).sum() == pytest.approx(0, abs=1e-6)
    else:
        assert np.sign((share * away).sum().round(9)) in (0, np.sign(away.sum())), "not beyond the target"
    light = away * np.sign(away.sum()) <= 0
    assert (share[light] == 1).all(), "the side that has too few loses none"


@given(ACCURACIES, TARGETS)
def test_what_is_kept_is_what_the_shares_say_to_within_a_record(accuracies, target):
    inside = [accuracy for accuracy in accuracies if LOW <= accuracy <= HIGH]
    share = selection.shares(inside, target)
    values = [record.accuracy for record in kept(candidates(accuracies), target)]
    assert abs(len(values) - share.sum()) <= 0.5 + 1e-6
    assert abs(sum(values) - (share * inside).sum()) <= 1


@pytest.mark.parametrize("mixture", [(1, 1), (2, 1), (1, 1.5), (0.3, 0.3)])
def test_each_source_comes_to_the_target_with_all_its_difficulties(mixture):
    """Beta-distributed difficulties, two sources that lie on either side of the target."""
    rng = np.random.default_rng(0)
    sources = {"a": rng.beta(*mixture, 400), "b": rng.beta(*mixture[::-1], 400)}
    records = [record for name, values in sources.items() for record in candidates(np.round(values * 10) / 10, name)]
    left = kept(records)
    for name in sources:
        mine = [record.accuracy for record in left if record.source == name]
        inside = {record.accuracy for record in records if record.source == name and LOW <= record.accuracy <= HIGH}
        assert np.mean(mine) == pytest.approx(0.38, abs=0.01) and set(mine) == inside
        assert len(mine) > 0.2 * 400


def test_a_source_that_meets_the_target_loses_nothing():
    assert len(kept(candidates([0.2, 0.4, 0.6] * 5), target=0.4)) == 15


def test_one_that_cannot_reach_it_keeps_some_of_each_difficulty():
    left = [record.accuracy for record in kept(candidates([0.7] * 100 + [0.9] * 100))]
    assert left.count(0.9) == 100 * selection.LEAST and left.count(0.9) < left.count(0.7) < 50


@given(ACCURACIES, st.randoms())
def test_the_choice_is_the_same_in_any_order(accuracies, shuffle: random.Random):
    records = candidates(accuracies)
    shuffled = shuffle.sample(records, len(records))
    assert selection.select(records, LOW, HIGH, 0.38) == selection.select(shuffled, LOW, HIGH, 0.38)


def test_sources_do_not_touch_each_other_and_a_seed_draws_others():
    records = candidates([0.6] * 50 + [0.2] * 20)
    assert kept(records) == [record for record in kept(records + candidates([0.9] * 30, "t")) if record.source == "s"]
    one, other = (kept(records, seed=seed) for seed in (0, 1))
    assert one != other and len(one) == len(other)


def test_guessing_is_not_answering_blind():
    """Among records in the band: pure guesses mostly stay, what images do nothing for mostly goes, what they help
    with stays."""
    rng = np.random.default_rng(0)

    def dropped(accuracy: float, blind: float, chance: float) -> float:
        right = rng.binomial(10, [accuracy, blind], (2000, 2)) / 10
        values = [selection.answered_blind(a, b, 10, chance) for a, b in right if LOW <= a <= HIGH]
        return np.mean(values)

    for chance in (0.1, 0.25, 0.5):
        assert dropped(chance, chance, chance) < 0.05
        assert dropped(0.8, 0.3, chance) < 0.1
    assert dropped(0.8, 0.8, 0.1) > 0.75 and dropped(0.8, 0.8, 0.25) > 0.75


@given(st.integers(0, 10), st.integers(0, 10), st.integers(1, 10), st.floats(0.05, 0.9))
def test_one_that_is_wrong_without_its_images_is_never_blind(right, blind, rollouts, chance):
    if blind == 0:
        assert not selection.answered_blind(min(right, rollouts) / rollouts, 0.0, rollouts, chance)
    elif blind <= rollouts and selection.answered_blind(0.5, blind / rollouts, rollouts, chance):
        assert all(
            selection.answered_blind(0.5, more / rollouts, rollouts, chance) for more in range(blind, rollouts + 1)
        ), "the more so, the more often it is right"
