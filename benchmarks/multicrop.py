"""Compare multi-crop, from JPEG files to DINO's augmented views, with torchvision in a DataLoader: images/s.

python -m benchmarks.multicrop --batch=32
python -m benchmarks.multicrop --root=DIR --cpu-time

Two global crops of 224 and eight local ones of 96 pixels, with DINO's recipes. The peer does all of it with
torchvision on PIL images, as main_dino.py does, and ends with normalised float tensors; we cut the crops on the
host and do the rest in one jitted call on the device, which is waited for. "Host part" leaves that call out.
The images are those of benchmarks.input_pipeline. Workers are threads for us and processes for torch, as many for
each; with --cpu-time there are none, and everything happens in one thread.
"""

import itertools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image, ImageFilter

from benchmarks import harness
from benchmarks.harness import Contender
from benchmarks.input_pipeline import make_images
from jaxdino.data.config import DataConfig
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.recipe import DINO, View, expanded
from jaxdino.data.record import Split
from jaxdino.data.sources import load_source

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ours(split: Split, batch: int, workers: int, host_only: bool) -> Contender:
    """Batches of the multi-crop iterator and, unless `host_only`, their augmentation."""
    config = DataConfig(name="images", num_threads=workers)
    batches = make_train_iter(split, config, seed=0, batch_size=batch, views=DINO)
    augment = (lambda crops: None) if host_only else _augmentation()
    steps = len(split) // batch

    def run():
        for crops in itertools.islice(batches, steps):
            augment(crops)

    what = "host part" if host_only else "host and device"
    return Contender(f"jaxdino, {what}, {workers} threads", run, steps * batch, peer=False)


def _augmentation() -> Callable:
    """Return a function that makes a batch's views on the device and waits for them."""
    import jax

    from jaxdino.data.photometric import augment_views

    @jax.jit
    def augment(crops, key):
        return {
            kind: augment_views(jax.random.fold_in(key, place), crops[kind], expanded(DINO, kind), MEAN, STD)
            for place, kind in enumerate(("global", "local"))
        }

    keys = map(partial(jax.random.fold_in, jax.random.key(0)), itertools.count())
    return lambda batch: jax.block_until_ready(augment({kind: batch[kind] for kind in ("global", "local")}, next(keys)))


def torch_transform(view: View) -> Callable:
    """One recipe in torchvision's transforms; the blur is Pillow's, as in DINO."""
    import torch
    from torchvision import transforms as t

    def blur(image: Image.Image) -> Image.Image:
        low, high = view.blur_sigma
        return image.filter(ImageFilter.GaussianBlur(low + (high - low) * float(torch.rand(()))))

    bicubic = t.InterpolationMode.BICUBIC
    jitter = t.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    steps = [
        t.RandomResizedCrop(view.size, view.scale, view.ratio, interpolation=bicubic),
        t.RandomHorizontalFlip(view.hflip),
        t.RandomApply([jitter], view.jitter_prob),
        t.RandomGrayscale(view.gray_prob),
        t.RandomApply([blur], view.blur_prob),
        t.RandomSolarize(round(view.solarize_threshold * 255), view.solarize_prob),
        t.ToTensor(),
        t.Normalize(MEAN, STD),
    ]
    return t.Compose(steps)


def torch_loader(split: Split, batch: int, workers: int) -> Contender:
    """Return an endless DataLoader over the same files."""
    harness.allow_torchvision()
    import torch

    recipes = {kind: [torch_transform(view) for view in expanded(DINO, kind)] for kind in ("global", "local")}

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(split)

        def __getitem__(self, index: int):
            with Image.open(split.records[index]) as file:
                image = file.convert("RGB")
            return {kind: torch.stack([one(image) for one in steps]) for kind, steps in recipes.items()}

    files = Files()
    endless = torch.utils.data.RandomSampler(files, replacement=True, num_samples=2**40)
    batches = iter(torch.utils.data.DataLoader(files, batch, sampler=endless, num_workers=workers))
    steps = len(split) // batch

    def run():
        for _ in itertools.islice(batches, steps):
            pass

    return Contender(f"torchvision, {workers} workers", run, steps * batch)


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__, batch=32, rounds=7)
    flags.add_argument("--root", help="a folder of images; by default one is made")
    flags.add_argument("--images", type=int, default=96, help="how many to make")
    flags.add_argument("--workers", type=int, default=0, help="0: one per core")
    args = flags.parse_args()
    harness.begin(args)
    workers = 0 if args.cpu_time else args.workers or harness.cores()
    with tempfile.TemporaryDirectory() as made:
        if args.root is None:
            make_images(Path(made), args.images)
        split = load_source(DataConfig(name="images", root=args.root or made)).split("train")
        contenders = [ours(split, args.batch, workers, host_only) for host_only in (False, True)]
        contenders.append(torch_loader(split, args.batch, workers))
        times = harness.alternate(contenders, args.rounds)
        title = f"multi-crop, {len(split)} files, 2 x 224 and 8 x 96, batch {args.batch}"
        harness.report(title, contenders, times, f"images/s on {harness.cores()} cores")


if __name__ == "__main__":
    main()
