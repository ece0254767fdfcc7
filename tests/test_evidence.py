"""The experiments of benchmarks/evidence.py: their arms, and the statistics of their report."""

import json
import math

import numpy as np
import pytest

from benchmarks import evidence, evidence_report
from configs import evidence as arms
from perl_jax.training import check_config


@pytest.mark.parametrize("arm", arms.ARMS)
def test_arms_take_equally_many_rollouts_and_updates(arm):
    config, perl = arms.get_config(f"{arm},250"), arms.get_config("perl")
    check_config.check(config)
    assert arm in evidence_report.NAMES
    if arm != "warm-up":
        assert config.data.split == "train[:250]" and config.warmup.steps == 0
        assert config.questions * (config.n_s + 1) * config.rollouts == perl.questions * (perl.n_s + 1) * perl.rollouts
        for key in ("total_steps", "optimizer", "eval", "scratch", "sampling"):
            assert config[key] == perl[key]


@pytest.mark.parametrize("parts", ["pearl", "perl,many", "perl,-3"])
def test_an_arm_that_is_none(parts):
    with pytest.raises(ValueError, match="no arm"):
        arms.get_config(parts)


def test_every_arm_is_in_a_part():
    assert {arm for part in evidence.PARTS.values() for arm, _ in part} == set(arms.ARMS)


def line(arm, questions, seed, **values):
    drawn = dict.fromkeys(("accuracy", "permuted", "consistent", "worst", "flip", "control_flip"), 0.5)
    names = ("accuracy", "permuted", "consistent", "worst", "flip", "single")
    curves = {name: [0.1, 0.2] for name in evidence.CURVES}
    of = {"arm": arm, "questions": questions, "seed": seed, "commit": "abc", "machine": "2 cores", "date": "2026-01-01"}
    return {**of, "step_seconds": 1.0, "drawn": drawn, "curves": curves, **dict.fromkeys(names, 0.5), **values}


def lines(seeds=3, noise=0.02, gap=0.1):
    """Two arms on two sizes: the seeds move all arms alike, and each arm a little."""
    rng = np.random.default_rng(0)
    of_seed = rng.normal(0, 0.2, seeds)
    return [
        line(arm, size, seed, accuracy=0.5 + of_seed[seed] + gap * (arm == "perl-constant") + rng.normal(0, noise))
        for arm in ("grpo", "perl-constant")
        for size in (250, 1000)
        for seed in range(seeds)
    ]


def test_differences_are_paired_by_seed():
    """What moves all arms of a seed moves no difference."""
    [one, other] = evidence_report.differences(lines(), "accuracy", "grpo", ["perl-constant"]).values()
    for found in (one, other):
        assert abs(found.mean - 0.1) < 0.05 and found.high - found.low < 0.2 and found.questions == 3
        assert found.high - found.mean == pytest.approx(one.high - one.mean), "one spread for all"
    of = evidence_report.spread(list(evidence_report.by_cell(lines(), "accuracy").values()))
    assert of.freedom == 8 and of.deviation > 0.05


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, held = np.random.default_rng(1), 0
    for _ in range(400):
        cells = [dict(enumerate(rng.normal(0.3, 0.1, 3))) for _ in range(4)]
        found = evidence_report.estimate(cells[0], evidence_report.spread(cells))
        held += found.low <= 0.3 <= found.high
    assert 0.92 < held / 400 < 0.98


def test_one_seed_has_no_interval():
    [found, _] = evidence_report.differences(lines(seeds=1), "accuracy", "grpo", ["perl-constant"]).values()
    assert found.questions == 1 and math.isnan(found.low) and not math.isnan(found.mean)
    assert evidence_report.difference(found).endswith(", one seed")
    tables = evidence_report.figures_table, evidence_report.differences_table
    for text in (tables[0](lines(seeds=1), 250, ["grpo"]), tables[1](lines(seeds=1), "grpo", ["perl-constant"])):
        assert "nan" not in text


def test_what_is_missing(tmp_path):
    file = tmp_path / "lines.jsonl"
    runs = [evidence.Run("perl", 250, seed) for seed in range(3)]
    assert evidence.missing(runs, file) == runs
    file.write_text(json.dumps(line("perl", 250, 1)) + "\n")
    assert evidence.missing(runs, file) == [runs[0], runs[2]]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_page(tmp_path, count):
    """With any number of runs, the plots that it names, and what was written by hand at its end."""
    page = tmp_path / "EVIDENCE.md"
    page.write_text(f"# old\n\n{evidence_report.LOG}\n\n- 2026-01-01: kept\n")
    found = [line("warm-up", 12000, seed) for seed in range(count)] + (lines(count) if count else [])
    evidence_report.write(found, evidence.PARTS, 7, page, 10)
    text = page.read_text()
    assert text.count("2026-01-01: kept") == 1 and "# old" not in text
    assert ("7 more are not run yet" in text) == bool(count)
    assert (tmp_path / "evidence" / "frontier.png").exists() == bool(count)
    evidence_report.write(found, evidence.PARTS, 7, page, 10)
    assert page.read_text() == text
