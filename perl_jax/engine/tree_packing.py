"""Packs groups for the update (host side): a prompt and its responses are a tree, and trees share rows of equal length.

In a tree `[prompt | r_1 | ... | r_G]` each response sees the prompt and itself. Rows hold C tokens, so short trees
share one and a long one is split by its responses, its prompt once in each part; B rows on each of S shards of the
mesh are a micro-batch. Whatever the lengths, one shape fits all micro-batches and little of it is padding. The trees of
a question stay together where they can, so that its images are encoded once for all of its orders.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
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
    sampler_logprobs: Sequence | None = None  # only to measure their gap to the update's


@flax.struct.dataclass
class Rows:
    """One micro-batch: B rows of C tokens on each of S shards, and up to C response tokens of each row to be scored,
    these in front."""

    ids: np.ndarray  # int32 [B, S, C]
    position_ids: np.ndarray  # int32 [B, S, 3, C]: M-RoPE
    image_index: np.ndarray  # int32 [B, S, C, 2]: (row, merged token) of the vision pack; -1 where text
    spans: Spans  # of int32 [B, S, C]: what each token sees
    vision: Any  # the family's pack of images, or None
    sources: np.ndarray  # int32 [B, S, C]: the place that predicts the token
    targets: np.ndarray  # int32 [B, S, C]: the token
    index: np.ndarray  # int32 [B, S, C]: its number among all response tokens of the groups; -1: none
    prompts: int = flax.struct.field(pytree_node=False)  # places that the prompts of a row take up at most
    window: int = flax.struct.field(pytree_node=False)  # tokens of a response at most

    @property
    def content(self):
        """(ids, image_index, vision): what the input embeddings are made of."""
        return self.ids, self.image_index, self.vision

    def without_content(self) -> "Rows":
        """What goes with input embeddings."""
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
    padding: float  # the share of their tokens that is none
    split: int  # trees that did not fit in a row and are there in parts


def flat(groups: Sequence[Group], name: str) -> np.ndarray | None:
    """A ragged field of all response tokens as one array [T], in the order of groups, orders, rollouts and tokens.

    Raises ValueError where some groups have it and some have not.
    """
    given = [getattr(group, name) for group in groups]
    if len({x is None for x in given}) > 1:
        raise ValueError(f"{name} must be given for all groups or for none")
    if given[0] is None:
        return None
    parts = [
        np.asarray(values)[: len(response)]
        for group, x in zip(groups, given)
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
    own: Container[int] | None = None,
) -> Forest:
    """Packs groups that share O and G into micro-batches of `rows` rows of `row_tokens` tokens for each shard.

    Of images only the patches on `own` shards are made (by default all), as `pack_images` does.
    Without `row_tokens` a row has room for the longest tree, without `rows` there is one micro-batch. Raises ValueError
    for groups of different shapes, InputError for ids and images that do not fit each other, and for a prompt that does
    not fit in a row with its longest response.
    """
    check(groups)
    prompts, responses = _checked_ids(config, groups)
    lengths = np.array([[[len(r) for r in order] for order in group] for group in responses])
    first = np.cumsum(lengths.ravel()).reshape(lengths.shape) - lengths  # each response's place among all tokens

    trees = [
        [_parts(q, o, len(prompt), lengths[q, o], row_tokens) for o, prompt in enumerate(prompts[q])]
        for q in range(len(groups))
    ]
    questions = [[part for parts in orders for part in parts] for orders in trees]
    longest = max(tree.length for question in questions for tree in question)
    capacity = row_tokens or bucket(longest, between=8)
    batches = _assign(questions, rows, capacity, shards)

    images = Images(config.vision, min_pixels, max_pixels)
    shown = [[[images.add(group.images[i]) for i in order] for order in group.orders] for group in groups]
    needed = [
        sorted({number for row in batch for tree in row for number in shown[tree.group][tree.order]})
        for batch in batches
    ]
    pictures = [[images.found[i] for i in numbers] for numbers in needed]
    layouts = models.family(config).pack_images(config.vision, pictures, shards, own)

    grids, reach = [image.grid for image in images.found], _reach(config, batches, prompts, lengths, capacity)
    call = _Call(config, capacity, shards, prompts, responses, first, shown, grids, reach)
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
    """Token ids of all prompts [Q][O] and responses [Q][O][G] as arrays; InputError for ids that there are not."""
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
    """What all micro-batches of a call share."""

    config: models.Config
    capacity: int  # tokens of a row
    shards: int
    prompts: list  # [Q][O] token ids
    responses: list  # [Q][O][G] token ids
    first: np.ndarray  # [Q, O, G] each response's place among all scored tokens
    shown: list  # [Q][O] the numbers of the images that each prompt shows
    grids: list  # of the images, by number
    reach: tuple[int, int]  # what `_reach` says


def _filled(call: _Call, batch: Sequence[Sequence[Tree]], place: Mapping[int, np.ndarray], vision) -> Rows:
    """The micro-batch of these rows of trees; `place` has where in `vision` each image's merged patches are."""
    config, capacity = call.config, call.capacity
    shape = (len(batch), capacity)
    ids, sources, targets = np.zeros((3, *shape), np.int32)
    positions, index = np.zeros((len(batch), 3, capacity), np.int32), np.full(shape, -1, np.int32)
    image_index = np.full((*shape, 2), -1, np.int32)
    spans = np.broadcast_to(np.arange(capacity, dtype=np.int32), (3, *shape)).copy()  # padding sees itself
    for b, row in enumerate(batch):
        at, scored, forks = 0, 0, []
        for tree in row:
            q, o = tree.group, tree.order
            prompt = call.prompts[q][o]
            here = slice(at, at + len(prompt))
            ids[b, here], spans[:, b, here] = prompt, [[at], [here.stop], [at]]
            grids = [call.grids[number] for number in call.shown[q][o]]
            positions[b, :, here] = mrope_positions(config, prompt, grids, f"group {q}, order {o}")
            if call.shown[q][o]:
                of_images = at + np.flatnonzero(prompt == config.image_token_id)
                image_index[b, of_images] = np.concatenate([place[number] for number in call.shown[q][o]])
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
    # The first S rows are each shard's first, and so on: what is empty is the last row everywhere.
    apart = [
        x.reshape(-1, call.shards, *x.shape[1:]) for x in (ids, positions, image_index, *spans, sources, targets, index)
    ]
    ids, positions, image_index, start, fork, branch, sources, targets, index = apart
    spans = Spans(start, fork, branch)
    return Rows(ids, positions, image_index, spans, vision, sources, targets, index, *call.reach)


def check(groups: Sequence[Group]) -> None:
    """Raises ValueError where there are no groups, or groups of different O or G."""
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
    """`prompts` and `window` of the rows, in few steps: a finer one would be one more program to compile."""
    if kernel_platform(config.text.head_dim):
        return capacity, capacity  # kernels do not ask
    most = max(sum(len(prompts[tree.group][tree.order]) for tree in row) for batch in batches for row in batch)
    longest = max(
        lengths[tree.group, tree.order, g] for batch in batches for row in batch for tree in row for g in tree.responses
    )
    eighth = -(-capacity // 8)
    return min(-(-most // eighth) * eighth, capacity), (eighth if longest <= eighth else capacity)


def _parts(group: int, order: int, prompt: int, lengths, limit: int | None) -> list[Tree]:
    """A prompt with all of its responses, or where that has more than `limit` tokens, with some of them in each part.

    Raises InputError where the prompt and its longest response do not fit.
    """
    parts: list[list[int]] = []
    for g in sorted(range(len(lengths)), key=lambda g: -lengths[g]):  # the longest first, where it still has room
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
    """Micro-batches of `rows` rows of trees for each shard: as few as first fit comes to, all about as full.

    All packs of images have the shape of the largest: one micro-batch of the longest questions would cost padding in
    the others. Without `rows` there is one micro-batch.
    """
    size = shards * (rows or sum(map(len, questions)))
    few = _fill(questions, size, capacity)
    batches = _fill(questions, size, capacity, len(few)) or few
    if rows is None:
        batches[0] = batches[0][: shards * bucket(-(-sum(map(bool, batches[0])) // shards), least=1)]
    return batches


def _fill(questions: Sequence[Sequence[Tree]], rows: int, capacity: int, count: int | None = None):
    """Micro-batches, the longest questions first, each as a whole where one has room for it; else it goes to several.

    Into the first that has room, and a new one where none has; or with `count` of them into the emptiest, and None
    where that does not work out.
    """
    batches = [[[] for _ in range(rows)] for _ in range(count or 0)]
    free = [[capacity] * rows for _ in batches]

    def fits(room, trees):
        """The row that each tree would take, first fit, or None."""
        room, taken = list(room), []
        for tree in trees:
            row = next((i for i, tokens in enumerate(room) if tokens >= tree.length), None)
            if row is None:
                return None
            room[row] -= tree.length
            taken.append(row)
        return taken

    for question in sorted(questions, key=lambda trees: -sum(tree.length for tree in trees)):
        for trees in [question] if fits([capacity] * rows, question) else [[tree] for tree in question]:
            order = sorted(range(len(batches)), key=lambda m: -sum(free[m])) if count else range(len(batches))
            found = next(((m, taken) for m in order if (taken := fits(free[m], trees))), None)
            if found is None and count:
                return None
            if found is None:
                batches.append([[] for _ in range(rows)])
                free.append([capacity] * rows)
                found = len(batches) - 1, fits(free[-1], trees)
            m, taken = found
            for tree, row in zip(trees, taken):
                batches[m][row].append(tree)
                free[m][row] -= tree.length
    return batches
