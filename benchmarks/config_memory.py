"""Memory and work of a config's training steps, on any machine: `python -m benchmarks.config_memory small/gpu_16gb`.

Compiles the step of each stage for generated images and random weights, and prints what the compiled program needs, by
part, and its floating-point operations for 1,000 images with the minutes that they take at a given rate. No step is
taken, so that a large model may be tried on a machine that could not train it. The program is that of this machine's
backend: another one may need more or less for activations. As on a GPU, a batch is taken whole, unless
`optimizer.accumulate` divides it, and attention for all heads at once: a CPU would divide both by itself, and XLA
counts the operations of a loop once. Settings are flags, as in training: `--config.data.batch_size=32`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, NEVER = 10, 1 << 60
PARTS = ("weights", "gradients", "optimizer", "copies", "batch", "activations", "total")
"""Of `StepMemory`. What XLA's libraries take on a CPU is known after a step alone, and left out."""


def images(folder: Path, size: int, count: int) -> Path:
    """Write one image, and links to it in class folders of a training and a validation split."""
    one = folder / "one.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)).save(one)
    for split in ("train", "val"):
        for number in range(count):
            place = folder / "images" / split / f"class{number % CLASSES}" / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(one)
    return folder / "images"


def main() -> None:
    """Print the table of one config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config, as after --config=")
    parser.add_argument("--size", type=int, default=256, help="side of the generated images, pixels")
    parser.add_argument(
        "--tflops", type=float, default=20.0, help="operations in a second, 1e12, that the device reaches"
    )
    args, flags = parser.parse_known_args()
    from jaxdino.core.table import format_table
    from jaxdino.models import attention
    from jaxdino.settings.command_line import command
    from jaxdino.train.begin import begin_stage
    from jaxdino.train.memory import size_words
    from jaxdino.train.setup import prepare
    from jaxdino.train.trial import Trial

    attention.LEARNED = attention.INFERRED = NEVER
    config = command(args.config, flags).config().copy_and_resolve_references()
    rows = [("stage", "batch", *PARTS, "TFLOP / 1,000", "minutes")]
    with tempfile.TemporaryDirectory() as folder, config.unlocked():
        if config.optimizer.get("accumulate") is None:
            config.optimizer.accumulate = 1
        config.data.root, config.model.weights = str(images(Path(folder), args.size, config.data.batch_size)), "random"
        setup = prepare(config, lambda _: None)
        current = None
        for part in setup.parts:
            current = begin_stage(setup, part, current)
            trial = Trial(setup, part, current)
            found = trial.memory(part.stage.batch_size)
            if found is None:
                raise SystemExit("this backend does not analyse its programs")
            sizes = (size_words(getattr(found, name)) for name in PARTS)
            work = trial.compiled.cost_analysis()["flops"] / part.stage.batch_size * 1000 / 1e12
            time = f"{work / args.tflops / 60:.2f}"
            rows.append((part.stage.name, str(part.stage.batch_size), *sizes, f"{work:,.0f}", time))
    print(format_table(rows))


if __name__ == "__main__":
    main()
