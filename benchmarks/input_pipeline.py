"""Compare the input pipeline, from JPEG files to uint8 random resized crops, with a DataLoader: images/s.

python -m benchmarks.input_pipeline --batch=64
python -m benchmarks.input_pipeline --what=masks --cpu-time
python -m benchmarks.input_pipeline --root=DIR --workers=2

The images are generated (500x375 and 400x533 pixels, quality 90), unless --root names a folder of images. --what=masks
adds a mask of classes (PNG) and flips to each, --what=boxes eight boxes and flips. The peer does the same with
torchvision on PIL images, as its ImageFolder opens them: RandomResizedCrop, bicubic (masks: nearest), a uint8 tensor.
Workers are threads for us and processes for torch, as many for each; with --cpu-time there are none, and everything
happens in one thread. Both streams are endless and stay open; all files lie in the page cache. "Pillow" is our pipeline
without the extra `fast`; "whole decode" also leaves out JPEG decoding at a half or less where the crop allows it.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import harness
from benchmarks.harness import Contender
from jaxdino.data.box_field import BoxField
from jaxdino.data.boxes import BoxLists
from jaxdino.data.config import DataConfig
from jaxdino.data.fields import LABEL, ClassMap, Field
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.record import Split
from jaxdino.data.sources import load_source

SCALE, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)
SIZES = ((500, 375), (400, 533))
BOXES = 8  # in each image
WHAT = ("crops", "masks", "boxes")


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


def make_masks(split: Split, folder: Path) -> Split:
    """Return the images with masks of 21 classes, in PNG files of large areas."""
    from jaxdino.data.class_masks import ClassMask, ClassTable

    rng, found = np.random.default_rng(1), []
    table = ClassTable(tuple(map(str, range(21))), tuple((value, value) for value in range(21)))
    folder.mkdir()
    for index, path in enumerate(split.records):
        with Image.open(path) as image:
            size = image.size
        coarse = Image.fromarray(rng.integers(0, 21, (6, 8), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.NEAREST).save(folder / f"{index:04}.png")
        found.append(ClassMask(str(folder / f"{index:04}.png"), table))
    return Split("train", split.records, {"class_mask": found})


def make_boxes(split: Split) -> Split:
    """Return the images with random boxes."""
    rng, found = np.random.default_rng(2), []
    for path in split.records:
        with Image.open(path) as image:
            size = np.array(image.size)
        low = rng.uniform(0, 0.7, (BOXES, 2)) * size
        high = np.minimum(low + rng.uniform(20, 150, (BOXES, 2)), size)
        found.append(np.concatenate([low, high, rng.integers(0, 20, (BOXES, 1)), np.zeros((BOXES, 1))], axis=1))
    return Split("train", split.records, {"boxes": BoxLists.of(found)})


FIELDS: dict[str, tuple[Field, ...]] = {
    "crops": (LABEL,),
    "masks": (ClassMap(DataConfig().max_pixels),),
    "boxes": (BoxField(BOXES),),
}
"""--what -> the fields that we read."""


def ours(split: Split, what: str, batch: int, size: int, workers: int, name: str, **how: Any) -> Contender:
    """Return a contender with the batches of the training iterator."""
    config = DataConfig(name="folder", num_threads=workers, num_workers=0, **how)
    preset = {"scale": SCALE, "ratio": RATIO, "hflip": 0.5 if what != "crops" else 0.0}
    more = dict(seed=0, batch_size=batch, image_size=size, preset=preset, fields=FIELDS[what])
    batches = make_train_iter(split, config, **more)
    return _pass(f"jaxdino, {name}, {workers} threads", batches, len(split) // batch, batch, peer=False)


def reader(split: Split, what: str, size: int) -> Callable[[int], tuple]:
    """Return torchvision's function that reads an image by its index."""
    import torch
    from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2
    from torchvision.transforms import functional as F

    bicubic, nearest = InterpolationMode.BICUBIC, InterpolationMode.NEAREST
    crop, flip = RandomResizedCrop(size, SCALE, RATIO, interpolation=bicubic), v2.RandomHorizontalFlip()
    boxed = v2.Compose([v2.RandomResizedCrop(size, SCALE, RATIO, bicubic, antialias=True), flip, v2.PILToTensor()])

    def opened(index: int) -> Image.Image:
        with Image.open(split.records[index]) as image:
            return image.convert("RGB")

    def crops(index: int) -> tuple:
        return F.pil_to_tensor(crop(opened(index))), int(split.labels[index])

    def masks(index: int) -> tuple:
        image, mask = opened(index), Image.open(split.fields["class_mask"][index].path)
        part = RandomResizedCrop.get_params(image, SCALE, RATIO)
        pair = [F.resized_crop(image, *part, [size, size], bicubic), F.resized_crop(mask, *part, [size, size], nearest)]
        pair = [F.hflip(one) for one in pair] if torch.rand(()) < 0.5 else pair
        return F.pil_to_tensor(pair[0]), F.pil_to_tensor(pair[1])

    def boxes(index: int) -> tuple:
        from torchvision import tv_tensors

        image, rows = opened(index), split.fields["boxes"][index]
        corners = tv_tensors.BoundingBoxes(rows[:, :4], format="XYXY", canvas_size=image.size[::-1])
        image, corners = boxed(image, corners)
        return image, v2.functional.clamp_bounding_boxes(corners), torch.as_tensor(rows[:, 4])

    return {"crops": crops, "masks": masks, "boxes": boxes}[what]


def torch_loader(split: Split, what: str, batch: int, size: int, workers: int) -> Contender:
    """Return an endless DataLoader over the same files."""
    harness.allow_torchvision()
    import torch

    read = reader(split, what, size)

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(split)

        def __getitem__(self, index: int):
            return read(index)

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
    flags.add_argument("--what", choices=WHAT, default="crops", help="crops alone, or what moves with them")
    flags.add_argument("--root", help="an image folder; by default one is made")
    flags.add_argument("--images", type=int, default=512, help="how many to make")
    flags.add_argument("--size", type=int, default=224, help="pixels of the crops")
    flags.add_argument("--workers", type=int, default=0, help="0: one per core")
    args = flags.parse_args()
    harness.begin(args)
    workers = 0 if args.cpu_time else args.workers or harness.cores()
    with tempfile.TemporaryDirectory() as made:
        if args.root is None:
            make_images(Path(made), args.images)
        split = load_source(DataConfig(name="folder", root=args.root or made, val_ratio=0.0)).split("train")
        if args.what == "masks":
            split = make_masks(split, Path(made) / "masks")
        if args.what == "boxes":
            split = make_boxes(split)
        given = split, args.what, args.batch, args.size, workers
        contenders = [ours(*given, "fast", decoder="fast"), ours(*given, "Pillow", decoder="pillow")]
        if not args.quick:
            contenders.append(ours(*given, "Pillow, whole decode", decoder="pillow", draft=False))
        contenders.append(torch_loader(*given))
        title = f"input pipeline, {args.what}: {len(split)} JPEGs, crops of {args.size}, batch {args.batch}"
        times = harness.alternate(contenders, args.rounds)
        harness.report(title, contenders, times, f"images/s on {harness.cores()} cores")


if __name__ == "__main__":
    main()
