"""What is Qwen2.5-VL's own in the network, against transformers; the rest is in test_network.py."""

import dataclasses

import pytest
import tiny


@pytest.mark.slow
@pytest.mark.parametrize("depth, blocks", [(2, ()), (2, (0, 1)), (2, (0,)), (5, (4,)), (5, (1, 2))])
def test_transformers_any_full_attention_blocks(depth, blocks):
    """None, all, first, last, two in the middle; depth 5 is a loop, depth 2 unrolled."""
    pytest.importorskip("torch")
    import reference

    base = tiny.CONFIGS["tied"]
    vision = dataclasses.replace(base.vision, depth=depth, fullatt_block_indexes=blocks)
    model = tiny.random_model(dataclasses.replace(base, vision=vision), seed=depth)
    reference.assert_equal(model, reference.with_weights(model), tiny.prompts(model.config)[2:])
