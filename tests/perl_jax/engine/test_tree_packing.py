"""Packing groups into rows: every token once, seen as it should be, with little padding whatever the lengths."""

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import Spans
from models.errors import InputError
from perl_jax.engine import tree_packing

CONFIG = tiny.CONFIGS["tied"]


def group(prompts, lengths, images=0, seed=0):
    """Orders with prompts of given lengths (text and `images` pictures of four tokens each) and random responses."""
    rng = np.random.default_rng(seed)
    group_images = [tiny.noise_image(56, 56, seed + i) for i in range(images)]
    image_parts = [token for image in group_images for token in tiny.image_tokens(CONFIG, image)]
    ids = [[*image_parts, *tiny.text_tokens(CONFIG, rng, length - len(image_parts))] for length in prompts]
    responses = [[tiny.text_tokens(CONFIG, rng, n) for n in row] for row in lengths]
    advantages = np.zeros((len(prompts), len(lengths[0])))
    return tree_packing.Group(group_images, [range(images)] * len(prompts), ids, responses, advantages)


def packed(groups, rows=None, row_tokens=None, shards=1):
    return tree_packing.pack(CONFIG, groups, rows, row_tokens, None, None, shards)


LENGTHS = st.integers(1, 4).flatmap(
    lambda Q: st.lists(
        st.tuples(
            st.lists(st.integers(1, 30), min_size=2, max_size=2),
            st.lists(st.lists(st.integers(0, 20), min_size=3, max_size=3), min_size=2, max_size=2),
        ),
        min_size=Q,
        max_size=Q,
    )
)


@settings(max_examples=40)
@given(lengths=LENGTHS, rows=st.integers(1, 3), room=st.integers(0, 60), shards=st.integers(1, 3))
def test_each_response_once_after_its_own_prompt(lengths, rows, room, shards):
    """What each scored token's source sees, read off the spans: its prompt and its own response so far, no more."""
    groups = [group(*one, seed=q) for q, one in enumerate(lengths)]
    forest = packed(groups, rows, 50 + room, shards)
    prompts = [ids for one in groups for ids in one.prompts]
    expected = [
        (ids, response[:t], token)
        for one in groups
        for ids, order in zip(one.prompts, one.responses)
        for response in order
        for t, token in enumerate(response)
    ]
    counts = {}
    for batch in forest.batches:
        assert batch.ids.shape == (rows, shards, 50 + room)
        for b in np.ndindex(rows, shards):
            row = batch.index[b]
            scored = row >= 0
            assert scored[: scored.sum()].all()
            visible = Spans(*(x[b] for x in batch.spans)).visible(slice(0, len(row)), np.arange(len(row)))
            assert visible[np.arange(len(row)), np.arange(len(row))].all()
            for s in np.flatnonzero(scored):
                source, number = batch.sources[b][s], int(row[s])
                assert number not in counts
                counts[number] = batch.ids[b][visible[source]].tolist(), int(batch.targets[b][s])
                position = batch.position_ids[b][:, source]
                assert (position == visible[source].sum() - 1).all()  # text alone counts up
                near = np.flatnonzero(visible[source])
                assert ((near < batch.prompts) | (near > source - batch.window)).all()
    assert len(prompts) == 2 * len(groups) and len(counts) == len(expected)
    for number, (ids, before, token) in enumerate(expected):
        assert counts[number] == ([*ids, *before], token)


def test_a_questions_trees_stay_together():
    """So that its images are packed once, in one micro-batch, for both of its orders."""
    groups = [group([20, 20], [[5, 5], [5, 5]], images=2, seed=10 * q) for q in range(6)]
    forest = packed(groups, 2, 64)
    assert len(forest.batches) == 3
    for batch in forest.batches:
        assert sum(len(set(row.tolist()) - {-1}) for row in batch.vision.images) == 4
        assert len({batch.vision.images.shape for batch in forest.batches}) == 1


def test_micro_batches_are_filled_alike():
    """Nine questions of 40 tokens where four fit: three in each, not one alone with a pack of images of its own."""
    groups = [group([28], [[4, 4, 4]], seed=q) for q in range(9)]
    forest = packed(groups, 2, 80)
    assert [(batch.index >= 0).sum() for batch in forest.batches] == [36, 36, 36]


def test_long_trees_are_split_by_responses():
    """30 + 3 * 20 tokens do not fit in 75: two parts, one with two responses; told as one split tree."""
    forest = packed([group([30], [[20, 20, 20]])], 1, 75)
    assert forest.split == 1 and len(forest.batches) == 2
    assert sorted((batch.index >= 0).sum() for batch in forest.batches) == [20, 40]
    with pytest.raises(InputError, match="group 0, order 0: a prompt of 30 tokens and a response of 20 do not fit"):
        packed([group([30], [[20, 20, 20]])], 1, 49)


def test_padding_of_ragged_lengths():
    """The set of the benchmark, at its bound; responses padded to the longest would be more than half padding."""
    rng = np.random.default_rng(0)
    groups = []
    for _ in range(64):
        prompts = rng.integers(60, 200, 2)
        groups.append(group(prompts, np.minimum(rng.lognormal(3.5, 0.7, (2, 6)), 250).astype(int)))
    forest = packed(groups, 2, 2048)
    assert forest.padding < 0.15
    prompt = max(len(ids) for one in groups for ids in one.prompts)
    response = max(len(tokens) for one in groups for order in one.responses for tokens in order)
    dense = 128 * (prompt + 6 * response)
    used = sum(batch.ids.size for batch in forest.batches) * (1 - forest.padding)
    assert 1 - used / dense > 0.5


def test_a_field_for_some_groups_only():
    one = group([5], [[2, 0]])
    values = [[[0.5, 0.25, 9.0], []]]  # past the response's end it goes unread
    np.testing.assert_array_equal(
        tree_packing.flat([one._replace(old_logprobs=values)] * 2, "old_logprobs"), [0.5, 0.25] * 2
    )
    assert tree_packing.flat([one], "old_logprobs") is None
    with pytest.raises(ValueError, match="old_logprobs must be given for all groups or for none"):
        tree_packing.flat([one, one._replace(old_logprobs=values)], "old_logprobs")
