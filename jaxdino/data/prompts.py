"""Which words stand for what a mask shows, and what else a mask is asked by: points and boxes."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxdino.core import options
from jaxdino.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """Every option of prompts, with its default. `dataclasses.asdict(PromptConfig())` is the config.

    Attributes:
      prompt: what all masks of a folder show (source "masks"): whatever is above 0 in a mask is that.
      annotations: the COCO file (source "coco"), below the root or anywhere; None looks for the usual ones.
      templates: each prompt is put at the {} of each; several make an ensemble.
      negatives: chance that a training pair asks for a prompt that its image does not have: its mask is then empty.
      points: clicks of a row, at most.
      boxes: whether a row may have a box.
      spatial_prob: chance that a training row gets its points, and, drawn apart, its box; with 1, rows of evaluation
        get theirs too, else these have the text alone.
      empty: what becomes of pairs whose mask shows nothing: "skip" counts them and leaves them out, "keep" trains
        and measures on them.
      allow_unmasked: whether training images without a mask, of which the prompt is known, are kept (masked = 0).
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
        """K, the places for points in a row: those of clicks, and two for the corners of a box."""
        return self.points + 2 * self.boxes


def check_prompts(names: Sequence[str], where: str) -> None:
    """Raises UserError for a prompt that is no text or has no word in it; `where` says who named it."""
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{where} has the prompt {name!r}, which is empty; give the words for what the mask shows")
