"""A loaded CLIP-DINO-SAM: predict masks of an image from text prompts."""

import dataclasses
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, cast

import jax
import numpy as np
from PIL import Image

from convert.card import Card
from jaxdino.api.model import Model
from jaxdino.api.pictures import Record, record
from jaxdino.api.sam_prompts import checked_prompts
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.data import tokenizer
from jaxdino.data.bad_images import BadImage
from jaxdino.data.checks import open_image
from jaxdino.data.crops import get_filter
from jaxdino.models import lora
from jaxdino.models.positions import linear_matrix
from jaxdino.models.sam_prompt import BOTTOM_RIGHT, PADDING, TOP_LEFT
from jaxdino.objectives.segment import prompt_features

LONGEST = 8
"""Largest ratio of the longer to the shorter side of an image."""
KEPT = 10_000
"""Prompts whose features are kept."""


@dataclasses.dataclass(frozen=True)
class Segmented:
    """Masks of one image, one for each of P prompts.

    Attributes:
      masks: (P, H, W) bool, at the image's own size: where logits are above the threshold.
      logits: (P, H, W) float32.
      scores: (P,) float32, the predicted IoU of each mask with the true mask.
    """

    masks: np.ndarray
    logits: np.ndarray
    scores: np.ndarray


ENCODER = "export its image encoder with python -m convert export --part dino, and load that"


class Segmenter(Model):
    """A CLIP-DINO-SAM; called on images, it returns an `Output` whose patches are the tokens (B, h, w, T).

    Adapters are merged into their kernels: `card`, `skeleton` and `flat` are those of the equivalent, faster model
    without adapters; `digest` is that of the weights with adapters.

    Attributes:
      class_names: the prompts that it was trained on.
      templates: the templates of each prompt. num_points: the number of points and box corners of each prompt in
        training. Both come from the card's `source`.
    """

    lacks: ClassVar = {
        "predict": "a segmenter has no classes: it predicts masks, segment(image, prompts)",
        "intermediate_layers": f"a segmenter returns no intermediate layers: {ENCODER}",
        "attention": f"a segmenter returns no attention: {ENCODER}",
        "similarity": f"a segmenter returns no patches: {ENCODER}",
    }

    def __init__(self, card: Card, skeleton: Skeleton, flat: Flat, companions: Sequence[Path] = ()):
        if lora.leaves(flat):
            flat, skeleton = lora.merged(skeleton, flat), lora.bare(skeleton)
            config: Any = card.spec.config
            card = dataclasses.replace(card, spec=dataclasses.replace(card.spec, config=config.bare()))
        super().__init__(card, skeleton, flat, companions)
        self.templates = tuple(card.source.get("templates") or ("{}",))
        self.num_points = int(card.source.get("num_points") or 0)
        self._text = jax.jit(lambda flat, ids: prompt_features(bind(skeleton, flat).backbone, ids))
        self._tokens = jax.jit(lambda flat, images: bind(skeleton, flat).backbone.tokens(self._normalized(images)))
        self._masks = jax.jit(
            lambda flat, tokens, text, spatial: bind(skeleton, flat).backbone.masks(tokens, text, **spatial)
        )
        self._tokenizer: tokenizer.Tokenizer | None = None
        self._known: dict[str, np.ndarray] = {}

    def segment(
        self,
        image: Record | Path,
        prompts: Sequence[str],
        points=None,
        point_labels=None,
        boxes=None,
        threshold: float = 0.0,
        sixteen_bit: str | None = None,
    ) -> Segmented:
        """Predict masks of the prompts in an image, at its own size.

        The image is resized as in evaluation, without the crop, its sides rounded to whole patches; logits are resized
        to its size bilinearly, as by torch's `interpolate(align_corners=False)`. Each new number of prompts or points,
        and each new shape of the resized image, compiles once; the features of a prompt are cached.

        Args:
          image: a PIL image, the path of a file, or an array (H, W) or (H, W, C); grey becomes RGB.
          prompts: P texts.
          points: (K, 2) for every prompt, or (P, K, 2): x and y in pixels of the image; the centre of the first
            pixel is (0, 0).
          point_labels: points' shape without its last axis: 1 inside the object, 0 outside, -1 for no point.
          boxes: (4,) for every prompt, or (P, 4): x1, y1, x2, y2 in the same pixels.
          threshold: masks are where the logits are above it.
          sixteen_bit: how values of more than 8 bits are read, as in `preprocess`.

        Raises:
          UserError: for a prompt that is empty or too long, points or boxes of another shape or outside the image, a
            box without area, a file that cannot be read, or sides with a ratio above `LONGEST`.
        """
        if not isinstance(threshold, Real) or not math.isfinite(threshold):
            raise UserError(f"threshold={threshold!r}: give a number; logits above it are the mask")
        if self.card.spec.config.in_channels != 3:
            raise UserError("this model's images have other channels than three: normalise them and call its backbone")
        picture = self._picture(image, sixteen_bit)
        size, inner = (picture.height, picture.width), self._inner(picture)
        text = self.encode_prompts(prompts)
        spatial = spatial_prompts(size, len(text), points, point_labels, boxes, self.num_points)
        if spatial:
            scale = np.array([inner[1] / size[1], inner[0] / size[0]])
            spatial["points"] = ((spatial["points"] + 0.5) * scale - 0.5).astype(np.float32)
        small = picture.resize((inner[1], inner[0]), get_filter(self.card.spec.preprocess.interpolation))
        tokens = self._tokens(self.flat, np.asarray(small)[None])
        low, scores = self._masks(self.flat, tokens, text[None], spatial)
        logits = _upsampled(np.asarray(low[0, :, 0]), size)
        return Segmented(logits > threshold, logits, np.asarray(scores[0, :, 0]))

    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Insert P texts into the templates and return features (P, T) float32 of unit length.

        Raises:
          UserError: if `prompts` is not a list of texts, or one is empty or too long for the text encoder.
        """
        if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not len(prompts):
            raise UserError('prompts are a list with at least one text in it: ["red circle"]')
        if len(self._known) >= KEPT:
            self._known.clear()  # a server would keep every prompt that it was ever sent
        for prompt in prompts:
            if not isinstance(prompt, str) or not prompt.strip():
                raise UserError(f"the prompt {prompt!r} is not a text or is blank: give words, such as 'red circle'")
            if prompt not in self._known:
                self._known[prompt] = np.asarray(self._text(self.flat, self._ids(prompt)[None])[0])
        return np.stack([self._known[prompt] for prompt in prompts])

    def _ids(self, prompt: str) -> np.ndarray:
        """Return the tokens (t, L) int32 of one prompt in t templates."""
        text = self._config.text.text
        if self._tokenizer is None:
            self._tokenizer = tokenizer.serving(self.companions, text)
        return self._tokenizer.prompts([prompt], self.templates, text.context_length)[0]

    def _picture(self, image: Record | Path, sixteen_bit: str | None) -> Image.Image:
        """Return an upright RGB picture."""
        given = record(image, "segment")
        try:
            return cast(Image.Image, open_image(given, self.reading([given], sixteen_bit)))  # three channels
        except BadImage as err:
            raise UserError(f"{given}: {err}" if isinstance(given, str) else str(err)) from err

    def _inner(self, picture: Image.Image) -> tuple[int, int]:
        """Return the (height, width) of a picture in the model's input: whole patches."""
        longest, shortest = max(picture.size), min(picture.size)
        if longest > LONGEST * shortest:
            raise UserError(
                f"the image is {picture.width} wide and {picture.height} high, more than {LONGEST} times as long as "
                "wide: cut it into pieces"
            )
        how, patch = self.card.spec.preprocess, self._config.image.patch_size
        width, height = how.resize.shape(*picture.size, how.size)
        height, width = (max(1, math.floor(side / patch + 0.5)) * patch for side in (height, width))
        return height, width


def spatial_prompts(size: tuple[int, int], count: int, points, labels, boxes, slots: int = 0) -> dict[str, np.ndarray]:
    """Check points and boxes, and convert them to inputs of the mask decoder.

    Args:
      size: (height, width) of the image in pixels. count: number of prompts, P.
      points, labels, boxes: as in `Segmenter.segment`.
      slots: number of points per prompt in training; fewer are padded with "no point", as in training.

    Returns:
      points (1, P, K, 2) float, in pixels of the image, and labels (1, P, K) int32; a box is its two corners
      after the points; {} if nothing is given and there are no slots.

    Raises:
      UserError: as `Segmenter.segment`.
    """
    places, kinds = [], []
    if points is None and labels is not None:
        raise UserError("labels are given without points: give the points that they are of")
    if points is not None:
        found = checked_prompts((size,), 0, points, labels, None, None)
        places.append(_each(found["points"], count, "points"))
        kinds.append(_each(found["labels"], count, "points"))
    if boxes is not None:
        found = checked_prompts((size,), 0, None, None, boxes, None)["boxes"]
        for n, (x1, y1, x2, y2) in enumerate(found[0]):
            if x1 == x2 or y1 == y2:
                raise UserError(f"box {n}, x1={x1:g}, y1={y1:g}, x2={x2:g}, y2={y2:g}, has no area")
        corners = _each(found, count, "boxes").reshape(1, count, 2, 2)
        places.append(corners)
        kinds.append(np.broadcast_to(np.array([TOP_LEFT, BOTTOM_RIGHT], np.int32), corners.shape[:3]))
    if (empty := slots - sum(kind.shape[2] for kind in kinds)) > 0:
        places.append(np.zeros((1, count, empty, 2)))
        kinds.append(np.full((1, count, empty), PADDING, np.int32))
    if not places:
        return {}
    return {"points": np.concatenate(places, axis=2), "labels": np.concatenate(kinds, axis=2)}


def _each(given: np.ndarray, count: int, name: str) -> np.ndarray:
    """Repeat (1, 1 or P, ...) to (1, P, ...)."""
    if given.shape[1] not in (1, count):
        raise UserError(f"{name} are for {given.shape[1]} prompts, and there are {count}: give them for one or for all")
    return np.broadcast_to(given, (1, count, *given.shape[2:]))


def _upsampled(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (P, h, w) float32 to (P, H, W) bilinearly."""
    rows, columns = (linear_matrix(small, big) for small, big in zip(logits.shape[1:], size, strict=True))
    return rows @ logits @ columns.T
