"""The card of a model: the description saved with its weights, `model.json`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from convert.plausible import check_spec, understood
from convert.seal import CARD, check_seal
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import parse_json, read_json
from jaxdino.models import heads, registry
from jaxdino.models.heads import NO_HEAD, HeadConfig
from jaxdino.models.heads.calibration import Calibration
from jaxdino.models.heads.linear import LinearHeadConfig
from jaxdino.models.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class Card:
    """Description of a model's weights, saved with them.

    Attributes:
      spec: the model, its shape and preprocessing.
      head: the head (`jaxdino.models.heads`), `NO_HEAD` or another without classes if there is none.
      class_names: names of the head's classes, () if unknown.
      layout: of the original checkpoint ("hf", "meta", "timm"), None for random weights.
      source: path and prefix of the original weights.
      digest: SHA-256 of the parameters (see `jaxdino.core.params.digest`).
      assumed: facts that were assumed on import, a line each (`convert.assumptions`).
    """

    spec: ModelSpec
    head: HeadConfig = NO_HEAD
    class_names: tuple[str, ...] = ()
    layout: str | None = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    digest: str = ""
    assumed: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of the head's classes, 0 without a head."""
        return self.head.num_classes

    @property
    def labels_pixels(self) -> bool:
        """Whether the head gives every patch a class, and so every pixel."""
        return self.num_classes > 0 and self.head.of == "patch"

    @property
    def finds_boxes(self) -> bool:
        """Whether the head finds boxes around objects."""
        return self.num_classes > 0 and self.head.of == "box"

    @property
    def gives_depth(self) -> bool:
        """Whether the head gives every pixel a depth."""
        return self.num_classes > 0 and self.head.of == "depth"

    @property
    def finds_masks(self) -> bool:
        """Whether the head finds objects and regions with masks."""
        return self.num_classes > 0 and self.head.of == "mask"

    @property
    def pool(self) -> str:
        """Pooling of the classification head, or of a new one: the family's unless the head has another."""
        return getattr(self.head, "pool", self.spec.pool)

    @property
    def calibration(self) -> Calibration | None:
        """How scores become probabilities; None without a calibration."""
        return getattr(self.head, "calibration", None)

    def calibrated(self, made: Calibration | None) -> "Card":
        """Return the card with another calibration of its classification head."""
        return dataclasses.replace(
            self, head=dataclasses.replace(cast("LinearHeadConfig", self.head), calibration=made)
        )

    def without_head(self) -> "Card":
        """Return the card of the backbone alone; the pooling is kept for a new head."""
        return dataclasses.replace(self, head=LinearHeadConfig(0, self.pool), class_names=())

    @property
    def began_at_random(self) -> bool:
        """Whether the weights were initialised at random; an export followed by an import keeps this."""
        return self.layout is None or bool(self.source.get("random"))

    def to_json(self) -> str:
        """Return the card as JSON text."""
        own = {"spec": registry.to_json(self.spec), "head": heads.to_json(self.head)}
        return json.dumps({**dataclasses.asdict(self), **own}, indent=2)

    @classmethod
    def from_json(cls, text: str, where: str = CARD) -> "Card":
        """Parse JSON text; the inverse of `to_json`. Cards of version 0.1.0 have a linear head in two fields."""
        return cls.of(parse_json(text, where, dict))

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Card":
        """Return the card of these contents of `model.json`."""
        fields = dict(fields)
        spec = registry.from_json(fields.pop("spec"))
        if "head" not in fields:
            fields["head"] = {"name": "linear", "num_classes": fields.pop("num_classes"), "pool": fields.pop("pool")}
        head = heads.from_json(fields.pop("head"), f"{CARD}: head")
        names, assumed = tuple(_texts(fields, "class_names")), tuple(_texts(fields, "assumed"))
        if names and head.num_classes not in (0, len(names)):
            raise UserError(f"{CARD}: class_names has {len(names)} names, and the head {head.num_classes} classes")
        return cls(spec=spec, head=head, class_names=names, assumed=assumed, **fields)


def _texts(fields: dict[str, Any], name: str) -> list[str]:
    """Remove and return a list of texts; "assumed" may be missing, as in earlier versions."""
    found = fields.pop(name, []) if name == "assumed" else fields.pop(name)
    if not isinstance(found, list) or not all(isinstance(line, str) for line in found):
        raise UserError(f"{CARD}: {name} must be a list of texts")
    return found


def load_card(folder: str | Path) -> Card:
    """Read only `model.json`, and check it against the seal.

    Raises:
      UserError: if it was changed after it was saved, or is not in the form that we write.
    """
    file = Path(folder) / CARD
    fields = read_json(file, dict)
    check_seal(file.parent, fields)
    with understood(str(file)):
        card = Card.of(fields)
    if not isinstance(card.source, dict):
        raise UserError(f"{file}: source must be an object")
    check_spec(card.spec, str(file))
    return card
