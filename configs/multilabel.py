"""Several labels for an image, from a manifest: gradual unfreezing of a classifier with a probability for each class.

    python -m jaxdino.main --config=configs/multilabel.py --config.data.root=FILE.csv
    python -m jaxdino.main --config=configs/multilabel.py:dinov3_vits16 --config.data.root=FILE.csv

The stages are those of `gradual`, and the best weights those with the best mean average precision. Any other config
becomes one for several labels by three flags: docs/multilabel.md, as is what a manifest has. On the embedded digits
with three classes ("even", "loops", "straight"), by the page's command:

    stage   val/map   val/macro_f1
    head     0.9679         0.9371
    last     0.9969         0.9815
    all      0.9989         0.9915
    test     0.9991         0.9859
"""

from ml_collections import ConfigDict

from configs import common, gradual
from jaxdino.objectives.settings import Multilabelling


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `gradual` with a manifest and binary cross entropy."""
    config = gradual.get_config(model)
    config.data.name = "manifest"
    config.objective = common.open_fields(
        Multilabelling, dict(name="multilabel", label_smoothing=config.objective.label_smoothing)
    )
    return config
