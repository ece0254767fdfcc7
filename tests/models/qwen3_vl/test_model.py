"""What is Qwen3-VL's own in the network, against transformers; the rest is in test_network.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

import models as door
from models import qwen3_vl
from models.qwen3_vl.text import variant

PACK = {"min_pixels": tiny.MIN_PIXELS, "max_pixels": tiny.MAX_PIXELS}


def changed(base, vision=(), text=()):
    return dataclasses.replace(
        base, vision=dataclasses.replace(base.vision, **dict(vision)), text=dataclasses.replace(base.text, **dict(text))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "vision, text",
    [
        ({"deepstack_visual_indexes": ()}, {}),
        ({"depth": 5, "deepstack_visual_indexes": (4, 0, 2, 1, 3)}, {"num_hidden_layers": 5}),
        ({"depth": 3, "deepstack_visual_indexes": (9, 1, 1, 2)}, {"num_hidden_layers": 1}),
        ({"hidden_size": 144, "num_heads": 2, "num_position_embeddings": 48 * 48}, {}),
        ({"num_position_embeddings": 1}, {"head_dim": 20, "mrope_section": (4, 3, 3)}),
    ],
    ids=["no deepstack", "all blocks", "more than there are", "heads of 72, a table of 48 x 48", "a table of 1"],
)
def test_transformers_any_sizes(vision, text):
    """Any blocks of deepstack in any order, named twice or not there, more features than layers; vision heads of 72;
    tables of positions of any side; any size of a head."""
    pytest.importorskip("torch")
    import reference

    vision = {"depth": 2, "deepstack_visual_indexes": (1,)} | vision
    model = tiny.random_model(changed(tiny.QWEN3["qwen3-tied"], vision, {"num_hidden_layers": 2} | text))
    prompts = [tiny.prompt(model.config, [3, (90, 130), 2, (40, 33), 4])]
    reference.assert_equal(model, reference.with_weights(model), prompts)


def test_interleaved_rotary_sections():
    """As published: height and width in turns up to index 59, then time alone."""
    axes = variant(qwen3_vl.Config.published("8B").text).axes
    np.testing.assert_array_equal(axes[:60], np.tile([0, 1, 2], 20))
    np.testing.assert_array_equal(axes[60:], 0)


def test_features_are_added_to_the_outputs_of_the_first_layers():
    """Layer by layer: the hidden states of text stay, those of image tokens get their feature."""
    config = tiny.QWEN3["qwen3-tied"]
    model = tiny.random_model(config)
    D, T = config.text.hidden_size, 4
    rng = np.random.default_rng(0)
    h = rng.normal(size=(T, config.embedding_size)).astype(np.float32)
    h[[0, 3], D:] = 0  # text
    positions = np.tile(np.arange(T), (3, 1))

    def attend(q, k, v, cache):
        return v.repeat(q.shape[1] // v.shape[1], axis=1), v

    hidden, values = model.model(jnp.asarray(h), jnp.asarray(positions), attend)
    one, parts = model.model, np.split(h, 4, axis=1)
    expected, seen = jnp.asarray(parts[0]), []
    from models.decoder import mrope

    rope = mrope(jnp.asarray(positions), config.text, np.array(one.axes))
    graph, weights = nnx.split(one.layers)
    for number in range(config.text.num_hidden_layers):
        layer = nnx.merge(graph, jax.tree.map(lambda w, number=number: w[number], weights))
        expected, v = layer(expected, rope, attend, None)
        seen.append(v)
        if number < 3:
            expected = expected + parts[1 + number]
    np.testing.assert_allclose(hidden, one.norm(expected), atol=1e-5)
    np.testing.assert_allclose(values, np.stack(seen), atol=1e-5)


def test_an_order_of_images_gathers_their_features_too():
    """Two orders of two images share one encoding, and each shows the features of its own images."""
    config = tiny.QWEN3["qwen3-untied"]
    model = tiny.random_model(config)
    ids, images = tiny.prompt(config, [(96, 96), 3, (96, 96), 4], seed=1)
    inputs = door.pack(config, [(ids, images), (ids, images[::-1])], **PACK)
    assert sum(len(set(row.tolist()) - {-1}) for row in inputs.vision.images) == 2
    h = model.embed(inputs.ids, inputs.image_index, model.encode(inputs.vision))
    assert h.shape[-1] == config.embedding_size == 3 * 48
    at = np.flatnonzero(inputs.image_index[0, :, 0] >= 0).reshape(2, -1)
    np.testing.assert_array_equal(h[0, at], h[1, at[::-1]])
    assert np.abs(h[0, at[0], 48:] - h[0, at[1], 48:]).min(axis=0).max() > 0
    np.testing.assert_array_equal(np.delete(h, at.ravel(), axis=1)[..., 48:], 0)


@pytest.mark.parametrize(
    "size, parameters, vision, tensors",
    [
        ("2B", 2_127_532_032, 406_957_056, 625),
        ("4B", 4_437_815_808, 415_347_712, 713),
        ("8B", 8_767_123_696, 576_388_336, 750),
        ("32B", 33_357_390_064, 595_266_800, 1058),
    ],
)
def test_published_sizes_have_as_many_weights(size, parameters, vision, tensors):
    """Counted, with transformers, on the published configs."""
    config = qwen3_vl.Config.published(size)
    named = jax.eval_shape(lambda: door.named(qwen3_vl.Model(config, rngs=nnx.Rngs(0))))
    assert len(named) == tensors and sum(value.size for value in named.values()) == parameters
    assert sum(value.size for name, value in named.items() if name.startswith("model.visual.")) == vision
