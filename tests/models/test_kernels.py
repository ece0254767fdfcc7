"""Every way to attend along packed trees against one dense masked softmax, forward and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from models import attention, kernels
from models.attention import Spans
from models.errors import InputError


def packed(trees, padding: int) -> Spans:
    """The spans of a row of trees [(prompt's length, its responses' lengths), ...], as `tree_packing` packs them."""
    prompts, responses, at = [], [], 0
    for prompt, _ in trees:
        prompts += [(at, at + prompt, at)] * prompt
        at += prompt
    for (start, fork, _), lengths in zip(dict.fromkeys(prompts), [lengths for _, lengths in trees]):
        for length in lengths:
            responses += [(start, fork, at)] * length
            at += length
    alone = [(i, i, i) for i in range(at, at + padding)]
    return Spans(*jnp.asarray([*prompts, *responses, *alone], jnp.int32).T)


def random_row(T: int, H: int, J: int, d: int, seed: int = 0):
    """q, k, v and a gradient of the output."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(T, heads, d)), jnp.float32) for heads in (H, J, J, H)]


def random_trees(T: int, seed: int):
    """Trees of any shape, one and empty responses among them, and the padding that is left of T."""
    rng, trees = np.random.default_rng(seed), []
    while T and len(trees) < 4:
        lengths = rng.integers(0, 40, rng.integers(1, 5))
        lengths[0] += 1
        if lengths.sum() <= T:
            trees.append((lengths[0], lengths[1:]))
            T -= lengths.sum()
        elif trees:
            break
    return trees, T


def dense(q, k, v, spans):
    return attention.attention(q, k, v, spans.visible(slice(0, len(q)), np.arange(len(q))))


@partial(jax.jit, static_argnums=0)
def with_gradients(attend, q, k, v, gradient, spans):
    """The output, and the gradients of q, k and v."""
    out, pull = jax.vjp(lambda *qkv: attend(*qkv, spans), q, k, v)
    return dict(zip(("out", "dq", "dk", "dv"), (out, *pull(gradient))))


def assert_same(values, expected):
    for name, x in values.items():
        np.testing.assert_allclose(x, expected[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (6, 1)])
def test_kernels_are_the_dense_softmax(heads):
    """Interpreted, block by block. The row ends where it ends, not at a whole block."""
    row = random_row(150, *heads, 8)
    for seed in range(8):
        spans = packed(*random_trees(150, seed))
        assert_same(with_gradients(interpreted, *row, spans), with_gradients(dense, *row, spans))


def interpreted(q, k, v, spans):
    return kernels.attention(q, k, v, spans, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_xla_blocks_are_the_dense_softmax(monkeypatch, seed):
    monkeypatch.setattr(attention, "LEAST_BLOCK", 16)
    trees, padding = random_trees(150, seed)
    prompts, window = sum(n for n, _ in trees), max(1, *(n for _, lengths in trees for n in lengths))
    row, spans = random_row(150, 4, 2, 8), packed(trees, padding)
    blocks = partial(attention.spanned, prompts=prompts, window=window)
    assert_same(with_gradients(blocks, *row, spans), with_gradients(dense, *row, spans))


def test_kernels_in_bfloat16_keep_what_bfloat16_keeps():
    spans = packed([(50, [20, 7]), (30, [40])], 3)
    row = [x.astype(jnp.bfloat16) for x in random_row(150, 4, 2, 16)]
    values = with_gradients(interpreted, *row, spans)
    for name, exact in with_gradients(dense, *(x.astype(jnp.float32) for x in row), spans).items():
        assert values[name].dtype == jnp.bfloat16
        assert np.abs(values[name].astype(np.float32) - exact).max() < 0.02 * np.abs(exact).max(), name


def test_blocks_that_no_query_sees_are_left_out():
    """Of 2 trees of 64 + 64 tokens each in blocks of 32: a response's block needs its own prompt's and its own two."""
    spans = packed([(64, [64]), (64, [64])], 0)
    visits = np.asarray(kernels._seen_blocks(kernels._blocks_of_spans(spans, 32)))
    assert np.flatnonzero(visits[1]).tolist() == [0, 1]
    assert np.flatnonzero(visits[3]).tolist() == [2, 3]
    assert np.flatnonzero(visits[5]).tolist() == [0, 1, 4, 5]
    assert np.flatnonzero(visits[7]).tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize("platform, size, calls", [("tpu", 128, 1), ("gpu", 128, 1), ("cpu", 128, 0), ("tpu", 64, 0)])
def test_the_platform_chooses(monkeypatch, platform, size, calls):
    platforms = []
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(kernels, "attention", lambda q, k, v, spans, platform: platforms.append(platform) or q)
    attention.causal(*random_row(20, 2, 1, size)[:3], None)
    assert platforms == [platform] * calls


@pytest.mark.parametrize(
    "chosen, platform, size, calls", [("xla", "tpu", 128, 0), ("xla", "cpu", 64, 0), ("kernel", "gpu", 128, 1)]
)
def test_a_run_may_choose(monkeypatch, chosen, platform, size, calls):
    monkeypatch.setattr(attention, "_chosen", "auto")
    attention.choose(chosen)
    test_the_platform_chooses(monkeypatch, platform, size, calls)


@pytest.mark.parametrize("platform, size", [("cpu", 128), ("tpu", 64)])
def test_a_kernel_that_is_asked_for_and_is_not_there(monkeypatch, platform, size):
    monkeypatch.setattr(attention, "_chosen", "kernel")
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    with pytest.raises(InputError, match=f"no kernel for heads of {size} on a {platform}.*'auto' or 'xla'"):
        attention.causal(*random_row(20, 2, 1, size)[:3], None)
    with pytest.raises(InputError, match="one of auto, xla, kernel, not 'triton'"):
        attention.choose("triton")


def test_another_choice_drops_what_was_compiled(monkeypatch):
    monkeypatch.setattr(attention, "_chosen", "auto")
    traced = []

    @jax.jit
    def double(x):
        traced.append(attention._chosen)
        return 2 * x

    for name in ("auto", "auto", "xla", "xla"):
        attention.choose(name)
        double(1.0)
    assert traced == ["auto", "xla"]


def lowered(monkeypatch, platform: str, backend: str, dtype, sharding=None):
    """A training step's attention for rows of the paper's length and heads of a 7B model, lowered without a device."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    T, H, J, d = 16384, 28, 4, 128

    def array(*shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def loss(q, k, v, spans):
        out = jax.lax.map(lambda row: attention.spanned(*row, T, T), (q, k, v, spans))
        return jnp.sum(out.astype(jnp.float32) ** 2)

    q, k, v = (array(2, T, heads, d) for heads in (H, J, J))
    spans = Spans(*[array(2, T, dtype=jnp.int32)] * 3)
    device = AbstractDevice("NVIDIA H100 80GB HBM3" if backend == "gpu" else "TPU v5 lite", None, backend)
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        return jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, v, spans).lower(lowering_platforms=(platform,))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("platform, backend, call", [("tpu", "tpu", "tpu_custom_call"), ("cuda", "gpu", "gpu.triton")])
def test_lowers_without_a_device(monkeypatch, platform, backend, call, dtype):
    """One kernel forward and two backward, as code for the accelerator's own compiler."""
    text = lowered(monkeypatch, platform, backend, dtype).as_text()
    assert sum("custom_call" in line and call in line for line in text.splitlines()) == 3


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
def test_compiles_for_tpus(monkeypatch, topology):
    """By the TPU's compiler, which needs no TPU: all of a program's blocks fit in its memory."""
    pytest.importorskip("libtpu", reason="the TPU compiler comes with requirements-tpu.txt")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    compiled = lowered(monkeypatch, "tpu", "tpu", jnp.bfloat16, sharding).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 << 30
