"""A loaded model, called on images."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from convert.card import Card
from jaxdino.api import dense
from jaxdino.api.classify import Classes, check, chooser, classify
from jaxdino.api.pictures import Record, check_no_tensor, named, records, warn_of
from jaxdino.api.several_views import kinds_of
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.data import survey
from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import pixels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.data.crops import eval_crop
from jaxdino.data.geometry import Geometry, evaluated
from jaxdino.data.photometric import normalize
from jaxdino.data.ranges import KEYWORD, Range, remarks
from jaxdino.models import few_images
from jaxdino.models.output import Output


class Model:
    """A loaded backbone, with its classification head if it has one.

    Attributes:
      name: its published name. num_params: number of parameters. digest: SHA-256 of the weights as loaded from
        the source, before a cast. class_names: names of the head's classes, () if unknown.
      flat: the parameters by path. companions: files that came with the weights, such as tokenizer files.
      lacks: methods that models of this kind do not have: {name: the reason, and what to use instead}.
    """

    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, card: Card, skeleton: Skeleton, flat: Flat, companions: Sequence[Path] = ()):
        self.card, self.skeleton, self.flat, self.companions = card, skeleton, flat, tuple(companions)
        self._forward = jax.jit(lambda flat, images: few_images.forward(bind(skeleton, flat), self._normalized(images)))
        self._intermediate = jax.jit(
            lambda flat, images, n: bind(skeleton, flat).backbone.intermediate_layers(self._normalized(images), n),
            static_argnums=2,
        )
        self._attention = dense.attention(skeleton, self._normalized)

    name = property(lambda self: self.card.spec.name)
    num_params = property(lambda self: self.skeleton.num_params)
    digest = property(lambda self: self.card.digest)
    class_names = property(lambda self: self.card.class_names)

    @property
    def _config(self) -> Any:
        """The model's configuration; subclasses use it as the class of their family."""
        return self.card.spec.config

    def __repr__(self) -> str:
        return f"jaxdino.Model({self.name}, {self.num_params:,} parameters, digest {self.digest[:12]})"

    def __call__(self, images: jax.Array | np.ndarray) -> Output:
        """Map images (B, H, W, 3), uint8 (normalised here) or float (already normalised), to Output.

        The output holds cls (B, D), patches (B, h, w, D), registers (B, R, D), pooled (B, D), all after the final
        norm, and logits (B, classes) or None. Each new shape compiles once.

        Raises:
          UserError: if the images have another rank, or sides that are not multiples of the patch size.
        """
        return self._forward(self.flat, self._checked(images))

    def intermediate_layers(self, images: jax.Array | np.ndarray, n: int | Sequence[int] = 1) -> list[Output]:
        """Return outputs of the last `n` blocks, or of the blocks with the indices `n`, final norm applied to each.

        A ConvNeXt or ResNet has stages instead of blocks, and a ConvNeXt's norm is applied only to the last stage.

        Raises:
          UserError: if there are no such blocks, and as `__call__`.
        """
        self._check_has("intermediate_layers")
        try:
            chosen = tuple(map(operator.index, n)) if isinstance(n, Sequence | np.ndarray) else operator.index(n)
        except TypeError as err:
            raise UserError(f"n={n!r}: give a number of blocks or stages, or a list of their places from 0") from err
        return self._intermediate(self.flat, self._checked(images), chosen)

    def attention(self, images: jax.Array | np.ndarray) -> jax.Array:
        """Map images to the attention of the last block's class token to the patches, float32 (B, heads, h, w).

        Of each head, the rest of the attention is on the class token itself and on registers.

        Raises:
          UserError: for a network without a class token (ConvNeXt, ResNet, SAM), and as `__call__`.
        """
        self._check_has("attention")
        found = self._attention(self.flat, self._checked(images))
        if found is None:
            raise UserError(f"{self.name} has no class token, and so no attention of it: similarity() compares patches")
        return found

    def similarity(self, a: jax.Array | np.ndarray, b: jax.Array | np.ndarray) -> jax.Array:
        """Return the cosine of each patch of images `a` with each of images `b`, float32 (B, ha, wa, hb, wb).

        Raises:
          UserError: for different numbers of images, and as `__call__`.
        """
        self._check_has("similarity")
        dense.check_pair(a, b)
        return dense.similarity(self(a).patches, self(b).patches)

    def matches(self, a: jax.Array | np.ndarray, b: jax.Array | np.ndarray) -> list[list[dense.Match]]:
        """Return the pairs of patches that are each other's most similar ones, for each pair of images.

        Each `Match` has the centres (x, y) of its patches in pixels of the preprocessed images; the highest cosine
        comes first.

        Raises:
          UserError: as `similarity`.
        """
        cosines = np.asarray(self.similarity(a, b))
        sizes = tuple(map(int, np.shape(a)[1:3])), tuple(map(int, np.shape(b)[1:3]))
        return [dense.mutual(one, sizes) for one in cosines]

    def preprocess(self, images: Iterable[Record], sixteen_bit: str | None = None) -> np.ndarray:
        """Convert images to uint8 (B, H, W, C), upright, resized and centre-cropped as in evaluation.

        Args:
          images: a list of PIL images, paths of files, or arrays (H, W) or (H, W, C), which may be mixed; or one array
            (B, H, W, C).
          sixteen_bit: the values of black and white in 16-bit, 32-bit and float images, as in `data.ranges.Range`.
            By default that of the training run; if no run set it, the smallest bit depth that holds the
            values of these images, with a warning.

        Raises:
          UserError: for a single image or a value that is not an image, a file that cannot be read, an image with
            another number of channels, and values that determine no range.
        """
        self._check_has("preprocess")
        given = records(images, "preprocess")
        reading, found = self.reading(given, sixteen_bit), []
        said: dict[str, str] = {}
        for place, record in enumerate(given):
            try:
                found.append(self.prepare(record, reading, place, said))
            except BadImage as err:
                raise UserError(f"{named(record, place)}: {err}") from err
        warn_of(said)
        return np.stack(found)

    def placed(self, record: Record, reading: Reading) -> tuple[np.ndarray, Geometry]:
        """Return an image as the model takes it, uint8 (H, W, C), and how it was moved there. Raises BadImage."""
        image, how = open_image(record, reading), self.card.spec.preprocess
        move = evaluated(image.size, how.size, how.resize)
        return move.image(image), move

    def prepare(self, record: Record, reading: Reading, place: int, said: dict[str, str]) -> np.ndarray:
        """Convert one image to uint8 (H, W, C), as `preprocess` does. Raise BadImage if it cannot be read.

        Args:
          place: index in the list of images, for its name.
          said: collects {name: what was changed} for images that are changed when read: NaN, clipped values.
        """
        how = self.card.spec.preprocess
        with remarks() as lines:
            found = pixels(eval_crop(open_image(record, reading), how.size, how.resize))
        if lines:
            said[named(record, place)] = "; ".join(lines)
        return found

    def reading(
        self,
        images: Sequence[Record] = (),
        sixteen_bit: str | None = None,
        flag: str = KEYWORD,
        say: Callable[[str], None] | None = None,
    ) -> Reading:
        """Return how images are read for this model: its channels, and the range described in `preprocess`.

        Args:
          images: used to find the range if neither the model nor `sixteen_bit` sets it.
          flag: name of `sixteen_bit` in messages. say: called with a line about a range found from values; None warns.

        Raises:
          UserError: if `sixteen_bit` is not a range, or the values determine none.
        """
        how = self.card.spec.preprocess
        asked = Range.of(how.sixteen_bit if sixteen_bit is None else sixteen_bit, flag)
        return survey.reading_of(images, asked, len(how.mean), flag, say)

    def predict(
        self,
        images: Iterable[Record],
        topk: int = 5,
        batch_size: int = 32,
        sixteen_bit: str | None = None,
        threshold: float | None = None,
        tta: str | None = None,
    ) -> list[Classes]:
        """Return the classes of each image, the most probable first, [[(class name, probability), ...], ...].

        A head of images with several labels gives all classes that reach their thresholds, maybe none.

        Args:
          images, sixteen_bit: as in `preprocess`; images are preprocessed here.
          topk: number of classes; all of them if there are fewer. Several labels do not depend on it.
          batch_size: images per forward pass; all batches have the same shape, compiled once.
          threshold: probability from which an image has a class, in place of the thresholds of the model; only for
            images with several labels.
          tta: views whose probabilities are averaged, with commas: flip, zoom, corners; None: the image alone.

        Raises:
          UserError: for a model without a classification head, a threshold for one label, and as `preprocess`.
        """
        self._check_has("predict")
        check(self, topk, batch_size)
        choose, kinds = chooser(self, threshold), kinds_of(tta)
        found, given = [], records(images, "predict")
        reading = self.reading(given, sixteen_bit)
        said: dict[str, str] = {}
        for place, classes in enumerate(classify(self, given, reading, choose, topk, batch_size, said, tta=kinds)):
            if isinstance(classes, BadImage):
                raise UserError(f"{named(given[place], place)}: {classes}") from classes
            found.append(classes)
        warn_of(said)
        return found

    def _check_has(self, method: str) -> None:
        """Raise UserError if models of this kind do not have the method."""
        if method in self.lacks:
            raise UserError(self.lacks[method])

    def _checked(self, images: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
        channels = self.card.spec.config.in_channels
        check_no_tensor(images, "the model")
        shape = tuple(getattr(images, "shape", ()))
        first = len(shape) == 4 and shape[1] == channels != shape[-1] and 0 not in shape
        if len(shape) == 4 and shape[-1] != channels and 0 not in shape and not first:
            raise UserError(
                f"images have {shape[-1]} channels and the model takes {channels}: preprocess() makes {channels}, and "
                f"jaxdino.load(..., in_channels={shape[-1]}) adapts three-channel weights"
            )
        if len(shape) != 4 or 0 in shape or first:
            what = f"the shape {shape}" if shape else f"the type {type(images).__name__}"
            hint = "; channels come last here: images.transpose(0, 2, 3, 1)" if first else ""
            raise UserError(f"images have {what}; an array (B, H, W, {channels}), each at least 1, is needed{hint}")
        if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f"images are {images.dtype}: give uint8 pixels, or floats that are normalised already")
        return images

    def _normalized(self, images: jax.Array) -> jax.Array:
        how = self.card.spec.preprocess
        return normalize(images, how.mean, how.std) if images.dtype == jnp.uint8 else images
