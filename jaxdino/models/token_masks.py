"""From DINO's patch tokens to what SAM's mask decoder reads, by way of the width of CLIP's text features."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.models.initial import normal
from jaxdino.models.layers import LayerNorm, gelu, over_last_axis
from jaxdino.models.sam_layers import Conv, dense, run


def unit(x: jax.Array) -> jax.Array:
    """x at length one along the last axis, float32; the gradient at zero is finite."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))


class TokenProjection(nnx.Module):
    """fc2(gelu(fc1(norm(x)))): patch tokens (..., D) to the width of the text features (..., T)."""

    def __init__(self, width: int, hidden: int, out: int, rngs: nnx.Rngs):
        self.norm = LayerNorm(width, 1e-6)
        self.fc1 = dense(width, hidden, rngs)
        self.fc2 = dense(hidden, out, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(gelu(self.fc1(self.norm(x))))


class TokenToMaskEmbedding(nnx.Module):
    """Projected tokens and texts as the decoder's image embedding and prompts.

    The neck is shaped as that of SAM's image encoder. Where a token is to the text as the text is to itself, the dense
    prompt is the learned `similarity` vector, elsewhere the cosine's share of it.
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
        """tokens (B, h, w, T) and text (B, P, T) of unit length to what the decoder reads, E wide.

        Returns:
          The image embedding (B, h, w, E); the dense prompts (B, P, h, w, E), to be added to the vector for "no mask";
          the sparse ones (B, P, 1, E).
        """
        cosines = jnp.einsum("bhwt,bpt->bphw", unit(tokens), text.astype(jnp.float32))[..., None]
        alike = cosines * over_last_axis(self.similarity[...], cosines)
        return run(self.neck, tokens), alike, self.text(text.astype(tokens.dtype))[:, :, None]
