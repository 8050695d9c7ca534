"""A tiny run: a ViT of two blocks on a quarter of the digits at 8 pixels. `python -m tests.train.tiny DIR` runs it."""

import dataclasses
import os
import signal
import sys

from ml_collections import ConfigDict

from configs import common
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source
from jaxdino.data.sources import SOURCES, Listing, digits
from jaxdino.models import registry
from jaxdino.models.published import vit
from jaxdino.models.vit import ViTConfig

SPEC = dataclasses.replace(
    vit.DIGITS,
    name="tiny",
    config=ViTConfig(patch_size=4, width=32, depth=2, num_heads=2, mlp_dim=64, **vit.DINOV3),
    preprocess=dataclasses.replace(vit.DIGITS.preprocess, size=(8, 8)),
    last_layers=1,
)
registry.MODELS["tiny"] = SPEC


def few_digits(cfg: DataConfig) -> Source:
    """Load every fourth of the digits: 270 train, 90 val, 90 test. Reading images was a third of a tiny run."""
    whole = digits.digits(cfg)
    splits = {name: split.chosen(range(0, len(split), 4)) for name, split in whole.splits.items()}
    return Source("few_digits", whole.class_names, splits)


SOURCES["few_digits"] = Listing({"label": few_digits})


def stages(*epochs: int) -> tuple[ConfigDict, ...]:
    """Head, then head and last block, then everything; as many stages as there are lengths."""
    frozen, head, backbone = dict(frozen=True), dict(lr=3e-3), dict(lr=1e-3, layer_decay=0.9)
    rules = (
        (("@head", "head"), ("@all", "frozen")),
        (("@head", "head"), ("@last", "backbone"), ("@all", "frozen")),
        (("@head", "head"), ("@all", "backbone")),
    )
    groups = (dict(head=head, frozen=frozen), dict(head=head, backbone=backbone, frozen=frozen))
    chosen = zip(("head", "last", "all"), epochs, rules, (*groups, dict(head=head, backbone=backbone)), strict=False)
    return tuple(common.stage(name, epochs=n, rules=r, groups=g) for name, n, r, g in chosen)


def config(*epochs: int, batch_size: int = 64, **changes) -> ConfigDict:
    """The config of a tiny run; `changes` are set by dotted path."""
    made = common.get_config()
    made.model.name = made.model.configured_for = "tiny"
    made.model.weights = "random"
    made.stages = stages(*(epochs or (1,)))
    with made.unlocked():
        data = dataclasses.asdict(DataConfig(num_threads=0, decoder="pillow"))
        made.data = data | dict(
            name="few_digits", image_size=None, batch_size=batch_size, augment="light", sampling="uniform"
        )
    made.log_every = 1
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = made
        for name in parents:
            node = node[name]
        node[leaf] = value
    return made


if __name__ == "__main__":
    from jaxdino.train.loop import run
    from tests import one_device

    one_device.use()
    folder, *rest = sys.argv[1:]  # DIR [STEP [SIGNAL]]
    kill_after = int(rest[0]) if rest else 0
    number = int(rest[1]) if len(rest) > 1 else signal.SIGKILL

    def on_step(step: int) -> None:
        """Ends this process at a step, the hard way or the soft way."""
        if step == kill_after:
            os.kill(os.getpid(), number)

    run(config(2, 2, 2, checkpoint__every_steps=3, ema_decay=0.9), folder, on_step)
