"""A classifier on a laptop without a GPU: the head, then also the last two blocks of a ViT-S.

    python -m jaxdino.main --config=small/laptop --config.data.root=DIR

The earlier blocks stay frozen: they cost a forward pass and no memory for their activations. A CPU takes the batch in
slices of two images, as the plan says, and needs little memory. For TrashNet (1,768 images of 6 classes) and random
weights, `--dry-run` printed the memory of the table; a run of five steps of each stage with generated images took 154
and 245 MiB (`python -m benchmarks.dry_run_memory small/laptop --stage 0 --steps 2`). Python and its packages come on
top.

    stage  batch  memory   seconds a step
    head      16  148 MiB             2.6
    last      16  258 MiB             3.4

The seconds are of two cores with one other job, at most 64 minutes in all, and from before batches were taken in
slices; with many other jobs `--dry-run` printed 7.3 and 16.6.
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
