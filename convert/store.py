"""A model on disk in jaxdino's own form: `model.json`, and the parameters as Orbax checkpoints in `params/`.

The parameters are parted, since Orbax copies what it writes: a part at a time, not the model, is held twice.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.swap import refuse_occupied, whole_folder
from jaxdino.core.errors import UserError
from jaxdino.core.params import digest
from jaxdino.models.registry import ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig

CARD, PARAMS = "model.json", "params"
PART_BYTES = 1 << 27


@dataclasses.dataclass(frozen=True)
class Card:
    """What travels with a model's weights.

    Attributes:
      spec: the model, its shape and preprocessing.
      num_classes, pool, class_names: of the classification head; 0, the family's and () without one.
      layout: of the checkpoint the weights came from ("hf", "meta", "timm"), None for random weights.
      source: where they came from: path and prefix.
      digest: SHA-256 of the parameters (see `jaxdino.core.params.digest`).
    """

    spec: ModelSpec
    num_classes: int = 0
    pool: str = "cls"
    class_names: tuple[str, ...] = ()
    layout: str | None = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    digest: str = ""

    def to_json(self) -> str:
        """The card as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """The inverse of `to_json`."""
        fields = json.loads(text)
        spec = fields.pop("spec")
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.pop("config").items()}
        spec = ModelSpec(config=ViTConfig(**config), preprocess=Preprocess.of(spec.pop("preprocess")), **spec)
        return cls(spec=spec, class_names=tuple(fields.pop("class_names")), **fields)


def is_model(folder: Path) -> bool:
    """Whether the folder holds a model in this form."""
    return (folder / CARD).is_file() and (folder / PARAMS).is_dir()


def refuse_foreign(folder: str | Path, overwrite: bool) -> None:
    """Raises UserError if something is in the folder that is not to be overwritten, or is none of a model's files."""
    refuse_occupied(folder, overwrite, {CARD, PARAMS}.__contains__)


def save_model(folder: str | Path, card: Card, flat: Mapping[str, Any], *, overwrite: bool = False) -> Card:
    """Writes the model beside the folder and then renames it there, so that it is there whole or not at all.

    Returns:
      The card as written, with the digest of `flat`.

    Raises:
      UserError: if the folder is there already and not to be overwritten, or holds what is none of a model's files.
    """
    import orbax.checkpoint as ocp

    refuse_foreign(folder, overwrite)
    card = dataclasses.replace(card, digest=digest(flat))
    with whole_folder(folder) as beside:
        with ocp.PyTreeCheckpointer() as checkpointer:
            for number, part in enumerate(_parts(flat)):
                checkpointer.save(beside / PARAMS / f"{number:05d}", part)
        (beside / CARD).write_text(card.to_json())
    return card


def load_card(folder: str | Path) -> Card:
    """Reads `model.json` alone."""
    return Card.from_json((Path(folder) / CARD).read_text())


def load_model(folder: str | Path) -> tuple[Card, dict[str, np.ndarray]]:
    """Reads a model back: its card and its parameters as numpy arrays.

    Raises:
      UserError: if the parameters are damaged: they do not have the digest that the card tells.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    card = load_card(folder)
    skeleton = card.spec.skeleton(card.num_classes, pool=card.pool)
    flat: dict[str, np.ndarray] = {}
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            for part in sorted((folder / PARAMS).iterdir()):
                flat |= checkpointer.restore(part, restore_args=_as_numpy(checkpointer, part))
    except (ValueError, OSError, KeyError) as err:
        raise UserError(f"the parameters in {folder} cannot be read: {str(err).splitlines()[0]}") from err
    flat = {path: flat[path] for path in skeleton.entries if path in flat}
    if digest(flat) != card.digest:
        raise UserError(f"the parameters in {folder} are damaged: their digest is not the one in {CARD}")
    return card, flat


def _parts(flat: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters in pieces of at most PART_BYTES, or one leaf."""
    part, size = {}, 0
    for path, array in flat.items():
        if part and size + array.nbytes > PART_BYTES:
            yield part
            part, size = {}, 0
        part[path] = array
        size += array.nbytes
    yield part


def _as_numpy(checkpointer: Any, part: Path) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    return {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in checkpointer.metadata(part).item_metadata.tree}
