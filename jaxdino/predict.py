"""Classifies images with a trained model: `python -m jaxdino.predict --workdir DIR IMAGE...`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Prints class and probability of each image; 1 if one could not be read, 2 if nothing can be done."""
    parser = argparse.ArgumentParser(prog="python -m jaxdino.predict", description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--workdir", required=True, help="the folder of a training run")
    parser.add_argument("--top", type=int, default=1, help="how many classes to print for each image")
    parser.add_argument("--batch_size", type=int, default=32, help="images that go through the model together")
    args = parser.parse_args(argv)
    try:
        return predict(args.workdir, args.images, args.top, args.batch_size)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2


def predict(workdir: str, names: list[str], top: int = 1, batch_size: int = 32) -> int:
    """Prints a line for each image: its name, then class and probability, tab-separated, `top` times.

    Returns:
      0, or 1 if an image could not be read; each one is named on the standard error.

    Raises:
      UserError: if the workdir holds no model with a head, or `top` or `batch_size` is not positive.
    """
    import jaxdino

    if top < 1 or batch_size < 1:
        raise UserError(f"--top {top} and --batch_size {batch_size} must be at least 1")
    if not Path(workdir).is_dir():
        raise UserError(f"there is no folder {workdir}: --workdir takes the folder of a training run")
    begun = any((Path(workdir) / name).exists() for name in ("checkpoints", "metrics.jsonl"))
    if begun and not (Path(workdir) / "best").is_dir():
        raise UserError(f"the run in {workdir} has not finished a stage yet")
    model = jaxdino.load(workdir)
    if not model.card.num_classes:
        raise UserError(f"{workdir} holds a backbone without a classification head: train one first")
    classes = model.class_names or tuple(str(i) for i in range(model.card.num_classes))
    failed: list[str] = []
    for chunk, images in _batches(model, names, batch_size, failed):
        short = batch_size - len(chunk) if len(names) > batch_size else 0  # one shape, compiled once
        padded = np.concatenate([images, np.zeros((short, *images.shape[1:]), images.dtype)])
        for name, logits in zip(chunk, np.asarray(model(padded).logits), strict=False):
            best = np.argsort(-logits, kind="stable")[:top]
            odds = np.exp(logits - logits.max())
            pairs = [f"{classes[i]}\t{odds[i] / odds.sum():.4f}" for i in best]
            print("\t".join([name, *pairs]), flush=True)
    return int(bool(failed))


def _batches(model: Any, names: list[str], size: int, failed: list[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """(names, uint8 images) of up to `size` readable images; unreadable ones are named and added to `failed`."""
    from jaxdino.data.checks import BadImage, open_rgb
    from jaxdino.data.sources import DataConfig

    chunk: list[tuple[str, np.ndarray]] = []
    for name in names:
        try:
            chunk.append((name, model.preprocess([open_rgb(name, DataConfig.max_pixels)])[0]))
        except BadImage as err:
            print(f"skipped {name}: {err}", file=sys.stderr)
            failed.append(name)
        if len(chunk) == size:
            yield [name for name, _ in chunk], np.stack([image for _, image in chunk])
            chunk = []
    if chunk:
        yield [name for name, _ in chunk], np.stack([image for _, image in chunk])


if __name__ == "__main__":
    sys.exit(main())
