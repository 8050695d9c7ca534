"""Initial weights of a segmentation run: an image encoder, a text encoder and a mask decoder, or an earlier run."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from convert.assumptions import IMPORT, spelled, spelling
from convert.hub import find
from convert.load import open_pretrained
from convert.store import Card, is_model, load_card
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.data.channels import RGB
from jaxdino.models import registry
from jaxdino.models.clipdinosam import ClipDinoSamConfig
from jaxdino.models.spec import ModelSpec
from jaxdino.models.vit import ViTConfig
from jaxdino.train import weights
from jaxdino.train.placing import OnMesh, drawn, read

FAMILY = "clipdinosam"
TEXT, DECODER = ("backbone.text.", "backbone.logit_scale"), ("backbone.prompt_encoder.", "backbone.mask_decoder.")
Flat = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Start:
    """Initial weights of a run. `companions`: files of the text encoder's tokenizer, () for the published one."""

    card: Card
    flat: Flat
    companions: tuple[Path, ...] = ()


def start(config: Any, prompts: tuple[str, ...], tell: Callable[[str], None], place: OnMesh) -> Start:
    """Load the segmenter that a run starts from, float32, each leaf on the mesh as soon as it is read.

    `config.model.weights` holds the image encoder's weights, as in every run, or is the workdir of an earlier
    segmentation run, whose three parts, projections and adapters are then used.

    Raises:
      UserError: for weights of another model, an unavailable part, or the run of a stage other than the previous one.
    """
    if config.model.in_channels is not None:
        _check_channels(config.model.in_channels, "model.in_channels")
    if earlier := _earlier(config.model.weights):
        return _continued(config, earlier, prompts, tell, place)
    if (config.get("stage") or 1) > 1:
        raise UserError(
            f"stage {config.stage} continues stage {config.stage - 1}: give the folder of its run, "
            "--config.model.weights=WORKDIR; without --config.stage all stages run one after the other"
        )
    return _assembled(config, prompts, tell, place)


def _earlier(source: str | None) -> Path | None:
    """Return the folder of a saved segmenter if `source` is one, else None."""
    if source in (None, weights.RANDOM) or not Path(source).exists():
        return None
    path = find(source)
    return path if is_model(path) and load_card(path).spec.family == FAMILY else None


def _continued(config: Any, path: Path, prompts: tuple[str, ...], tell: Callable[[str], None], place: OnMesh) -> Start:
    with open_pretrained(path) as opened:
        card, flat = opened.card, read(opened.flat, place, opened.flat)[0]
    names = [stage.name for stage in config.stages if not (config.skip_optional and stage.optional)]
    wanted = names[config.stage - 2] if (config.get("stage") or 1) > 1 else None
    ended = card.source.get("stage")
    if wanted and ended != wanted:
        raise UserError(
            f"stage {config.stage} ({names[config.stage - 1]}) continues stage {config.stage - 1} ({wanted}), and "
            f"{config.model.weights} is the result of stage {ended!r}: give the run of {wanted}"
        )
    if card.spec.name != config.model.name:
        hint = f"--config=configs/clipdinosam.py:{card.spec.name}"
        raise UserError(f"{config.model.weights} was made with a {card.spec.name}, not a {config.model.name}: {hint}")
    _check_channels(card.spec.config.in_channels, config.model.weights)
    tell(
        f"weights: {config.model.weights}, after its stage {ended!r}, with its CLIP and SAM; text and sam are not read"
    )
    return Start(dataclasses.replace(card, class_names=prompts), flat, opened.companions)


def _assembled(config: Any, prompts: tuple[str, ...], tell: Callable[[str], None], place: OnMesh) -> Start:
    """Load the three parts, and initialise new projections between them."""
    card, image = weights.backbone(config, tell, _renaming(place, "dino."))
    if not isinstance(card.spec.config, ViTConfig):
        raise UserError(f"model.name={card.spec.name}: the image encoder must be a ViT: DINO, DINOv2, DINOv3 or timm")
    _check_channels(card.spec.config.in_channels, config.model.weights or card.spec.name)
    text, text_flat, companions = _part(config.text, "text", tell, _renaming(place, "clip."))
    sam, sam_flat, _ = _part(config.sam, "sam", tell, _renaming(place, "sam."))
    shape = ClipDinoSamConfig(card.spec.config, text.config.text_only(), sam.config, image_family=card.spec.family)
    spec = dataclasses.replace(card.spec, family=FAMILY, config=shape)
    fresh = drawn(lambda rngs: spec.build(rngs=rngs), config.seed, place)
    given = {
        **_renamed(image, ("backbone.",), "dino."),
        **_renamed(text_flat, TEXT, "clip."),
        **_renamed(sam_flat, DECODER, "sam."),
    }
    flat = {path: given.get(path, leaf) for path, leaf in fresh.items()}
    sources = {"image": card.source, "text": config.text.weights, "sam": config.sam.weights}
    return Start(Card(spec, class_names=prompts, source=sources), flat, companions)


def _check_channels(channels: int, what: str) -> None:
    """Raise UserError unless the image encoder takes RGB images, which SAM, CLIP and the overlays need."""
    if channels != RGB:
        raise UserError(
            f"{what}: an image encoder of {channels} channel{'s' * (channels > 1)}; segmentation needs images with "
            "three. Give three-channel weights: grey images are read as three equal channels, and alpha is dropped"
        )


def _part(
    given: Any, word: str, tell: Callable[[str], None], place: OnMesh
) -> tuple[ModelSpec, Flat, tuple[Path, ...]]:
    """Load a published CLIP or SAM: its spec, the leaves that are needed ({} for random weights), companion files."""
    family = {"text": "clip", "sam": "sam"}[word]
    known = [name for name, spec in registry.MODELS.items() if spec.family == family]
    if given.weights == weights.RANDOM:
        if given.name not in known:
            raise UserError(f"{word}.name={given.name!r} is not known; {did_you_mean(given.name, known)}")
        return registry.get(given.name), {}, ()
    with spelling(IMPORT), open_pretrained(given.weights or given.name) as opened:
        spec = opened.card.spec
        if spec.family != family or (family == "clip" and spec.config.text is None):
            raise UserError(f"{word}.weights={given.weights}: a {spec.name} is not a {NEEDED[word]}")
        keep = TEXT if word == "text" else DECODER
        wanted = {path: leaf for path, leaf in opened.flat.items() if path.startswith(keep)}
        flat, _ = read(wanted, place, wanted)
    for note in opened.notes:
        tell(f"{word}: {spelled(note, IMPORT)}")
    return spec, flat, opened.companions


NEEDED = {"text": "CLIP with a text tower", "sam": "SAM"}


def _renaming(place: OnMesh, to: str) -> OnMesh:
    """Return the place for leaves whose paths in the segmenter are those of `_renamed`."""
    return dataclasses.replace(place, named=lambda path: f"backbone.{to}{path.removeprefix('backbone.')}")


def _renamed(flat: Mapping[str, jax.Array], prefixes: tuple[str, ...], to: str) -> Flat:
    """Select the leaves under the prefixes, and rename them to their paths in the segmenter."""
    chosen = {path: leaf for path, leaf in flat.items() if path.startswith(prefixes)}
    return {f"backbone.{to}{path.removeprefix('backbone.')}": leaf for path, leaf in chosen.items()}
