"""Self-distillation from random weights on ImageNet-100 (about 127,000 images of 100 classes), on one GPU of 16 GB.

    python -m jaxdino.main --config=small/ssl_imagenet100 --config.data.root='DIR/train.X*,DIR/val.X'

The layout is that of the archive on Kaggle: the training classes are divided among `train.X1` to `train.X4`, the
validation images are in `val.X`. Another layout: `--config.data.root=DIR` with `train/` and `val/`. The labels only
measure k-NN. Estimates by `python -m benchmarks.config_memory small/ssl_imagenet100`, from the program compiled for a
CPU, not measured on a GPU: 7.7 GiB, 123 TFLOP for 1,000 images, so that 100 epochs take 22 hours at 20 TFLOP/s. It has
not been trained to its end.
"""

from ml_collections import ConfigDict

from configs.small import ssl_imagenette


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `ssl_imagenette` for more images: 100 epochs, more prototypes."""
    config = ssl_imagenette.get_config(model)
    config.projection.out_dim = 16_384
    config.data.batch_size = 256
    (stage,) = config.stages
    stage.epochs = 100
    for group in stage.groups.values():
        group.lr = 5e-4  # DINO's rate for 256 images
    return config
