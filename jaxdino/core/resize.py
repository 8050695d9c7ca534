"""The geometry of resizing and cropping an image for evaluation, as numbers."""

import dataclasses
import math

CROP_MODES = ("center", "squash", "border", "none")
ROUNDINGS = ("even", "down")
FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resize, then a central crop.

    Attributes:
      crop_pct: the image is first resized to size / crop_pct.
      interpolation: a key of `FILTERS`, the filters of Pillow.
      crop_mode: "center": the crop covers the short side, the aspect ratio is kept; "squash": both sides become
        size / crop_pct; "border": the long side fits, the rest is filled with `fill`; "none": the image is not resized.
      crop_rounding: for odd margins: "even" rounds half pixels to even numbers, as torchvision and timm, "down"
        rounds them down, as transformers.
      fill: pixel value of each channel, 0..255, outside the image; () is black.
    """

    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    crop_mode: str = "center"
    crop_rounding: str = "even"
    fill: tuple[int, ...] = ()

    def shape(self, width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (width, height) to which an image of this size is resized before the crop of `size`.

        For square sizes "center" is torchvision's Resize: the short side is floor(size / crop_pct), 256 for 224 and
        0.875; the long side is rounded down. For others it is timm's ResizeKeepRatio, which rounds both.

        Source: pytorch/vision torchvision/transforms/functional.py _compute_resized_output_size;
        huggingface/pytorch-image-models timm/data/transforms_factory.py transforms_imagenet_eval.
        """
        tall, wide = (math.floor(side / self.crop_pct + 1e-6) for side in size)  # so that 224 / (224 / 230) is 230
        if self.crop_mode == "none":
            return width, height
        if self.crop_mode == "squash":
            return max(wide, 1), max(tall, 1)
        if self.crop_mode == "center" and tall == wide:
            return (wide, wide * height // width) if width <= height else (tall * width // height, tall)
        ratios = height / tall, width / wide
        ratio = min(ratios) if self.crop_mode == "center" else max(ratios)
        return max(round(width / ratio), 1), max(round(height / ratio), 1)

    def corner(self, width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
        """Return (left, top) of the central crop of `size` in a resized image; negative beyond the image."""
        return self._margin(width - size[1]), self._margin(height - size[0])

    def _margin(self, room: int) -> int:
        if room < 0:
            return -(-room // 2)  # the smaller half of the padding is at the left or top
        return round(room / 2) if self.crop_rounding == "even" else room // 2
