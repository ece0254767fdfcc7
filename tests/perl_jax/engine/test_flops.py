"""Counted operations against XLA's own count of the programs, where nothing is padded or repeated."""

import jax
import pytest
import tiny
from flax import nnx

from models import qwen2_5_vl as qwen
from perl_jax.engine import flops


def counted(f, *args) -> float:
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


def test_text_and_vision_are_what_xla_counts(models):
    """But for norms, softmaxes and rotations, a third more in so narrow a model. Its layers are unrolled: XLA counts a
    loop's body once."""
    model = models["untied"]
    config = model.config
    ids, images = tiny.prompt(config, [2, (112, 112), 30])
    inputs = qwen.pack(config, [(ids, images)])
    tokens, patches = inputs.ids.shape[1], inputs.vision.images.size
    graph, weights = nnx.split(model)
    real_patches = (inputs.vision.images >= 0).sum()
    assert flops.image_patches(config, ids) == [real_patches] == [64] and patches == 64
    tower = counted(lambda weights: nnx.merge(graph, weights).encode(inputs.vision), weights)
    assert config.vision.flops([64]) == pytest.approx(tower, rel=0.35)
    total = counted(lambda weights: nnx.merge(graph, weights)(inputs), weights)
    text = flops.text(config.text, tokens, tokens * tokens, tokens)
    assert config.vision.flops([64]) + text == pytest.approx(total, rel=0.35)


def test_a_group_is_its_parts():
    config = tiny.CONFIGS["tied"]
    alone = flops.group(config, [16, 32], [10], [[3]])
    assert alone == config.vision.flops([16, 32]) + flops.text(config.text, 13, 13 * 14 // 2, 3)
    shared = flops.group(config, [16, 32], [10, 10], [[3] * 4, [3] * 4])
    assert 8 * flops.text(config.text, 3, 0, 3) < shared - config.vision.flops([16, 32]) < 8 * alone


def test_published_sizes():
    """2 FLOPs a weight and token: the text layers and the head of Qwen2.5-VL-3B have 3.09 billion weights."""
    config = qwen.TextConfig(151936, 2048, 11008, 36, 16, 2, 1e6, (16, 24, 24), 1e-6, True)
    assert flops.text(config, 1, 0, 1) == pytest.approx(2 * 3.085e9, rel=1e-3)


def test_no_utilisation_without_a_peak():
    assert flops.utilisation(1e12, 1.0) == {}
    assert all(device.peak > 1e14 and device.bandwidth < device.peak for device in flops.DEVICES.values())


def test_what_a_decoding_step_reads():
    """bfloat16: 2 bytes a weight; a token's cache in Qwen2.5-VL-3B is 2 x 36 layers x 2 heads x 128 numbers."""
    config = qwen.Config.published("3B").text
    alone = flops.decoded_bytes(config, 0, 0, 0, 0, 2)
    assert alone == pytest.approx(2 * 3.085e9, rel=1e-3)
    assert flops.decoded_bytes(config, 12, 2, 1000, 100, 2) - alone == 2 * (2 * 36 * 2 * 128) * (2 * 1000 + 12 * 100)
