"""Calibrate the cosine of near-duplicates on the images: near-copies of them against the nearest other images."""

import dataclasses
import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance

from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import Bands, pixels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import keeping, open_image
from jaxdino.data.duplicates import identical
from jaxdino.data.image_file import open_bytes
from jaxdino.data.record import Split
from jaxdino.data.stored import ImageFile
from jaxdino.evals import knn
from jaxdino.inspect_data.limits import DEFAULT

SAMPLE = 200  # images that are copied, at most
SEED = 0
LEAST = 10  # images; with fewer, `FALLBACK` is taken
FALLBACK = 0.97
NEAREST = 10  # images among which the nearest different one is looked for
EXACT = 0.99999  # cosine above which two images count as the same
COPIES, OTHERS = 0.05, 0.99  # quantiles that give the cosine
SHOWN = {"5 %": 0.05, "50 %": 0.5, "95 %": 0.95}
"""Name of a quantile that is reported -> its share."""
SHORT = 512  # a JPEG is decoded smaller as long as its shorter side keeps this many pixels
QUALITY, SIZE, CUT = 60, 0.7, 0.04

Embed = Callable[[Split], tuple[np.ndarray, np.ndarray]]


def smaller_jpeg(image: Image.Image) -> Image.Image:
    """Resize an image to `SIZE` of each side, then compress it as a JPEG of `QUALITY`."""
    file = io.BytesIO()
    small = image.resize([max(1, round(SIZE * side)) for side in image.size], Image.Resampling.BICUBIC)
    small.save(file, "JPEG", quality=QUALITY)
    return open_bytes(file)


def cropped(image: Image.Image) -> Image.Image:
    """Cut `CUT` of each side off."""
    x, y = (int(CUT * side) for side in image.size)
    return image.crop((x, y, image.width - x, image.height - y))


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 60 at 70 % of the size": smaller_jpeg,
    "centre crop without 4 % of each side": cropped,
    "10 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "10 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
}
"""Kind of a near-copy -> the function of a Pillow image that makes it."""


class NearCopies(Sequence[np.ndarray | None]):
    """All kinds of near-copies of some images as the records of a split; each is made when it is read.

    Record i is kind i % K of image i // K, uint8 (H, W, C); None if the image cannot be read.
    """

    def __init__(self, records: Sequence, reading: Reading):
        self.records, self.reading = records, reading

    def __len__(self) -> int:
        return len(self.records) * len(KINDS)

    def __getitem__(self, index):
        image, kind = divmod(index, len(KINDS))
        change = list(KINDS.values())[kind]
        try:
            picture = open_image(self.records[image], self.reading, keeping(SHORT))
        except BadImage:
            return None
        return pixels(Bands(map(change, picture.bands)) if isinstance(picture, Bands) else change(picture))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The cosine from which on images are near-duplicates, and what it is taken from.

    Attributes:
      cosine: the chosen cosine.
      rule: "copies" or "others", the distribution that gave it; "fallback" if there are too few images.
      copies, others: {"n" and each name of `SHOWN`}: the cosines of images with their near-copies, and with the nearest
        other image; {} for "fallback".
    """

    cosine: float
    rule: str
    copies: dict[str, float]
    others: dict[str, float]

    def rows(self) -> list[tuple[str, str]]:
        """Return (name, text) of each line of a report."""
        what = "cosine of near-duplicates"
        if self.rule == "fallback":
            reason = f"not calibrated: fewer than {LEAST} images that differ; --cosine N sets another"
            return [(what, f"{self.cosine:g}, {reason}")]
        told = self.rule == "copies"
        source = f"{COPIES:.0%} quantile of near-copies" if told else f"{OTHERS:.0%} quantile of nearest other images"
        rows = [
            (what, f"{self.cosine:.5f}, the {source.replace('%', ' %')}; --cosine N sets another"),
            ("cosines of images and their near-copies", _text(self.copies)),
            ("cosines of images and the nearest other image", _text(self.others)),
        ]
        if told:
            return rows
        return [
            *rows,
            (
                "the two overlap",
                "near-copies of these kinds cannot be told from different images with this backbone (or over 1 % of "
                "the images have near-copies that their hashes do not show); "
                f"--cosine {self.copies['5 %']:.5f} finds 95 % of such copies, and different images too",
            ),
        ]


def _text(marks: dict[str, float]) -> str:
    quantiles = ", ".join(f"{name} {marks[name]:.5f}" for name in SHOWN)
    return f"quantiles {quantiles}; n {marks['n']:,}"


def calibrated(records: Sequence, found: np.ndarray, hashes: np.ndarray, embed: Embed, reading: Reading) -> Calibration:
    """Choose the cosine from which on two images are near-duplicates, for these images and this backbone.

    Of up to `SAMPLE` images, drawn with `SEED`, near-copies of each of `KINDS` are made and embedded. The cosine is the
    5 % quantile of cosine(image, its copies), but not below the 99 % quantile of cosine(image, nearest other image);
    rounded down to five decimals. What is the same image is not another: exact duplicates (a cosine above `EXACT`, or
    the same bytes), and images whose perceptual hashes are near-duplicates by the default of --distance; else a few
    real near-copies in the data would raise the cosine and hide the others. If fewer than `LEAST` images have another
    one, it is `FALLBACK`.

    The copies are made while they are read: besides them, memory holds `SAMPLE` x K features.

    Args:
      records: M images that can be read. found: their features float32 (M, D).
      hashes: their perceptual hashes uint64 (M,), see `hashes.perceptual_hash`.
      embed: returns the features of a split's readable images and their labels, as `neighbours.embedded`.
      reading: how the images are read.
    """
    none = Calibration(FALLBACK, "fallback", {}, {})
    if len(records) < LEAST:
        return none
    rng = np.random.default_rng(SEED)
    sample = np.sort(rng.choice(len(records), min(SAMPLE, len(records)), replace=False))
    others = nearest_others(records, found, hashes, sample)
    if len(others) < LEAST:
        return none
    copies = NearCopies([records[row] for row in sample], reading)
    features, numbers = embed(Split("near-copies", copies, {"label": np.arange(len(copies), dtype=np.int32)}))
    same = _unit(features) * _unit(found[sample[numbers // len(KINDS)]])
    return chosen(same.sum(axis=1), others)


def chosen(copies: np.ndarray, others: np.ndarray) -> Calibration:
    """Apply the rule of `calibrated` to the cosines with copies (P,) and with the nearest others (Q,)."""
    low, high = float(np.quantile(copies, COPIES)), float(np.quantile(others, OTHERS))
    cosine = math.floor(max(low, high) * 1e5) / 1e5
    return Calibration(cosine, "copies" if low >= high else "others", _marks(copies), _marks(others))


def nearest_others(records: Sequence, found: np.ndarray, hashes: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Return the cosine of each image of the sample and the nearest image that is not the same, float32 (Q,).

    An image whose `NEAREST` nearest ones are all the same image is left out.
    """
    cosines, places = knn.neighbours(found, found[sample], min(NEAREST + 1, len(found)))
    rows = [row for row in np.union1d(sample, places).tolist() if isinstance(records[row], ImageFile)]
    group = np.arange(len(found))
    for members in identical([records[row] for row in rows]):
        group[[rows[place] for place in members]] = rows[members[0]]
    other = (group[places] != group[sample][:, None]) & (cosines <= EXACT)
    other &= np.bitwise_count(hashes[places] ^ hashes[sample][:, None]) > DEFAULT.distance
    some = other.any(axis=1)
    return cosines[some, other.argmax(axis=1)[some]]


def _marks(cosines: np.ndarray) -> dict[str, float]:
    marks = np.quantile(cosines, list(SHOWN.values())).tolist()
    return {"n": len(cosines), **dict(zip(SHOWN, marks, strict=True))}


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
