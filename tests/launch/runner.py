"""Run tasks one after the other as one of several processes: `runner.py INDEX COUNT PORT FOLDER TASK ...`."""

import sys
import time
from pathlib import Path

from ml_collections import ConfigDict

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/train")]

SINKHORN = dict(objective__centring="sinkhorn", objective__koleo=0.1)


def classify() -> ConfigDict:
    """One epoch of a head, then of all, with an average of the weights."""
    import tiny

    made = tiny.config(0, 1, batch_size=32, checkpoint__every_steps=3, ema_decay=0.9)
    made.data.augment = "standard"
    return made


def multilabel(index: int, folder: Path) -> ConfigDict:
    """A run on a manifest, which process 0 writes."""
    import test_multilabel_run

    images = folder / "images"
    if not index:
        images.mkdir()
        test_multilabel_run.manifest(images)
    while not (images / "m.csv").exists():  # which is written last
        time.sleep(0.1)
    return test_multilabel_run.config(images / "m.csv", 1)


def config(task: str, index: int, folder: Path) -> ConfigDict:
    """Return the config of a tiny run of a task; process 0 writes the data that is not embedded."""
    import tiny_depth
    import tiny_detect
    import tiny_distill
    import tiny_instances
    import tiny_segment
    import tiny_semantic

    made = {
        "classify": classify,
        "multilabel": lambda: multilabel(index, folder),
        "semantic": lambda: tiny_semantic.config("last", steps=3),
        "distill": lambda: tiny_distill.config(1, objective__method="dinov2", **SINKHORN),
        "segment": lambda: tiny_segment.config(0, 0, 0, 3),
        "detect": lambda: tiny_detect.config("last"),
        "depth": lambda: tiny_depth.config("last"),
        "instances": lambda: tiny_instances.config("last"),
    }[task]()
    made.writers = "none"
    return made


def main(index: int, count: int, port: int, folder: Path, tasks: list[str]) -> None:
    """Run the tasks."""
    from jaxdino.core import processes
    from jaxdino.core.processes.ending import together
    from jaxdino.core.processes.place import Place
    from jaxdino.train.loop import run

    if count > 1:
        processes.start(Place(f"127.0.0.1:{port}", count, index), {}, wait=30)
    together(lambda: [run(config(task, index, folder), folder / task) for task in tasks] and None)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]), sys.argv[5:])
