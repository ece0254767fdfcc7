"""The groups of an optimizer step, packed on the host, and the loss inputs of their tokens."""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import numpy as np

import models
from perl_jax import mesh
from perl_jax.engine import tree_packing
from perl_jax.engine.tree_packing import Forest, Group


@dataclasses.dataclass(frozen=True)
class Packed:
    """The groups of an optimizer step, packed once for all passes over them: reference, old log-probs and update."""

    groups: list[Group]  # all of the step
    computed: list[int]  # those in the forest
    forest: Forest  # on the host

    @property
    def lengths(self) -> np.ndarray:
        """Of all responses, int [Q, O, G]."""
        return np.array([[[len(r) for r in order] for order in group.responses] for group in self.groups])

    def with_logprobs(self, field: str, logprobs: np.ndarray) -> "Packed":
        """Sets `old_logprobs` or `ref_logprobs` of all groups, from [Q, O, G, R]."""
        groups = [group._replace(**{field: values}) for group, values in zip(self.groups, logprobs, strict=True)]
        return dataclasses.replace(self, groups=groups)


def pack(
    config: models.Config,
    groups: Sequence[Group],
    *,
    only_signal: bool = False,
    rows: int | None = None,
    row_tokens: int | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Packed:
    """Packs groups that share O and G into micro-batches, on the host (see `tree_packing.pack`, also for errors).

    With `only_signal`, groups whose advantages are all 0 are left out; were all left out, the first one is packed
    nevertheless, for its metrics.
    """
    tree_packing.check(groups)
    computed = [q for q, group in enumerate(groups) if not only_signal or np.any(group.advantages)] or [0]
    selected = [groups[q] for q in computed]
    forest = tree_packing.pack(
        config, selected, rows, row_tokens, min_pixels, max_pixels, mesh.shards(), mesh.local_shards()
    )
    return Packed(list(groups), computed, forest)


class Tokens(flax.struct.PyTreeNode):
    """Loss inputs of scored tokens: float32 [T] of all, then [B, S, C] of a micro-batch."""

    weights: np.ndarray
    advantages: np.ndarray
    old_logprobs: np.ndarray | None  # None: those of this forward pass
    ref_logprobs: np.ndarray | None
    sampler_logprobs: np.ndarray | None
    responses: np.ndarray  # int32: the number of each token's response, in a micro-batch among those of its row

    @classmethod
    def of(cls, groups: Sequence[Group], weights: np.ndarray, lengths: np.ndarray) -> "Tokens":
        """Flattens groups whose responses, in order, have these weights and lengths (each [Q, O * G])."""
        return cls(
            weights=np.repeat(weights.ravel(), lengths).astype(np.float32),
            advantages=np.repeat(np.concatenate([np.ravel(g.advantages) for g in groups]), lengths).astype(np.float32),
            old_logprobs=tree_packing.flat(groups, "old_logprobs"),
            ref_logprobs=tree_packing.flat(groups, "ref_logprobs"),
            sampler_logprobs=tree_packing.flat(groups, "sampler_logprobs"),
            responses=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        )

    def at(self, index: np.ndarray) -> "Tokens":
        """The tokens at the places `index` [B, S, C]; where that is -1, all values are 0 and the response is -1."""
        tokens = jax.tree.map(lambda x: np.where(index >= 0, x[index], 0), self)
        starts = np.diff(np.where(index >= 0, tokens.responses, -1), axis=-1, prepend=-1) != 0  # responses lie together
        numbers = np.where(index >= 0, np.cumsum(starts, axis=-1) - 1, -1).astype(np.int32)
        return tokens.replace(responses=numbers)
