"""Pascal VOC 2012 (20 classes and the background), frozen features: linear semantic segmentation, `val/miou`.

    python -m jaxdino.main --config=benchmarks/voc2012:dinov2_vits14 --config.data.root=VOCdevkit/VOC2012

Data: JPEGImages, SegmentationClass and ImageSets/Segmentation/{train,val}.txt as in the archive, 1,464 and 1,449
images.

No published figure is claimed: those of DINOv2's and DINOv3's papers could not be checked against their text.

Settings: those of benchmarks/ade20k (dinov3/eval/segmentation), with the weight decay of 1e-4 and without the dropout
of DINOv2's config for VOC, as Jiawei-Yang/Denoising-ViT has it in evaluation/configs/vitb_voc2012_linear_config.py:
train.txt for training, batches of 16, AdamW, rate 1e-3, 1,500 steps of warm-up, 40,000 steps, windows of 512 that
overlap by a third.

Differences: there the rate decays linearly and colours are distorted; crops are those of benchmarks/ade20k.
"""

from ml_collections import ConfigDict

from configs.benchmarks import ade20k


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `ade20k` for VOC's folders."""
    config = ade20k.get_config(model or "dinov2_vits14")
    config.objective.dropout = 0.0
    config.data.update(name="voc", images=None, masks=None, background=True)
    config.stages[0].groups.head.weight_decay = 1e-4
    return config
