"""Readers of images, masks and lists of them: seed files, and what reads them."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pillow_heif
import tifffile
from PIL import Image
from pydicom.uid import RLELossless

from jaxdino.data import shard_writing
from jaxdino.data.bad_images import BadImage
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image, open_rgb
from jaxdino.data.config import DataConfig
from jaxdino.data.ranges import Range
from jaxdino.data.record import Source, Split
from jaxdino.data.sources import load_source
from jaxdino.data.survey import look, settle
from tests.data import box_folders
from tests.data.pair_folders import save
from tests.data.test_dicom import write as write_dicom
from tests.data.test_pair_coco import coco_file
from tests.soak.mutators import Rng

PIXELS = 1 << 22  # limit of images
SIZE = (12, 10)


def noise(rng: Rng, *shape: int, dtype: type = np.uint8) -> np.ndarray:
    return rng.integers(0, np.iinfo(dtype).max, shape or (*SIZE, 3), dtype, endpoint=True)


def make_images(folder: Path, rng: Rng) -> None:
    """Write an image of each format, and of the kinds of pixels that have code of their own."""
    pillow_heif.register_heif_opener()
    image = Image.fromarray(noise(rng))
    grey, exif = image.convert("L"), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a text"
    profile = b"\0" * 36 + b"acsp" + rng.bytes(100)
    for suffix in ("jpg", "png", "webp", "gif", "bmp", "dib", "tif", "ppm", "jp2", "avif", "heic"):
        image.save(folder / f"plain.{suffix}")
    image.save(folder / "turned.jpg", exif=exif, icc_profile=profile, progressive=True, comment="a comment")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.save(folder / "turned.webp", exif=exif, icc_profile=profile, lossless=True)
    image.convert("P").save(folder / "palette.png", transparency=3)
    image.convert("RGBA").save(folder / "alpha.png", exif=exif)
    grey.convert("1").save(folder / "bits.png")
    Image.fromarray(noise(rng, *SIZE, dtype=np.uint16)).save(folder / "deep.png")
    image.convert("P").save(folder / "frames.gif", save_all=True, append_images=[grey.convert("P")], transparency=0)
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        image.save(folder / f"{compression}.tif", compression=compression)
    image.save(folder / "pages.tif", save_all=True, append_images=[grey, grey])
    Image.fromarray(noise(rng, *SIZE, dtype=np.uint16)).save(folder / "deep.tif")
    tifffile.imwrite(folder / "bands.tif", noise(rng, *SIZE, 5), planarconfig="contig", photometric="minisblack")
    tifffile.imwrite(folder / "tiles.tif", noise(rng, 64, 64, 4, dtype=np.uint16), tile=(16, 16), compression="zlib")
    tifffile.imwrite(folder / "floats.tif", rng.normal(size=SIZE).astype(np.float32), metadata=None)
    Image.fromarray(noise(rng, *SIZE, dtype=np.uint16)).save(folder / "deep.pgm")
    window = {"WindowCenter": 9, "WindowWidth": 99, "RescaleSlope": 2, "RescaleIntercept": -9}
    write_dicom(folder / "window.dcm", noise(rng, *SIZE, dtype=np.uint16), **window)
    write_dicom(folder / "colours.dcm", noise(rng), PhotometricInterpretation="RGB")
    write_dicom(folder / "packed.dcm", noise(rng, *SIZE, dtype=np.uint16), encode=RLELossless)
    np.save(folder / "bands.npy", noise(rng, *SIZE, 5))
    np.save(folder / "floats.npy", rng.normal(size=SIZE).astype(np.float32))


def read_image(folder: Path, changed: Path) -> None:
    """Decode an image for models of three, one and five channels, and look at its header as a run does."""
    record, errors = str(changed), []
    for read in (
        functools.partial(open_rgb, record, PIXELS),
        functools.partial(open_image, record, Reading(1, max_pixels=PIXELS)),
        functools.partial(open_image, record, Reading(5, max_pixels=PIXELS), lambda full: 2),
    ):
        try:
            read()
        except BadImage as err:
            errors.append(err)
    if len(errors) == 3:
        raise errors[0]
    if found := look([Split("train", [record], {})]):
        settle(found, Range(), Range(), 3)


def make_masks(folder: Path, rng: Rng) -> None:
    """Write images with masks: palette, grey, 16-bit and JPEG, classes by number, and folders of prompts."""
    names = ("a", "b", "c", "d", "e")
    for top in ("classes", "prompts"):
        for name in names:
            save(folder / top / "images" / f"{name}.jpg", noise(rng))
    for name in names:
        values = rng.integers(0, 3, SIZE).astype(np.uint16 if name == "c" else np.uint8)
        save(folder / "classes" / "masks" / f"{name}.png", values, palette=name in "ab")
        for prompt in ("cat", "dog"):
            save(folder / "prompts" / "masks" / prompt / f"{name}.png", (values > 1).astype(np.uint8) * 255)
    (folder / "classes" / "classes.json").write_text(json.dumps({"0": "sky", "1": "cat", "2": "dog"}))
    (folder / "prompts" / "classes.txt").write_text("cat\ndog\n")


def read_masks(folder: Path, changed: Path) -> None:
    """List and read the masks as prompts, and as classes."""
    top = folder / changed.relative_to(folder).parts[0]
    cfg = DataConfig(name="masks", root=str(top), max_pixels=PIXELS, num_threads=0)
    read_all(load_source(cfg, "prompts"))
    if top.name == "classes":
        read_all(load_source(cfg, "class_mask"))


def read_all(source: Source) -> None:
    """Read every mask of a source. Raises BadImage if one cannot be read."""
    last = None
    for split in source.splits.values():
        for name, values in split.fields.items():
            for value in values if name in ("prompts", "class_mask") else ():
                for one in value if name == "prompts" else (value,):
                    try:
                        one.read_mask(PIXELS) if name == "prompts" else one(PIXELS)
                    except BadImage as err:
                        last = err
    if last is not None:
        raise last


def make_coco(folder: Path, rng: Rng) -> None:
    given = coco_file()
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(given))
    for n in (1, 2, 3):
        save(folder / "train2017" / f"{n}.jpg", noise(rng, 20, 30, 3))


def read_coco(folder: Path, changed: Path) -> None:
    read_all(load_source(DataConfig(name="coco", root=str(folder), max_pixels=PIXELS, num_threads=0), "prompts"))


def make_voc(folder: Path, rng: Rng) -> None:
    names = [f"2007_{n:06}" for n in range(6)]
    for name in names:
        save(folder / "JPEGImages" / f"{name}.jpg", noise(rng))
        save(folder / "SegmentationClass" / f"{name}.png", rng.integers(0, 4, SIZE).astype(np.uint8), palette=True)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(names[:4]) + "\n")
    (lists / "val.txt").write_text("\n".join(names[4:]) + "\n")
    (folder / "classes.txt").write_text("cat\ndog\neel\n")


def make_voc_objects(folder: Path, rng: Rng) -> None:
    names = [f"2007_{n:06}" for n in range(6)]
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for n, name in enumerate(names):
        save(folder / "JPEGImages" / f"{name}.jpg", noise(rng))
        objects = "".join(f"<object><name>{one}</name></object>" for one in ("cat", "dog")[: 1 + n % 2])
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    (folder / "ImageSets" / "Main" / "train.txt").write_text("\n".join(names[:4]) + "\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("\n".join(names[4:]) + "\n")


def read_voc_objects(folder: Path, changed: Path) -> None:
    load_source(DataConfig(name="voc", root=str(folder), num_threads=0), "labels")


def read_coco_objects(folder: Path, changed: Path) -> None:
    load_source(DataConfig(name="coco", root=str(folder), num_threads=0), "labels")


def read_voc(folder: Path, changed: Path) -> None:
    cfg = DataConfig(name="voc", root=str(folder), max_pixels=PIXELS, num_threads=0)
    read_all(load_source(cfg, "prompts"))
    read_all(load_source(cfg, "class_mask"))


def make_shards(folder: Path, rng: Rng) -> None:
    own = folder / "own"
    for n in range(12):
        save(own / "ab"[n % 2] / f"{n}.png", noise(rng))
    source = load_source(DataConfig(name="folder", root=str(own), num_threads=0))
    shard_writing.write(source, "label", folder / "shards", 5, 0.0, lambda line: None)
    shutil.rmtree(own)


def read_shards(folder: Path, changed: Path) -> None:
    """List shards and decode every image. Raises the last BadImage."""
    last = None
    for split in load_source(DataConfig(name="shards", root=str(folder / "shards"), num_threads=0)).splits.values():
        for record in split.records:
            try:
                open_rgb(record, PIXELS)
            except BadImage as err:
                last = err
    if last is not None:
        raise last


def make_manifests(folder: Path, rng: Rng, suffix: str) -> None:
    """Write manifests with one class, with several classes, and with a column for each class."""
    names = [f"{n}.jpg" for n in range(12)]
    for name in names:
        save(folder / name, noise(rng))
    classes = ("cat", "dog", "eel")
    one = [
        {"path": name, "label": classes[n % 3], "split": ("train", "val")[n % 4 == 0]} for n, name in enumerate(names)
    ]
    many = [{"path": name, "labels": "|".join(classes[: n % 4])} for n, name in enumerate(names)]
    columns = [
        {"path": name} | {c: str(int(n % (k + 2) == 0)) for k, c in enumerate(classes)} for n, name in enumerate(names)
    ]
    for name, rows in (("one", one), ("many", many), ("columns", columns)):
        if suffix == ".jsonl":
            text = "\n".join(json.dumps(row) for row in rows)
        else:
            text = "\n".join(",".join(row.values()) for row in ({key: key for key in rows[0]}, *rows))
        (folder / f"{name}{suffix}").write_text(text + "\n")


def make_text_lists(folder: Path, rng: Rng) -> None:
    """Write text lists with labels by number, and a file of their names."""
    names = [f"{c}{n}.jpg" for c in "ab" for n in range(4)]
    for name in names:
        save(folder / "images" / name[0] / name, noise(rng))
    for split, some in {"train": names[::2], "val": names[1::2]}.items():
        (folder / f"{split}.txt").write_text("".join(f"{name[0]}/{name} {'ab'.index(name[0])}\n" for name in some))
    (folder / "classes.txt").write_text("apple\n banana\n")


def read_text_lists(folder: Path, changed: Path) -> None:
    load_source(DataConfig(name="manifest", root=str(folder), num_threads=0), "label")


def read_manifest(folder: Path, changed: Path) -> None:
    cfg = DataConfig(name="manifest", root=str(changed), num_threads=0)
    load_source(cfg, "label" if changed.stem == "one" else "labels")


def make_boxes(folder: Path, rng: Rng, form: str, suffix: str = "") -> None:
    """Write images with boxes in one format."""
    options = {"suffix": suffix} if suffix else {}
    box_folders.FORMATS[form](folder, **options)


def read_boxes(folder: Path, changed: Path, form: str) -> None:
    """List the boxes, also as a check does."""
    root = changed if form == "manifest" else folder
    cfg = DataConfig(name=form, root=str(root), num_threads=0, max_missing=1.0)
    for split in load_source(cfg, "boxes").splits.values():
        for row in split.fields["boxes"]:
            assert (
                np.isfinite(row).all()
                and (row[:, :2] < row[:, 2:4]).all()
                and (row[:, 4] < len(split.class_names)).all()
            )
