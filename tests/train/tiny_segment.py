"""A tiny run of segmentation on the embedded shapes. `python -m tests.train.tiny_segment DIR [STEP]` runs it."""

import os
import signal
import sys

import tiny
from ml_collections import ConfigDict

from configs import clipdinosam

DECODER = dict(rank=2, alpha=4.0, targets=("@linear",))
DINO = dict(rank=2, alpha=4.0, targets=("q", "v"), last_blocks=1)


def config(*steps: int, **changes) -> ConfigDict:
    """The four stages with so many steps each (0: left out); `changes` are set by dotted path ("__" for a dot)."""
    made = clipdinosam.get_config()
    made.model.name = made.model.configured_for = tiny.SPEC.name
    made.model.weights = "random"
    made.data.update(image_size=16, batch_size=64, num_threads=0)
    made.log_every = 1
    for stage, count in zip(made.stages, (*steps, 0, 0, 0, 0), strict=False):
        stage.steps = count
        stage.lora.decoder.update(DECODER)
        if stage.lora.dino.rank:
            stage.lora.dino.update(DINO)
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = made
        for name in parents:
            node = node[int(name)] if name.isdigit() else node[name]
        node[leaf] = value
    return made


def all_options() -> ConfigDict:
    """Two stages with every option of a stage."""
    made = config(0, 2, 0, 2, objective__align=0.5, objective__ssl=1.0, prompts__points=1, prompts__boxes=True)
    made.prompts.update(negatives=0.3, templates=("{}", "a drawing of a {}"))
    made.stages[1].lora.clip.update(rank=2, alpha=2.0, targets=("q", "v"))
    made.stages[3].groups.clip.frozen = made.stages[3].groups.decoder.frozen = False
    made.optimizer.accumulate = 2
    made.checkpoint.every_steps = 1
    return made


if __name__ == "__main__":
    from jaxdino.train.loop import run
    from tests import one_device

    one_device.use()
    folder, *rest = sys.argv[1:]
    kill_after = int(rest[0]) if rest else 0

    def on_step(step: int) -> None:
        """Ends this process at a step, the hard way."""
        if step == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    run(all_options(), folder, on_step)
