"""The network of all families: images and text to next-token logits. A family brings its vision tower and its decoder's
variant."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

import models
from models.attention import causal
from models.decoder import Decoder, Variant
from models.layers import Linear, logits
from models.packing import Inputs
from models.source import Source


class Network(nnx.Module):
    """A `models.Model`. Weights are stored in `dtype`, activations in `compute_dtype` (default the same).

    Hub names follow from attribute paths (weights.py); `source` is the metadata of loaded weights.
    """

    vision_tower: ClassVar[type[nnx.Module]]
    variant: ClassVar[Callable[[Any], Variant]]  # of the decoder, by the text config; a staticmethod

    def __init__(
        self,
        config: models.Config,
        *,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
        compute_dtype=None,
        source: Source | None = None,
    ):
        self.config = config
        self.source = source
        self.compute_dtype = jnp.dtype(compute_dtype or dtype)
        self.visual = self.vision_tower(config.vision, rngs=rngs, dtype=dtype)
        self.model = Decoder(config.text, self.variant(config.text), rngs=rngs, dtype=dtype)
        if not config.text.tie_word_embeddings:
            shape = (config.text.hidden_size, config.text.vocab_size)
            self.lm_head = Linear(shape, ("embed", "vocab"), rngs=rngs, dtype=dtype)

    def __call__(self, inputs: Inputs) -> jax.Array:
        """Logits, float32 [B, T, V], of packed prompts; unspecified where `inputs.mask` is 0."""
        return _forward(*nnx.split(self), inputs)

    def encode(self, pack: Any, **options):
        """Merged image tokens [R, C / merge^2, E] of a pack, or None without images; options as in `models.Model`."""
        return None if pack is None else self.visual(pack, self.compute_dtype, **options)

    def embed(self, ids, image_index=None, image_tokens=None):
        """Input embeddings [..., E] of ids [...], with image tokens at (row, place) where image_index [..., 2] >= 0.

        Text has zeros after its first D values; without `image_tokens` these alone are given, [..., D].
        """
        # Cast after the gather: a frequent token's gradient is summed in the table's dtype, not the compute dtype.
        h = self.model.embed_tokens.embedding[...][ids].astype(self.compute_dtype)
        if image_tokens is None:
            return h
        h = jnp.pad(h, [(0, 0)] * ids.ndim + [(0, image_tokens.shape[-1] - h.shape[-1])])
        tokens = image_tokens.astype(jnp.float32)  # likewise: an image's gradients from all orders are added
        images = tokens[image_index[..., 0], image_index[..., 1]]  # -1 reads the last token, masked below
        return jnp.where(image_index[..., :1] >= 0, images.astype(h.dtype), h)

    def head(self):
        """The output matrix [D, V]."""
        tied = self.config.text.tie_word_embeddings
        return self.model.embed_tokens.embedding[...].T if tied else self.lm_head.kernel[...]

    def logits(self, h):
        """Logits, float32 [..., V], of hidden states [..., D] that `self.model` returned."""
        return logits(h, self.head())


@partial(jax.jit, static_argnums=0)
def _forward(graph, weights, inputs: Inputs):
    model = nnx.merge(graph, weights)
    h = model.embed(inputs.ids, inputs.image_index, model.encode(inputs.vision))
    h, _ = jax.vmap(
        lambda h, positions: model.model(h, positions, lambda *qkv: (causal(*qkv)[0], None)), in_axes=(0, 1)
    )(h, inputs.position_ids)
    return model.logits(h)
