"""Self-distillation from random weights on ImageNette (9,469 images of 10 classes), on one GPU of 16 GB.

    python -m jaxdino.main --config=small/ssl_imagenette --config.data.root=imagenette2-320

ROOT is the unpacked archive, with `train/` and `val/` (https://github.com/fastai/imagenette). The labels only measure
k-NN. A ViT-S/16 with DINO's views: two of 224 pixels and six of 96. Estimates by
`python -m benchmarks.config_memory small/ssl_imagenette`, from the program compiled for a CPU, not measured on a GPU:
4.1 GiB, 123 TFLOP for 1,000 images, so that 300 epochs take 4.9 hours at 20 TFLOP/s. It was not trained to its end.
"""

from ml_collections import ConfigDict

from configs import ssl


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `ssl` for some thousand photos: fewer prototypes, more epochs, batches of 128."""
    config = ssl.get_config(model or "dino_vits16")
    config.precision = "bfloat16"
    config.model.remat = "blocks"
    config.data.update(name="folder", batch_size=128, num_threads=8)
    config.data.views[2].count = 6
    config.projection.out_dim = 4096
    config.evaluation.every_epochs = 10
    (stage,) = config.stages
    stage.epochs = 300
    for group in stage.groups.values():
        group.lr = 5e-4 * 128 / 256  # DINO's rule
    return config
