"""Several labels for an image, from a manifest: gradual unfreezing of a classifier with a probability for each class.

    python -m jaxdino.main --config=configs/multilabel.py --config.data.root=FILE.csv
    python -m jaxdino.main --config=configs/multilabel.py:dinov3_vits16 --config.data.root=FILE.csv

The stages are those of `gradual`, and the best weights those with the best mean average precision. Any other config
becomes one for several labels by four flags: docs/multilabel.md, as is what a manifest has.
"""

from ml_collections import ConfigDict

from configs import gradual


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `gradual` with a manifest, binary cross entropy, and val/map."""
    config = gradual.get_config(model)
    config.data.name = "manifest"
    config.objective.name = "multilabel"
    config.early_stopping.monitor = "val/map"
    return config
