"""Evaluate a backbone's features with labels not used in training: k-NN during the run, a linear probe at its end."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdino.core import sharding, size_text
from jaxdino.core.image_sizes import Size
from jaxdino.core.options import check_range
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.data import photometric, pipeline
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source
from jaxdino.evals import features, pools
from jaxdino.evals.knn import knn_accuracy
from jaxdino.evals.probe import linear_probe
from jaxdino.models.spec import ModelSpec
from jaxdino.train import data, pixels, weights
from jaxdino.train.results import model_words
from jaxdino.train.task import Metrics

if TYPE_CHECKING:
    from jaxdino.train.session import Session

Features = tuple[np.ndarray, np.ndarray]
"""Features (N, D) and labels (N,) of a split."""
KNN = "val/knn_accuracy"
PIXELS = 32  # side length at which raw pixels are compared


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Labelled images and the settings for their features.

    Attributes:
      k: numbers of neighbours, limited by the number of labelled images; `KNN` is the accuracy of the largest.
      size: image size for the backbone. pool: a key of `pools.FEATURES`.
      called: prefix of a split's name in the counts of skipped images.
    """

    source: Source
    cfg: DataConfig
    spec: ModelSpec
    backbone: Skeleton
    k: tuple[int, ...]
    size: Size
    pool: str
    batch_size: int
    linear_steps: int
    mesh: Mesh
    called: str = ""

    @classmethod
    def of(
        cls,
        config: Any,
        source: Source,
        spec: ModelSpec,
        backbone: Skeleton,
        size: Size,
        mesh: Mesh,
        say: Callable[[str], None],
        check: data.Check = data.unchecked,
    ) -> "Retrieval | None":
        """Load the labelled images that the config names, or use the training data's own labels; None without labels.

        Raises:
          UserError: for invalid settings, or a folder in the config without labels or validation images.
        """
        given, cfg = config.evaluation, data.config_of(config)
        for name in ("every_epochs", "batch_size", "k"):
            check_range(f"evaluation.{name}", tuple(given.k) if name == "k" else given[name], "[1, inf)")
        pools.check(given.pool, spec, "evaluation.pool")
        if given.root is not None:
            cfg = dataclasses.replace(cfg, name="folder", root=given.root)
            source = data.validated(cfg)
            say(data.summary(source, what="evaluation"))
            check("evaluation", source)
            cfg = pixels.measured(cfg, source, spec.preprocess, say)
        else:
            cfg = pixels.of_model(cfg, spec.preprocess)
        if len(source.class_names) < 2 or "val" not in source.splits:
            return None
        k = tuple(sorted({min(number, len(source.split("train"))) for number in given.k}))
        shards = sharding.batch_shards(mesh)
        batch_size = -(-given.batch_size // shards) * shards
        size = size_text.read_size(given.image_size, "evaluation.image_size") if given.image_size else size
        called = "" if given.root is None else "evaluation "
        return cls(source, cfg, spec, backbone, k, size, given.pool, batch_size, given.linear_steps, mesh, called)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the metric names."""
        return (KNN, *(f"val/knn{k}_accuracy" for k in self.k))

    def measure(self, session: "Session", flat: Flat) -> Metrics:
        """Compute {"val/knn_accuracy": for the largest k, "val/knn10_accuracy": ...} on the validation images."""
        splits = [self._features(session, name, flat) for name in ("train", "val")]
        return self._accuracies(session, "val", *splits)

    def pixels(self, session: "Session") -> Metrics:
        """Compute the same metrics from raw pixels."""
        size = min(PIXELS, *self.size)
        splits = (self._batches(session, name) for name in ("train", "val"))
        return self._accuracies(session, "val", *(features.pixels(batches, size, self.mesh) for batches in splits))

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Return entries for the summary and lines to print: k-NN accuracy at the start, at the end and of raw pixels;
        k-NN and linear accuracy of teacher and student on the test split (the validation split if there is none)."""
        split = "test" if "test" in self.source.splits else "val"
        networks = {"teacher": session.folder / "best", "student": session.folder / "training" / "student" / "backbone"}
        found: dict[str, Any] = {"split": split}
        for name, folder in networks.items():
            whole = weights.load(folder, session.setup)
            flat = {path.removeprefix("backbone."): leaf for path, leaf in whole.items()}
            train, other = (self._features(session, part, flat) for part in ("train", split))
            found[name] = self._accuracies(session, split, train, other) | self._linear(session, split, train, other)
        last = next((entry[KNN] for entry in reversed(session.progress.done) if KNN in entry), None)
        summary = {KNN: session.progress.baseline | {"end": last}, "evaluation": found}
        words = {"teacher": f"teacher, in best/: {model_words(session.delivered)}", "student": "student as it ended"}
        lines = [
            f"{split} ({words[name]}): "
            + ", ".join(
                f"{key.removeprefix(f'{split}/').replace('_', ' ')} {value:.4f}"
                for key, value in found[name].items()
                if key != f"{split}/knn_accuracy"  # the same as that of the largest k
            )
            for name in networks
        ]
        return summary, lines

    def _accuracies(self, session: "Session", split: str, train: Features, other: Features) -> Metrics:
        how = dict(k=self.k, num_classes=len(self.source.class_names), mesh=self.mesh, poll=session.stop.check)
        found = knn_accuracy(*train, *other, **how)
        each = {f"{split}/knn{k}_accuracy": value for k, value in found.items()}
        return {f"{split}/knn_accuracy": found[self.k[-1]]} | each

    def _linear(self, session: "Session", split: str, train: Features, other: Features) -> Metrics:
        if not self.linear_steps:
            return {}
        how = dict(num_classes=len(self.source.class_names), steps=self.linear_steps, poll=session.stop.check)
        return {f"{split}/linear_accuracy": linear_probe(*train, *other, **how)["accuracy"]}

    def _features(self, session: "Session", split: str, flat: Flat) -> Features:
        return features.extract(partial(self._embed, flat), self._batches(session, split), self.mesh)

    @cached_property
    def _embed(self) -> Callable[[Flat, jax.Array], jax.Array]:
        """Compile (flat, uint8 images) -> features, once per run."""
        how = self.spec.preprocess

        def embed(flat, images):
            found = pools.look(bind(self.backbone, flat), photometric.normalize(images, how.mean, how.std), self.pool)
            return found.astype(jnp.float32)

        return jax.jit(embed)

    def _batches(self, session: "Session", name: str) -> Iterator[pipeline.Batch]:
        """Yield the batches of a split; see `Session.each`."""
        batches = pipeline.make_eval_iter(
            self.source.split(name),
            self.cfg,
            batch_size=self.batch_size,
            image_size=self.size,
            resize=self.spec.preprocess.resize,
            channels=self.spec.config.in_channels,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return session.each(f"{self.called}{name}", batches)
