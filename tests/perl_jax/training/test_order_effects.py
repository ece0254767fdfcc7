import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perl_jax.records.question import Question
from perl_jax.training.order_effects import OrderEffects, order_effect


def question(name, orders=((0, 1), (1, 0))):
    return Question({"id": name}, list(orders), [], [])


def known(**effects):
    found = OrderEffects()
    found.restore(effects)
    return found


def test_order_effect():
    assert order_effect(np.array([[1, 1, 1, 1], [0, 0, 0, 0]])) == 1
    assert order_effect(np.array([[1, 0, 1, 0], [0, 1, 1, 0]])) == 0
    assert order_effect(np.ones((2, 4))) == order_effect(np.zeros((1, 4))) == 0
    assert 0 < order_effect(np.array([[1, 1, 1, 0], [0, 0, 0, 1]])) < 1


def test_chance_alone_makes_no_order_effect():
    rng = np.random.default_rng(0)
    one_rate = [order_effect(rng.random((2, 8)) < 0.5) for _ in range(500)]
    two_rates = [order_effect(rng.random((2, 8)) < [[0.9], [0.2]]) for _ in range(500)]
    assert np.mean(one_rate) < 0.1 < 0.4 < np.mean(two_rates)


@given(effects=st.lists(st.floats(0, 1), min_size=1, max_size=30), unknown=st.integers(0, 5), p=st.floats(0, 1))
def test_probabilities_keep_the_mean_and_follow_the_effects(effects, unknown, p):
    names = [f"q{i}" for i in range(len(effects))]
    of = known(**dict(zip(names, effects)))
    chances = of.probabilities([*names, *(f"new{i}" for i in range(unknown))], p)
    assert np.mean(chances) == pytest.approx(p, abs=1e-9) and all(0 <= chance <= 1 for chance in chances)
    by_effect = [chance for _, chance in sorted(zip(effects, chances))]
    assert by_effect == sorted(by_effect)
    if p:
        assert min(chances) > 0


def test_a_question_seen_again_moves_halfway():
    of = OrderEffects()
    of.note([question("a"), question("b"), question("still", [(0, 1), (0, 1)])], np.array([[[1, 1], [0, 0]]] * 3))
    assert of.state() == {"a": 1, "b": 1}
    of.note([question("b")], np.array([[[1, 1], [1, 1]]]))
    assert of.state() == {"a": 1, "b": 0.5}
    again = OrderEffects()
    again.restore(json.loads(json.dumps(of.state())))
    assert again.probabilities(["a", "b", "new"], 0.3) == of.probabilities(["a", "b", "new"], 0.3)


def test_nothing_known_is_the_schedule():
    assert OrderEffects().probabilities(["a", "b"], 0.3) == [0.3, 0.3]
    assert known(a=1.0, b=0.0).probabilities(["a", "b"], 0.0) == [0, 0]
    assert known(a=1.0, b=0.0).probabilities(["a", "b"], 1.0) == [1, 1]
