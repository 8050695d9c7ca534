"""Compare CLIP's towers and SAM's image encoder with transformers': images/s or texts/s, forward and a training step.

    python -m benchmarks.towers --part image text
    python -m benchmarks.towers --part sam --size 1024 --batch 1 --only forward

ViT-B/32 of CLIP at 224 pixels, texts of 77 tokens; ViT-B of SAM at `--size` pixels. Weights are random and the same on
both sides, in float32. The training step is that of `benchmarks.modules`.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.modules import contenders

CLIP_SIDE, CLIP_PATCH, TOKENS, WORDS = 224, 32, 77, 49408


def loaded(model: Any) -> tuple[Any, dict[str, Any]]:
    """Return our skeleton and parameters with the weights of a model of transformers."""
    import jax.numpy as jnp

    from convert.load import load_pretrained

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found = load_pretrained(folder)
    return found.card.spec.skeleton(), {path: jnp.asarray(array) for path, array in found.flat.items()}


def pixels(batch: int, side: int) -> tuple[Any, Any]:
    """Return the same images for us (B, H, W, 3) and for PyTorch (B, 3, H, W)."""
    import jax.numpy as jnp
    import torch

    drawn = np.random.default_rng(0).standard_normal((batch, side, side, 3), np.float32)
    return jnp.asarray(drawn), torch.tensor(drawn).permute(0, 3, 1, 2).contiguous()


def image(batch: int, size: int) -> tuple[Callable, dict, Any, Any]:
    """CLIP's image tower."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from jaxdino.core.params import bind

    config = CLIPVisionConfig(image_size=CLIP_SIDE, patch_size=CLIP_PATCH, projection_dim=512)
    model = CLIPVisionModelWithProjection(config).eval()
    skeleton, flat = loaded(model)
    ours, theirs = pixels(batch, CLIP_SIDE)
    return lambda flat: (bind(skeleton, flat).backbone.encode_image(ours),), flat, model, theirs


def text(batch: int, size: int) -> tuple[Callable, dict, Any, Any]:
    """CLIP's text tower."""
    import jax.numpy as jnp
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from jaxdino.core.params import bind

    model = CLIPTextModelWithProjection(CLIPTextConfig(projection_dim=512, eos_token_id=WORDS - 1)).eval()
    skeleton, flat = loaded(model)
    ids = np.random.default_rng(0).integers(1, WORDS - 2, (batch, TOKENS))
    ids[:, -1] = WORDS - 1
    ours = jnp.asarray(ids, jnp.int32)
    return lambda flat: (bind(skeleton, flat).backbone.encode_text(ours),), flat, model, torch.tensor(ids)


def sam(batch: int, size: int) -> tuple[Callable, dict, Any, Any]:
    """SAM's image encoder."""
    from transformers import SamConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    from jaxdino.core.params import bind

    prompts = SamPromptEncoderConfig(image_size=size)
    model = SamModel(SamConfig(vision_config=SamVisionConfig(image_size=size), prompt_encoder_config=prompts)).eval()
    skeleton, flat = loaded(model)
    ours, theirs = pixels(batch, size)
    encoder = {path: array for path, array in flat.items() if path.startswith("backbone.image_encoder.")}
    others = {path: array for path, array in flat.items() if path not in encoder}
    return lambda flat: (bind(skeleton, flat | others).backbone.encode(ours),), encoder, model.vision_encoder, theirs


PARTS = {"image": image, "text": text, "sam": sam}


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__)
    flags.add_argument("--part", nargs="+", choices=PARTS, default=["image", "text"])
    flags.add_argument("--size", type=int, default=512, help="pixels, of SAM")
    flags.add_argument("--only", choices=("forward", "training step"), help="one of the two")
    args = flags.parse_args()
    harness.begin(args)
    harness.allow_torchvision()  # transformers wants torchvision's operators too
    for name in args.part:
        made = PARTS[name](args.batch, args.size)
        for what, both in contenders(made, args.batch).items():
            if args.only in (None, what):
                title = f"{what}, {name}{f' at {args.size}' if name == 'sam' else ''}, batch {args.batch}, float32"
                harness.report(title, both, harness.alternate(both, args.rounds))


if __name__ == "__main__":
    main()
