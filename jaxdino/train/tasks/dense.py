"""What tasks with a value for each pixel share: images that are not mixed, and whole images in windows."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from jaxdino.core.params import Flat, Skeleton
from jaxdino.data import photometric, pipeline
from jaxdino.data.presets import get_preset
from jaxdino.data.recipe import unmixed
from jaxdino.data.record import Split
from jaxdino.evals.sliding import WindowLogits, slide
from jaxdino.stage import Stage
from jaxdino.train import adapters, data, pixels, step, weights
from jaxdino.train.task import Metrics, Part
from jaxdino.train.tasks.ending import spread
from jaxdino.train.tasks.supervised import Supervised

if TYPE_CHECKING:
    from jaxdino.train.session import Session


class Dense(Supervised):
    """Give every pixel a value. See `Supervised`.

    Attributes:
      plane: the entry of a batch that has the true values (H, W). what: their name in messages.
      short_side: setting of evaluation; None: the training size.
    """

    plane: ClassVar[str]
    what: ClassVar[str]
    short_side: int | None = None

    def skeleton(self, stage: Stage) -> Skeleton:
        """Return the backbone and the head, with the stage's adapters."""
        view = get_preset(stage.augment)
        if view != unmixed(view):
            self.tell(f"stage {stage.name!r}: erasing, mixup and cutmix are not applied to images with {self.what}")
        return super().skeleton(stage)

    def augment(self, part: Part, key: jax.Array, batch: step.Batch) -> step.Batch:
        """Augment the colours of a batch."""
        how = unmixed(get_preset(part.stage.augment)), self.spec.preprocess.mean, self.spec.preprocess.std
        image = photometric.augment_view(key, batch["image"], *how, **photometric.given(batch, "image"))
        return batch | {"image": image}

    def eval_step(self, skeleton: Skeleton) -> Callable[[Flat, step.Batch], Any]:
        """Compile (leaves, {"image": uint8 (B, H, W, C)}) -> what windows give, (B, h, w, n), on every device."""
        how = self.spec.preprocess
        normalize = partial(photometric.normalize, mean=how.mean, std=how.std)
        compiled = step.compile_eval_step(skeleton, normalize, self.mesh)
        return lambda flat, batch: compiled(flat, batch)["logits"]

    def squashed(self, part: Part) -> tuple[int, int] | None:
        """Return the (height, width) to which whole images are resized in evaluation; None: see `short_side`."""
        return None

    def windows(
        self, session: "Session", part: Part, skeleton: Skeleton
    ) -> Callable[[Split, Flat], Iterator[tuple[tuple[np.ndarray, np.ndarray], WindowLogits]]]:
        """Return a function (split, leaves) -> ((image, truth), logits) of each readable image, over all devices."""
        how, size, forward = self.spec.preprocess, part.image_size, self.eval_step(skeleton)
        short = min(size) if self.short_side is None else self.short_side
        cfg, channels = pixels.of_model(data.config_of(self.config), how), self.spec.config.in_channels
        whole = partial(pipeline.make_whole_iter, cfg=cfg, fields=self.fields, channels=channels)
        read = partial(whole, short_side=short, squashed=self.squashed(part), resize=how.resize)

        def images(split: Split) -> Iterator[Any]:
            for batch in session.each(split.name, read(split)):
                if batch["weight"][0]:
                    image, truth = batch["image"][0], batch[self.plane][0]
                    yield (image, truth), image, truth.shape

        def found(split: Split, flat: Flat) -> Iterator[Any]:
            each = lambda image: forward(flat, {"image": image})  # noqa: E731
            fill = tuple(min(255, max(0, round(255 * mean))) for mean in how.mean)
            return slide(each, images(split), crop=size, batch_size=part.stage.batch_size, fill=fill, mesh=self.mesh)

        return found

    def save_best(self, folder: Path, part: Part, flat: Mapping[str, np.ndarray], metrics: Metrics) -> None:
        """Write the model to best/, with the short side that it was evaluated at if it is not the training size."""
        how = {} if self.short_side is None else {"short_side": self.short_side}
        card = dataclasses.replace(self.card, source={**self.card.source, **how})
        weights.save(folder / "best", card, part.image_size, adapters.merged(flat, part))

    def shown(self, session: "Session", split: str) -> list[tuple[np.ndarray, np.ndarray, WindowLogits]]:
        """Return some images of a split, evenly spaced, uint8 (H, W, 3), their truth and what the saved best gives."""
        whole, part = self.source.split(split), session.setup.parts[session.progress.best_model["stage"]]
        chosen = spread(session, whole)
        windows = self.windows(session, part, self.bare(part.stage))
        found = windows(chosen, self.best(session))
        return [(of_three(image), truth, logits) for (image, truth), logits in found]


def of_three(image: np.ndarray) -> np.ndarray:
    """Return three channels of an image (H, W, C): the first three, or the first in grey."""
    return image[..., :3] if image.shape[2] >= 3 else image[..., [0, 0, 0]]
