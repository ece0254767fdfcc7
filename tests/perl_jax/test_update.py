"""The update on shared prompts against one row a rollout (here and in transformers), and against its own options."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

import models as door
from models import attention
from models.errors import InputError
from perl_jax import grpo, rollout, update
from perl_jax.engine import tree_packing
from perl_jax.runtime.compilations import Compilations

SIZES = [[(56, 56), (56, 84), (84, 56)], [], [(84, 84), (56, 56)]]  # of the images of each question
ORDERS = [[(0, 1, 2), (2, 0, 1)], [(), ()], [(0, 1), (1, 0)]]
LENGTHS = [[[3, 9], [1, 12]], [[5, 2], [0, 7]], [[12, 4], [6, 1]]]  # of the responses, [Q][O][G]; one is empty
Q, O, G, R = 3, 2, 2, 12
TOTAL = 64  # tokens of a row of the reference: the longest prompt and response fit
GRADIENT = 1e-4  # of a tensor's largest value

RATE = 0.1
# Plain descent that also keeps the last gradient as its state, so that one compiled step shows both.
DESCENT = optax.GradientTransformation(
    lambda weights: jax.tree.map(jnp.zeros_like, weights),
    lambda grads, _, weights=None: (jax.tree.map(lambda g: -RATE * g, grads), grads),
)


def make_groups(config, orders=ORDERS, lengths=LENGTHS, seed=0, **more):
    """Three questions of 3, 0 and 2 images in two orders, with ragged responses and random advantages."""
    rng = np.random.default_rng(seed)
    groups = []
    for q, sizes in enumerate(SIZES):
        images = [tiny.noise_image(*size, seed=10 * seed + q + i) for i, size in enumerate(sizes)]
        prompts = []
        for o, order in enumerate(orders[q]):
            image_parts = [[*tiny.text_tokens(config, rng, 1), *tiny.image_tokens(config, images[i])] for i in order]
            prompts.append(sum(image_parts, tiny.text_tokens(config, rng, 3)) + tiny.text_tokens(config, rng, 2 + o))
        responses = [[tiny.text_tokens(config, rng, n) for n in row] for row in lengths[q]]
        advantages = rng.normal(size=(O, G)).astype(np.float32)
        groups.append(update.Group(images, orders[q], prompts, responses, advantages))
    return [group._replace(**{name: values[q] for name, values in more.items()}) for q, group in enumerate(groups)]


def random_logprobs(near=None, spread=0.3, seed=1):
    """Ragged log-probs [Q][O][G][length] about `near` [Q, O, G, R]."""
    rng = np.random.default_rng(seed)
    values = (np.full((Q, O, G, R), -5.0) if near is None else near) + rng.normal(size=(Q, O, G, R)) * spread
    return [
        [[values[q, o, g, :n] for g, n in enumerate(row)] for o, row in enumerate(rows)]
        for q, rows in enumerate(LENGTHS)
    ]


def dense(ragged) -> np.ndarray:
    """[Q][O][G][length] as float32 [Q, O, G, R], 0 past the lengths."""
    out = np.zeros((Q, O, G, R), np.float32)
    for place in np.ndindex(Q, O, G):
        values = ragged[place[0]][place[1]][place[2]]
        out[place][: len(values)] = values
    return out


def rollouts_of(groups):
    """Each rollout as a prompt of its own: (ids, images, the response)."""
    for group in groups:
        for ids, order, responses in zip(group.prompts, group.orders, group.responses):
            for response in responses:
                yield ids, [group.images[i] for i in order], response


def plain_rows(config, groups):
    """(inputs, index [N, R], targets [N, R], mask [Q, O, G, R]): one row a rollout, the response written after it.

    Rows are filled with a token that causality hides, so that all calls share one shape.
    """
    rows, index, targets = [], np.zeros((Q * O * G, R), int), np.zeros((Q * O * G, R), int)
    mask = np.zeros((Q * O * G, R), bool)
    for n, (ids, images, response) in enumerate(rollouts_of(groups)):
        row = [*ids, *response]
        rows.append((row + [10] * (TOTAL - len(row)), images))
        index[n] = np.arange(len(ids) - 1, len(ids) - 1 + R)
        targets[n, : len(response)], mask[n, : len(response)] = response, True
    return door.pack(config, rows, min_pixels=tiny.MIN_PIXELS), index, targets, mask.reshape(Q, O, G, R)


def plain_logprobs(model, inputs, index, targets, temperature=1.0):
    """Log-probs and entropies [Q, O, G, R] of one row a rollout; unspecified past the lengths."""
    logp = jax.nn.log_softmax(model(inputs) / temperature)
    logp = jnp.take_along_axis(logp, index[:, :, None], axis=1)
    picked = jnp.take_along_axis(logp, targets[:, :, None], axis=2)
    return picked.reshape(Q, O, G, R), -jnp.sum(jnp.exp(logp) * logp, -1).reshape(Q, O, G, R)


@nnx.jit(static_argnums=(7,))
def plain_loss_and_gradient(model, rows, advantages, mask, old, ref, sampler, options):
    """(loss, gradient) of the whole method by one row a rollout; options as a tuple of pairs."""
    options = dict(options)
    temperature = options.pop("temperature", 1.0)

    def loss(model):
        logp, entropy = plain_logprobs(model, *rows, temperature)
        before = jax.lax.stop_gradient(logp) if old is None else old
        more = {"sampler_logp": sampler, "entropy": entropy}
        return grpo.loss(logp, before, advantages, mask, ref, **more, **options)[0]

    return nnx.value_and_grad(loss)(model)


def plain(model, groups, **options):
    """The loss and {hub name: gradient} of groups by one row a rollout."""
    *rows, mask = plain_rows(model.config, groups)
    given = [
        None if getattr(groups[0], name) is None else dense([getattr(group, name) for group in groups])
        for name in ("old_logprobs", "ref_logprobs", "sampler_logprobs")
    ]
    advantages = np.stack([group.advantages for group in groups])
    loss, gradient = plain_loss_and_gradient(model, rows, advantages, mask, *given, tuple(options.items()))
    return float(loss), door.named(gradient)


def stepped(model, groups, **options):
    """The metrics and {hub name: gradient} of one step."""
    state, metrics = update.step(update.init(model, DESCENT), groups, **options)
    return {name: float(value) for name, value in metrics.items()}, door.named(state.opt_state)


def assert_close(ours, expected, tolerance=GRADIENT):
    """Gradients {hub name: array}, each tensor within `tolerance` of its own largest value."""
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        assert np.isfinite(scale) and np.abs(np.asarray(ours[name]) - value).max() <= tolerance * scale, name


@pytest.fixture(scope="module")
def model(models, request):
    return models[getattr(request, "param", "tied")]


BOTH_FAMILIES = pytest.mark.parametrize("model", ["tied", "qwen3-tied"], indirect=True)


@pytest.fixture(scope="module")
def groups(model):
    return make_groups(model.config)


@pytest.fixture(scope="module")
def first_step(model, groups):
    """(metrics, gradient) of the plainest step, that others are compared with."""
    return stepped(model, groups)


# The shared prompt equals one row a rollout.


def numbered(mask) -> np.ndarray:
    """The number of each token among all, -1 where there is none."""
    return np.where(mask, np.cumsum(mask).reshape(mask.shape) - 1, -1)


PERMUTATIONS = st.tuples(
    st.tuples(st.permutations(range(3)), st.permutations(range(3))),
    st.just(((), ())),
    st.tuples(st.permutations(range(2)), st.permutations(range(2))),
)
RAGGED = st.lists(st.integers(0, R), min_size=Q * O * G, max_size=Q * O * G).map(
    lambda lengths: np.array(lengths).reshape(Q, O, G).tolist()
)


@nnx.jit
def weighted_gradients(model, shared, rows, weights, places):
    """Log-probs [Q, O, G, R] and the gradient of their weighted sum, on shared prompts and by one row a rollout.

    `places` [Q, O, G, R] numbers the tokens of all responses, -1 where there is none.
    """

    def ours(model):
        ids, image_index, vision = shared.content
        h = model.embed(ids, image_index, model.encode(vision))
        scored, at = update.rows_logprobs(model, h, shared.without_content()).ravel(), shared.index.ravel()
        scored = jnp.zeros(weights.size).at[jnp.where(at < 0, weights.size, at)].set(scored, mode="drop")
        logp = jnp.where(places < 0, 0.0, scored[places])
        return jnp.sum(jnp.where(weights != 0, logp * weights, 0)), logp

    def theirs(model):
        logp = plain_logprobs(model, *rows)[0]
        return jnp.sum(jnp.where(weights != 0, logp * weights, 0)), logp

    return [nnx.grad(f, has_aux=True)(model) for f in (ours, theirs)]


@pytest.mark.slow
@BOTH_FAMILIES
@settings(max_examples=6)
@given(orders=PERMUTATIONS, lengths=RAGGED, seed=st.integers(0, 99))
@example(orders=ORDERS, lengths=LENGTHS, seed=0)
def test_shared_prompts_equal_one_row_a_rollout(model, orders, lengths, seed):
    """Log-probs within 2e-5, gradients within 1e-4 of each tensor's largest value."""
    groups = make_groups(model.config, orders, lengths, seed)
    *rows, mask = plain_rows(model.config, groups)
    [shared] = tree_packing.pack(model.config, groups, Q * O, 96, tiny.MIN_PIXELS, None).batches  # in one shape
    weights = np.where(mask, np.random.default_rng(seed).normal(size=mask.shape), 0).astype(np.float32)
    (gradient, logp), (expected_gradient, expected) = weighted_gradients(model, shared, rows, weights, numbered(mask))
    np.testing.assert_allclose(np.where(mask, logp, 0), np.where(mask, expected, 0), atol=2e-5)
    assert_close(door.named(gradient), door.named(expected_gradient))


def test_logprobs(model, groups):
    *rows, mask = plain_rows(model.config, groups)
    for temperature, options in ((1.0, {}), (0.7, {"rows": 2, "row_tokens": 64})):
        expected = np.where(mask, plain_logprobs(model, *rows, temperature)[0], 0)
        got = update.logprobs(model, groups, temperature, **options)
        assert got.shape == (Q, O, G, R) and got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=2e-5)
        assert (got[~mask] == 0).all()


@pytest.mark.slow
def test_the_gradient_on_policy(model, groups, first_step):
    """Without old log-probs every ratio is 1, so the gradient is that of -A logp, averaged over all tokens."""
    metrics, gradient = first_step
    *rows, mask = plain_rows(model.config, groups)
    advantages = np.stack([group.advantages for group in groups])
    weights = np.where(mask, -advantages[..., None] / mask.sum(), 0).astype(np.float32)
    [shared] = tree_packing.pack(model.config, groups, None, None, None, None).batches
    _, (expected, _) = weighted_gradients(model, shared, rows, weights, numbered(mask))
    assert_close(gradient, door.named(expected))
    assert metrics["loss"] == pytest.approx(weights.sum(), rel=1e-4, abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(norm(door.named(expected)), rel=1e-4)
    assert metrics["ratio"] == metrics["ratio_max"] == 1 and metrics["tokens"] == np.sum(LENGTHS)


def norm(gradient):
    return np.sqrt(sum((np.asarray(value, np.float64) ** 2).sum() for value in gradient.values()))


OFF_POLICY = {"kl_coef": 0.05, "aggregate": "seq-mean-token-mean", "temperature": 0.7}


@pytest.fixture(scope="module")
def off_policy(model, groups):
    """The groups with old, reference and sampler log-probs, and what a step of OFF_POLICY makes of them."""
    logp = update.logprobs(model, groups, 0.7, rows=2, min_pixels=tiny.MIN_PIXELS)
    more = {
        "old_logprobs": random_logprobs(logp),
        "ref_logprobs": random_logprobs(seed=2),
        "sampler_logprobs": random_logprobs(logp + 0.25, spread=0.0),
    }
    groups = make_groups(model.config, **more)
    state, metrics = update.step(update.init(model, DESCENT), groups, min_pixels=tiny.MIN_PIXELS, **OFF_POLICY)
    return groups, {name: float(value) for name, value in metrics.items()}, state


@pytest.mark.slow
def test_the_gradient_off_policy(model, off_policy):
    groups, metrics, state = off_policy
    loss, expected = plain(model, groups, **OFF_POLICY)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(norm(expected), rel=1e-4)
    assert_close(door.named(state.opt_state), expected)
    assert metrics["ratio_max"] > 1.2 and metrics["clip_high"] + metrics["clip_low"] > 0 and metrics["kl"] > 0
    old, sampler = (dense([getattr(group, name) for group in groups]) for name in ("old_logprobs", "sampler_logprobs"))
    gap = np.abs(old - sampler).sum() / np.sum(LENGTHS)
    assert metrics["sampler_gap"] == pytest.approx(gap, rel=1e-4), "of what sampled, however far the policy has moved"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"kind": "gspo", "aggregate": "seq-mean-token-mean", "importance": "sequence", "clip_low": 0.1},
        {"kind": "cispo", "importance": "token", "importance_cap": 1.1, "entropy_coef": 0.02},
    ],
    ids=lambda options: options["kind"],
)
def test_other_losses(model, off_policy, options):
    """Rows hold several responses, and a response is counted as a whole wherever it lies."""
    groups, _, _ = off_policy
    loss, expected = plain(model, groups, **options)
    metrics, gradient = stepped(model, groups, **options, rows=2)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert_close(gradient, expected)
    assert 0 < metrics["importance"] < options.get("importance_cap", 2.0)


@pytest.mark.slow
@BOTH_FAMILIES
def test_transformers_takes_the_same_step(model, off_policy, theirs, request):
    """One step of descent on the GRPO loss, against torch autograd through transformers with the loss written out."""
    import reference
    import torch

    groups, _, state = off_policy
    other = theirs[request.node.callspec.params["model"]]
    other.zero_grad()
    responses_with_tokens = np.count_nonzero(LENGTHS)
    for (q, o, g), (ids, images, response) in zip(np.ndindex(Q, O, G), rollouts_of(groups)):
        if not response:
            continue
        logits = reference.logits(other, ([*ids, *response], images), tiny.MAX_PIXELS) / 0.7
        logp = torch.log_softmax(logits[len(ids) - 1 : -1], -1).gather(1, torch.tensor(response)[:, None])[:, 0]
        old, ref = (
            torch.tensor(values[o][g], dtype=torch.float32)
            for values in (groups[q].old_logprobs, groups[q].ref_logprobs)
        )
        ratio, a = (logp - old).exp(), float(groups[q].advantages[o, g])
        losses = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2))
        losses = torch.minimum(losses, torch.tensor(-a * 3.0)) if a < 0 else losses
        losses = losses + 0.05 * ((ref - logp).exp() - (ref - logp) - 1).clamp(-10, 10)
        (losses.mean() / responses_with_tokens).backward()
    before, after = door.named(model), door.named(state.model)
    moved = {name: (np.asarray(before[name]) - np.asarray(after[name])) / RATE for name in after}
    expected = reference.gradient(other)
    assert_close(door.named(state.opt_state), expected, tolerance=1e-3)
    for name, value in expected.items():  # a weight of size 1 cannot move by less than its own rounding
        np.testing.assert_allclose(moved[name], value, atol=1e-3 * np.abs(value).max() + 2e-6, err_msg=name)


# Options that change nothing.


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"rows": 3, "remat": "dots"}, {"rows": 1, "row_tokens": 300}, {"rows": 9, "remat": True}]
)
def test_how_it_runs_changes_nothing(model, groups, first_step, options):
    """Micro-batches of few rows, all trees in one row, recomputation, rows of padding."""
    metrics, gradient = stepped(model, groups, **options)
    for name in metrics.keys() - {"padding", "split_trees"}:
        assert metrics[name] == pytest.approx(first_step[0][name], rel=1e-4, abs=1e-6), name
    assert_close(gradient, first_step[1])


def test_unknown_remat(model, groups):
    with pytest.raises(ValueError, match="remat is one of none, dots, full, True or False, not 'some'"):
        update.step(update.init(model, DESCENT), groups, remat="some")


@pytest.mark.slow
def test_packed_once_for_all_passes(model, off_policy):
    """Log-probs and step of packed groups are those of the groups; groups without a signal are left out."""
    groups, metrics, _ = off_policy
    packed = update.pack(model.config, groups)
    np.testing.assert_array_equal(update.logprobs(model, packed, 0.7), update.logprobs(model, groups, 0.7))
    state, ours = update.step(update.init(model, DESCENT), packed, **OFF_POLICY)
    assert ours["loss"] == metrics["loss"] and ours["grad_norm"] == metrics["grad_norm"]
    silent = without_signal(groups, [1])
    part = update.pack(model.config, silent, only_signal=True)
    assert part.computed == [0, 2] and not update.logprobs(model, part)[1].any()
    np.testing.assert_allclose(update.logprobs(model, part)[[0, 2]], update.logprobs(model, groups)[[0, 2]], atol=1e-5)
    old = update.logprobs(model, groups)
    named = part.with_logprobs("old_logprobs", old)
    assert named.forest is part.forest and named.groups[2].old_logprobs is not groups[2].old_logprobs
    with pytest.raises(ValueError, match="packed with only_signal=True"):
        update.step(state, part, kl_coef=0.1)


@pytest.mark.slow
def test_trees_that_are_split_change_nothing(model):
    """Rows with room for one response of each tree, or for two of some; told in the metrics."""
    groups = make_groups(model.config, lengths=np.full((Q, O, G), R).tolist())
    longest = max(len(ids) for group in groups for ids in group.prompts)
    unsplit, expected = stepped(model, groups, rows=6)
    for options in ({"rows": 2, "row_tokens": longest + R}, {"rows": 1, "row_tokens": longest + 2 * R - 1}):
        metrics, gradient = stepped(model, groups, **options)
        assert metrics["split_trees"] > 0 and unsplit["split_trees"] == 0
        for name in metrics.keys() - {"padding", "split_trees"}:
            assert metrics[name] == pytest.approx(unsplit[name], rel=1e-4, abs=1e-6), name
        assert_close(gradient, expected)


@pytest.mark.slow
def test_long_rows_recompute_their_attention(model, groups, first_step, monkeypatch):
    monkeypatch.setattr(attention, "STORED", 8)
    _, gradient = stepped(model, groups, rows=7)
    assert_close(gradient, first_step[1])


@pytest.mark.slow
def test_a_sum_is_over_the_longest_response_by_default(model, groups):
    """As `grpo.loss` has it, not over the bucket that responses are padded to; another length is no other program."""
    options = {"aggregate": "seq-mean-token-sum-norm"}
    metrics, gradient = stepped(model, groups, **options)
    loss, expected = plain(model, groups, **options)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert_close(gradient, expected)
    with Compilations() as compilations:
        halved, _ = stepped(model, groups, norm_length=2 * R, **options)
    assert halved["grad_norm"] == pytest.approx(metrics["grad_norm"] / 2, rel=1e-4)
    assert compilations.count == 0


@pytest.mark.slow
def test_log_probs_for_some_groups_only(model, off_policy):
    groups = [off_policy[0][0]._replace(old_logprobs=None), *off_policy[0][1:]]
    with pytest.raises(ValueError, match="old_logprobs must be given for all groups or for none"):
        update.step(update.init(model, DESCENT), groups)


# Groups without a signal.


def without_signal(groups, silent):
    """The groups with all advantages 0 where `silent` says so."""
    return [
        group._replace(advantages=np.zeros((O, G), np.float32)) if q in silent else group
        for q, group in enumerate(groups)
    ]


@pytest.mark.slow
def test_groups_without_a_signal_are_left_out_and_counted(model, groups):
    """Nothing is computed for them, but they are in the mean: as in the plain loss over all groups."""
    silenced = without_signal(groups, [0, 2])
    state, metrics = update.step(update.init(model, DESCENT), silenced)
    loss, expected = plain(model, silenced)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert_close(door.named(state.opt_state), expected)
    assert metrics["tokens"] == np.sum(LENGTHS)
    assert metrics["computed_share"] == pytest.approx(np.sum(LENGTHS[1]) / np.sum(LENGTHS))
    assert metrics["update_norm"] == pytest.approx(RATE * metrics["grad_norm"], rel=1e-5)


@pytest.mark.slow
def test_no_signal_at_all_changes_nothing(model, groups):
    state, metrics = update.step(update.init(model, DESCENT), without_signal(groups, [0, 1, 2]))
    assert metrics["loss"] == metrics["grad_norm"] == metrics["update_norm"] == 0
    assert metrics["tokens"] == np.sum(LENGTHS) and metrics["entropy"] > 0 and metrics["ratio"] == pytest.approx(1)
    assert leaf_bytes(door.named(state.model)) == leaf_bytes(door.named(model))


@pytest.mark.slow
def test_with_kl_groups_without_a_signal_are_computed(model, off_policy):
    groups = without_signal(off_policy[0], [0])
    metrics, gradient = stepped(model, groups, **OFF_POLICY)
    loss, expected = plain(model, groups, **OFF_POLICY)
    assert metrics["computed_share"] == 1 and metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert_close(gradient, expected)


# Masked tokens.


@pytest.mark.slow
def test_masked_tokens_get_no_gradient(model, groups, first_step):
    """NaN as the advantage of the empty response, and log-probs that go on after a response's end."""
    assert LENGTHS[1][1][0] == 0
    spoiled = groups[1].advantages.copy()
    spoiled[1, 0] = np.nan
    metrics, gradient = stepped(model, [groups[0], groups[1]._replace(advantages=spoiled), groups[2]])
    assert metrics == pytest.approx(first_step[0], rel=1e-5, abs=1e-7)
    assert_close(gradient, first_step[1], tolerance=1e-6)


@pytest.mark.slow
def test_tokens_past_the_end_are_not_read(model, groups):
    """Other tokens in the padding of prompts and responses: the same log-probs and gradients under the mask."""
    *rows, mask = plain_rows(model.config, groups)
    [shared] = tree_packing.pack(model.config, groups, None, None, None, None).batches
    padding = np.asarray(shared.spans.start) == np.arange(shared.ids.shape[-1])
    padding &= shared.spans.fork == np.arange(shared.ids.shape[-1])
    other = shared.replace(
        ids=np.where(padding, 17, shared.ids),
        targets=np.where(shared.index < 0, 23, shared.targets),
        sources=np.where(shared.index < 0, 5, shared.sources),
    )
    assert (other.ids != shared.ids).any() and (other.targets != shared.targets).any()
    weights = np.where(mask, 1.0, 0.0).astype(np.float32)
    (gradient, logp), _ = weighted_gradients(model, shared, rows, weights, numbered(mask))
    (other_gradient, other_logp), _ = weighted_gradients(model, other, rows, weights, numbered(mask))
    np.testing.assert_array_equal(np.where(mask, logp, 0), np.where(mask, other_logp, 0))
    assert_close(door.named(other_gradient), door.named(gradient), tolerance=1e-6)


# The state.


def leaf_bytes(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.slow
def test_a_filter_freezes(model, groups, first_step):
    """What does not train keeps its bytes and has no optimizer state; what trains moves as it would without it."""
    adamw = optax.adamw(1e-3)
    state = update.init(model, adamw, trainable=lambda path: path.startswith("model.layers."))
    names = set(door.named(state.trainable))
    assert names == {name for name in door.named(model) if name.startswith("model.layers.")}
    size = sum(leaf.size for leaf in jax.tree.leaves(state.trainable))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim) == 2 * size
    state, metrics = update.step(state, groups)
    before, after = door.named(model), door.named(state.model)
    assert before.keys() == after.keys()
    for name in before:
        assert (np.asarray(before[name]).tobytes() == np.asarray(after[name]).tobytes()) == (name not in names), name
    trained = {name: first_step[1][name] for name in names}
    assert float(metrics["grad_norm"]) == pytest.approx(norm(trained), rel=1e-4)


@pytest.mark.slow
def test_the_model_stays_and_the_states_is_usable(model, groups):
    before = leaf_bytes(nnx.state(model))
    prompts = [
        (ids, [group.images[i] for i in order]) for group in groups for ids, order in zip(group.prompts, group.orders)
    ]
    first = rollout.generate(model, prompts, samples=G, max_new_tokens=R)
    state, _ = update.step(update.init(model, DESCENT), groups)
    state, _ = update.step(state, groups)
    assert leaf_bytes(nnx.state(model)) == before
    again = rollout.generate(model, prompts, samples=G, max_new_tokens=R)
    np.testing.assert_array_equal(again.logprobs, first.logprobs)
    moved = rollout.generate(state.model, prompts, samples=G, max_new_tokens=R)
    assert (moved.logprobs != first.logprobs).any()
    tokens = moved.tokens.reshape(Q, O, G, R)
    sampled = [group._replace(responses=list(tokens[q])) for q, group in enumerate(groups)]
    np.testing.assert_allclose(update.logprobs(state.model, sampled).reshape(-1, G, R), moved.logprobs, atol=1e-4)


@pytest.mark.slow
def test_master_weights_are_float32(groups):
    """Steps too small for bfloat16 add up in the masters; what is frozen stays as it was."""
    half = tiny.random_model(tiny.CONFIGS["tied"], dtype=jnp.bfloat16)
    state = update.init(half, optax.sgd(1e-5), trainable=lambda path: path.startswith("model."))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.trainable)} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.frozen)} == {jnp.dtype(jnp.bfloat16)}
    before = np.asarray(door.named(state.model)["model.norm.weight"])
    state, _ = update.step(state, groups)
    assert state.model.compute_dtype == jnp.bfloat16
    after = np.asarray(door.named(state.model)["model.norm.weight"])
    assert after.dtype == np.float32 and (after != before).mean() > 0.5
    np.testing.assert_array_equal(after.astype(jnp.bfloat16), before.astype(jnp.bfloat16))


# Metrics, shapes, errors.


@pytest.mark.slow
def test_gradients_are_summed_in_float32(models):
    """bfloat16 activations against float32 ones: as near for a token that stands a thousand times as for a rare one.

    So are the weights that all tokens share: biases, norms, the head.
    """
    model, rng = models["untied"], np.random.default_rng(0)
    prompt = rng.permutation([12] * 1000 + rng.integers(20, 100, 60).tolist()).tolist()
    responses = [[rng.choice([13, 14, 50, 60], p=[0.8, 0.1, 0.05, 0.05], size=200).tolist() for _ in range(4)]]
    group = update.Group([], [()], [prompt], responses, rng.normal(size=(1, 4)))
    graph, weights = nnx.split(model)
    gradients = {}
    for dtype in ("float32", "bfloat16"):
        cast = nnx.merge(graph, weights)
        cast.compute_dtype = jnp.dtype(dtype)
        state, _ = update.step(update.init(cast, DESCENT), [group])
        gradients[dtype] = {name: np.asarray(g, np.float64) for name, g in door.named(state.opt_state).items()}

    def error(name, row=slice(None)):
        exact, rounded = (gradients[dtype][name][row] for dtype in ("float32", "bfloat16"))
        return np.linalg.norm(rounded - exact) / np.linalg.norm(exact)

    table, head = "model.embed_tokens.weight", "lm_head.weight"
    rare = [error(table, token) for token in set(prompt) - {12} if np.any(gradients["float32"][table][token])]
    assert error(table, 12) < 0.04 and len(rare) > 30 and np.median(rare) < 0.04
    assert max(error(head, token) for token in (13, 77)) < 0.03, "a token of most responses, and one of none"
    assert max(error(name) for name, exact in gradients["float32"].items() if exact.any()) < 0.05


def test_metrics(model, groups, first_step):
    """Means over the tokens of log-probs and entropy."""
    logp = update.logprobs(model, groups)
    metrics, _ = first_step
    assert metrics["logprob"] == pytest.approx(logp.sum() / np.sum(LENGTHS), rel=1e-4)
    *rows, mask = plain_rows(model.config, groups)
    logits = np.asarray(model(rows[0]))[np.arange(Q * O * G)[:, None], rows[1]].reshape(*mask.shape, -1)
    full = np.asarray(jax.nn.log_softmax(logits, -1))
    entropy = -(np.exp(full) * full).sum(-1)[mask].mean()
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-4)


# Numbers that are none.


def spoiled(groups, kind: str):
    """The groups with one number that is none, in a group with a signal but for "left out"."""
    values = random_logprobs()
    values[1][0][0][2] = {"inf": np.inf}.get(kind, np.nan)
    if kind in ("nan", "inf", "left out"):
        silent = [1] if kind == "left out" else []
        return [g._replace(sampler_logprobs=x) for g, x in zip(without_signal(groups, silent), values)]
    if kind == "old log-probs":
        return [g._replace(old_logprobs=x) for g, x in zip(groups, values)]
    advantages = np.full((O, G), {"an advantage": np.nan, "an overflow": 1e30}[kind], np.float32)
    return [*groups[:2], groups[2]._replace(advantages=advantages)]


@pytest.mark.slow
def test_a_step_that_is_not_finite_changes_nothing(model, groups):
    """Not one bit of weights, moments and counters; the next step is as if it had not been, in the same programs."""
    adamw = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    whole = [g._replace(sampler_logprobs=x) for g, x in zip(groups, random_logprobs())]
    plain_state, _ = update.step(update.init(model, adamw), whole, rows=1, row_tokens=96)
    expected, _ = update.step(jax.tree.map(jnp.copy, plain_state), whole, rows=1, row_tokens=96)
    state = jax.tree.map(jnp.copy, plain_state)
    before = leaf_bytes((state.trainable, state.opt_state))
    for kind in ("nan", "inf", "left out", "an advantage", "an overflow", "old log-probs"):
        bad = spoiled(whole if kind.startswith("an") else groups, kind)
        state, metrics = update.step(state, bad, rows=1, row_tokens=96)
        assert leaf_bytes((state.trainable, state.opt_state)) == before, kind
        assert metrics["skipped"] == 1, kind
    with Compilations() as compilations:
        state, metrics = update.step(state, spoiled(whole, "an advantage"), rows=1, row_tokens=96)
        assert np.isnan(metrics["loss"]) and metrics["skipped"] == 1
        state, metrics = update.step(state, whole, rows=1, row_tokens=96)
    assert compilations.count == 0 and metrics["skipped"] == 0
    ours, theirs = (leaf_bytes((each.trainable, each.opt_state)) for each in (state, expected))
    assert ours == theirs != before


@pytest.mark.slow
def test_a_change_that_is_not_finite_is_not_made(model, groups):
    """Though loss and gradient are numbers."""
    state, metrics = update.step(update.init(model, optax.sgd(math.inf)), groups)
    assert metrics["skipped"] == 1 and np.isfinite([metrics["loss"], metrics["grad_norm"]]).all()
    assert leaf_bytes(door.named(state.model)) == leaf_bytes(door.named(model))


@pytest.mark.slow
def test_nothing_compiles_anew(model, groups):
    """Other questions, orders and lengths run the programs that are there."""
    state, _ = update.step(update.init(model, DESCENT), groups, rows=2, row_tokens=96)
    with Compilations() as compilations:
        for seed in (1, 2):
            orders = [[(1, 2, 0), (0, 2, 1)], [(), ()], [(1, 0), (0, 1)]]
            lengths = np.random.default_rng(seed).integers(1, 13, (Q, O, G)).tolist()
            made = make_groups(model.config, orders, lengths, seed=seed)
            state, _ = update.step(state, made, rows=2, row_tokens=96)
    assert compilations.count == 0


def test_orders_share_their_images(model, groups):
    [rows] = tree_packing.pack(model.config, groups, None, None, None, None).batches
    images = rows.vision.images.reshape(-1, rows.vision.images.shape[-1])
    assert sum(len(set(row.tolist()) - {-1}) for row in images) == sum(map(len, SIZES))


@pytest.mark.parametrize("references", [[], [0], [0, 2]])
def test_kl_needs_every_reference(model, groups, references):
    ref = random_logprobs()
    some = [group._replace(ref_logprobs=ref[q]) if q in references else group for q, group in enumerate(groups)]
    with pytest.raises(ValueError, match="ref_logprobs"):
        update.step(update.init(model, DESCENT), some, kl_coef=0.01)


def test_groups_that_do_not_fit(model, groups):
    state = update.init(model, DESCENT)
    first = groups[0]
    with pytest.raises(ValueError, match="at least one group"):
        update.step(state, [])
    with pytest.raises(ValueError, match="group 1: 1 orders"):
        update.step(state, [first, groups[2]._replace(orders=groups[2].orders[:1])])
    with pytest.raises(ValueError, match="group 0: every order needs 2 responses"):
        update.step(state, [first._replace(responses=[first.responses[0], first.responses[1][:1]])])
    with pytest.raises(InputError, match=r"group 0, order 1, response 0.* 300"):
        update.step(state, [first._replace(responses=[first.responses[0], [[999], [5]]])])
    with pytest.raises(InputError, match="group 0, order 1: image 1"):
        update.step(state, [first._replace(orders=[first.orders[0], (0, 1, 2)])])  # the prompt shows another order
    with pytest.raises(ValueError, match="'mean'"):
        update.step(state, groups, aggregate="mean")
