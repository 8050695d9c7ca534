"""Read every image once, and keep a row of numbers of each: size, format, brightness, contrast, hash, mean colours."""

import contextlib
import dataclasses
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import Bands, pixels, plain
from jaxdino.data.channels import Reading
from jaxdino.data.checks import Part, keeping, open_image
from jaxdino.data.image_file import bytes_of, open_file
from jaxdino.data.kinds import kind_of, kind_of_raw
from jaxdino.data.ranges import remarks
from jaxdino.data.stored import ImageFile, Stored
from jaxdino.inspect_data.hashes import perceptual_hash
from jaxdino.inspect_data.images import Images

READ, UNREADABLE, TRUNCATED = 0, 1, 2
"""Values of `status`."""
SHORT = 224  # a JPEG is decoded smaller as long as its shorter side keeps this many pixels
CHUNK = 32  # images that one worker reads at a time
CUT = ("truncated", "incomplete", "unexpected end", "data stream", "premature end", "not enough data", "buffer is not")
"""Words in the errors of decoders for files that end too early."""
LEVELS = np.arange(256, dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class How:
    """How images are read.

    Attributes:
      reading: channels, value range and largest size. draft: whether JPEGs may be decoded smaller.
    """

    reading: Reading
    draft: bool = True


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known about N images.

    Attributes:
      rows: a structured array (N,), see `row_type`.
      formats: names of `rows["format"]`, such as "JPEG".
      kinds: names of `rows["kind"]`, such as "RGB" or "grey 16-bit".
      reasons: {image: why it cannot be read}. remarks: {image: why it is not read as it is}.
    """

    rows: np.ndarray
    formats: tuple[str, ...]
    kinds: tuple[str, ...]
    reasons: dict[int, str]
    remarks: dict[int, str]

    @property
    def read(self) -> np.ndarray:
        """Whether each image could be read, bool (N,)."""
        return self.rows["status"] == READ


def row_type(channels: int) -> np.dtype:
    """Return the type of a row, for images read with that many channels.

    Fields: status; format and kind (see `Facts`); width and height, upright; bytes of the file; mean and standard
    deviation of the grey levels, 0..255; hash (see `hashes`); mean and mean square of each channel, 0..255.
    """
    return np.dtype(
        [
            *(("status", "u1"), ("format", "u1"), ("kind", "u2"), ("width", "u4"), ("height", "u4"), ("bytes", "i8")),
            *(("brightness", "f4"), ("contrast", "f4"), ("hash", "u8")),
            *(("mean", "f4", (channels,)), ("square", "f4", (channels,))),
        ]
    )


def facts(images: Images, how: How, threads: int, processes: int = 0) -> Facts:
    """Read all images.

    Args:
      threads: reading threads. processes: reading processes in place of threads, if above 0.
    """
    rows = np.zeros(len(images), row_type(how.reading.channels))
    formats: dict[str, int] = {"": 0}
    kinds: dict[str, int] = {"": 0}
    found = Facts(rows, (), (), {}, {})
    chunks = (images.records[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
    with worker_pool(threads, processes) as pool, bar(None, "reading", total=len(rows)) as watched:
        start = 0
        for part, labels, reasons, said in in_order(
            pool, partial(examine, how=how), chunks, 4 * (processes or threads)
        ):
            stop = start + len(part)
            rows[start:stop] = part
            rows["format"][start:stop] = [formats.setdefault(name, len(formats)) for name, _ in labels]
            rows["kind"][start:stop] = [kinds.setdefault(name, len(kinds)) for _, name in labels]
            found.reasons.update({start + place: why for place, why in reasons.items()})
            found.remarks.update({start + place: why for place, why in said.items()})
            watched.update(len(part))
            start = stop
    return dataclasses.replace(found, formats=tuple(formats), kinds=tuple(kinds))


@contextlib.contextmanager
def worker_pool(threads: int, processes: int) -> Iterator[Executor]:
    """Yield threads or processes; what has not begun is dropped at an error."""
    if processes:
        pool: Executor = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_leave_interrupts)
    else:
        pool = ThreadPoolExecutor(max(1, threads))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def in_order(pool: Executor, work: Callable[[Any], Any], parts: Iterator[Any], ahead: int) -> Iterator[Any]:
    """Yield the result of `work` for each part, in order; at most `ahead` parts are waiting or under way."""
    waiting: deque[Any] = deque()
    for part in parts:
        waiting.append(pool.submit(work, part))
        if len(waiting) >= ahead:
            yield _result(waiting.popleft())
    while waiting:
        yield _result(waiting.popleft())


def _result(future: Future) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError(
            "a reading process was ended, perhaps for lack of memory: give fewer --processes, or a lower "
            "--data.max_pixels"
        ) from None


Examined = tuple[np.ndarray, list[tuple[str, str]], dict[int, str], dict[int, str]]


def examine(records: Sequence[Any], how: How) -> Examined:
    """Read some images: their rows, (format, kind) of each, reasons and remarks by place."""
    rows = np.zeros(len(records), row_type(how.reading.channels))
    labels, reasons, said = [], {}, {}
    for place, record in enumerate(records):
        row = rows[place]
        labels.append(_header(record, row))
        try:
            with remarks() as lines:
                _measure(record, row, how)
            if lines:
                said[place] = "; ".join(lines)
        except BadImage as err:
            reasons[place] = why = str(err)
            cut = any(word in why.lower() for word in CUT) or _cut_webp(record)
            row["status"] = TRUNCATED if cut else UNREADABLE
    return rows, labels, reasons, said


def _cut_webp(record: Any) -> bool:
    """Return whether a file is a WebP shorter than its header says; its decoder gives no reason."""
    try:
        with bytes_of(record) as file:
            head, size = file.read(12), file.seek(0, os.SEEK_END)
        short = size < 8 + int.from_bytes(head[4:8], "little")
        return head[:4] == b"RIFF" and head[8:] == b"WEBP" and short
    except Exception:  # arrays are no files; libraries that store images have errors of their own
        return False


def _header(record: Any, row: np.void) -> tuple[str, str]:
    """Set the size of the file. Return its format and kind; "" if they are not known."""
    if not isinstance(record, ImageFile):
        return "array", str(np.asarray(record).dtype)
    try:
        row["bytes"] = record.size if isinstance(record, Stored) else os.path.getsize(record)
        try:
            with open_file(record) as image:
                return image.format or "", str(kind_of(image))
        except Image.UnidentifiedImageError:
            kind = kind_of_raw(record)
            names = {"numpy": "NPY", "pydicom": "DICOM"}
            return ("", "") if kind is None else (names.get(kind.decoder, "TIFF"), str(kind))
    except Exception:  # decoders raise many error types; `open_image` gives the reason
        return "", ""


def _measure(record: Any, row: np.void, how: How) -> None:
    """Fill in the numbers of an image. Raises BadImage."""

    def draft(full: tuple[int, int]) -> Part:
        row["width"], row["height"] = full
        return keeping(SHORT)(full) if how.draft else Part()

    image = plain(open_image(record, how.reading, draft))
    counts = _histogram(image)
    shares = counts / counts.sum(axis=1, keepdims=True)
    row["mean"], row["square"] = shares @ LEVELS, shares @ LEVELS**2
    grey = _grey(image)
    share = counts[0] if image.mode == "L" else np.array(grey.histogram(), np.float64)
    share = share / share.sum()
    mean = share @ LEVELS
    row["brightness"], row["contrast"] = mean, np.sqrt(max(0.0, share @ LEVELS**2 - mean**2))
    row["hash"] = perceptual_hash(grey)


def _histogram(image: Image.Image | Bands) -> np.ndarray:
    """Return the number of pixels of each level, float64 (C, 256)."""
    if isinstance(image, Image.Image):
        return np.array(image.histogram(), np.float64).reshape(-1, 256)
    return np.array([band.histogram() for band in image.bands], np.float64)


def _grey(image: Image.Image | Bands) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("L")
    return Image.fromarray(np.rint(pixels(image).mean(axis=-1)).astype(np.uint8))
