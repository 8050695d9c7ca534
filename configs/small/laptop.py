"""A classifier on a laptop without a GPU: the head, then also the last two blocks of a ViT-S.

    python -m jaxdino.main --config=small/laptop --config.data.root=DIR

The earlier blocks stay frozen: they cost a forward pass and no memory for their activations. `--dry-run` on two cores,
with another job beside it, for 1,768 images of 6 classes and random weights: at most 64 minutes, 356 and 582 MiB seen.

    stage  batch  memory   seconds a step
    head      16  219 MiB             2.6
    last      16  522 MiB             3.4
"""

from ml_collections import ConfigDict

from configs import gradual


def get_config(model: str | None = None) -> ConfigDict:
    """Return the first two stages of `gradual`, short, with small batches."""
    config = gradual.get_config(model or "dinov2_vits14")
    config.stages = config.stages[:2]
    config.stages[0].epochs, config.stages[1].epochs = 5, 5
    config.early_stopping.patience = 2
    config.data.update(batch_size=16, num_threads=2)
    return config
