"""The data settings of a run."""

import dataclasses
from collections.abc import Mapping

from jaxdino.core import options
from jaxdino.core.errors import UserError
from jaxdino.core.resize import CROP_MODES
from jaxdino.data.channels import RGB, Reading
from jaxdino.data.decoder import AUTO, DECODERS
from jaxdino.data.ranges import Range
from jaxdino.data.roots import as_text

CLASSES = ("top", "leaf")
MEASURED = "measured"
NORMALIZATIONS = ("imagenet", "clip", "inception", "satellite", MEASURED)
MOST = 512  # threads or processes that read, in each process of a run
OF_SIZES = ("image_size", "multi_scale", "aspect_ratios")
OF_STAGES = ("augment", "batch_size", *OF_SIZES, "sampling", "views")  # in config.data, but read by stages


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """All options of `jaxdino.data`, with their defaults. `dataclasses.asdict(DataConfig())` is the config.

    Attributes:
      name: a key of `sources.SOURCES`.
      root: the folder or file; for "folder" and "images" also several folders, separated by commas or as a pattern.
      val_ratio, test_ratio: share of each class to split off if the folder has no such split.
      split_seed: seed of these splits.
      train_split: the folder (list, file) of the training images; None looks for a usual name, "." is the root itself.
      val_split: the folder (list, file) of the validation images; None looks for a usual name, "none" uses none.
      test_split: the folder (list, file) of the test images; None looks for a usual name, "none" uses none.
      classes: "top": the folders of a split are the classes; "leaf": every folder below it that holds images is one.
      images: the folder of the training images below the root, for masks of classes; None: "images", or split folders.
        For text lists: the folder of all images, if they are neither beside the lists nor in "images".
      masks: the folder of the masks of the training images, likewise; None: "masks".
      depths: the folder of the depth maps of the training images, likewise; None: "depth".
      depth_scale: values of a depth map per metre; None: 1000 for integers (millimetres), 1 for floats (metres).
      background: whether value 0 of masks of classes is the class "background" if it has no name; else it is ignored.
      image_column: the column (feature) of "hf" and "tfds" that holds the images; None: "image", or the only one.
      dataset: the data set of "tfds" below `root`: NAME, NAME/CONFIG or NAME:VERSION; None: the only one.
      max_missing: the largest share of listed files that may be missing, and of boxes that cannot be right; more are
        an error.
      columns: the columns of a manifest that hold the classes, "label", "labels" or "cat,dog"; None: those that it has.
        For "hf" and "tfds": the column (feature) of the classes.
      min_visibility: smallest share of a box's area that a training crop must show; of less, the box is neither an
        object nor background there.
      max_boxes: the largest number of boxes of an image; None: that of the data, rounded up.
      num_threads: reading threads in each process; 0 reads in the calling thread.
      num_workers: reading processes in addition to the main one; 0 reads in the main process.
      max_pixels: an image with more pixels (width x height) is refused before it is decoded.
      scenes: TIFF and .npy of more pixels are read in parts where an image is only resized, as in evaluation.
      sixteen_bit: the values of black and white in 16-bit, 32-bit and float images: "auto" (the smallest bit depth that
        holds the training images' values, or the window of DICOM files), "full", "window", each "image", "percentiles",
        "percentiles:1,99", or "0,4095".
      mean: mean of each channel, for pixels in 0..1: one number or one per channel; None: as the weights were trained.
      std: the standard deviation of each channel, likewise.
      normalization: mean and std by name: "imagenet", "clip", "inception" (0.5 each), "satellite" (DINOv3's), or
        "measured" on up to 1,000 training images; None: `mean` and `std`.
      crop_mode: how images are resized in evaluation, and in training where a view has scale=None: "center" (the short
        side; the centre is cut out), "squash" (both sides), "border" (the long side; the rest is filled with the mean
        colour), "none" (not at all); None: as the weights were trained.
      crop_pct: images are first resized to the image size / crop_pct, then cropped; None: 1 if `crop_mode` is given,
        else as the weights were trained.
      on_bad: "skip" gives an unreadable image weight 0 and counts it; "stop" raises.
      draft: decode training JPEGs at 1/2, 1/4 or 1/8 if the crop stays large enough.
      decoder: what decodes JPEGs and resizes crops in training: "pillow"; "fast" (simplejpeg and cykooz-resizer, the
        extra `fast`); "auto": "fast" if these are installed. A resumed run keeps its decoder.
      follow_links: read images and masks that symbolic links lead to outside of `root`; False refuses them.
      digest: at every start, read all files and compare their contents with those that the run began with.
      accept_change: resume a run although its data or initial weights have changed.
    """

    name: str = "digits"
    root: str | None = None
    val_ratio: float = 0.2
    test_ratio: float = 0.0
    split_seed: int = 0
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    classes: str = "top"
    images: str | None = None
    masks: str | None = None
    depths: str | None = None
    depth_scale: float | None = None
    background: bool = True
    columns: str | None = None
    image_column: str | None = None
    dataset: str | None = None
    max_missing: float = 0.1
    min_visibility: float = 0.1
    max_boxes: int | None = None
    num_threads: int = 2
    num_workers: int = 0
    max_pixels: int = 64 * 2**20
    scenes: bool = False
    sixteen_bit: str = "auto"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalization: str | None = None
    crop_mode: str | None = None
    crop_pct: float | None = None
    on_bad: str = "skip"
    draft: bool = True
    decoder: str = AUTO
    follow_links: bool = True
    digest: bool = False
    accept_change: bool = False

    def __post_init__(self):
        if self.on_bad not in ("skip", "stop"):
            raise UserError(f"on_bad is {self.on_bad!r}; it is one of: skip, stop")
        if self.classes not in CLASSES:
            raise UserError(f"data.classes is {self.classes!r}; it is one of: {', '.join(CLASSES)}")
        if min(self.val_ratio, self.test_ratio) < 0 or self.val_ratio + self.test_ratio >= 1:
            raise UserError(
                f"val_ratio {self.val_ratio} and test_ratio {self.test_ratio} must be at least 0 and leave "
                "something to train on: their sum stays below 1"
            )
        if self.normalization is not None:
            options.check_choice("data.normalization", self.normalization, NORMALIZATIONS)
            if given := [name for name in ("mean", "std") if getattr(self, name) is not None]:
                raise UserError(
                    f"data.normalization={self.normalization} and data.{given[0]} are both given: leave one out"
                )
        if self.crop_mode is not None:
            options.check_choice("data.crop_mode", self.crop_mode, CROP_MODES)
        if self.crop_pct is not None:
            options.check_range("data.crop_pct", self.crop_pct, "(0, 4]")
        for name in ("num_threads", "num_workers"):
            options.check_range(f"data.{name}", getattr(self, name), f"[0, {MOST}]")
        options.check_range("data.max_missing", self.max_missing, "[0, 1]")
        options.check_range("data.min_visibility", self.min_visibility, "[0, 1]")
        if self.max_boxes is not None:
            options.check_range("data.max_boxes", self.max_boxes, "[1, 10000]")
        if self.depth_scale is not None:
            options.check_range("data.depth_scale", self.depth_scale, "(0, inf)")
        options.check_choice("data.decoder", self.decoder, DECODERS)
        options.check_range("data.max_pixels", self.max_pixels, "[1, inf)")
        Range.of(self.sixteen_bit)

    def reading(self, channels: int = RGB) -> Reading:
        """Return how images are read for a model of `channels`."""
        return Reading(channels, Range.of(self.sixteen_bit), self.max_pixels, self.scenes)

    @property
    def given_splits(self) -> dict[str, str | None]:
        """Return {split: the name given for it, or None}."""
        return {"train": self.train_split, "val": self.val_split, "test": self.test_split}

    @classmethod
    def of(cls, cfg: "Mapping | DataConfig | None") -> "DataConfig":
        """Read a dict or ConfigDict (see `options.read`); `root` may be a list of folders."""
        if isinstance(cfg, Mapping) and isinstance(cfg.get("root"), list | tuple):
            cfg = {**cfg, "root": as_text(cfg["root"])}
        for name in ("mean", "std") if isinstance(cfg, Mapping) else ():
            for word in cfg.get(name) or () if isinstance(cfg.get(name), list | tuple) else (cfg.get(name),):
                if isinstance(word, str):
                    raise UserError(
                        f"data.{name}={word} is not a number: by name it is data.normalization={word} "
                        f"({', '.join(NORMALIZATIONS)})"
                    )
        return options.read(cls, cfg, "data")


def settings_of_data(given: Mapping) -> DataConfig:
    """Return those settings of config.data that say which data is read, and how. Raises UserError as `options.read`."""
    return DataConfig.of({name: value for name, value in given.items() if name not in OF_STAGES})
