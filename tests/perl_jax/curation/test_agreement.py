"""Two labellings side by side."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from perl_jax.curation import agreement
from perl_jax.records import ORDER_EFFECTS


@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_sklearns(seed):
    rng = np.random.default_rng(seed)
    rules = rng.choice(ORDER_EFFECTS, 60, p=[0.2, 0.5, 0.3])
    model = np.where(rng.random(60) < 0.6, rules, rng.choice(ORDER_EFFECTS, 60))
    text = agreement.markdown(zip(rules.tolist(), model.tolist(), map(str, range(60))))
    assert f"Cohen's kappa {cohen_kappa_score(rules, model):.2f}." in text
    assert f"{(rules == model).sum()} of 60" in text


def test_the_table_counts_and_differences_are_shown_with_examples():
    labels = [("rewrite", "rewrite", "q")] * 5 + [("rewrite", "fixed", f"which | {i}?\n") for i in range(4)]
    labels += [("fixed", "invariant", "both?")]
    lines = agreement.markdown(labels, examples=2).splitlines()
    assert lines[0] == "|  | model: invariant | model: rewrite | model: fixed |"
    assert lines[3:5] == ["| rules: rewrite | 0 | 5 | 4 |", "| rules: fixed | 1 | 0 | 0 |"]
    assert lines[-3:] == [
        'rewrite by the rules, fixed by the model: 4, such as "which | 0?"; "which | 1?"',
        "",
        'fixed by the rules, invariant by the model: 1, such as "both?"',
    ]


def test_nothing_and_one_label():
    assert agreement.markdown([]) == "No question was labelled both by the rules and by the model."
    assert "kappa undefined" in agreement.markdown([("fixed", "fixed", "q")] * 3)
