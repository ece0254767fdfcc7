"""Input embeddings by a program of its own: one compiled for the sizes of pictures fits any lengths of text."""

from functools import partial

import jax
from flax import nnx

import models
from perl_jax import mesh

PATCHES = 1 << 14  # of each shard that are encoded at a time: attention's scores over more would fill its memory


@partial(jax.jit, static_argnums=(0, 5))
def embeddings(graph, weights, ids, image_index, vision, axis: int = 0):
    """Input embeddings [..., E] of ids [...] for a model by `nnx.split`; `axis` of ids is shared out as rows.

    `vision` is the family's pack of the images, or None.
    """
    return embedded(nnx.merge(graph, weights), ids, image_index, vision, axis)


def embedded(model: models.Model, ids, image_index, vision, axis: int, remat: bool = False):
    """The same within a program, each image encoded once."""
    images = None if vision is None else mesh.to_width(encoded(model, vision, remat))
    return mesh.from_width(model.embed(ids, image_index, images), axis)


def encoded(model: models.Model, vision, remat: bool = False):
    """Merged tokens [R, T, E] of a pack of R rows, of which each shard encodes so many at a time that memory bounds."""
    (R, C), S = vision.images.shape, mesh.shards()
    share = R // S
    parts = next(n for n in range(1, share + 1) if share % n == 0 and (share // n * C <= PATCHES or n == share))

    def encode(part):
        return model.encode(part, remat=remat, constrain=mesh.rows)

    if parts == 1:
        return encode(vision)

    def turned(x, first: int, second: int):  # the rows of [first, second, ...] as those of [second, first, ...]
        x = x.reshape(first, second, -1, *x.shape[1:]).swapaxes(0, 1)
        return x.reshape(-1, *x.shape[3:])

    def part(x):
        x = turned(x, S, parts)
        return mesh.rows(x.reshape(parts, -1, *x.shape[1:]), axis=1)

    # With remat a part is computed once more: else the loop would hold what each of its layers has in between.
    tokens = jax.lax.map(jax.checkpoint(encode) if remat else encode, jax.tree.map(part, vision))
    return turned(tokens.reshape(R, *tokens.shape[2:]), parts, S)
