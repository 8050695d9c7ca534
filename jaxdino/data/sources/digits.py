"""The source "digits": scikit-learn's handwritten digits, which need no download."""

import functools
import gzip
import importlib.util
from pathlib import Path

import numpy as np

from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.split_names import SPLITS
from jaxdino.data.splitting import stratified


def digits(cfg: DataConfig) -> Source:
    """Load scikit-learn's 1,797 handwritten digits as 8x8 RGB: 1,079 train, 359 val, 359 test, stratified.

    The split is fixed, independent of the seed and ratios in `cfg`, so that weights trained on the training part can be
    evaluated on the test part. Grey levels 0..16 become 0..255.
    """
    images, labels = _digit_arrays()
    keys = [f"digit-{index}" for index in range(len(labels))]
    parts = stratified(keys, labels, {"val": 0.2, "test": 0.2}, seed=0, class_names=list("0123456789"))
    names = tuple("0123456789")
    splits = {
        name: Split(name, [images[i] for i in parts[name]], {"label": labels[parts[name]]}, names) for name in SPLITS
    }
    return Source("digits", names, splits)


@functools.cache
def _digit_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (1797, 8, 8, 3) and int32 (1797,)."""
    found = importlib.util.find_spec("sklearn")  # its file, without importing it, a fifth of the time of a start
    assert found and found.origin  # a dependency
    with gzip.open(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int32)  # 64 grey levels and the label, as `load_digits` reads
    grey = np.rint(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), table[:, 64].copy()
