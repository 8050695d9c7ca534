"""Convert DINO's patch tokens and CLIP's text features to the inputs of SAM's mask decoder."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.models.initial import normal
from jaxdino.models.layers import LayerNorm, gelu, over_last_axis
from jaxdino.models.sam_layers import Conv, dense, run


def unit(x: jax.Array) -> jax.Array:
    """Normalise x to length one along the last axis, float32; the gradient at zero is finite."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))


class TokenProjection(nnx.Module):
    """Project patch tokens (..., D) to the width of the text features (..., T): fc2(gelu(fc1(norm(x))))."""

    def __init__(self, width: int, hidden: int, out: int, rngs: nnx.Rngs):
        self.norm = LayerNorm(width, 1e-6)
        self.fc1 = dense(width, hidden, rngs)
        self.fc2 = dense(hidden, out, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(gelu(self.fc1(self.norm(x))))


class TokenToMaskEmbedding(nnx.Module):
    """Convert projected tokens and texts to the decoder's image embedding and prompts.

    The neck has the shape of the neck of SAM's image encoder. The dense prompt of a token is the learned `similarity`
    vector times the cosine of token and text.
    """

    def __init__(self, width: int, out: int, rngs: nnx.Rngs):
        self.neck = nnx.List(
            [
                Conv(width, out, 1, rngs, use_bias=False),
                LayerNorm(out, 1e-6),
                Conv(out, out, 3, rngs, padding=1, use_bias=False),
                LayerNorm(out, 1e-6),
            ]
        )
        self.similarity = nnx.Param(normal(rngs, (out,)))
        self.text = dense(width, out, rngs)

    def __call__(self, tokens: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Map tokens (B, h, w, T) and text (B, P, T) of unit length to the decoder's inputs of width E.

        Returns:
          The image embedding (B, h, w, E); the dense prompts (B, P, h, w, E), to be added to the vector for "no mask";
          the sparse ones (B, P, 1, E).
        """
        cosines = jnp.einsum("bhwt,bpt->bphw", unit(tokens), text.astype(jnp.float32))[..., None]
        alike = cosines * over_last_axis(self.similarity[...], cosines)
        return run(self.neck, tokens), alike, self.text(text.astype(tokens.dtype))[:, :, None]
