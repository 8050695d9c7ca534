"""NYU Depth v2, frozen features: depth from a linear head, by the protocols of DINOv2 and DINOv3, `val/rmse`.

    python -m jaxdino.main --config=benchmarks/nyu_depth:dinov2_vits14 --config.data.root=NYU/manifest.csv
    python -m jaxdino.main --config=benchmarks/nyu_depth:dinov2_vits14 --config.data.root=NYU/manifest.csv \
        --config.objective.blocks=4

Data: NYU holds the subset that BTS extracted (github.com/cleinc/bts), as in facebookresearch/dinov3 DATASETS.md:
folders of scenes, and the lists nyu_train.txt and nyu_test.txt, lines "/scene/rgb_00000.jpg
/scene/sync_depth_00000.png 518.8579". The depth maps are 16-bit PNGs in millimetres. This writes NYU/manifest.csv;
the test list is val:

    python - NYU <<'END'
    import csv, sys
    from pathlib import Path

    root = Path(sys.argv[1])
    with open(root / "manifest.csv", "w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["path", "depth", "split"])
        for split, name in (("train", "nyu_train.txt"), ("val", "nyu_test.txt")):
            for line in (root / name).read_text().splitlines():
                image, depth, *_ = line.split()
                if depth != "None":
                    rows.writerow([image.lstrip("/"), depth.lstrip("/"), split])
    END

Figures to compare with, RMSE in metres, lower is better; sources: MODEL_CARD.md of facebookresearch/dinov2 (linear
head on four blocks, the second command) and of facebookresearch/dinov3 (last block):

    dinov2_vits14 0.417    dinov2_vitb14 0.362    dinov2_vitl14 0.333    dinov2_vitg14 0.298
    dinov3_vits16 0.403    dinov3_vitb16 0.373    dinov3_vitl16 0.352    dinov3_vit7b16 0.309

Settings (dinov3/eval/depth/configs/config-nyu.yaml): 256 bins from 0.001 to 10 m, the scale-invariant loss alone;
AdamW, rate 3e-4, betas 0.9 and 0.99, weight decay 1e-4, gradients clipped at 35, 12,800 of 38,400 steps of warm-up,
16 images.

Differences, so that figures may be off by more than chance: images are resized whole (480 x 640, 476 x 644 for
patches of 14) where the original cuts out 416 x 544 within the border of the frames, and rotates a little; all known
pixels are measured, not the crop of Eigen et al., and without the mean with the flipped image; the head reads the
class token, as DINOv2's and unlike DINOv3's, and has no batch norm; the loss is of each image, not of the batch.
"""

from ml_collections import ConfigDict

from configs import common, depth


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `depth` with one stage, of DINOv3's lengths and rates."""
    config = depth.get_config(model or "dinov2_vits14")
    config.objective.update(min_depth=1e-3, gradient_weight=0.0)
    config.objective.max_depth = 10.0
    height, width = (common.fitted(side, config.model.name) for side in (480, 640))
    config.data.update(name="manifest", num_threads=16, image_size=f"{height}x{width}")
    config.data.augment = "none,hflip=0.5,brightness=0.25"
    config.early_stopping.monitor = ""  # the last weights are reported, not those of the best epoch
    config.optimizer.update(betas=(0.9, 0.99), clip_norm=35.0)
    config.optimizer.schedule.warmup_epochs = 0.0
    config.own_rates = {}
    config.stages = (
        common.stage(
            "linear",
            steps=38_400,
            schedule=dict(warmup_steps=12_800),
            rules=(("@head", "head"), ("@all", "frozen")),
            groups=dict(head=dict(lr=3e-4, weight_decay=1e-4), frozen=dict(frozen=True)),
        ),
    )
    return config
