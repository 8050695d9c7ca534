"""ImageNet-1K, frozen features: k-NN and a linear head, by the protocols of DINOv2 and DINOv3.

    python -m jaxdino.main --config=benchmarks/imagenet:dinov2_vits14 --config.data.root=IMAGENET

Data: IMAGENET/train/<class>/*.JPEG and IMAGENET/val/<class>/*.JPEG, 1,281,167 and 50,000 images, 1,000 classes. The
archive of the validation images has no class folders: sort them first, or give a manifest (docs/data.md).

Figures to compare with, top-1 in percent, k-NN and linear; source: facebookresearch/dinov2 MODEL_CARD.md, without
registers:

    model          k-NN  linear
    dinov2_vits14  79.0    81.1
    dinov2_vitb14  82.1    84.5
    dinov2_vitl14  83.5    86.3
    dinov2_vitg14  83.5    86.5

None is claimed for DINOv3: its model card has none for these two protocols.

k-NN reads the class token, k of 10, 20, 100 and 200, temperature 0.07 (dinov2/eval/knn.py, dinov3/eval/knn.py):

    jaxdino evaluate --weights dinov2_vits14.pth --root IMAGENET --k 10 20 100 200

Linear, the command at the top (dinov2/eval/linear.py, dinov3/eval/linear.py): random resized crops to 224 and flips,
SGD with momentum 0.9 and without weight decay, cosine to 0, 12,500 steps of 1,024 images (128 on each of 8 GPUs). The
rate of a head is R x 1,024 / 256, with R of 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2,
0.1; a head for each R, on the last block (`pool=cls_mean`, all of DINOv3) and on four (`cls4_mean`, DINOv2), is
trained and the best on the validation images is reported. A config trains one head; to train them all:

    for rate in 4e-5 8e-5 2e-4 4e-4 8e-4 2e-3 4e-3 8e-3 2e-2 4e-2 8e-2 0.2 0.4; do for pool in cls_mean cls4_mean; do
        jaxdino train --config=benchmarks/imagenet:dinov2_vits14 --config.data.root=IMAGENET --config.model.pool=$pool \
            --config.stages[0].groups.head.lr=$rate --workdir=runs/imagenet/$pool-$rate
    done; done

Or train all heads at once, on features that are computed once, without augmentation, a fifth of train choosing:

    jaxdino evaluate --weights dinov2_vits14.pth --root IMAGENET --probe --pool cls4_mean

Differences: DINOv2 also tries heads without the mean patch: on one block that is `pool=cls`, on four there is no
pooling here. The rate of this config, R = 5e-3, is a choice of ours. `evaluate` crops as the weights' preprocessing
says: DINOv2's from a short side of 256, as its protocol, DINOv3's from 249 where dinov3/eval resizes to 256.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with one stage that trains a linear head on the last block."""
    config = common.get_config(model or "dinov2_vits14")
    config.model.pool = "cls_mean"
    config.data.update(
        name="folder", batch_size=1024, num_threads=16, crop_mode="center", crop_pct=0.875, test_split="none"
    )
    config.data.augment = "none,scale=(0.08,1.0),hflip=0.5"
    config.early_stopping.monitor = ""  # the last weights are reported, not those of the best epoch
    config.optimizer.update(name="sgd", momentum=0.9, clip_norm=0.0)
    config.stages = (
        common.stage(
            "linear",
            steps=12_500,
            rules=(("@head", "head"), ("@all", "frozen")),
            groups=dict(head=dict(lr=2e-2, weight_decay=0.0), frozen=dict(frozen=True)),
        ),
    )
    return config
