"""Write the features of a split as one .pt file, as PyTorch users expect it, without torch."""

from pathlib import Path

import numpy as np

from convert.writers import write_pth
from jaxdino.features.reader import FeatureCache


def write_pt(cache: FeatureCache) -> list[Path]:
    """Write train.pt, val.pt and test.pt: dicts of tensors, the features in float32 and "labels".

    "labels" is int64 (N,), or float32 (N, C) if an image may have several classes, and is left out without classes.

    Returns:
      the files, in the folder of the cache.
    """
    files = []
    for split, count in cache.images.items():
        if not count:
            continue
        items = []
        for name in cache.names:
            shape = (count, *cache.about["features"][name])
            items.append((name, shape, np.dtype(np.float32), lambda name=name, split=split: cache.load(split, name)))
        if cache.made.data["field"]:
            labels = cache.labels(split)
            labels = labels if cache.multilabel else labels.astype(np.int64)
            items.append(("labels", labels.shape, labels.dtype, lambda labels=labels: labels))
        file = cache.folder / f"{split}.pt"
        write_pth(file, items, overwrite=True)
        files.append(file)
    return files
