"""Start time and memory of a manifest with ten million lines: `python -m benchmarks.large_manifest [--lines N]`.

Also of the index of shards with as many images, and of a manifest of as many boxes, five an image. The images of the
manifest are 10,000 small files, which are reached
through as many links to their folder as the lines need. Prints, for a manifest with a column `split` and for one whose
validation share is split off, the seconds until the source is listed, until its identity is known (what a run keeps of
its data) and until the first batch, and the peak memory of the process (Linux).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

FILES = 10_000
CLASSES = 1000


BOXES = 5
"""Lines of an image in a manifest of boxes."""


def make(top: Path, lines: int, kind: str) -> Path:
    """Write the images and a manifest of so many lines.

    Args:
      kind: "split", with a column `split`; "ratio", without; "boxes", with a line for each of `BOXES` boxes an image.
    """
    own = top / "images"
    if not own.is_dir():
        own.mkdir()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(own / "00000.jpg")
        for number in range(1, FILES):
            os.link(own / "00000.jpg", own / f"{number:05d}.jpg")
        for folder in range(-(-lines // FILES)):
            (top / f"d{folder:05d}").symlink_to("images")
    splits, file = kind == "split", top / f"{kind}.csv"
    with open(file, "w") as stream:
        if kind == "boxes":
            stream.write("path,x1,y1,x2,y2,label\n")
            for line in range(lines):
                row, left, top_side = line // BOXES, line * 7919 % 20, line * 104729 % 20
                box = f"{left},{top_side},{left + 1 + line % 12},{top_side + 1 + line % 11}"
                stream.write(f"d{row // FILES:05d}/{row % FILES:05d}.jpg,{box},class{line * 31 % 80:02d}\n")
            return file
        stream.write("path,label,split\n" if splits else "path,label\n")
        for row in range(lines):
            more = (",val" if row % 20 == 0 else ",train") if splits else ""
            stream.write(f"d{row // FILES:05d}/{row % FILES:05d}.jpg,class{row // 20 * 7919 % CLASSES:04d}{more}\n")
    return file


def peak_memory() -> float:
    """Return the peak memory of this process, MB. `ru_maxrss` would count that of its parent before it started."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**10


def measure(file: str, workers: int) -> None:
    """Print the times and the memory of this process."""
    from jaxdino.data.box_field import BoxField
    from jaxdino.data.config import DataConfig
    from jaxdino.data.identity import identify
    from jaxdino.data.pipeline import make_train_iter
    from jaxdino.data.sources import load_source

    begin = peak_memory()
    times = [(time.monotonic(), time.process_time())]
    cfg = DataConfig(name="manifest", root=file, num_workers=workers)
    boxes = Path(file).stem == "boxes"
    source = load_source(cfg, "boxes" if boxes else "label")
    times.append((time.monotonic(), time.process_time()))
    memory = peak_memory()
    identify(source)
    times.append((time.monotonic(), time.process_time()))
    how = {"fields": (BoxField(8),)} if boxes else {}
    batches = make_train_iter(source.splits["train"], cfg, seed=0, batch_size=64, image_size=32, **how)
    next(batches)
    times.append((time.monotonic(), time.process_time()))
    batches.close()
    listed, known, first = (f"{wall:.1f} s ({cpu:.1f} of CPU)" for wall, cpu in np.diff(times, axis=0))
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in source.splits.items())
    peak = peak_memory()
    print(
        f"{Path(file).stem}: {sizes}; listed {listed}, identity {known}, first batch {first}; "
        f"peak memory {memory:,.0f} MB listed, {peak:,.0f} MB in all ({begin:,.0f} MB before)",
        flush=True,
    )


def make_index(top: Path, lines: int) -> Path:
    """Write the index of shards of so many images, with a shard of one byte: opening does not read it."""
    from jaxdino.data.packed import Texts
    from jaxdino.data.shards import FILE, FORMAT, INDEX, Shard

    folder = top / "shards"
    (folder / INDEX).mkdir(parents=True)
    names = Texts.of(f"class{row % CLASSES:04d}/{row:08d}.jpg" for row in range(lines))
    label = np.arange(lines, dtype=np.int32) % CLASSES
    arrays = {"names": names.blob, "offsets": names.offsets, "sizes": np.ones(lines, np.int64), "label": label}
    for name, array in arrays.items():
        np.save(folder / INDEX / f"train.{name}.npy", array)
    (folder / "one").write_bytes(b"x")
    shards = [Shard("one", lines, 1, "")._asdict()]
    classes = [f"class{number:04d}" for number in range(CLASSES)]
    whole = {
        "format": FORMAT,
        "source": "folder",
        "class_names": classes,
        "field": "label",
        "splits": {"train": shards},
    }
    (folder / FILE).write_text(json.dumps(whole))
    return folder


def measure_index(folder: str) -> None:
    """Print the time and the memory of opening shards."""
    from jaxdino.data.sources import load_source

    times = [(time.monotonic(), time.process_time())]
    split = load_source({"name": "shards", "root": folder}).splits["train"]
    str(split.records[len(split) // 2])
    times.append((time.monotonic(), time.process_time()))
    ((wall, cpu),) = np.diff(times, axis=0)
    peak = peak_memory()
    print(
        f"shards: train {len(split):,}; listed {wall:.1f} s ({cpu:.1f} of CPU); peak memory {peak:,.0f} MB", flush=True
    )


def main() -> None:
    """Make the files, and measure each manifest in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--kinds", default="shards,split,ratio,boxes", help="which of them, separated by commas")
    parser.add_argument("--workers", type=int, default=0, help="reading processes")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.workers) if args.measure.endswith(".csv") else measure_index(args.measure)
        return
    with tempfile.TemporaryDirectory() as top:
        for kind in args.kinds.split(","):
            place = Path(top)
            file = make_index(place, args.lines) if kind == "shards" else make(place, args.lines, kind)
            command = [sys.executable, "-m", "benchmarks.large_manifest", "--measure", str(file)]
            subprocess.run([*command, "--workers", str(args.workers)], check=True)


if __name__ == "__main__":
    main()
