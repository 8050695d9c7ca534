"""Run tasks one after the other as one of several processes: `runner.py INDEX COUNT PORT FOLDER TASK ...`."""

import sys
import time
from pathlib import Path

from ml_collections import ConfigDict

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/train")]

SINKHORN = dict(objective__centring="sinkhorn", objective__koleo=0.1)


def config(task: str, index: int, folder: Path) -> ConfigDict:
    """Return the config of a tiny run of a task; process 0 writes the data that is not embedded."""
    import tiny
    import tiny_distill
    import tiny_segment
    import tiny_semantic

    if task == "classify":
        made = tiny.config(0, 1, batch_size=32, checkpoint__every_steps=3, ema_decay=0.9)
        made.data.augment = "standard"
    elif task == "multilabel":
        import test_multilabel_run as multilabel

        images = folder / "images"
        if not index:
            images.mkdir()
            multilabel.manifest(images)
        while not (images / "m.csv").exists():  # which is written last
            time.sleep(0.1)
        made = multilabel.config(images / "m.csv", 1)
    elif task == "semantic":
        made = tiny_semantic.config("last", steps=3)
    elif task == "distill":
        made = tiny_distill.config(1, objective__method="dinov2", **SINKHORN)
    else:
        made = tiny_segment.config(2, 0, 0, 2)
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
