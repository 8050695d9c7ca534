"""Prompt settings: the texts of masks, and the points and boxes of a row."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxdino.core import options
from jaxdino.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """All options of prompts, with their defaults. `dataclasses.asdict(PromptConfig())` is the config.

    Attributes:
      prompt: the prompt of all masks of a folder (source "masks"), for values above 0.
      annotations: the COCO file (source "coco"), below the root or anywhere; None looks for the usual ones.
      templates: each prompt replaces the {} of each template; several templates form an ensemble.
      negatives: probability that a training pair gets a prompt that its image does not show, with an empty mask.
      points: largest number of clicks of a row.
      boxes: whether a row may have a box.
      spatial_prob: probability that a training row gets its points, and, drawn separately, its box; with 1, evaluation
        rows get them too, otherwise they have only the text.
      empty: what to do with pairs whose mask is empty: "skip" counts them and leaves them out, "keep" trains
        and evaluates on them.
      per_image: prompts of an image in one training record: it is decoded and encoded once for all of them. An image
        with more prompts gives several records; data.batch_size counts records.
      allow_unmasked: whether to keep training images that have a prompt but no mask (masked = 0).
    """

    prompt: str | None = None
    annotations: str | None = None
    templates: tuple[str, ...] = ("{}",)
    negatives: float = 0.0
    points: int = 0
    boxes: bool = False
    spatial_prob: float = 0.5
    empty: str = "skip"
    allow_unmasked: bool = False
    per_image: int = 1

    def __post_init__(self):
        given = (self.templates,) if isinstance(self.templates, str) else self.templates
        object.__setattr__(self, "templates", tuple(given))
        if self.prompt is not None:
            check_prompts((self.prompt,), "prompts.prompt")
        if not self.templates:
            raise UserError('prompts.templates is empty; ("{}",) is the prompt as it is')
        for template in self.templates:
            if template.count("{}") != 1:
                raise UserError(f'the prompt template {template!r} needs one {{}} for the prompt: "a photo of a {{}}"')
        for name in ("negatives", "spatial_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"prompts.{name} is {getattr(self, name)}; it is a chance, from 0 to 1")
        options.check_range("prompts.per_image", self.per_image, "[1, inf)")
        if self.points < 0:
            raise UserError(f"prompts.points is {self.points}; it must be at least 0")
        if self.empty not in ("skip", "keep"):
            raise UserError(f"prompts.empty is {self.empty!r}; it is one of: skip, keep")

    @classmethod
    def of(cls, given: "Mapping | PromptConfig | None") -> "PromptConfig":
        """Read a dict or ConfigDict (see `options.read`)."""
        return options.read(cls, given, "prompts")

    @property
    def slots(self) -> int:
        """K, the point slots of a row: one per click, and two for the corners of a box."""
        return self.points + 2 * self.boxes


def check_prompts(names: Sequence[str], where: str) -> None:
    """Raise UserError for a prompt that is not a text or is blank; `where` is its source, for the message."""
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{where} has the prompt {name!r}, which is empty; give the words for what the mask shows")
