"""Logits in chunks: values and gradients are those of all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from perl_jax.engine import chunked_head


@pytest.fixture(scope="module")
def model(models):
    return models["tied"]


@pytest.mark.slow
@pytest.mark.parametrize("of_entropy", [False, True])
def test_chunks_of_logits_change_nothing(model, monkeypatch, of_entropy):
    """Chunks that do not divide the row, some with no scored token: values and gradients; never more at a time.

    Without `entropy_gradient` the entropy is a metric, whose gradient is no part of the update's.
    """
    rng = np.random.default_rng(5)
    vocabulary, width = model.config.text.vocab_size, model.config.text.hidden_size
    hidden = rng.normal(size=(2, 10, width)).astype(np.float32)  # of two shards
    targets, weights = rng.integers(0, vocabulary, (2, 10)), rng.normal(size=(2, 10)).astype(np.float32)
    scored = np.arange(10) < np.array([[7], [3]])
    graph, state = nnx.split(model)

    def total(logp, entropy):
        return jnp.sum(logp * weights + 5 * entropy), (logp, entropy)

    def in_chunks(hidden, state):
        return total(*chunked_head.chunked_logprobs(nnx.merge(graph, state), hidden, targets, scored, 0.9, of_entropy))

    def at_once(hidden, state):
        logp = jax.nn.log_softmax(nnx.merge(graph, state).logits(hidden) / 0.9)
        entropy = -jnp.sum(jnp.exp(logp) * logp, -1)
        entropy = entropy if of_entropy else jax.lax.stop_gradient(entropy)
        picked = jnp.take_along_axis(logp, targets[..., None], -1)[..., 0]
        return total(*(jnp.where(scored, x, 0) for x in (picked, entropy)))

    def largest():
        program = jax.make_jaxpr(jax.grad(lambda hidden: in_chunks(hidden, state)[0]))(hidden)
        weights = {(width, vocabulary), (1, width, vocabulary)}
        shapes = set(tiny.array_shapes(program.jaxpr)) - weights
        return max(np.prod(shape[:-1]) for shape in shapes if shape[-1:] == (vocabulary,)) / 2

    (_, exact), exact_gradients = jax.value_and_grad(at_once, (0, 1), has_aux=True)(hidden, state)
    for chunk, pieces, size in ((1 << 30, 1, 10), (3 * vocabulary + 5, 1, 3), (1 << 30, 4, 3), (1, 1, 1)):
        monkeypatch.setattr(chunked_head, "CHUNK", chunk)
        monkeypatch.setattr(chunked_head, "PIECES", pieces)
        (_, ours), gradients = jax.value_and_grad(in_chunks, (0, 1), has_aux=True)(hidden, state)
        assert largest() == size
        for a, b in zip(jax.tree.leaves((ours, gradients)), jax.tree.leaves((exact, exact_gradients))):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_no_scored_token(model):
    """Nothing is computed, and nothing has a gradient."""
    hidden, none = np.ones((1, 5, model.config.text.hidden_size), np.float32), np.zeros((1, 5), int)
    logp, entropy = chunked_head.chunked_logprobs(model, hidden, none, none > 0, 1.0)
    assert not logp.any() and not entropy.any()
    gradient = jax.grad(lambda h: chunked_head.chunked_logprobs(model, h, none, none > 0, 1.0)[0].sum())(hidden)
    assert not gradient.any()
