"""Input embeddings by a program of its own: one compiled for the sizes of pictures fits any lengths of text."""

from functools import partial

import jax
from flax import nnx

from models import qwen2_5_vl as qwen
from models.qwen2_5_vl.packing import Vision
from perl_jax import mesh


@partial(jax.jit, static_argnums=(0, 5))
def embeddings(graph, weights, ids, image_index, vision: Vision | None, axis: int = 0):
    """Input embeddings [..., D] of ids [...] for a model by `nnx.split`; `axis` of ids is shared out as rows."""
    return embedded(nnx.merge(graph, weights), ids, image_index, vision, axis)


def embedded(model: qwen.Qwen2_5_VL, ids, image_index, vision: Vision | None, axis: int, remat: bool = False):
    """The same within a program, each image encoded once."""
    images = model.encode(vision, remat=remat, constrain=mesh.rows)
    return mesh.from_width(model.embed(ids, image_index, images), axis)
