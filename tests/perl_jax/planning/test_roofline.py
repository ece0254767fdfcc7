"""Times by roofline follow the work; memory that is estimated, its parts."""

import pytest
import tiny_run

from models import qwen2_5_vl as qwen
from perl_jax.engine import flops
from perl_jax.planning import roofline

SIZES = qwen.Config.published("3B")
DEVICE = flops.DEVICES["TPU v5"]
ASSUMED = roofline.Assumed(images=0, words=1000, response=500, efficiency=0.5)


def config(**changes):
    """One prompt with its responses fills a row."""
    return tiny_run.config(
        **{
            "questions": 8,
            "n_s": 0,
            "rollouts": 2,
            "micro_batch.row_tokens": 2000,
            "micro_batch.rows": 8,
            "prompt.max_tokens": 1000,
            "remat": "full",
            "optimizer.steps_per_batch": 1,
            "loss.kl_coef": 0.0,
            **changes,
        }
    )


def test_seconds_follow_the_work():
    """FLOPs over the peak, bytes over the memory's rate."""
    parts = roofline.step(config(), SIZES, ASSUMED, DEVICE, 1, 1)
    row = flops.text(SIZES.text, 2000, 2000 * 1250, 2000)
    assert parts["update"] == pytest.approx(4 * 8 * row / DEVICE.peak / 0.5), "forward, remat, and twice backward"
    four = roofline.step(config(), SIZES, ASSUMED, DEVICE, 4, 4)
    assert four["update"] == pytest.approx(parts["update"]), "8 rows on each of 4 shards: most are empty"
    cached = 2 * 36 * 2 * 128 * (8 * 1000 + 16 * 250)
    weights = flops.decoded_bytes(SIZES.text, 0, 0, 0, 0, 2)
    assert parts["decode"] == pytest.approx(500 * (weights + 2 * cached) / DEVICE.bandwidth / 0.5)
    assert four["prefill"] == pytest.approx(parts["prefill"] / 4)


def test_work_is_what_all_groups_need():
    groups = 8 * flops.group(SIZES, [], [1000], [[500, 500]])
    assert roofline.work(config(), SIZES, ASSUMED) == 4 * groups
    seconds = sum(roofline.step(config(), SIZES, ASSUMED, DEVICE, 1, 1).values())
    assert 4 * groups < seconds * 0.5 * DEVICE.peak


def test_inference_is_sampling_in_batches():
    once = roofline.sampling(config(), SIZES, ASSUMED, DEVICE, 1, 1, 8, 10, 8)
    ten = roofline.inference(config(), SIZES, ASSUMED, DEVICE, 1, 1, 80, 10)
    assert ten == pytest.approx(10 * sum(once.values()))
    parts = roofline.sampling(config(**{"sampling.batch": 4}), SIZES, ASSUMED, DEVICE, 1, 1, 8, 10, 8)
    assert parts["prefill"] == once["prefill"] and once["decode"] < parts["decode"] < 2 * once["decode"]


def test_the_network_takes_each_program_as_often_as_it_runs():
    sent = {"prefill": 1e9, "decode": 1e6, "update": 1e9}
    seconds = roofline.network(sent, config(**{"micro_batch.rows": 1}), SIZES, ASSUMED, DEVICE, 1)
    assert seconds == pytest.approx((1e9 + 500e6 + 8e9) / DEVICE.network / 0.5)


def test_memory_grows_with_its_parts():
    resident = {"gradients": 5e9}
    small = roofline.temporary(config(), SIZES, ASSUMED, resident, 1, 1)
    longer = roofline.temporary(config(**{"micro_batch.row_tokens": 4000}), SIZES, ASSUMED, resident, 1, 1)
    assert longer["update"] > small["update"] > 5e9 and longer["decode"] == small["decode"]
    wider = roofline.temporary(config(questions=16), SIZES, ASSUMED, resident, 1, 1)
    assert wider["decode"] == 2 * small["decode"]
    fewer = roofline.temporary(config(questions=2), SIZES, ASSUMED, resident, 1, 1)
    assert fewer["prefill"] < small["prefill"] == wider["prefill"], "in pieces"
