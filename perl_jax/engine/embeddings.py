"""Input embeddings as a separate program, so that new image sizes do not recompile the text model."""

from functools import partial

import jax
from flax import nnx

import models
from models.layers import checkpointed, remat_name
from perl_jax import mesh

PATCHES = 1 << 14  # patches that a shard encodes at a time, to bound the memory of attention scores


@partial(jax.jit, static_argnums=(0, 5))
def embeddings(graph, weights, ids, image_index, vision, axis: int = 0):
    """Input embeddings [..., E] of ids [...] for a model by `nnx.split`; `axis` of ids is sharded as rows.

    `vision` is the model family's pack of the images, or None.
    """
    return embedded(nnx.merge(graph, weights), ids, image_index, vision, axis)


@partial(jax.jit, static_argnums=0)
def image_tokens(graph, weights, vision):
    """Merged image tokens [R, T, E] of a vision pack, for `lookup`; None without images."""
    return None if vision is None else mesh.to_width(encoded(nnx.merge(graph, weights), vision))


@partial(jax.jit, static_argnums=0)
def lookup(graph, weights, ids, image_index, images):
    """Input embeddings [N, T, E] of ids [N, T], whose images `image_tokens` has encoded."""
    return mesh.from_width(nnx.merge(graph, weights).embed(ids, image_index, images))


def embedded(model: models.Model, ids, image_index, vision, axis: int, remat: str = "none"):
    """Input embeddings inside a program (see `embeddings`), each image encoded once."""
    images = None if vision is None else mesh.to_width(encoded(model, vision, remat))
    return mesh.from_width(model.embed(ids, image_index, images), axis)


def encoded(model: models.Model, vision, remat: str = "none"):
    """Merged image tokens [R, T, E] of a vision pack of R rows; a shard encodes at most `PATCHES` patches at a time."""
    (R, C), S = vision.images.shape, mesh.shards()
    share = R // S
    parts = next(n for n in range(1, share + 1) if share % n == 0 and (share // n * C <= PATCHES or n == share))

    def encode(part):
        return model.encode(part, remat=remat, constrain=mesh.rows)

    if parts == 1:
        return encode(vision)

    def turned(x, first: int, second: int):  # transposes rows [first, second, ...] to [second, first, ...]
        x = x.reshape(first, second, -1, *x.shape[1:]).swapaxes(0, 1)
        return x.reshape(-1, *x.shape[3:])

    def part(x):
        x = turned(x, S, parts)
        return mesh.rows(x.reshape(parts, -1, *x.shape[1:]), axis=1)

    # A part is recomputed whole, else the loop would keep the inputs of all layers for all parts.
    whole = remat if remat_name(remat) == "full" else "none"
    tokens = jax.lax.map(checkpointed(encode, whole), jax.tree.map(part, vision))
    return turned(tokens.reshape(R, *tokens.shape[2:]), parts, S)
