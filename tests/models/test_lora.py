"""LoRA: adapters change nothing at first, train alone, and are the same merged, apart, and in PEFT."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx

import models as door
from models import lora
from models.errors import InputError
from perl_jax import rollout, update

pytestmark = pytest.mark.slow

TEXT = r"model\.layers\.(self_attn|mlp)\..*"
PIXELS = {"min_pixels": tiny.MIN_PIXELS, "max_pixels": tiny.MAX_PIXELS}


@pytest.fixture(params=[*tiny.CONFIGS, "qwen3-tied"])
def model(request, models):
    return models[request.param]


def logits(model):
    """Logits of one prompt of every layout, 0 where there is none."""
    inputs = door.pack(model.config, tiny.prompts(model.config), **PIXELS)
    return np.where(inputs.mask[..., None], model(inputs), 0)


def new(model, targets=TEXT, rank=3, alpha=6, seed=0):
    return lora.add(nnx.merge(*nnx.split(model)), rank=rank, alpha=alpha, targets=targets, seed=seed)


def adapters(model) -> dict:
    return {path: weight for path, weight in nnx.to_flat_state(nnx.state(model)) if lora.is_adapter(".".join(path))}


def groups(config, seed=0) -> list[update.Group]:
    """A question of two images in two orders, three responses each."""
    rng = np.random.default_rng(seed)
    ids, images = tiny.prompt(config, [(84, 84), 3, (84, 84), 6], seed=seed)
    responses = [[tiny.text_tokens(config, rng, n) for n in (3, 9, 5)] for _ in range(2)]
    return [update.Group(images, [(0, 1), (1, 0)], [ids, ids], responses, rng.normal(size=(2, 3)))]


def test_new_adapters_change_nothing(model):
    expected, adapted = logits(model), new(model, tiny.EVERYWHERE)
    np.testing.assert_array_equal(logits(adapted), expected)
    assert all((weight[...] == 0).all() == ("lora_B" in path) for path, weight in adapters(adapted).items())


def test_adapters_add_a_product_of_low_rank():
    """One linear map, written out."""
    model = tiny.with_adapters(tiny.random_model(tiny.CONFIGS["untied"]), TEXT)
    layer = jax.tree.map(lambda w: w[1], model.model.layers.mlp.up_proj)
    x = np.random.default_rng(0).normal(size=(5, layer.kernel.shape[0])).astype(np.float32)
    kernel, a, b = (np.asarray(part.kernel[...], np.float64) for part in (layer, layer.lora_A, layer.lora_B))
    assert a.shape == (48, 3) and b.shape == (3, 64) and np.abs(b).max() > 0.1
    np.testing.assert_allclose(layer(x), x @ kernel + (x @ a) @ b * (6 / 3), atol=1e-5)


def test_a_starts_as_in_peft(models):
    """Uniform with a variance of 1 / (3 * inputs), each layer and map on its own; another seed draws others."""
    adapted = new(models["untied"], tiny.EVERYWHERE, rank=64)
    drawn = {path: np.asarray(weight[...]) for path, weight in adapters(adapted).items() if "lora_A" in path}
    for path, a in drawn.items():
        assert np.abs(a).max() <= a.shape[-2] ** -0.5 and a.dtype == np.float32, path
        assert a.var() == pytest.approx(1 / (3 * a.shape[-2]), rel=0.1), path
    gate, up = (drawn["model", "layers", "mlp", name, "lora_A", "kernel"] for name in ("gate_proj", "up_proj"))
    assert not np.array_equal(gate, up) and not np.array_equal(gate[0], gate[1])
    other = adapters(new(models["untied"], tiny.EVERYWHERE, rank=64, seed=1))
    assert not np.array_equal(other["model", "layers", "mlp", "up_proj", "lora_A", "kernel"][...], up)


def test_the_targets(models):
    targets = {".".join(path).partition(".lora_")[0] for path in adapters(new(models["untied"]))}
    attention = {f"model.layers.self_attn.{name}_proj" for name in "qkvo"}
    assert targets == attention | {f"model.layers.mlp.{name}_proj" for name in ("gate", "up", "down")}
    one = new(models["untied"], r"visual\.merger\.mlp_0")
    assert [".".join(path) for path in adapters(one)] == [f"visual.merger.mlp_0.lora_{name}.kernel" for name in "AB"]


@pytest.mark.parametrize("targets", ["q_proj", "lm_head", r"model\.layers\.0\..*", ""])
def test_targets_that_match_nothing(models, targets):
    with pytest.raises(InputError, match=r"match none of .*model\.layers\.self_attn\.q_proj") as error:
        new(models["untied"], targets)
    assert "\n" not in str(error.value)


def test_merged_equals_apart_and_without_is_the_base(model):
    adapted = tiny.with_adapters(model)
    apart, base = logits(adapted), logits(model)
    assert np.abs(apart - base).max() > 0.5
    np.testing.assert_array_equal(logits(lora.without(adapted)), base)
    np.testing.assert_array_equal(logits(adapted), apart)
    merged = lora.merge(adapted)
    assert not adapters(merged)
    np.testing.assert_allclose(logits(merged), apart, atol=5e-5)
    np.testing.assert_array_equal(logits(model), base)


def test_the_base_without_adapters_is_no_copy(models):
    adapted = tiny.with_adapters(models["untied"])
    base = lora.without(adapted)
    assert base.model.layers.mlp.up_proj.kernel[...] is adapted.model.layers.mlp.up_proj.kernel[...]


def test_bfloat16_kernels_are_merged_in_float32():
    """The sum is rounded once, so that a small adapter is not lost in steps."""
    adapted = tiny.with_adapters(tiny.random_model(tiny.CONFIGS["untied"], dtype=jnp.bfloat16), TEXT)
    linear = adapted.model.layers.self_attn.q_proj
    kernel, a, b = (np.asarray(part.kernel[...], np.float32) for part in (linear, linear.lora_A, linear.lora_B))
    assert linear.lora_A.kernel.dtype == linear.lora_B.kernel.dtype == jnp.float32
    lora.merge(adapted)
    assert linear.kernel.dtype == jnp.bfloat16
    expected = kernel + a @ b * 2
    gap = np.abs(np.asarray(linear.kernel[...], np.float32) - expected)
    assert (gap <= np.abs(expected) * 2**-8 + 1e-6).all()


def test_what_is_sampled_has_the_updates_log_probs(model):
    """Decoding reads merged weights, prefill and update adapters apart."""
    adapted = tiny.with_adapters(model)
    assert not any("lora" in str(path) for path, _ in nnx.to_flat_state(nnx.state(rollout.for_decoding(adapted))))
    (group,) = groups(model.config)
    prompts = [(group.prompts[0], [group.images[i] for i in order]) for order in group.orders]
    out = rollout.generate(adapted, prompts, samples=3, max_new_tokens=12, **PIXELS)
    logp = update.logprobs(adapted, [group._replace(responses=list(out.tokens))], **PIXELS)
    np.testing.assert_allclose(out.logprobs, logp[0], atol=5e-5)
    assert np.abs(update.logprobs(model, [group._replace(responses=list(out.tokens))], **PIXELS) - logp).max() > 0.1


def test_adapters_train_alone_and_learn(model):
    """Only they have an optimizer's state and move; the base stays the model's own arrays; the loss falls."""
    (group,) = groups(model.config)
    taught = [group._replace(advantages=np.ones((2, 3)))]
    state = update.init(new(model, tiny.EVERYWHERE), optax.adam(3e-3), lora.is_adapter)
    assert all(lora.is_adapter(name) for name in door.named(state.trainable))
    count = sum(weight.size for weight in jax.tree.leaves(state.trainable))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) == 2 * count + 1
    logprobs = []
    for _ in range(6):
        state, metrics = update.step(state, taught, **PIXELS)
        logprobs.append(metrics["logprob"])
    assert logprobs[-1] > logprobs[0] + 0.3
    assert all((weight[...] != 0).any() for weight in adapters(state.model).values())
    ours, base = nnx.state(lora.without(state.model)), nnx.state(model)
    assert all(x is y for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(base), strict=True))


def test_their_gradient_is_the_kernels_through_the_product(models):
    """With W + A B s in place of W: dA = s dW B^T and dB = s A^T dW, of the merged model's dW."""
    adapted = tiny.with_adapters(models["tied"])
    flat = {path: np.asarray(weight[...]) for path, weight in adapters(adapted).items()}
    keep = optax.GradientTransformation(
        lambda weights: jax.tree.map(jnp.zeros_like, weights),
        lambda grads, _, weights=None: (jax.tree.map(jnp.zeros_like, grads), grads),
    )
    state, _ = update.step(update.init(adapted, keep, lora.is_adapter), groups(adapted.config), **PIXELS)
    full_state, _ = update.step(update.init(lora.merge(adapted), keep), groups(adapted.config), **PIXELS)
    of_kernel = dict(nnx.to_flat_state(full_state.opt_state))
    for path, moment in nnx.to_flat_state(state.opt_state):
        *linear, part, leaf = path
        a, b = (flat[*linear, name, leaf] for name in ("lora_A", "lora_B"))
        dw = 2 * np.asarray(of_kernel[*linear, leaf][...])
        expected = dw @ b.swapaxes(-1, -2) if part == "lora_A" else a.swapaxes(-1, -2) @ dw
        gap = np.abs(np.asarray(moment[...]) - expected).max()
        assert gap <= 1e-4 * np.abs(expected).max(), path


def test_a_model_with_adapters_is_not_saved_as_if_it_had_none(models, tmp_path):
    with pytest.raises(ValueError, match="merge the adapters first"):
        door.save(tiny.with_adapters(models["tied"]), tmp_path / "model")
    with pytest.raises(InputError, match="no adapters"):
        lora.save(models["tied"], tmp_path, {})


def test_the_files_for_peft(models, tmp_path):
    """As PEFT 0.21 wrote them for the same modules of transformers 5.23, but for settings that have defaults."""
    safetensors = pytest.importorskip("safetensors.numpy")
    adapted = tiny.with_adapters(models["untied"], r"model\.layers\.self_attn\.[qv]_proj|visual\.merger\.mlp_0")
    lora.save(adapted, tmp_path, {"base_model_name_or_path": "owner/name"})
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["base_model_name_or_path"] == "owner/name"
    assert (config["r"], config["lora_alpha"], config["bias"], config["lora_dropout"]) == (3, 6, "none", 0)
    assert config["target_modules"].split("|") == [
        r"model\.language_model\.layers\.\d+\.self_attn\.q_proj",
        r"model\.language_model\.layers\.\d+\.self_attn\.v_proj",
        r"model\.visual\.merger\.mlp\.0",
    ]
    tensors = safetensors.load_file(tmp_path / "adapter_model.safetensors")
    modules = [f"language_model.layers.{layer}.self_attn.{name}_proj" for layer in range(3) for name in "qv"]
    assert tensors.keys() == {
        f"base_model.model.model.{module}.lora_{part}.weight"
        for module in (*modules, "visual.merger.mlp.0")
        for part in "AB"
    }
    linear = adapted.model.layers.self_attn.v_proj
    name = "base_model.model.model.language_model.layers.2.self_attn.v_proj.lora_{}.weight"
    np.testing.assert_array_equal(tensors[name.format("A")], linear.lora_A.kernel[...][2].T)
    np.testing.assert_array_equal(tensors[name.format("B")], linear.lora_B.kernel[...][2].T)


def test_peft_computes_the_same(model, tmp_path, theirs):
    """Adapters of both towers, live: PEFT on transformers' model, logits within 5e-4 of ours."""
    peft = pytest.importorskip("peft")
    import reference
    import torch

    adapted = tiny.with_adapters(model)
    lora.save(adapted, tmp_path, {"base_model_name_or_path": "none"})
    wrapped = peft.PeftModel.from_pretrained(reference.with_weights(model), str(tmp_path))
    wrapped.eval()
    prompts = tiny.prompts(model.config)
    ours = logits(adapted)
    assert np.abs(ours - logits(model)).max() > 0.5
    for n, prompt in enumerate(prompts):
        with torch.no_grad():
            their_logits = reference.logits(wrapped, prompt, tiny.MAX_PIXELS).numpy()
        np.testing.assert_allclose(ours[n, : len(their_logits)], their_logits, atol=5e-4)
    count = sum(parameter.numel() for name, parameter in wrapped.named_parameters() if "lora_" in name)
    assert count == sum(weight.size for weight in adapters(adapted).values())
