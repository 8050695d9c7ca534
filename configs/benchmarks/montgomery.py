"""Montgomery County chest X-rays, tuberculosis or not: sensitivity and specificity.

    python -m jaxdino.main --config=benchmarks/montgomery:dinov2_vits14 --config.data.root=MONTGOMERY/manifest.csv

Data: MONTGOMERY holds CXR_png/MCUCXR_*.png, 138 images, of which 80 are normal (the name ends in 0) and 58 show
tuberculosis (1). One image a patient. This writes MONTGOMERY/manifest.csv, three fifths train, a fifth val and a
fifth test, of each class:

    python - MONTGOMERY <<'END'
    import csv, random, sys
    from pathlib import Path

    root = Path(sys.argv[1])
    with open(root / "manifest.csv", "w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["path", "label", "split"])
        for ending, label in (("0", "normal"), ("1", "tuberculosis")):
            files = sorted((root / "CXR_png").glob(f"MCUCXR_*_{ending}.png"))
            random.Random(0).shuffle(files)
            for place, path in enumerate(files):
                split = ("val", "test", "train", "train", "train")[place % 5]
                rows.writerow([path.relative_to(root).as_posix(), label, split])
    END

No published figure is claimed: the data (Jaeger et al. 2014, Quant. Imaging Med. Surg. 4(6)) has no official split,
and of 28 test images one changes the sensitivity by eight points. The settings are ours, those of configs/linear.py
with small batches. The table of `evaluate` has sensitivity and specificity of each class with intervals, also at
thresholds that are chosen on val; read those of `tuberculosis`. The probe chooses by cross-validation, which suits so
few images better:

    jaxdino evaluate --workdir RUN --at sensitivity=0.9 specificity=0.9
    jaxdino extract --weights dinov2_vits14.pth --name manifest --root MONTGOMERY/manifest.csv --out FEATURES
    jaxdino probe --features FEATURES --out RESULTS --folds 5 --methods logistic nearest_mean --inputs cls cls_mean
"""

from ml_collections import ConfigDict

from configs import linear


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `linear` for some hundred radiographs."""
    config = linear.get_config(model or "dinov2_vits14")
    config.model.pool = "cls_mean"
    config.data.update(name="manifest", columns="label", batch_size=16, augment="medical")
    config.early_stopping.monitor = "val/balanced_accuracy"
    config.stages[0].epochs = 50
    return config
