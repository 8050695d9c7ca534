"""Compare each photometric operation on a batch with torchvision's on tensors: milliseconds per image, and ratios.

python -m benchmarks.photometric --batch=16
python -m benchmarks.photometric --cpu-time --only=jpeg,equalize

Ours is `photometric.augment_view` with one operation on, for every image, without the time of `normalize` alone. The
peer is the same operation of torchvision.transforms.v2 on uint8 tensors, image by image, each with parameters of its
own, as in a DataLoader; noise on float tensors; JPEG is Pillow's, written to memory and read. A ratio above 1: ours is
faster. Motion blur has no peer. The moves of RandAugment and TrivialAugment are part of the peer's time alone.
"""

import io
import statistics
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks import harness
from benchmarks.harness import Contender

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = 0.05  # milliseconds: a shorter time is lost in that of `normalize`, and has no ratio
CHANGES = {
    "brightness": "brightness=0.4",
    "contrast": "contrast=0.4",
    "saturation": "saturation=0.4",
    "hue": "hue=0.1",
    "gamma": "gamma=0.3",
    "sharpness": "sharpness=0.5",
    "grey": "gray_prob=1.0",
    "autocontrast": "autocontrast_prob=1.0",
    "equalize": "equalize_prob=1.0",
    "blur": "blur_prob=1.0",
    "motion blur": "motion_blur_prob=1.0",
    "solarize": "solarize_prob=1.0",
    "posterize": "posterize_prob=1.0",
    "invert": "invert_prob=1.0",
    "noise": "noise=0.1",
    "jpeg": "jpeg_prob=1.0",
    "erase": "erase_prob=1.0",
    "RandAugment": "auto=randaugment:2:9",
    "TrivialAugment": "auto=trivialaugment",
    "AugMix": "auto=augmix:3",
}
"""Operation -> the fields of the view that it is alone in."""


def ours(change: str, images: np.ndarray) -> Callable[[], object]:
    """Return a function that augments the batch on the device and waits for it."""
    import jax

    from jaxdino.core.resize import Resize
    from jaxdino.data import photometric, policies, policy_geometry
    from jaxdino.data.geometry import evaluated
    from jaxdino.data.presets import get_preset

    view = get_preset(f"none,{change}" if change else "none")
    still, rng = evaluated((224, 224), (224, 224), Resize()), np.random.default_rng(0)
    length = policies.most([view.auto])
    operations = np.stack([policy_geometry.applied(view.auto, still, rng, length)[1] for _ in images])
    augment = jax.jit(lambda *given: photometric.augment_view(*given[:2], view, MEAN, STD, operations=given[2]))
    placed = jax.device_put((jax.random.key(0), images, operations))
    return lambda: jax.block_until_ready(augment(*placed))


def peers(images: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return a function for each operation that torchvision has: all images, one after the other."""
    harness.allow_torchvision()
    import torch
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional as f

    rng, tensors = np.random.default_rng(0), list(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    factors, sigmas = rng.uniform(0.6, 1.4, len(tensors)), rng.uniform(0.1, 2.0, len(tensors))
    one = {
        "brightness": lambda x, i: f.adjust_brightness(x, factors[i]),
        "contrast": lambda x, i: f.adjust_contrast(x, factors[i]),
        "saturation": lambda x, i: f.adjust_saturation(x, factors[i]),
        "hue": lambda x, i: f.adjust_hue(x, (factors[i] - 1) / 4),
        "gamma": lambda x, i: f.adjust_gamma(x, factors[i]),
        "sharpness": lambda x, i: f.adjust_sharpness(x, factors[i]),
        "grey": lambda x, i: f.rgb_to_grayscale(x, 3),
        "autocontrast": lambda x, i: f.autocontrast(x),
        "equalize": lambda x, i: f.equalize(x),
        "blur": lambda x, i: f.gaussian_blur(x, [13, 13], [sigmas[i]] * 2),
        "solarize": lambda x, i: f.solarize(x, 128),
        "posterize": lambda x, i: f.posterize(x, 4 + i % 5),
        "invert": lambda x, i: f.invert(x),
        "noise": lambda x, i: f.gaussian_noise(x.float() / 255, sigma=0.1),
        **{
            name: lambda x, i, change=change: change(x)
            for name, change in (
                ("RandAugment", v2.RandAugment()),
                ("TrivialAugment", v2.TrivialAugmentWide()),
                ("AugMix", v2.AugMix()),
            )
        },
        "erase": lambda x, i: f.erase(x, 10, 10, 60, 60, torch.zeros(3, 1, 1, dtype=torch.uint8)),
    }

    return {name: lambda change=change: [change(x, i) for i, x in enumerate(tensors)] for name, change in one.items()}


def pillow_jpeg(images: np.ndarray) -> Callable[[], object]:
    """Return a function that writes and reads each image as a JPEG in memory."""

    def run() -> None:
        for index, image in enumerate(images):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=50 + index % 46)
            Image.open(file).load()

    return run


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__, batch=16, rounds=5)
    flags.add_argument("--only", default="", help="operations, with commas between them")
    args = flags.parse_args()
    harness.begin(args)
    images = np.random.default_rng(0).integers(0, 256, (args.batch, 224, 224, 3), np.uint8)
    theirs = {"jpeg": pillow_jpeg(images)} | peers(images)
    base = "normalize alone"
    print(f"\n{args.batch} images of 224 pixels; milliseconds an image; ratio: peer's time / ours")
    for name in [name for name in CHANGES if not args.only or name in args.only.split(",")]:
        contenders = [
            Contender(base, ours("", images), args.batch, peer=False),
            Contender(name, ours(CHANGES[name], images), args.batch, peer=False),
        ]
        if name in theirs:
            contenders.append(Contender("peer", theirs[name], args.batch))
        times = harness.alternate(contenders, args.rounds, seconds=0.2)
        mine = statistics.median(a - b for a, b in zip(times[name], times[base], strict=True)) / args.batch * 1e3
        shown = f"  {name:<16} {max(mine, 0):8.2f}"
        if "peer" in times:
            peer = statistics.median(times["peer"]) / args.batch * 1e3
            ratio = f"{peer / mine:6.2f}" if mine >= SMALL else "     -"
            shown += f"   peer {peer:8.2f}   ratio {ratio}"
        print(shown, flush=True)


if __name__ == "__main__":
    main()
