"""ADE20K (150 classes), frozen features: linear semantic segmentation by DINOv3's protocol, `val/miou`.

    python -m jaxdino.main --config=benchmarks/ade20k:dinov3_vits16 --config.data.root=ADEChallengeData2016

Data: the archive of the scene parsing challenge, with images/{training,validation} and
annotations/{training,validation}, 20,210 and 2,000 images. The names of the classes:

    cut -f5 ADEChallengeData2016/objectInfo150.txt | tail -n +2 > ADEChallengeData2016/classes.txt

Figures to compare with, mIoU in percent; source: facebookresearch/dinov3 MODEL_CARD.md:

    dinov3_vits16 47.0    dinov3_vitb16 51.8    dinov3_vitl16 54.9    dinov3_vit7b16 55.9

DINOv2's model card has 47.2, 51.3, 53.1 and 53.0 (S, B, L, g) for "multiscale": four blocks
(`--config.objective.blocks=4`) and several scales of the image in evaluation, which this does not do.

Settings (dinov3/eval/segmentation/configs/config-ade20k-linear-training.yaml, and config.py beside it): batch norm,
dropout 0.1 and a linear layer on the last block; 512 pixels (518 for patches of 14); AdamW, rate 1e-3, weight decay
1e-3, no clipping, 1,500 steps of warm-up, cosine to 0, 40,000 steps of 16 images; windows of 512 that overlap by a
third, short side 512; value 0 is ignored. DINOv2's configs, as Jiawei-Yang/Denoising-ViT has them in
evaluation/configs, differ in weight decay (1e-4), dropout (0), a linear decay of the rate, and colour distortion.

Differences: the original resizes by 0.5 to 2 and cuts out 512 x 512. Here square crops of 0.25 to 1 of the image's
area are resized, so that images are never made smaller than the crop and padded.
"""

from ml_collections import ConfigDict

from configs import common, segment_linear


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `segment_linear` with the lengths and rates of DINOv3's protocol."""
    config = segment_linear.get_config(model or "dinov3_vits16")
    config.objective.dropout = 0.1
    config.data.update(name="masks", images="images/training", masks="annotations/training", background=False)
    config.data.update(batch_size=16, num_threads=16, image_size=common.fitted(512, config.model.name))
    config.data.augment = "none,scale=(0.25,1.0),ratio=(1.0,1.0),hflip=0.5"
    config.early_stopping.monitor = ""  # the last weights are reported, not those of the best epoch
    config.optimizer.clip_norm = 0.0
    config.stages = (
        common.stage(
            "linear",
            steps=40_000,
            schedule=dict(warmup_steps=1500),
            rules=(("@head", "head"), ("@all", "frozen")),
            groups=dict(head=dict(lr=1e-3, weight_decay=1e-3), frozen=dict(frozen=True)),
        ),
    )
    return config
