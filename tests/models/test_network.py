"""The network against transformers, by golden files (no torch needed) and live, and what must hold of any weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from environment import REPOSITORY
from flax import nnx

import models as door
from models.errors import InputError
from perl_jax import rollout

GOLDEN = REPOSITORY / "tests" / "support" / "golden"
FEATURES, LOGITS, GRADIENTS = 1e-4, 5e-4, 1e-3  # the last is relative to a tensor's largest value
PACK = {"min_pixels": tiny.MIN_PIXELS, "max_pixels": tiny.MAX_PIXELS}


@nnx.jit
def next_token_gradient(model, inputs):
    return nnx.grad(lambda model: tiny.next_token_loss(model(inputs), inputs.ids, inputs.mask))(model)


def assert_gradients_close(ours, expected):
    """Both {hub name: array}, of the same names; each tensor within GRADIENTS of its own largest value."""
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        assert scale > 0, f"{name} has no gradient: it tests nothing"
        assert np.abs(np.asarray(ours[name]) - value).max() <= GRADIENTS * scale, name


# Golden files, see support/make_golden.py.


@pytest.fixture(scope="module", params=list(tiny.ALL))
def golden(request):
    """(model, its packed prompts, the prompts, expected values)."""
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        expected = dict(file)
    model = door.load(GOLDEN / request.param)
    prompts = [
        (
            expected[f"ids/{b}"].tolist(),
            [tiny.noise_image(*arguments) for arguments in expected[f"pictures/{b}"].tolist()],
        )
        for b in range(len(tiny.LAYOUTS))
    ]
    return model, door.pack(model.config, prompts, **PACK), prompts, expected


def test_golden_checkpoints_are_the_tiny_configs(golden):
    assert golden[0].config in tiny.ALL.values()


def test_golden_features_logits_and_positions(golden):
    model, inputs, prompts, expected = golden
    logits = np.asarray(model(inputs))
    assert logits.dtype == np.float32
    for b, (ids, images) in enumerate(prompts):
        np.testing.assert_array_equal(inputs.position_ids[:, b, : len(ids)], expected[f"positions/{b}"])
        np.testing.assert_allclose(logits[b, expected[f"at/{b}"]], expected[f"logits/{b}"], atol=LOGITS, rtol=0)
        if images:
            np.testing.assert_allclose(
                tiny.features(model, inputs, b), expected[f"features/{b}"], atol=FEATURES, rtol=0
            )


@pytest.mark.slow
def test_golden_greedy_tokens(golden):
    model, _, prompts, expected = golden
    count = len(expected["greedy/0"])
    assert count == 24
    out = rollout.generate(model, prompts, samples=1, max_new_tokens=count, temperature=0.0, **PACK)
    np.testing.assert_array_equal(out.tokens[:, 0], [expected[f"greedy/{b}"] for b in range(len(prompts))])


@pytest.mark.slow
def test_golden_gradients(golden):
    model, inputs, _, expected = golden
    ours = {name: np.asarray(value) for name, value in door.named(next_token_gradient(model, inputs)).items()}
    stored = {key.removeprefix("gradient/"): value for key, value in expected.items() if key.startswith("gradient/")}
    strides = {name: -(-ours[name].size // 128) for name in stored}
    assert_gradients_close({name: value.ravel()[:: strides[name]] for name, value in ours.items()}, stored)
    for name, value in ours.items():
        assert np.linalg.norm(value) == pytest.approx(expected[f"norm/{name}"], rel=GRADIENTS), name


# Live comparison.


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.ALL)
def test_transformers_forward_and_gradients(models, theirs, name):
    import reference

    model, prompts = models[name], tiny.prompts(models[name].config)
    inputs = reference.assert_equal(model, theirs[name], prompts)
    ours = door.named(next_token_gradient(model, inputs))
    assert_gradients_close(ours, reference.next_token_gradient(theirs[name], prompts, tiny.MAX_PIXELS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tied", "qwen3-tied"])
def test_transformers_any_number_of_images(models, theirs, name):
    """0 to 5 ragged images a prompt in one padded batch, and limits that shrink all of them."""
    import reference

    model = models[name]
    sizes = [(61, 95), (200, 40), (112, 113), (30, 30), (83, 141)]
    for max_pixels in (28 * 28 * 12, 28 * 28 * 4):
        prompts = [
            tiny.prompt(model.config, [*sizes[:count], 2], seed=count, max_pixels=max_pixels) for count in range(6)
        ]
        reference.assert_equal(model, theirs[name], prompts, max_pixels)


# Properties.


@pytest.mark.parametrize("name", ["untied", "qwen3-untied"])
def test_a_future_token_changes_no_earlier_logit(models, name):
    model = models[name]
    ids, images = tiny.prompt(model.config, [3, (84, 84), 8], seed=3)
    changed = list(ids)
    place = len(ids) - 5
    changed[place] = changed[place] + 1
    logits = np.asarray(model(door.pack(model.config, [(ids, images), (changed, images)], **PACK)))
    np.testing.assert_array_equal(logits[0, :place], logits[1, :place])
    later = np.abs(logits[0] - logits[1])[place : len(ids)].max(-1)
    assert (later > 1e-3).all()  # and it does change its own logits and all later ones


@pytest.mark.parametrize("name", ["untied", "qwen3-untied"])
def test_no_logit_depends_on_later_embeddings(models, name):
    """Causality by gradient: of the logits at `place` with respect to what the network reads at each position."""
    model = models[name]
    inputs = door.pack(model.config, [tiny.prompt(model.config, [3, (84, 84), 8], seed=3)], **PACK)
    place = int(inputs.lengths[0]) - 4
    graph, state = nnx.split(model)

    @jax.jit
    def gradient(table):
        """By a vocabulary of one entry a token, so that each position reads its own."""
        mine = jax.tree.map(lambda x: x, state)
        mine["model"]["embed_tokens"]["embedding"] = state["model"]["embed_tokens"]["embedding"].replace(table)
        numbered = inputs.replace(ids=np.arange(inputs.ids.size, dtype=np.int32).reshape(inputs.ids.shape))
        return nnx.merge(graph, mine)(numbered)[0, place].var()

    table = model.model.embed_tokens.embedding[...][inputs.ids[0]]
    reached = np.abs(np.asarray(jax.grad(gradient)(table))).max(-1)
    text = inputs.image_index[0, :, 0] < 0
    assert (reached[: place + 1][text[: place + 1]] > 0).all()
    assert (reached[place + 1 :] == 0).all()


@pytest.mark.parametrize("name", tiny.ALL)
def test_an_image_changes_no_other_images_features(models, name):
    """Small images share rows and windows' blocks of the pack, and still see only themselves."""
    model = models[name]
    images = [tiny.noise_image(*size, seed=i) for i, size in enumerate([(84, 84), (140, 84), (56, 56), (84, 56)])]
    other = [*images]
    other[1] = 255 - other[1]

    def features(images):
        ids = [token for image in images for token in tiny.image_tokens(model.config, image)]
        inputs = door.pack(model.config, [(ids, images)], **PACK)
        return tiny.features(model, inputs, 0), inputs

    (before, inputs), (after, _) = features(images), features(other)
    rows = {int(index[0]) for index in inputs.image_index[0] if index[0] >= 0}
    assert len(rows) < len(images)  # rows are shared, or this tests nothing
    sizes = [len(tiny.image_tokens(model.config, image)) - 2 for image in images]
    starts = np.cumsum([0, *sizes])
    for i in range(len(images)):
        one, two = (features[starts[i] : starts[i + 1]] for features in (before, after))
        if i == 1:
            assert np.abs(one - two).max() > 1e-2
        else:
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["untied", "qwen3-untied"])
def test_a_prompts_logits_do_not_depend_on_its_batch(models, name):
    model = models[name]
    prompts = tiny.prompts(model.config)
    together = np.asarray(model(door.pack(model.config, prompts, **PACK)))
    for b in (1, 3):
        alone = np.asarray(model(door.pack(model.config, [prompts[b]], **PACK)))[0]
        length = len(prompts[b][0])
        np.testing.assert_allclose(together[b, :length], alone[:length], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.ALL)
def test_remat_equals_none(models, name):
    model = models[name]
    inputs = door.pack(model.config, tiny.prompts(model.config), **PACK)

    @nnx.jit(static_argnums=1)
    def value_and_gradient(model, remat):
        return nnx.value_and_grad(lambda model: jnp.sum(jnp.sin(model.encode(inputs.vision, remat=remat))))(model)

    plain, gradient = value_and_gradient(model, "none")
    for remat in ("dots", "full"):
        value, again = value_and_gradient(model, remat)
        assert float(plain) == pytest.approx(float(value), rel=1e-5)
        ours, theirs = door.named(gradient), door.named(again)
        for key in ours:
            largest = max(1e-30, np.abs(ours[key]).max())
            np.testing.assert_allclose(theirs[key], ours[key], atol=1e-5 * largest, err_msg=key)


@pytest.mark.parametrize("name", tiny.ALL)
def test_what_remat_keeps(models, name):
    """In the backward pass, of the products with weights: all (none), attention's alone (dots), all again (full)."""
    model = models[name]
    inputs = door.pack(model.config, tiny.prompts(model.config), **PACK)
    products = {}
    for remat in ("none", "dots", "full"):
        graph, weights = nnx.split(model)

        def total(weights, graph=graph, remat=remat):
            return jnp.sum(nnx.merge(graph, weights).encode(inputs.vision, remat=remat))

        text = str(jax.make_jaxpr(jax.grad(total))(weights))
        products[remat] = text.count("dot_general")
    assert products["none"] <= products["dots"] < products["full"]


@pytest.mark.parametrize("name", ["untied", "qwen3-untied"])
def test_compute_dtype(models, name):
    """bfloat16 activations over float32 weights: float32 logits, near the float32 ones and not equal to them."""
    model = models[name]
    graph, state = nnx.split(model)
    half = nnx.merge(graph, state)
    half.compute_dtype = jnp.dtype(jnp.bfloat16)
    inputs = door.pack(model.config, [tiny.prompt(model.config, [3, (84, 84), 8], seed=3)], **PACK)
    exact, rounded = np.asarray(model(inputs))[0], half(inputs)
    assert rounded.dtype == jnp.float32
    difference = np.abs(np.asarray(rounded)[0] - exact)[: int(inputs.lengths[0])].max()
    assert 1e-4 < difference < 0.2 * np.abs(exact).max()


def test_the_gradient_of_a_frequent_token_is_summed_in_float32(models):
    """In bfloat16, 1 added to 256 is 256."""
    graph, state = nnx.split(models["untied"])
    ids = jnp.array([7] * 1000 + [8, 9, 9])

    def total(state):
        half = nnx.merge(graph, state)
        half.compute_dtype = jnp.dtype(jnp.bfloat16)
        return jnp.sum(half.embed(ids).astype(jnp.float32))

    gradient = np.asarray(door.named(jax.grad(total)(state))["model.embed_tokens.weight"])
    assert gradient.dtype == np.float32
    for token, times in ((7, 1000), (8, 1), (9, 2), (10, 0)):
        np.testing.assert_array_equal(gradient[token], times)


# Bad input: one clear line.


def good_prompt():
    return tiny.prompt(tiny.CONFIGS["untied"], [3, (84, 84), (56, 56), 4], seed=0)


def without_an_image(ids, images):
    return ids, images[:1]


def with_an_image_too_many(ids, images):
    return ids, [*images, images[0]]


def with_a_run_too_short(ids, images):
    at = ids.index(tiny.CONFIGS["untied"].image_token_id)
    return ids[:at] + ids[at + 1 :], images


def with_images_swapped(ids, images):
    return ids, images[::-1]


def with_a_token_outside(ids, images):
    return [*ids, tiny.CONFIGS["untied"].text.vocab_size], images


def with_a_negative_token(ids, images):
    return [-1, *ids], images


def with_a_video(ids, images):
    return [*ids, tiny.CONFIGS["untied"].video_token_id], images


def with_float_ids(ids, images):
    return np.array(ids, np.float32), images


def with_nothing(ids, images):
    return [], []


@pytest.mark.parametrize(
    "spoil, says",
    [
        (without_an_image, "1 images .* 2 runs"),
        (with_an_image_too_many, "3 images .* 2 runs"),
        (with_a_run_too_short, "image 1 takes 3 x 3 = 9 tokens, but its run has 8"),
        (with_images_swapped, "image 1 takes 2 x 2 = 4 tokens, but its run has 9"),
        (with_a_token_outside, "320"),
        (with_a_negative_token, "-1"),
        (with_a_video, "video"),
        (with_float_ids, "float32"),
        (with_nothing, "empty"),
    ],
)
def test_bad_prompts(spoil, says):
    config, prompt = tiny.CONFIGS["untied"], good_prompt()
    door.pack(config, [prompt], **PACK)
    with pytest.raises(InputError, match=says) as error:
        door.pack(config, [prompt, spoil(*prompt)], **PACK)
    message = str(error.value)
    assert "\n" not in message and "prompt 1" in message
