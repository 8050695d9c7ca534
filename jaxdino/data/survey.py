"""Survey the pixels before a run: the kinds of images, and the value range of images with more than 8 bits."""

import dataclasses
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.bad_images import BadImage
from jaxdino.data.channels import RGB, Reading, refusal
from jaxdino.data.image_file import open_file, pages_of
from jaxdino.data.kinds import Kind, as_stored, is_npy, kind_of, kind_of_raw, stored_values
from jaxdino.data.ranges import FLAG, KEYWORD, Range, fitting, unlike
from jaxdino.data.reasons import lift_limit, reason, too_large, unknown
from jaxdino.data.record import Split
from jaxdino.data.scenes import is_scene, sample
from jaxdino.data.shortcuts import classes_of, nearly_one_colour, told_apart
from jaxdino.data.stored import ImageFile

EIGHT_BITS = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif"))  # always 8 bits
NAMES = 100_000  # images of a split whose names are looked at
HEADERS, PLAIN, DECODED = 1000, 200, 100  # sample sizes: headers of other formats, of these; decoded deep images
SHALLOW = 20  # number of 8-bit images that are decoded
THREADS = 8
SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Survey:
    """The result of a survey.

    Attributes:
      total: number of files. kinds: {path: kind} of the files whose header was read.
      failed: {path: reason} of the files whose header could not be read.
      train: paths of the training images. classes: {path: class} of the training images, if there are classes.
    """

    total: int
    kinds: dict[str, Kind]
    failed: dict[str, str]
    train: frozenset[str]
    classes: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def looked(self) -> int:
        """Return the number of headers that were read or tried."""
        return len(self.kinds) + len(self.failed)

    @property
    def deep(self) -> dict[str, Kind]:
        """Return the images whose values must be scaled to 8 bits; only training images, if there are any."""
        found = {path: kind for path, kind in self.kinds.items() if kind.deep}
        return {path: kind for path, kind in found.items() if path in self.train} or found


@dataclasses.dataclass(frozen=True)
class Values:
    """The values of images with more than 8 bits: their extremes, and the images that hold NaN."""

    low: float
    high: float
    floats: bool
    whole: bool
    images: int
    missing: tuple[str, ...] = ()


def look(splits: Sequence[Split], max_pixels: int = 0, scenes: bool = False) -> Survey | None:
    """Read the headers of a sample of all splits, spread evenly. Return None if the records are not files.

    Args:
      max_pixels: Pillow's own size limit is raised to this if it is lower. A larger image of more than 8 bits is not
        looked at further; 0 is no limit.
    """
    lift_limit(max_pixels)
    rows = {split.name: _spread(range(len(split)), NAMES) for split in splits}
    paths = {split.name: [_path(split.records[row]) for row in rows[split.name]] for split in splits}
    files = [path for found in paths.values() for path in found if path]
    if not files:
        return None
    plain = [path for path in files if os.path.splitext(str(path))[1].lower() in EIGHT_BITS]
    other = [path for path in files if os.path.splitext(str(path))[1].lower() not in EIGHT_BITS]
    chosen = [*_spread(other, HEADERS), *_spread(plain, PLAIN)]
    with ThreadPoolExecutor(THREADS) as pool:
        seen = dict(zip(chosen, pool.map(lambda path: _header(path, max_pixels, scenes), chosen), strict=True))
    kinds = {path: kind for path, kind in seen.items() if isinstance(kind, Kind)}
    failed = {path: reason for path, reason in seen.items() if not isinstance(reason, Kind)}
    train = frozenset(path for path in paths.get("train", files) if path)
    return Survey(max(len(files), sum(map(len, splits))), kinds, failed, train, classes_of(splits, rows))


def settle(found: Survey, asked: Range, own: Range, channels: int) -> tuple[Range, list[str]]:
    """Choose the value range of the images, and describe the survey.

    Args:
      asked: the setting; own: the range of the weights. "auto" uses the range of the weights, then that of the values.
      channels: number of channels of the model.

    Returns:
      The range, still "auto" if no image needs one, and lines to print.

    Raises:
      UserError: if no header can be read, no image has channels that the model takes, or the values determine
        no range.
    """
    if found.failed and not found.kinds:
        path, reason = next(iter(found.failed.items()))
        raise UserError(f"none of the {found.looked} images looked at can be read; {path}: {reason}")
    lines = [f"pixels: {_kinds(found, channels)} ({_looked(found)})", *_misfits(found, channels)]
    plain = [path for path, kind in found.kinds.items() if not kind.deep and kind.decoder == "pillow"]
    lines += nearly_one_colour(_spread(plain, SHALLOW), channels) if plain and not found.deep else []
    lines += told_apart(found.kinds, found.classes)
    chosen = asked if asked.chosen else own
    if not found.deep:
        return chosen, lines
    values = values_of(found)
    if not asked.chosen and not own.chosen:
        return _choose(found, values, lines)
    whose = "" if asked.chosen else ", as the weights' images were"
    outside = chosen.kind == "numbers" and (values.low < chosen.low or values.high > chosen.high)
    clipped = "; values outside are clipped" if outside else ""
    lines.append(f"pixels: {_extent(found, values)}: read with {FLAG}={chosen}{whose}{clipped}")
    return chosen, _checked(found, chosen, lines)


def _choose(found: Survey, values: Values, lines: list[str]) -> tuple[Range, list[str]]:
    if all(kind.window for kind in found.deep.values()):
        lines.append(
            f"pixels: {_extent(found, values)}: read with the window of each file; --config.{FLAG}=window says so"
        )
        return Range("window"), lines
    dtypes = {kind.dtype for kind in found.deep.values()}
    if len({dtype.startswith("float") for dtype in dtypes}) > 1:
        raise unlike(sorted(dtypes), f"--config.{FLAG}")
    chosen, name = fitting(
        values.low, values.high, values.floats, values.whole, f"the {_deep_names(found)} images", f"--config.{FLAG}"
    )
    lines.append(f"pixels: {_extent(found, values)}: read as {name}; --config.{FLAG}={chosen} says so")
    return chosen, _checked(found, chosen, lines)


def _checked(found: Survey, chosen: Range, lines: list[str]) -> list[str]:
    """Check that the libraries for a range are installed. Raise UserError if one is missing."""
    for path, kind in found.deep.items():
        if kind.decoder == "imagecodecs" and chosen.kind != "full":
            try:
                stored_values(path, kind)
            except BadImage as err:
                raise UserError(f"{path} and others have {err}") from None
            break
    return lines


def values_of(found: Survey) -> Values:
    """Decode up to `DECODED` of the deep images, spread evenly, and return their values, without alpha channels."""
    chosen = _spread(list(found.deep), DECODED)
    with ThreadPoolExecutor(THREADS) as pool:
        seen = [each for each in pool.map(lambda path: _extremes(path, found.kinds[path]), chosen) if each]
    if not seen:
        raise UserError(f"none of the {len(chosen)} {_deep_names(found)} images looked at can be decoded: {chosen[0]}")
    lows, highs, whole, missing = zip(*seen, strict=True)
    return Values(
        low=float(np.nanmin(lows)),
        high=float(np.nanmax(highs)),
        floats=any(kind.dtype.startswith("float") for kind in found.deep.values()),
        whole=all(whole),
        images=len(seen),
        missing=tuple(path for path in missing if path),
    )


def reading_of(
    records: Sequence[Any],
    asked: Range,
    channels: int = RGB,
    flag: str = KEYWORD,
    say: Callable[[str], None] | None = None,
) -> Reading:
    """Return how images are read: in the given range, or, for "auto", in `range_of` them, with a message.

    Args:
      flag: name of the setting of the range. say: called with the message; None warns.
    """
    if asked.chosen:
        return Reading(channels, asked)
    paths = [os.fspath(record) if isinstance(record, os.PathLike) else record for record in records]
    chosen, note = range_of(paths, flag)
    if note and say is not None:
        say(note)
    elif note:
        warnings.warn(note, stacklevel=3)
    return Reading(channels, chosen)


def range_of(records: Sequence[str | np.ndarray | Image.Image], flag: str = KEYWORD) -> tuple[Range, str]:
    """Return the range of images without a chosen one, and a message; "auto" and "" if all have 8 bits.

    Args:
      flag: name of the setting that sets the range.

    Raises:
      UserError: if their values determine no range.
    """
    sample = _spread(list(records), DECODED)
    deep = [(record, found) for record in sample if (found := _values(record)) is not None]
    if not deep:
        return Range(), ""
    if all(_windowed(record) for record, _ in deep):
        said = "'window'" if flag == KEYWORD else "window"
        return Range("window"), f"DICOM images: read with the window of each file; {flag}={said} says so"
    seen = [found for _, found in deep]
    low, high = min(float(each.min()) for each in seen), max(float(each.max()) for each in seen)
    if len({each.dtype.kind == "f" for each in seen}) > 1:
        raise unlike(sorted({str(each.dtype) for each in seen}), flag)
    whole = all(bool((each == np.rint(each)).all()) for each in seen)
    names = " and ".join(sorted({str(each.dtype) for each in seen}))
    chosen, name = fitting(low, high, any(each.dtype.kind == "f" for each in seen), whole, f"the {names} images", flag)
    said = repr(str(chosen)) if flag == KEYWORD else chosen
    return chosen, f"{names} images hold values up to {high:.6g}: read as {name}; {flag}={said} says so"


def _windowed(record: object) -> bool:
    kind = _header(record) if isinstance(record, ImageFile) else None
    return isinstance(kind, Kind) and kind.window is not None


def _values(record: str | np.ndarray | Image.Image) -> np.ndarray | None:
    """Return the values of an image of more than 8 bits, without NaN; None for other or unreadable images."""
    try:
        if isinstance(record, ImageFile):
            kind = _header(record)
            values = _sampled(record, kind) if isinstance(kind, Kind) and kind.deep else None
            values = values[..., :-1] if values is not None and kind.alpha and values.ndim == 3 else values
        elif isinstance(record, Image.Image):
            values = as_stored(np.asarray(record), kind) if (kind := kind_of(record)).deep else None
        else:
            values = record
    except Exception:  # reported when the image is read
        return None
    if values is None or values.dtype in (np.uint8, bool) or values.dtype.kind not in "iuf":
        return None
    numbers = values[np.isfinite(values)]
    return numbers if numbers.size else None


def _extremes(path: ImageFile, kind: Kind) -> tuple[float, float, bool, str] | None:
    """Return (smallest value, largest, whether all are integers, the path if there is a NaN), or None if unreadable."""
    try:
        try:
            values = _sampled(path, kind)
        except BadImage:  # library not installed: the upper 8 bits are enough
            with open_file(path) as image:
                values = np.asarray(image).astype(np.int64) * 256 + 255
    except Exception:  # reported by the run
        return None
    values = values[..., :-1] if kind.alpha and values.ndim == 3 else values
    numbers = values[np.isfinite(values)]
    numbers = numbers[numbers != kind.nodata]
    if not numbers.size:
        return None
    whole = values.dtype.kind != "f" or bool((numbers == np.rint(numbers)).all())
    return float(numbers.min()), float(numbers.max()), whole, path if np.isnan(values).any() else ""


def _sampled(path: ImageFile, kind: Kind) -> np.ndarray:
    """Return the stored values of a file, or of parts of one that is above the usual limit."""
    return sample(path) if is_scene(path, Reading.max_pixels) else stored_values(path, kind)


def _header(path: ImageFile, max_pixels: int = 0, scenes: bool = False) -> Kind | str:
    """Return the kind of a file, or the reason why its header cannot be read, or why it would not be decoded."""
    kind = _read_header(path)
    large = isinstance(kind, Kind) and kind.deep and 0 < max_pixels < kind.size[0] * kind.size[1]
    if large and not (scenes and is_scene(path, max_pixels)):
        return too_large(f"{kind.size[0]} x {kind.size[1]}", max_pixels)
    return kind


def _read_header(path: ImageFile) -> Kind | str:
    try:
        if is_npy(path) or is_scene(path, Reading.max_pixels):
            return kind_of_raw(path)
        try:
            with open_file(path) as image:
                pages = pages_of(image)
                return dataclasses.replace(kind_of(image), pages=pages, size=image.size)
        except Image.UnidentifiedImageError:
            return kind_of_raw(path) or unknown(path)
    except Exception as err:  # as in `checks.open_image`: decoders raise many error types for broken files
        return reason(path, err)


def _misfits(found: Survey, channels: int) -> list[str]:
    """Return a warning about images whose channels do not fit. Raise UserError if none of them fits."""
    wrong = {path: kind for path, kind in found.kinds.items() if not kind.fits(channels)}
    if not wrong:
        return []
    path, kind = next(iter(wrong.items()))
    what = f"{len(wrong)} of the {found.looked} images looked at do not fit the model, such as {path}"
    if len(wrong) == len(found.kinds):
        raise UserError(f"{what}: {refusal(kind, channels)}")
    return [f"WARNING: {what}: {refusal(kind, channels)}"]


def _kinds(found: Survey, channels: int) -> str:
    counts = Counter(str(kind) for kind in found.kinds.values())
    names = [name if len(counts) == 1 else f"{name} {count}" for name, count in counts.most_common()]
    paged = [kind for kind in found.kinds.values() if kind.pages > 1]
    first = sum(not kind.paged(channels) for kind in paged)
    pages = [f"{len(paged)} of several pages"] if paged else []
    only = [f"of {'which' if first == len(paged) else f'{first} of them'} only the first is read"] if first else []
    return ", ".join([*names, *pages, *only])


def _looked(found: Survey) -> str:
    path, why = next(iter(found.failed.items()), ("", ""))
    failed = f", {len(found.failed)} not readable, such as {path}: {why}" if found.failed else ""
    return f"{found.looked:,} of {found.total:,} files looked at{failed}"


def _deep_names(found: Survey) -> str:
    return " and ".join(sorted({kind.numbers for kind in found.deep.values()}))


def _extent(found: Survey, values: Values) -> str:
    """Describe the values of the deep images."""
    nan = ""
    if values.missing:
        names = few(["/".join(str(path).split(os.sep)[-2:]) for path in values.missing], SHOWN)
        nan = f", and NaN in {names}, which becomes the lowest value"
    low = f"from {values.low:.6g} " if values.low < 0 else ""
    return f"{_deep_names(found)} images hold values {low}up to {values.high:.6g} ({values.images} decoded){nan}"


def _path(record: object) -> ImageFile | None:
    return record if isinstance(record, ImageFile) else None


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, count).astype(int)).tolist()]
