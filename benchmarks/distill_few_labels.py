"""A small student with few labels, alone and distilled: `python -m benchmarks.distill_few_labels --work DIR`.

100 of the embedded digits (10 of each class) have labels. The teacher, which is the embedded backbone with a head, and
the student alone are trained on them. The distilled student sees the 1,079 training images without any label, and what
the teacher says of them. The student alone takes about three quarters of its steps (the last, smaller batch of each
epoch is left out), and is chosen by the accuracy on 359 labelled validation images, in its favour. The accuracies are
those of the 359 test images.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import jaxdino
from configs import distill, linear
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.table import format_table
from jaxdino.data.config import DataConfig
from jaxdino.data.sources.digits import digits
from jaxdino.train.loop import run

SHAPE = '{"depth": 2, "width": 48, "num_heads": 2, "mlp_dim": 96}'
BATCH, PER_CLASS = 32, 10


def folders(work: Path) -> None:
    """Write the images: work/labelled/<split>/<class> and work/unlabelled."""
    source, drawn = digits(DataConfig()), Counter()
    (work / "unlabelled").mkdir(parents=True)
    for name, split in source.splits.items():
        for place, (image, label) in enumerate(zip(split.records, split.labels.tolist(), strict=True)):
            if name == "train":
                Image.fromarray(image).save(work / "unlabelled" / f"{place:04d}.png")
                drawn[label] += 1
                if drawn[label] > PER_CLASS:
                    continue
            folder = work / "labelled" / name / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{place:04d}.png")


def prepared(config: Any, root: Path, name: str, epochs: int, rate: float | None, seed: int) -> Any:
    """Set the data, the length and the rates of a config of one stage."""
    config.data.update(name=name, root=str(root), batch_size=BATCH, decoder="pillow", augment="none")
    config.seed = seed
    (stage,) = config.stages
    stage.update(epochs=epochs, augment="none")
    for group in stage.groups.values():
        if rate and "lr" in group:
            group.lr = rate
    return config


def student(teacher: Path, alpha: float, temperature: float) -> Any:
    """Return the config of the small student, from random weights."""
    config = distill.get_config()
    config.model.update(weights="random", shape=SHAPE)
    config.objective.update(teacher=str(teacher), alpha=alpha, temperature=temperature)
    return config


def tested(folder: Path, work: Path) -> float:
    """Return the accuracy of a run's model on the test images."""
    files = sorted((work / "labelled" / "test").rglob("*.png"))
    found = jaxdino.load(folder).predict(files, topk=1)
    return float(np.mean([classes[0][0] == file.parent.name for classes, file in zip(found, files, strict=True)]))


def main() -> None:
    """Train the teacher and the students, and print their accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30, help="passes over the images without labels")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate of the students")
    parser.add_argument("--temperature", type=float, default=2.0)
    args = parser.parse_args()
    prepare()
    keep_programs()
    if not args.work.exists():
        folders(args.work)
    labelled, unlabelled = args.work / "labelled", args.work / "unlabelled"
    teacher = args.work / "teacher"
    run(prepared(linear.get_config(), labelled, "folder", 60, None, 0), teacher)
    steps = args.epochs * (len(list(unlabelled.glob("*.png"))) // BATCH)  # a last, smaller batch is left out
    alone_epochs, rest = divmod(steps, 10 * PER_CLASS // BATCH)
    if rest:
        raise SystemExit(f"--epochs {args.epochs}: {steps} steps are not whole epochs of the {10 * PER_CLASS} images")
    rows = [["teacher", "", f"{tested(teacher, args.work):.4f}"]]
    for seed in range(args.seeds):
        alone, distilled = (args.work / f"{name}{seed}" for name in ("alone", "distilled"))
        own, taught = student(teacher, 0.0, args.temperature), student(teacher, 1.0, args.temperature)
        run(prepared(own, labelled, "folder", alone_epochs, args.rate, seed), alone)
        run(prepared(taught, unlabelled, "images", args.epochs, args.rate, seed), distilled)
        rows.append(["alone", str(seed), f"{tested(alone, args.work):.4f}"])
        rows.append(["distilled", str(seed), f"{tested(distilled, args.work):.4f}"])
        print(rows[-2:], flush=True)
    print(format_table([["model", "seed", "test accuracy"], *rows]))


if __name__ == "__main__":
    main()
