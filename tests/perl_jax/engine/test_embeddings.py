"""Pictures are encoded in as many parts as memory asks for, which changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from models import qwen2_5_vl as qwen
from perl_jax.engine import embeddings


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_parts_equal_the_whole(models, monkeypatch, remat):
    """In values and in gradients (up to 10), float32."""
    model = models["untied"]
    prompts = [tiny.prompt(model.config, [(84, 84), 3, (56, 84), 6, (112, 84)], seed=n) for n in range(2)]
    inputs = qwen.pack(model.config, prompts)
    graph, weights = nnx.split(model)

    def summed(weights):
        h = embeddings.embedded(nnx.merge(graph, weights), inputs.ids, inputs.image_index, inputs.vision, 0, remat)
        return jnp.sum(h * jnp.cos(jnp.arange(h.size).reshape(h.shape))), h

    def found():
        monkeypatch.setattr(
            qwen.Qwen2_5_VL,
            "encode",
            lambda self, pack, **options: (
                rows.append(len(pack.images)),
                self.visual(pack, self.compute_dtype, **options),
            )[1],
        )
        rows = []
        return rows, jax.jit(jax.grad(summed, has_aux=True))(weights)

    rows, unsplit = found()
    assert set(rows) == {len(inputs.vision.images)} and rows[0] > 2
    monkeypatch.setattr(embeddings, "PATCHES", 1)
    rows, parts = found()
    assert set(rows) == {1}
    for one, other in zip(jax.tree.leaves(unsplit), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)
