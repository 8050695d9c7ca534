"""LoRA adapters in PEFT's format, both ways: `adapter_config.json` and `adapter_model.safetensors`.

PEFT names an adapter after the torch module that it stands on, so the names come from the weight tables; of
transformers' classes they are those that transformers 5 has in memory, and on reading the published ones too.

Source: huggingface/peft src/peft/{tuners/lora,utils/save_and_load.py,utils/other.py}, version 0.21.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from convert.atomic import atomic_folder, refuse_occupied
from convert.peft_config import config_of, read_config
from convert.peft_names import PUBLISHED, places_of, torch_names
from convert.readers import Source, open_source
from convert.store import Card
from convert.tables import layouts
from convert.writers import write_safetensors
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.models import lora
from jaxdino.models.lora import PARTS, LoRA, columns
from jaxdino.models.spec import ModelSpec

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = (WEIGHTS, "adapter_model.bin")
STEM = "base_model.model."
TENSORS = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


class Piece(NamedTuple):
    """The adapter of one torch module: a (in, rank), b (rank, out), magnitude (out,) or None."""

    name: str
    a: np.ndarray
    b: np.ndarray
    magnitude: np.ndarray | None
    alpha: float


def save_adapter(
    folder: str | Path,
    spec: ModelSpec,
    skeleton: Skeleton,
    flat: Flat,
    *,
    layout: str = "hf",
    prefix: str | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model's adapters as PEFT does; the torch model with them computes what ours does.

    What PEFT cannot say is written as what is equal to it: adapters on some parts of a projection that is fused in
    the layout too become one of their ranks' sum, and one on the whole of a projection that is several modules there
    becomes one on each. Dropout is drawn for each module apart in PEFT.

    Args:
      skeleton, flat: of the model with its adapters, paths as `spec.build` has them.
      layout: of the torch model; "hf" is transformers 5, "published" its checkpoints' names and transformers 4.
      prefix: what stands before the backbone's modules; by default as in the layout's class, with a head or without.
      base: the base model's name for the config; by default the hub's.

    Raises:
      UserError: for a layer that is no linear module there, adapters that one config cannot hold, or an occupied
        folder.
    """
    head = skeleton.entries.get("head.kernel")
    names = torch_names(spec, layout, head is not None)
    if prefix is None:
        how = layouts(spec)["hf" if layout == PUBLISHED else layout]
        card = Card(spec, head.shape[1], spec.pool) if head else None
        prefix = (how.prefix(card) if card else "") or ""
    pieces, common = _pieces(skeleton, flat, names, layout)
    pieces = [p if p.name in names.get("head", ()) else p._replace(name=prefix + p.name) for p in pieces]
    refuse_occupied(folder, overwrite, (CONFIG, *FILES).__contains__)
    tensors = [
        (f"{STEM}{piece.name}.{TENSORS[leaf]}", array.T.shape, array.dtype, array.T.copy)
        for piece in pieces
        for leaf, array in zip(("a", "b", "magnitude"), piece[1:4], strict=True)
        if array is not None
    ]
    shapes = {piece.name: (piece.a.shape[1], piece.alpha) for piece in pieces}
    with atomic_folder(folder) as beside:
        write_safetensors(beside / WEIGHTS, tensors)
        (beside / CONFIG).write_text(json.dumps(config_of(shapes, common, base or spec.hub), indent=2) + "\n")


def _pieces(skeleton: Skeleton, flat: Flat, names: Mapping[str, tuple], layout: str) -> tuple[list[Piece], LoRA]:
    found = dict(lora.adapters(bind(skeleton, flat)))
    if not found:
        raise UserError("the model has no LoRA adapter: there is nothing to write")
    kinds = {(a.spec.dropout, a.spec.rslora, a.spec.dora): a.spec for a in found.values()}
    if len(kinds) > 1:
        raise UserError(
            "adapters of different dropout, rslora or dora do not go into one PEFT config: write them apart"
        )
    if gone := [path for path in found if path not in names]:
        raise UserError(
            f"the {layout} layout has no linear module for {', '.join(gone[:5])}: PEFT cannot adapt it there"
        )
    pieces = []
    for path, adapter in found.items():
        kernel = np.asarray(flat[f"{path}.kernel"])
        pieces += _one(adapter, kernel, names[path]) if len(names[path]) == 1 else _split(path, adapter, names[path])
    return pieces, next(iter(kinds.values()))


def _one(adapter: lora.Adapter, kernel: np.ndarray, names: tuple[str]) -> list[Piece]:
    """Everything on a kernel as one adapter, of the sum of its parts' ranks."""
    spec, factors = adapter.spec, adapter.factors(kernel.shape[1])
    up = np.zeros((spec.rank * len(factors), kernel.shape[1]), np.asarray(factors[0][1].b[...]).dtype)
    lengths = np.linalg.norm(kernel.astype(np.float32), axis=0) if spec.dora else None
    for n, (where, f) in enumerate(factors):
        up[n * spec.rank : (n + 1) * spec.rank, where] = f.b[...]
        if spec.dora:
            lengths[where] = f.magnitude[...]
    down = np.concatenate([np.asarray(f.a[...]) for _, f in factors], axis=1)
    times = len(factors) ** 0.5 if spec.rslora else len(factors)
    return [Piece(names[0], down, up, lengths, spec.alpha * times)]


def _split(path: str, adapter: lora.Adapter, names: tuple[str, ...]) -> list[Piece]:
    """One adapter for each of the modules that we have fused."""
    pieces = []
    for part, name in zip(PARTS[path.rpartition(".")[2]], names, strict=True):
        if adapter.parts and part not in adapter.parts:
            continue
        f = getattr(adapter, part) if adapter.parts else adapter
        b = np.asarray(f.b[...])
        where = slice(None) if adapter.parts else columns(part, b.shape[1])
        magnitude = np.asarray(f.magnitude[...])[where] if adapter.spec.dora else None
        pieces.append(Piece(name, np.asarray(f.a[...]), b[:, where], magnitude, adapter.spec.alpha))
    return pieces


class Read(NamedTuple):
    """A model with adapters: its skeleton and parameters, and what was added, one `LoRA` for each rank and alpha."""

    skeleton: Skeleton
    flat: Flat
    loras: tuple[LoRA, ...]


def load_adapter(
    folder: str | Path, spec: ModelSpec, skeleton: Skeleton, flat: Flat, *, layout: str | None = None
) -> Read:
    """Put PEFT's adapters on a model without any; it computes what the torch model with them does.

    Args:
      folder: holds `adapter_config.json` and `adapter_model.safetensors` or `.bin`.
      skeleton, flat: of the model, paths as `spec.build` has them.
      layout: of the torch model they were trained on; told from the names by default.

    Returns:
      `Read`; the adapters' leaves are float32.

    Raises:
      UserError: if a file is missing or damaged, for adapters of another kind or on what is no linear layer of the
        model, and where ranks, shapes or targets of the config and the tensors are at odds. Nothing is loaded in part.
    """
    folder = Path(folder).expanduser()
    settings = read_config(folder / CONFIG)
    file = next((folder / name for name in FILES if (folder / name).is_file()), folder / WEIGHTS)
    with open_source(file) as source:
        tensors = _grouped(source)
        settings.check_targets(list(tensors))
        places = places_of(list(tensors), spec, skeleton, layout, folder)
        groups: dict[str, tuple[int, float]] = {}
        filled = {}
        for name, (path, part) in places.items():
            shape = settings.shape(name)
            if groups.setdefault(path, shape) != shape:
                raise UserError(f"{folder}: the parts of {path} have different ranks or alphas, which ours cannot")
            keys, stem = tensors[name], ".".join(filter(None, (path, "lora", part)))
            wanted = _shapes(skeleton.entries[f"{path}.kernel"].shape, part, shape[0], settings.dora)
            _check_shapes(name, path, {leaf: source.shape(key) for leaf, key in keys.items()}, wanted)
            filled |= {f"{stem}.{leaf}": _read(source, key) for leaf, key in keys.items()}
    loras = []
    for rank, alpha in dict.fromkeys(groups.values()):
        chosen = [place for place in places.values() if groups[place[0]] == (rank, alpha)]
        loras.append(_named(bind(skeleton, flat), spec, chosen, settings.lora(rank, alpha)))
        skeleton = lora.adapted(skeleton, spec, loras[-1])
        flat = flat | {path: filled[path] for path in lora.leaves(skeleton.entries) if path in filled}
    return Read(skeleton, {path: flat[path] for path in skeleton.entries}, tuple(loras))


def _read(source: Source, key: str) -> np.ndarray:
    """A tensor as ours, float32, in which half precision loses nothing."""
    if not jax.dtypes.issubdtype(source.dtype(key), np.floating):
        raise UserError(f"{source.origin['path']}: {key} is {source.dtype(key)}, no floating-point numbers")
    return np.ascontiguousarray(source.read(key).T.astype(np.float32))


def _grouped(source: Source) -> dict[str, dict[str, str]]:
    """{torch module: {leaf of ours: key}}."""
    endings = {f".{ending}": leaf for leaf, ending in TENSORS.items()}
    endings[".lora_magnitude_vector.weight"] = "magnitude"
    found: dict[str, dict[str, str]] = {}
    for key in source.keys():  # noqa: SIM118 (a method of ours)
        ending = next((ending for ending in endings if key.endswith(ending)), None)
        if ending is None or not key.startswith(STEM):
            raise UserError(
                f"{source.origin['path']}: {key} is no tensor of a LoRA adapter on a linear layer; its keys are "
                f"{STEM}<module>.lora_A.weight, .lora_B.weight and .lora_magnitude_vector"
            )
        found.setdefault(key.removeprefix(STEM).removesuffix(ending), {})[endings[ending]] = key
    return found


def _shapes(kernel: tuple[int, ...], part: str, rank: int, dora: bool) -> dict[str, tuple[int, ...]]:
    """What PEFT holds of an adapter on a kernel of ours, or on a part of it."""
    n_in, n_out = kernel
    if part:
        where = columns(part, n_out)
        n_out = where.stop - where.start
    return {"a": (rank, n_in), "b": (n_out, rank)} | ({"magnitude": (n_out,)} if dora else {})


def _check_shapes(name: str, path: str, given: dict[str, tuple], wanted: dict[str, tuple]) -> None:
    if given != wanted:
        have, want = (", ".join(f"{TENSORS[leaf]} {s}" for leaf, s in shapes.items()) for shapes in (given, wanted))
        raise UserError(f"the adapter of {name} holds {have}; the config's rank and {path} of this model want {want}")


def _named(model, spec: ModelSpec, places: list[tuple[str, str]], rest: LoRA) -> LoRA:
    """`rest` with targets that name exactly these places: short ones if some do, everywhere or in the last blocks."""
    wanted: dict[str, set[str]] = {}
    full = [".".join(filter(None, place)) for place in places]
    for path, part in places:
        wanted.setdefault(path, set()).update([part] * bool(part))
    short = tuple(dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in full))
    depth = sum(layer.kind == "block" for layer in spec.layers)
    for blocks in (None, *range(1, depth + 1)):
        one = LoRA(**(vars(rest) | {"targets": short, "last_blocks": blocks}))
        try:
            if {path: set(parts) for path, parts in lora.places(model, spec, one).items()} == wanted:
                return one
        except UserError:  # none of the last blocks
            continue
    return LoRA(**(vars(rest) | {"targets": tuple(re.escape(name) for name in full)}))
