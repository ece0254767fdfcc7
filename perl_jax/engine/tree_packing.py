"""Packs prompts with their responses into rows of equal length for the update (host side).

A prompt and its responses are a tree `[prompt | r_1 | ... | r_G]`, in which each response attends to the prompt and
itself. Rows hold C tokens: short trees share a row, and a long one is split by its responses, with its prompt repeated
in each part. A micro-batch is B rows on each of S shards; all micro-batches have one shape. Trees of a question stay in
one micro-batch where possible, so that its images are encoded once for all orders.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

import models
from models.attention import Spans, kernel_platform
from models.errors import InputError
from models.packing import Images, bucket, check_ids, mrope_positions


class Group(NamedTuple):
    """One question: K images, O orders of them, G rollouts of each order. Log-probs are ragged, [O][G][length]."""

    images: Sequence  # [K]
    orders: Sequence  # [O][K]: order[j] is the image shown at place j
    prompts: Sequence  # [O] token ids
    responses: Sequence  # [O][G] token ids
    advantages: np.ndarray  # [O, G]
    old_logprobs: Sequence | None = None
    ref_logprobs: Sequence | None = None
    sampler_logprobs: Sequence | None = None  # only for the `sampler_gap` metric
    id: str = ""  # to name it


Array = np.ndarray | jax.Array  # on the host, and then on the devices


class Rows(flax.struct.PyTreeNode):
    """One micro-batch: B rows of C tokens on each of S shards.

    Fields of scored response tokens hold up to C of them per row, in front.
    """

    ids: Array  # int32 [B, S, C]
    position_ids: Array  # int32 [B, S, 3, C]: M-RoPE
    image_index: Array  # int32 [B, S, C, 2]: (row, merged token) in the vision pack; -1 for text
    spans: Spans  # of int32 [B, S, C]: what each token attends to
    vision: Any  # the model family's pack of images, or None
    sources: Array  # int32 [B, S, C]: index in the row whose hidden state predicts the token
    targets: Array  # int32 [B, S, C]: the token
    index: Array  # int32 [B, S, C]: index among all response tokens of the groups; -1: none
    prompts: int = flax.struct.field(pytree_node=False)  # most prompt tokens in a row
    window: int = flax.struct.field(pytree_node=False)  # most tokens of a response

    @property
    def content(self) -> tuple[Array, Array, Any]:
        """(ids, image_index, vision): the inputs of the embeddings."""
        return self.ids, self.image_index, self.vision

    def without_content(self) -> "Rows":
        """The fields that are used along with input embeddings."""
        return self.replace(ids=None, image_index=None, vision=None)


class Tree(NamedTuple):
    """A prompt of a group and some of its responses."""

    group: int
    order: int
    responses: tuple[int, ...]
    length: int


class Forest(NamedTuple):
    """All micro-batches of some groups, in one shape."""

    batches: list[Rows]
    padding: float  # share of padding among their tokens
    split: int  # trees that were split to fit in rows


def flat(groups: Sequence[Group], name: str) -> np.ndarray | None:
    """Flattens a ragged field of all response tokens to one array [T], by groups, orders, rollouts and tokens.

    Raises ValueError where only some groups have the field.
    """
    fields = [getattr(group, name) for group in groups]
    if len({x is None for x in fields}) > 1:
        raise ValueError(f"{name} must be given for all groups or for none")
    if fields[0] is None:
        return None
    parts = [
        np.asarray(values)[: len(response)]
        for group, x in zip(groups, fields)
        for order, rows in zip(group.responses, x)
        for response, values in zip(order, rows)
    ]
    return np.concatenate([np.zeros(0), *parts]).astype(np.float32)


def pack(
    config: models.Config,
    groups: Sequence[Group],
    rows: int | None,
    row_tokens: int | None,
    min_pixels: int | None,
    max_pixels: int | None,
    shards: int = 1,
    local_shards: Container[int] | None = None,
) -> Forest:
    """Packs groups that share O and G into micro-batches of `rows` rows of `row_tokens` tokens for each shard.

    Image patches are computed only for the shards in `local_shards` (default all), as in `pack_images`. Without
    `row_tokens` a row has room for the longest tree, without `rows` there is one micro-batch. Raises ValueError for
    groups of different shapes, InputError for ids and images that do not match, and for a prompt that does not fit
    in a row with its longest response.
    """
    check(groups)
    prompts, responses = _checked_ids(config, groups)
    lengths = np.array([[[len(r) for r in order] for order in group] for group in responses])
    first = np.cumsum(lengths.ravel()).reshape(lengths.shape) - lengths  # offset of each response among all tokens

    trees = [
        [_parts(q, o, len(prompt), lengths[q, o], row_tokens) for o, prompt in enumerate(prompts[q])]
        for q in range(len(groups))
    ]
    questions = [[part for parts in orders for part in parts] for orders in trees]
    longest = max(tree.length for question in questions for tree in question)
    capacity = row_tokens or bucket(longest, between=8)
    batches = _assign(questions, rows, capacity, shards)

    images = Images(config.vision, min_pixels, max_pixels)
    image_numbers = [[[images.add(group.images[i]) for i in order] for order in group.orders] for group in groups]
    needed = [
        sorted({number for row in batch for tree in row for number in image_numbers[tree.group][tree.order]})
        for batch in batches
    ]
    batch_images = [[images.images[i] for i in numbers] for numbers in needed]
    layouts = models.family(config).pack_images(config.vision, batch_images, shards, local_shards)

    grids, reach = [image.grid for image in images.images], _reach(config, batches, prompts, lengths, capacity)
    call = _Call(config, capacity, shards, prompts, responses, first, image_numbers, grids, reach)
    packed = [
        _filled(call, batch, dict(zip(numbers, places)), vision)
        for batch, numbers, (vision, places) in zip(batches, needed, layouts)
    ]
    used = sum(tree.length for question in questions for tree in question)
    return Forest(
        packed,
        1 - used / sum(rows.ids.size for rows in packed),
        sum(len(parts) > 1 for orders in trees for parts in orders),
    )


def _checked_ids(config: models.Config, groups: Sequence[Group]) -> tuple[list, list]:
    """Token ids of all prompts [Q][O] and responses [Q][O][G] as arrays; InputError for invalid ids."""
    prompts = [
        [check_ids(config, ids, f"group {q}, prompt {o}") for o, ids in enumerate(group.prompts)]
        for q, group in enumerate(groups)
    ]
    responses = [
        [
            [
                check_ids(config, r, f"group {q}, order {o}, response {g}") if len(r) else np.zeros(0, np.int32)
                for g, r in enumerate(order)
            ]
            for o, order in enumerate(group.responses)
        ]
        for q, group in enumerate(groups)
    ]
    return prompts, responses


class _Call(NamedTuple):
    """Values shared by all micro-batches of a call."""

    config: models.Config
    capacity: int  # tokens per row
    shards: int
    prompts: list  # [Q][O] token ids
    responses: list  # [Q][O][G] token ids
    first: np.ndarray  # [Q, O, G] offset of each response among all scored tokens
    image_numbers: list  # [Q][O] indices of the images that each prompt shows
    grids: list  # by image index
    reach: tuple[int, int]  # result of `_reach`


def _filled(call: _Call, batch: Sequence[Sequence[Tree]], place: Mapping[int, np.ndarray], vision) -> Rows:
    """Fills the micro-batch from rows of trees; `place` maps an image to its merged patches in `vision`."""
    config, capacity = call.config, call.capacity
    shape = (len(batch), capacity)
    ids, sources, targets = np.zeros((3, *shape), np.int32)
    positions, index = np.zeros((len(batch), 3, capacity), np.int32), np.full(shape, -1, np.int32)
    image_index = np.full((*shape, 2), -1, np.int32)
    spans = np.broadcast_to(np.arange(capacity, dtype=np.int32), (3, *shape)).copy()  # padding attends to itself
    for b, row in enumerate(batch):
        at, scored, forks = 0, 0, []
        for tree in row:
            q, o = tree.group, tree.order
            prompt = call.prompts[q][o]
            here = slice(at, at + len(prompt))
            ids[b, here], spans[:, b, here] = prompt, [[at], [here.stop], [at]]
            grids = [call.grids[number] for number in call.image_numbers[q][o]]
            positions[b, :, here] = mrope_positions(config, prompt, grids, f"group {q}, order {o}")
            if call.image_numbers[q][o]:
                image_places = at + np.flatnonzero(prompt == config.image_token_id)
                image_index[b, image_places] = np.concatenate([place[number] for number in call.image_numbers[q][o]])
            forks.append((at, here.stop, positions[b, :, here].max() + 1))
            at = here.stop
        for tree, (start, fork, position) in zip(row, forks):
            for g in tree.responses:
                tokens = call.responses[tree.group][tree.order][g]
                here, there = slice(at, at + len(tokens)), slice(scored, scored + len(tokens))
                ids[b, here] = targets[b, there] = tokens
                spans[:, b, here] = [[start], [fork], [at]]
                positions[b, :, here] = position + np.arange(len(tokens))
                sources[b, there] = [fork - 1, *range(at, here.stop - 1)][: len(tokens)]
                index[b, there] = call.first[tree.group, tree.order, g] + np.arange(len(tokens))
                at, scored = here.stop, there.stop
    # Deals rows to the shards in turn, so that empty rows are the last ones of every shard.
    by_shard = [
        x.reshape(-1, call.shards, *x.shape[1:]) for x in (ids, positions, image_index, *spans, sources, targets, index)
    ]
    ids, positions, image_index, start, fork, branch, sources, targets, index = by_shard
    spans = Spans(start, fork, branch)
    return Rows(ids, positions, image_index, spans, vision, sources, targets, index, *call.reach)


def check(groups: Sequence[Group]) -> None:
    """Raises ValueError for no groups, or groups of different O or G."""
    if not groups:
        raise ValueError("an update needs at least one group")
    O, G = len(groups[0].responses), len(groups[0].responses[0])
    for q, group in enumerate(groups):
        if not len(group.orders) == len(group.prompts) == len(group.responses) == O:
            raise ValueError(
                f"group {q}: {len(group.orders)} orders, {len(group.prompts)} prompts and "
                f"{len(group.responses)} lists of responses; all groups need {O} of each"
            )
        if any(len(order) != G for order in group.responses):
            raise ValueError(f"group {q}: every order needs {G} responses, as the first group has")


def _reach(config: models.Config, batches, prompts, lengths, capacity: int) -> tuple[int, int]:
    """`prompts` and `window` of the rows, rounded to few values, since each one is a program to compile."""
    if kernel_platform(config.text.head_dim):
        return capacity, capacity  # kernels do not use them
    most = max(sum(len(prompts[tree.group][tree.order]) for tree in row) for batch in batches for row in batch)
    longest = max(
        lengths[tree.group, tree.order, g] for batch in batches for row in batch for tree in row for g in tree.responses
    )
    eighth = -(-capacity // 8)
    return min(-(-most // eighth) * eighth, capacity), (eighth if longest <= eighth else capacity)


def _parts(group: int, order: int, prompt: int, lengths, limit: int | None) -> list[Tree]:
    """The tree of a prompt with all its responses, split into several where it has more than `limit` tokens.

    Raises InputError where the prompt and its longest response do not fit.
    """
    parts: list[list[int]] = []
    for g in sorted(range(len(lengths)), key=lambda g: -lengths[g]):  # longest first, first fit
        used = [prompt + sum(lengths[i] for i in part) for part in parts]
        at = next((i for i, tokens in enumerate(used) if not limit or tokens + lengths[g] <= limit), None)
        if at is not None:
            parts[at].append(g)
        elif limit and prompt + lengths[g] > limit:
            raise InputError(
                f"group {group}, order {order}: a prompt of {prompt} tokens and a response of "
                f"{lengths[g]} do not fit in a row of {limit} tokens; allow longer rows"
            )
        else:
            parts.append([g])
    return [Tree(group, order, tuple(sorted(part)), prompt + int(sum(lengths[g] for g in part))) for part in parts]


def _assign(
    questions: Sequence[Sequence[Tree]], rows: int | None, capacity: int, shards: int
) -> list[list[list[Tree]]]:
    """Micro-batches of `rows` rows of trees for each shard: as few as first fit needs, filled evenly.

    All vision packs have the shape of the largest, so one micro-batch of only long questions would cost padding in the
    others. Without `rows` there is one micro-batch.
    """
    size = shards * (rows or sum(map(len, questions)))
    few = _fill(questions, size, capacity)
    batches = _fill(questions, size, capacity, len(few)) or few
    if rows is None:
        batches[0] = batches[0][: shards * bucket(-(-sum(map(bool, batches[0])) // shards), least=1)]
    return batches


def _fill(questions: Sequence[Sequence[Tree]], rows: int, capacity: int, count: int | None = None):
    """Assigns questions, longest first, to micro-batches; a question that fits in no single one is spread over several.

    Each goes to the first micro-batch with room, or to a new one; with `count` given, to the emptiest of them, and the
    result is None where they do not suffice.
    """
    batches = [[[] for _ in range(rows)] for _ in range(count or 0)]
    free = [[capacity] * rows for _ in batches]

    def fits(room, trees):
        """The row for each tree by first fit, or None."""
        room, row_numbers = list(room), []
        for tree in trees:
            row = next((i for i, tokens in enumerate(room) if tokens >= tree.length), None)
            if row is None:
                return None
            room[row] -= tree.length
            row_numbers.append(row)
        return row_numbers

    for question in sorted(questions, key=lambda trees: -sum(tree.length for tree in trees)):
        for trees in [question] if fits([capacity] * rows, question) else [[tree] for tree in question]:
            order = sorted(range(len(batches)), key=lambda m: -sum(free[m])) if count else range(len(batches))
            slot = next(((m, row_numbers) for m in order if (row_numbers := fits(free[m], trees))), None)
            if slot is None and count:
                return None
            if slot is None:
                batches.append([[] for _ in range(rows)])
                free.append([capacity] * rows)
                slot = len(batches) - 1, fits(free[-1], trees)
            m, row_numbers = slot
            for tree, row in zip(trees, row_numbers):
                batches[m][row].append(tree)
                free[m][row] -= tree.length
    return batches
