"""ChestX-ray14 (NIH), 14 findings, several for an image: mean area under the ROC curve, `test/macro_auc`.

    python -m jaxdino.main --config=benchmarks/chestxray14:dinov2_vits14 --config.data.root=NIH/manifest.csv

Data: NIH holds Data_Entry_2017.csv (or Data_Entry_2017_v2020.csv), train_val_list.txt, test_list.txt and the images
below NIH/images*/. This writes NIH/manifest.csv, with the official test split; a tenth of the other patients is val:

    python - NIH <<'END'
    import csv, sys, zlib
    from pathlib import Path

    root = Path(sys.argv[1])
    test = set((root / "test_list.txt").read_text().split())
    files = {path.name: path.relative_to(root).as_posix() for path in sorted(root.glob("images*/**/*.png"))}
    (entries,) = sorted(root.glob("Data_Entry_2017*.csv"))
    with open(entries, newline="") as source, open(root / "manifest.csv", "w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["path", "labels", "split", "patient"])
        for row in csv.DictReader(source):
            name, patient, found = row["Image Index"], row["Patient ID"], row["Finding Labels"]
            split = "test" if name in test else "val" if zlib.crc32(patient.encode()) % 10 == 0 else "train"
            rows.writerow([files.get(name, name), "" if found == "No Finding" else found, split, patient])
    END

No published figure is claimed. Wang et al. (arXiv:1705.02315) define the data and the split by patients; papers that
split at random, or train the whole network at another size, cannot be compared. The settings are ours, those of
configs/linear.py with the losses of configs/multilabel.py, and val chooses the epoch; figures with intervals over
patients, and without training a probe, which measures mean average precision (`test/map`) instead:

    jaxdino evaluate --workdir RUN --resample_by patient
    jaxdino extract --weights dinov2_vits14.pth --name manifest --root NIH/manifest.csv --multilabel \
        --data.columns=labels --out FEATURES
    jaxdino probe --features FEATURES --out RESULTS --methods linear --inputs cls cls_mean
"""

from ml_collections import ConfigDict

from configs import linear, multilabel


def get_config(model: str | None = None) -> ConfigDict:
    """Return the stage of `linear` with the data and loss of `multilabel`."""
    config = multilabel.get_config(model or "dinov2_vits14")
    config.own_rates = {}
    config.stages = linear.get_config(config.model.name).stages
    config.data.update(columns="labels", num_threads=8, augment="medical")
    config.model.pool = "cls_mean"
    config.early_stopping.update(monitor="val/macro_auc", patience=3)
    return config
