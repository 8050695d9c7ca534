"""SAM's mask decoder: a two-way transformer between prompt tokens and the image, then masks from both.

Sources: facebookresearch/segment-anything segment_anything/modeling/{mask_decoder,transformer}.py; Kirillov et al.
2023, Segment Anything (arXiv:2304.02643), appendix A.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.models.attention import attention
from jaxdino.models.layers import LayerNorm, gelu
from jaxdino.models.sam_layers import MLP, Doubling, Embedding, Gelu, MLPBlock, dense, run


class Attention(nnx.Module):
    """Multi-head attention whose inner width is width / rate.

    Queries and keys are (B, P, N, D); one with P = 1 is shared by all prompts and projected only once.
    """

    def __init__(self, width: int, num_heads: int, rate: int, rngs: nnx.Rngs):
        inner = width // rate
        self.q_proj, self.k_proj, self.v_proj = (dense(width, inner, rngs) for _ in range(3))
        self.out_proj = dense(inner, width, rngs)
        self.num_heads = num_heads

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        b, p = q.shape[0], max(q.shape[1], k.shape[1])

        def heads(x: jax.Array) -> jax.Array:
            x = jnp.broadcast_to(x, (b, p, *x.shape[2:]))
            return x.reshape(b * p, x.shape[2], self.num_heads, -1).transpose(0, 2, 1, 3)

        out = attention(heads(self.q_proj(q)), heads(self.k_proj(k)), heads(self.v_proj(v)), "xla")
        return self.out_proj(jnp.swapaxes(out, 1, 2).reshape(b, p, q.shape[2], -1))


class TwoWayAttentionBlock(nnx.Module):
    """Tokens attend to themselves and to the image, then the image to the tokens; norms after each residual."""

    def __init__(self, cfg, first: bool, rngs: nnx.Rngs):
        width, heads, rate = cfg.width, cfg.decoder_heads, cfg.attention_downsample_rate
        self.self_attn = Attention(width, heads, 1, rngs)
        self.norm1 = LayerNorm(width, cfg.decoder_eps)
        self.cross_attn_token_to_image = Attention(width, heads, rate, rngs)
        self.norm2 = LayerNorm(width, cfg.decoder_eps)
        self.mlp = MLPBlock(width, cfg.decoder_mlp_dim, jax.nn.relu, rngs)
        self.norm3 = LayerNorm(width, cfg.decoder_eps)
        self.norm4 = LayerNorm(width, cfg.decoder_eps)
        self.cross_attn_image_to_token = Attention(width, heads, rate, rngs)
        self.first = first

    def __call__(self, tokens, image, token_positions, image_positions) -> tuple[jax.Array, jax.Array]:
        """Update tokens (B, P, N, D) and image (B, P or 1, h w, D); positions are added to each as a query or key."""
        if self.first:  # the tokens are their own positions, and there is no residual
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            q = tokens + token_positions
            tokens = self.norm1(tokens + self.self_attn(q, q, tokens))
        placed = image + image_positions
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_positions, placed, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        answer = self.cross_attn_image_to_token(placed, tokens + token_positions, tokens)
        return tokens, self.norm4(image + answer)


class TwoWayTransformer(nnx.Module):
    """The two-way blocks, and a final attention from the tokens to the image."""

    def __init__(self, cfg, rngs: nnx.Rngs):
        self.layers = nnx.List([TwoWayAttentionBlock(cfg, i == 0, rngs) for i in range(cfg.decoder_depth)])
        self.final_attn_token_to_image = Attention(cfg.width, cfg.decoder_heads, cfg.attention_downsample_rate, rngs)
        self.norm_final_attn = LayerNorm(cfg.width, 1e-5)

    def __call__(self, image, image_positions, tokens) -> tuple[jax.Array, jax.Array]:
        """Update image (B, P or 1, h w, D) and tokens (B, P, N, D) by all blocks; positions are (1, 1, h w, D)."""
        given = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, given, image_positions)
        answer = self.final_attn_token_to_image(tokens + given, image + image_positions, image)
        return self.norm_final_attn(tokens + answer), image


class MaskDecoder(nnx.Module):
    """Predict masks and their quality from an image embedding and embedded prompts.

    The first mask is for unambiguous prompts; the others are three interpretations of an ambiguous one.
    """

    def __init__(self, cfg, rngs: nnx.Rngs, dtype: jnp.dtype):
        width, count = cfg.width, cfg.num_multimask_outputs + 1
        self.iou_token = Embedding(1, width, rngs)
        self.mask_tokens = Embedding(count, width, rngs)
        self.transformer = TwoWayTransformer(cfg, rngs)
        self.output_upscaling = nnx.List(
            [
                Doubling(width, width // 4, rngs),
                LayerNorm(width // 4, 1e-6),
                Gelu(),
                Doubling(width // 4, width // 8, rngs),
            ]
        )
        self.output_hypernetworks_mlps = nnx.List([MLP(width, width, width // 8, rngs) for _ in range(count)])
        self.iou_prediction_head = MLP(width, cfg.iou_hidden_dim, count, rngs)
        self.dtype = dtype

    def __call__(
        self, image_embedding: jax.Array, positions: jax.Array, sparse: jax.Array, dense: jax.Array, multimask: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Predict M masks for each of P prompts of B images.

        Args:
          image_embedding: (B, h, w, D). positions: (h, w, D), `PromptEncoder.image_positions`.
          sparse: (B or 1, P, N, D). dense: (B or 1, P or 1, h or 1, w or 1, D); both from `PromptEncoder`.
          multimask: all masks except the first, or only the first (M = 1). Static under jit.

        Returns:
          logits (B, P, M, 4 h, 4 w) float32, above 0 inside the mask, and their predicted IoU (B, P, M) float32.
        """
        b, h, w, width = image_embedding.shape
        p, cells = sparse.shape[1], h * w
        image = image_embedding.astype(self.dtype)[:, None] + dense.astype(self.dtype)
        image = image.reshape(b, -1, cells, width)
        places = positions.astype(self.dtype).reshape(1, 1, cells, width)
        own = jnp.concatenate([self.iou_token.embedding[...], self.mask_tokens.embedding[...]], axis=0)
        own = jnp.broadcast_to(own.astype(self.dtype)[None, None], (b, p, *own.shape))
        sparse = jnp.broadcast_to(sparse.astype(self.dtype), (b, *sparse.shape[1:]))
        tokens, image = self.transformer(image, places, jnp.concatenate([own, sparse], axis=2))
        fine = gelu(run(self.output_upscaling, image.reshape(b * p, h, w, width)))
        fine = fine.reshape(b, p, 4 * h, 4 * w, -1)
        last = self.mask_tokens.embedding.shape[0]
        chosen = range(1, last) if multimask else range(1)
        weights = jnp.stack([self.output_hypernetworks_mlps[n](tokens[:, :, 1 + n]) for n in chosen], axis=2)
        logits = jnp.einsum("bpmc,bpyxc->bpmyx", weights, fine, preferred_element_type=jnp.float32)
        iou = self.iou_prediction_head(tokens[:, :, 0]).astype(jnp.float32)
        return logits.astype(jnp.float32), iou[..., 1:] if multimask else iou[..., :1]
