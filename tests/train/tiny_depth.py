"""A tiny run of depth on the embedded scenes of spheres."""

import tiny
import tiny_semantic
from ml_collections import ConfigDict

from configs import depth
from jaxdino.data.record import Source
from jaxdino.data.sources import SOURCES, Listing, spheres


def few_spheres(cfg) -> Source:
    """Every eighth of the scenes: 40 train, 8 val, 8 test."""
    whole = spheres.spheres(cfg)
    return Source("few_spheres", (), {name: one.chosen(range(0, len(one), 8)) for name, one in whole.splits.items()})


SOURCES["few_spheres"] = Listing({"depth": few_spheres})


def config(*names: str, steps: int = 3, **changes) -> ConfigDict:
    """The config of a run of these strategies; `changes` are set by dotted path ("__" for a dot)."""
    made = depth.get_config()
    made.model.name = made.model.configured_for = tiny.SPEC.name
    made.model.weights = "random"
    made.data.update(name="few_spheres", image_size=16, batch_size=8, num_threads=0, decoder="pillow")
    made.objective.update(bins=16, width=8)
    made.stages = tuple(tiny_semantic.stage(name, steps) for name in names or ("full",))
    made.log_every = 1
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = made
        for name in parents:
            node = node[name]
        node[leaf] = value
    return made
