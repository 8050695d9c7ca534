"""Places365 (standard, 365 scenes), frozen features: k-NN and a linear head.

    python -m jaxdino.main --config=benchmarks/places365:dinov2_vits14 --config.data.root=PLACES

Data: PLACES/train/<class>/*.jpg and PLACES/val/<class>/*.jpg, the "easy directory structure" of
http://places2.csail.mit.edu, small images (256 x 256); 1,803,460 and 36,500 images. The archive's own test images
have no labels.

No published figure is claimed: DINOv2's paper reports Places205, another set of classes. The settings are those of
benchmarks/imagenet (dinov2/eval/linear.py), with its sweep of rates; k-NN and many heads at once:

    jaxdino evaluate --weights dinov2_vits14.pth --root PLACES --k 10 20 100 200
    jaxdino evaluate --weights dinov2_vits14.pth --root PLACES --probe --pool cls4_mean
"""

from ml_collections import ConfigDict

from configs.benchmarks import imagenet


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `imagenet`; the data is another."""
    return imagenet.get_config(model)
