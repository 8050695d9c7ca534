"""CIFAR-10, frozen features: logistic regression as in DINOv2, or a linear head trained on augmented images.

    python -m jaxdino.main --config=benchmarks/cifar10:dinov2_vits14 --config.data.root=CIFAR10

Data: CIFAR10 is a folder of parquet files, train-*.parquet and test-*.parquet, with a column of images and the column
`label`, as on the Hugging Face hub (uoft-cs/cifar10; `pip install 'jaxdino[datasets]'`); 50,000 and 10,000 images.

Figure to compare with: 99.5 % for dinov2_vitg14 (Oquab et al., arXiv:2304.07193, linear evaluation on CIFAR-10), by
logistic regression on the class token, C of 45 values from 1e-6 to 1e5 (dinov2/eval/log_regression.py). Not by the
config, but by:

    jaxdino extract --weights dinov2_vitg14.pth --name hf --root CIFAR10 --data.val_ratio=0.1 --out FEATURES
    jaxdino probe --features FEATURES --out RESULTS --methods logistic knn --inputs cls --k 10 20

val, a tenth of train, chooses C; test is measured once. Differences: features are standardised here, and the chosen
head is not trained again on train and val together; with `--folds 5` it is, and cross-validation chooses.

The config trains a linear head on crops and flips of images enlarged to the model's own size. Its settings are those
of benchmarks/imagenet with batches of 128 and the rate that this gives; no published figure is claimed for it.
"""

from ml_collections import ConfigDict

from configs.benchmarks import imagenet


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `imagenet` for 50,000 small images."""
    config = imagenet.get_config(model)
    config.data.update(name="hf", batch_size=128, num_threads=4, val_ratio=0.1, crop_pct=1.0, test_split=None)
    config.data.augment = "none,scale=(0.35,1.0),hflip=0.5"
    config.stages[0].groups.head.lr = 2.5e-3  # R = 5e-3, in proportion to the batch
    return config
