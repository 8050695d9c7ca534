"""Training checkpoints of DINO, DINOv2 and DINOv3: teacher and student with backbone and heads, and the centres.

Our format is a folder: `teacher/backbone`, `teacher/dino_head`, `student/...`, each a model in our own format,
`centres.safetensors` and `training.json`. Optimiser states are ignored.

Sources: facebookresearch/dino main_dino.py, facebookresearch/dinov2 and dinov3 train/{train,ssl_meta_arch}.py.
"""

import dataclasses
import functools
import json
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from convert import assumptions, networks
from convert.atomic import atomic_folder, refuse_occupied
from convert.head_keys import bound_table
from convert.hub import find
from convert.load import Opened, Pretrained, open_pretrained
from convert.readers import Source, open_source
from convert.recognise import prefixes
from convert.store import Card, is_model, write_model
from convert.table import Tensor
from convert.tables import FAMILIES, heads, layouts, serving
from convert.writers import write_pth, write_safetensors
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import read_json
from jaxdino.core.params import Digest
from jaxdino.core.rules import did_you_mean
from jaxdino.models.spec import Config, ModelSpec

ROLES = ("teacher", "student")
BACKBONE = "backbone"
CENTRES = {"dino_head": "dino_loss.center", "ibot_head": "ibot_patch_loss.center"}
"""Head -> the end of the key of its teacher's centre."""
CENTRE_SHAPES = {"dino_head": (1, -1), "ibot_head": (1, 1, -1)}
KEPT = ("epoch", "iteration", "args")
"""Values that are kept besides tensors: the progress of the run and its flags."""
CARD, CENTRES_FILE = "training.json", "centres.safetensors"
Weights = Opened | Pretrained


@dataclasses.dataclass(frozen=True)
class TrainingCheckpoint:
    """The networks of one training run.

    Attributes:
      networks: {"teacher" or "student": {"backbone", "dino_head" or "ibot_head": weights}}.
      centres: {head: centre of its teacher's scores, (1, K) for DINO and (1, 1, K) for iBOT}.
      extras: the epoch or iteration, and the run's flags ("args.lr").
    """

    networks: Mapping[str, Mapping[str, Weights]]
    centres: Mapping[str, np.ndarray]
    extras: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Format:
    """A published format of training checkpoints.

    Attributes:
      file: usual file name. roles: {network: prefix of its keys}. heads: {head: its name in keys}.
      centres: the heads whose centres it contains.
    """

    file: str
    roles: Mapping[str, str]
    heads: Mapping[str, str]
    centres: tuple[str, ...] = ()


FORMATS = {
    "dino": Format(
        "checkpoint.pth", {"student": "student.module.", "teacher": "teacher."}, {"dino_head": "head"}, ("dino_head",)
    ),
    "dinov2": Format("teacher_checkpoint.pth", {"teacher": "teacher."}, {name: name for name in CENTRES}),
}
"""DINO's file has everything; DINOv2 and DINOv3 write the teacher for evaluation, and shards to resume from."""


def read_training(src: str | Path, **overrules) -> TrainingCheckpoint:
    """Load a training checkpoint as numpy arrays; see `open_training`."""
    with open_training(src, **overrules) as opened:
        networks = {role: {name: _whole(part) for name, part in opened.networks[role].items()} for role in ROLES}
    return dataclasses.replace(opened, networks={role: parts for role, parts in networks.items() if parts})


@contextmanager
def open_training(
    src: str | Path, *, model: str | None = None, num_heads: int | None = None
) -> Iterator[TrainingCheckpoint]:
    """Open a training checkpoint, the authors' `.pth` or our folder; leaves are read on access.

    Args:
      model, num_heads: override what the backbones' keys and shapes show.

    Raises:
      UserError: if it has neither teacher nor student, or one of their parts does not fit its model completely.
    """
    path = Path(src).expanduser()
    with ExitStack() as stack:
        if is_training(path):
            yield _from_folder(path, stack)
        else:
            yield _from_file(find(src), stack, {"model": model, "num_heads": num_heads})


def _from_folder(path: Path, stack: ExitStack) -> TrainingCheckpoint:
    places = {role: sorted((path / role).iterdir()) for role in ROLES if (path / role).is_dir()}
    networks: dict[str, dict[str, Weights]] = {role: {} for role in ROLES}
    for role, folders in places.items():
        for folder in filter(is_model, folders):
            networks[role][folder.name] = stack.enter_context(open_pretrained(folder))
    centres = {}
    if (path / CENTRES_FILE).is_file():
        with open_source(path / CENTRES_FILE) as source:
            centres = {head: source.read(head) for head in source.keys()}  # noqa: SIM118 (a method of ours)
    return TrainingCheckpoint(networks, centres, read_json(path / CARD, dict, any_number=True))


def _from_file(path: Path, stack: ExitStack, overrules: Mapping[str, Any]) -> TrainingCheckpoint:
    with open_source(path) as source:
        keys = source.keys()
        centres = {head: source.read(key) for head, end in CENTRES.items() for key in keys if key.endswith(end)}
        extras = {key: value for key, value in source.extras.items() if _kept(key, value)}
        places = _places(source)
    if not any(BACKBONE in parts for parts in places.values()):
        raise UserError(f"{path}: no teacher or student with a backbone in it: this is not a training checkpoint")
    networks: dict[str, dict[str, Weights]] = {role: {} for role in ROLES}
    for role, parts in places.items():
        for name, prefix in parts.items():
            how = overrules if name == BACKBONE else {}
            networks[role][name] = stack.enter_context(open_pretrained(path, prefix=prefix, **how))
    return TrainingCheckpoint(networks, centres, extras)


def _kept(key: str, value: Any) -> bool:
    return key.split(".")[0] in KEPT and isinstance(value, str | int | float | None)


def _places(source: Source) -> dict[str, dict[str, str]]:
    """Return {network: {part: the prefix of its keys}}."""
    found: dict[str, dict[str, str]] = {}
    for family in FAMILIES:
        for prefix in prefixes(source.keys(), family):
            role = networks.role(prefix)
            head = "ibot_head" if "ibot_head" in prefix.split(".") else "dino_head"
            if role is not None:
                found.setdefault(role, {}).setdefault(head if family is heads.FAMILY else BACKBONE, prefix)
    return found


def _whole(part: Weights) -> Pretrained:
    if isinstance(part, Pretrained):
        return part
    flat, digest = {}, Digest()
    for path, leaf in part.flat.items():
        flat[path] = np.asarray(leaf)
        digest.add(path, flat[path])
    return Pretrained(dataclasses.replace(part.card, digest=digest.value()), flat, tuple(part.notes))


def parts_of(card: Card, flat: Mapping[str, np.ndarray]) -> dict[str, Pretrained]:
    """Take a network with projection heads apart: {"backbone", "dino_head", ...}, each a model of its own."""
    cards = {BACKBONE: dataclasses.replace(card, spec=dataclasses.replace(card.spec, heads=()), layout=None)}
    for name, head in card.spec.heads:
        cards[name] = Card(ModelSpec(name, heads.FAMILY.names[0], cast(Config, head)), source=card.source)
    return {
        name: Pretrained(
            own, {f"backbone.{path[len(name) + 1 :]}": flat[path] for path in flat if path.startswith(f"{name}.")}
        )
        for name, own in cards.items()
    }


def save_training(folder: str | Path, checkpoint: TrainingCheckpoint, *, overwrite: bool = False) -> None:
    """Write the folder atomically, leaf by leaf.

    Raises:
      UserError: if it exists and must not be overwritten, or holds files that do not belong to it.
    """
    refuse_occupied(folder, overwrite, {*ROLES, CARD, CENTRES_FILE}.__contains__)
    with atomic_folder(folder) as beside:
        for role, parts in checkpoint.networks.items():
            for name, part in parts.items():
                (beside / role / name).mkdir(parents=True)
                write_model(beside / role / name, part.card, part.flat)
        if checkpoint.centres:
            write_safetensors(beside / CENTRES_FILE, [_tensor(*item) for item in checkpoint.centres.items()])
        (beside / CARD).write_text(json.dumps(dict(checkpoint.extras), indent=2) + "\n")


def write_training(
    path: str | Path, checkpoint: TrainingCheckpoint, layout: str = "dino", *, overwrite: bool = False
) -> list[str]:
    """Write a `.pth` that the authors' scripts read.

    Args:
      layout: "dino" (student, teacher, the DINO head's centre) or "dinov2" (only the teacher; DINOv3 does the same).

    Returns:
      A line for each thing that the layout cannot store.

    Raises:
      UserError: on an unknown layout, or if the file exists and must not be overwritten.
    """
    if layout not in FORMATS:
        raise UserError(f"there is no layout {layout!r} of training checkpoints; {did_you_mean(layout, FORMATS)}")
    how, tensors, notes = FORMATS[layout], [], []
    words = {BACKBONE: BACKBONE, **how.heads}
    for role, parts in checkpoint.networks.items():
        for name, part in parts.items():
            if role not in how.roles or name not in words:
                notes.append(f"the {layout} layout has no place for the {role}'s {name}: left out")
                continue
            prefix = f"{how.roles[role]}{_wrapped(role, layout, checkpoint)}{words[name]}."
            tensors += [t._replace(key=prefix + t.key) for t in _in_meta(part)]
    for head, centre in checkpoint.centres.items():
        if head in how.centres:
            tensors.append(_tensor(CENTRES[head], centre))
        else:
            notes.append(f"the {layout} layout has no place for the centre of {head}: left out")
    groups = list(dict.fromkeys(tensor.key.split(".")[0] for tensor in tensors))
    numbers = {name: value for name, value in checkpoint.extras.items() if "." not in name and type(value) is int}
    write_pth(path, tensors, overwrite=overwrite, groups=groups, numbers=numbers if layout == "dino" else {})
    return notes


def _wrapped(role: str, layout: str, checkpoint: TrainingCheckpoint) -> str:
    """Return the wrapper's prefix: DINO wraps the teacher like the student if it has batch norms to synchronise."""
    parts = checkpoint.networks[role].values()
    normed = any(part.card.spec.skeleton().paths("batch_stat") for part in parts)
    return "module." if layout == "dino" and role == "teacher" and normed else ""


def _in_meta(part: Weights) -> list[Tensor]:
    """Return a network's tensors with the authors' keys; DINO uses torchvision's for ResNets and timm's for ViTs."""
    card, flat = part.card, part.flat
    layout = next((layout for layout in ("meta", "torchvision", "timm") if layout in layouts(card.spec)), None)
    if layout is None:
        raise UserError(
            f"{card.spec.name} is not a network that DINO, DINOv2 or DINOv3 train: it has none of their layouts"
        )
    if card.layout != layout:
        card, changes, _ = serving()[card.spec.family].fit(card, flat, layout)
        flat = ChainMap(changes, flat)
    return bound_table(card.spec, layout).write(flat)


def _tensor(key: str, array: np.ndarray) -> Tensor:
    return Tensor(key, array.shape, array.dtype, functools.partial(np.asarray, array))


def is_training(folder: str | Path) -> bool:
    """Return whether the folder is a training checkpoint in our format."""
    return (Path(folder).expanduser() / CARD).is_file()


def main_import(src: str | Path, out: str | Path, *, overwrite: bool = False, **overrules) -> list[str]:
    """Import a complete training checkpoint into the folder `out`; return a line for each part that was read."""
    with open_training(src, **overrules) as opened:
        save_training(out, opened, overwrite=overwrite)
        lines = [
            f"{role}/{name}: {part.card.spec.name}, {part.skeleton.num_params:,} parameters"
            for role, parts in opened.networks.items()
            for name, part in parts.items()
        ]
        parts = [part for networks in opened.networks.values() for part in networks.values()]
        lines += dict.fromkeys(line for part in parts for line in assumptions.lines(part.card.assumed))
        return [*lines, *(f"centre of {head}: {centre.shape}" for head, centre in opened.centres.items())]


def main_export(src: str | Path, out: str | Path, *, layout: str = "dino", overwrite: bool = False) -> list[str]:
    """Write a training checkpoint into the folder `out` with its usual name; return a line for each part left out."""
    files = {how.file for how in FORMATS.values()}
    refuse_occupied(out, overwrite, files.__contains__)
    with atomic_folder(out) as beside, open_training(src) as opened:
        name = FORMATS[layout].file if layout in FORMATS else "checkpoint.pth"
        notes = write_training(beside / name, opened, layout)
    return [*notes, f"wrote {name} into {out}"]
