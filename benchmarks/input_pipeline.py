"""Compare the input pipeline, from JPEG files to uint8 random resized crops, with a DataLoader: images/s.

python -m benchmarks.input_pipeline --batch=64
python -m benchmarks.input_pipeline --root=DIR --workers=2

The images are generated (500x375 and 400x533 pixels, quality 90), unless --root names a folder of
images. The peer does the same with torchvision: RandomResizedCrop of PIL images, bicubic, a uint8 tensor.
Workers are threads for us and processes for torch, as many for each. Both streams are endless and stay open; all
files lie in the page cache. "Whole decode" leaves out our JPEG decoding at a half or less where the crop allows it.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import harness
from benchmarks.harness import Contender
from jaxdino.data.config import DataConfig
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.record import Split
from jaxdino.data.sources import load_source

SCALE, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)
SIZES = ((500, 375), (400, 533))


def make_images(folder: Path, count: int) -> None:
    """JPEGs of two classes with edges, gradients and noise, of about the bytes per pixel of photographs."""
    rng = np.random.default_rng(0)
    for index in range(count):
        size = SIZES[index % len(SIZES)]
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
        target = folder / "train" / f"class{index % 2}" / f"{index:04}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(target, quality=90)


def ours(split: Split, batch: int, size: int, workers: int, draft: bool) -> Contender:
    """Return a contender with the batches of the training iterator."""
    config = DataConfig(name="folder", num_threads=workers, num_workers=0, draft=draft)
    preset = {"scale": SCALE, "ratio": RATIO}
    batches = make_train_iter(split, config, seed=0, batch_size=batch, image_size=size, preset=preset)
    name = f"jaxdino, {workers} threads" + ("" if draft else ", whole decode")
    return _pass(name, batches, len(split) // batch, batch, peer=False)


def torch_loader(split: Split, batch: int, size: int, workers: int) -> Contender:
    """Return an endless DataLoader over the same files."""
    harness.allow_timm()
    import torch
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    crop = transforms.Compose(
        [transforms.RandomResizedCrop(size, SCALE, RATIO, interpolation=bicubic), transforms.PILToTensor()]
    )

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(split)

        def __getitem__(self, index: int):
            with Image.open(split.records[index]) as image:
                return crop(image.convert("RGB")), int(split.labels[index])

    files = Files()
    endless = torch.utils.data.RandomSampler(files, replacement=True, num_samples=2**40)
    loader = torch.utils.data.DataLoader(files, batch, sampler=endless, num_workers=workers)
    return _pass(f"torch DataLoader, {workers} workers", iter(loader), len(split) // batch, batch, peer=True)


def _pass(name: str, batches: Iterator, steps: int, batch: int, peer: bool) -> Contender:
    """As many batches as the files fill, from an endless stream: what is read ahead at the start is so at the end."""

    def run():
        for _ in itertools.islice(batches, steps):
            pass

    return Contender(name, run, steps * batch, peer)


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__, batch=64, rounds=7)
    flags.add_argument("--root", help="an image folder; by default one is made")
    flags.add_argument("--images", type=int, default=512, help="how many to make")
    flags.add_argument("--size", type=int, default=224, help="pixels of the crops")
    flags.add_argument("--workers", type=int, default=0, help="0: one per core")
    args = flags.parse_args()
    harness.begin(args)
    workers = args.workers or harness.cores()
    with tempfile.TemporaryDirectory() as made:
        if args.root is None:
            make_images(Path(made), args.images)
        split = load_source(DataConfig(name="folder", root=args.root or made, val_ratio=0.0)).split("train")
        contenders = [ours(split, args.batch, args.size, workers, draft) for draft in (True, False)]
        contenders.append(torch_loader(split, args.batch, args.size, workers))
        title = f"input pipeline, {len(split)} JPEGs, crops of {args.size}, batch {args.batch}"
        times = harness.alternate(contenders, args.rounds)
        harness.report(title, contenders, times, f"images/s on {harness.cores()} cores")


if __name__ == "__main__":
    main()
