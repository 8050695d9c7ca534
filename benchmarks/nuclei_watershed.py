"""Objects of one class by threshold and watershed (scikit-image), with the metrics of instance segmentation.

python -m benchmarks.nuclei_watershed --root DIR [--test_ratio 0.2] [--val_ratio 0.05] [--split_seed 0]

DIR is a folder that `--config.data.name=masks` reads; the split is that of a run with the same ratios and seed. The
brighter or darker side of Otsu's threshold is the foreground, whichever covers less; maxima of the smoothed distance
from its edge are the seeds. Needs `pip install scikit-image`.
"""

import argparse

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from jaxdino.data.bands import pixels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.data.instances import read
from jaxdino.data.sources import load_source
from jaxdino.evals.instances import Found, InstanceEvaluator

SMOOTH, APART, SMALLEST = 1.0, 5, 20  # pixels: blur of the distance, distance of seeds, area of an object


def segmented(image: np.ndarray) -> Found:
    """Return the objects of an image uint8 (H, W, 3); the score of each is its area."""
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.segmentation import watershed

    grey = gaussian_filter(image.astype(np.float32).mean(axis=2), SMOOTH)
    front = grey > threshold_otsu(grey)
    front = ~front if front.mean() > 0.5 else front
    distance = gaussian_filter(distance_transform_edt(front), SMOOTH)
    seeds = np.zeros(front.shape, np.int32)
    for number, (y, x) in enumerate(peak_local_max(distance, min_distance=APART, labels=front.astype(int)), 1):
        seeds[y, x] = number
    ids = watershed(-distance, seeds, mask=front)
    areas = np.bincount(ids.ravel())
    areas[0] = 0
    kept = np.flatnonzero(areas >= SMALLEST)
    table = np.zeros(len(areas), np.int32)
    table[kept] = np.arange(1, len(kept) + 1)
    labels = np.zeros(len(kept), np.int64)
    masks = ids[None] == kept[:, None, None]
    return Found(masks, areas[kept] / areas.max(initial=1), labels, table[ids], labels)


def main() -> None:
    """Print the metrics of the test split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    for name, default in (("test_ratio", 0.2), ("val_ratio", 0.05), ("split_seed", 0)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = vars(parser.parse_args())
    source = load_source({"name": "masks", **given}, "instances")
    split, evaluator = source.split("test"), InstanceEvaluator(source.class_names, (True,) * len(source.class_names))
    for record, entry in zip(split.records, split.fields["instances"], strict=True):
        image, truth = pixels(open_image(record, Reading(3))), read(entry, 2**26)
        evaluator.update({"found": [segmented(image)], "truth": [truth]})
    found = evaluator.compute()
    names = ("mask_map", "mask_map50", "pq", "miou")
    print(f"{len(split)} images: " + ", ".join(f"{name} {found[name]:.4f}" for name in names))


if __name__ == "__main__":
    main()
