"""Notes for users of Meta's `.pth` files: a state dict does not describe the shape."""

from convert.card import Card

_CODE = {
    "dino": "dino's vision_transformer.VisionTransformer",
    "dinov2": "dinov2.models.vision_transformer.DinoVisionTransformer",
    "dinov3": "dinov3.models.vision_transformer.DinoVisionTransformer",
}
_MORE = {
    "dino": lambda c, ratio: {"mlp_ratio": ratio},
    "dinov2": lambda c, ratio: {
        "mlp_ratio": ratio,
        "ffn_layer": "swiglufused" if c.swiglu else "mlp",
        "init_values": 1e-5,
        "num_register_tokens": c.num_registers,
        "interpolate_antialias": c.pos_antialias,
        "interpolate_offset": c.pos_offset,
        "block_chunks": 0,
    },
    "dinov3": lambda c, ratio: {
        "ffn_ratio": ratio,
        "ffn_layer": "swiglu" if c.swiglu else "mlp",
        "layerscale_init": 1e-5,
        "n_storage_tokens": c.num_registers,
        "mask_k_bias": c.mask_k_bias,
        "norm_layer": "layernormbf16",
        "pos_embed_rope_base": c.rope_base,
    },
}
"""Names of the other shape arguments in each class."""


def notes(card: Card) -> list[str]:
    """Return the arguments of Meta's class for a shape without a name in its hub."""
    c, family = card.spec.config, card.spec.family
    if not card.spec.name.endswith("_custom") and c.in_channels == 3:
        return []
    size = [n * c.patch_size for n in c.pos_grid] if c.positions == "learned" else list(card.spec.preprocess.size)
    ratio = c.mlp_dim * (1.5 if c.swiglu else 1) / c.width
    words = {
        "img_size": size[0] if family != "dino" else size[:1],
        "patch_size": c.patch_size,
        "in_chans": c.in_channels,
        "embed_dim": c.width,
        "depth": c.depth,
        "num_heads": c.num_heads,
        "qkv_bias": c.qkv_bias,
        **_MORE[family](c, ratio),
    }
    told = ", ".join(f"{name}={value!r}" for name, value in words.items())
    return [f"a state dict alone, of a shape that has no name: build {_CODE[family]}({told}), then load it"]
