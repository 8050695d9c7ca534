"""Write a SAM's config.json and preprocessor_config.json for transformers."""

from typing import Any

from convert.card import Card


def files(card: Card, dtype: str) -> dict[str, dict[str, Any]]:
    """Build both files, for `SamModel` and `SamImageProcessor`."""
    return {"config.json": _config(card, dtype), "preprocessor_config.json": _preprocessor(card)}


def _config(card: Card, dtype: str) -> dict[str, Any]:
    c = card.spec.config
    frame = {"image_size": c.image_size, "patch_size": c.patch_size}
    vision = {
        "model_type": "sam_vision_model",
        **frame,
        "hidden_size": c.encoder_width,
        "output_channels": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.num_heads,
        "num_channels": c.in_channels,
        "hidden_act": "gelu",
        "layer_norm_eps": c.encoder_eps,
        "qkv_bias": True,
        "mlp_dim": c.mlp_dim,
        "mlp_ratio": c.mlp_dim / c.encoder_width,
        "use_abs_pos": True,
        "use_rel_pos": True,
        "window_size": c.window_size,
        "global_attn_indexes": list(c.global_attn_indexes),
        "num_pos_feats": c.width // 2,
    }
    prompts = {
        "model_type": "sam_prompt_encoder",
        **frame,
        "hidden_size": c.width,
        "mask_input_channels": c.mask_channels,
        "num_point_embeddings": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }
    decoder = {
        "model_type": "sam_mask_decoder",
        "hidden_size": c.width,
        "hidden_act": "relu",
        "mlp_dim": c.decoder_mlp_dim,
        "num_hidden_layers": c.decoder_depth,
        "num_attention_heads": c.decoder_heads,
        "attention_downsample_rate": c.attention_downsample_rate,
        "num_multimask_outputs": c.num_multimask_outputs,
        "iou_head_depth": 3,
        "iou_head_hidden_dim": c.iou_hidden_dim,
        "layer_norm_eps": c.decoder_eps,
    }
    return {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "dtype": dtype,
        "vision_config": vision,
        "prompt_encoder_config": prompts,
        "mask_decoder_config": decoder,
    }


def _preprocessor(card: Card) -> dict[str, Any]:
    """Build the processor file: resize the longest side to the frame, normalise, pad at the bottom and right."""
    how, side = card.spec.preprocess, card.spec.config.image_size
    masks = 4 * card.spec.config.grid
    return {
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamProcessor",
        "do_resize": True,
        "size": {"longest_edge": side},
        "mask_size": {"longest_edge": masks},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(how.mean),
        "image_std": list(how.std),
        "do_pad": True,
        "pad_size": {"height": side, "width": side},
        "mask_pad_size": {"height": masks, "width": masks},
        "do_convert_rgb": True,
    }
