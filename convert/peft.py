"""Read and write LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

PEFT names an adapter after its torch module, so the names come from the weight tables. For transformers' classes they
are the in-memory names of transformers 5; reading also accepts the published names.

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
from convert.card import Card
from convert.peft_config import config_of, read_config
from convert.peft_names import PUBLISHED, places_of, torch_names
from convert.readers import Source, open_source
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
    """Write a model's adapters in PEFT's format; the torch model with them computes the same outputs as ours.

    What PEFT cannot express is written in an equivalent form. If a projection is also fused in the layout, adapters
    on some of its parts become one adapter whose rank is the sum of theirs. If a projection is several modules in the
    layout, an adapter on it becomes one adapter per module. PEFT draws dropout separately for each module.

    Args:
      skeleton, flat: of the model with its adapters, with the paths of `spec.build`.
      layout: of the torch model; "hf" is transformers 5, "published" is its checkpoints' names and transformers 4.
      prefix: prefix of the backbone's modules; by default that of the layout's class, with or without a head.
      base: the base model's name for the config; by default its hub name.

    Raises:
      UserError: if a layer is not a linear module in the layout, one config cannot express the adapters, or the folder
        is not empty.
    """
    head = skeleton.entries.get("head.kernel")
    names = torch_names(spec, layout, head is not None)
    if prefix is None:
        how = layouts(spec)["hf" if layout == PUBLISHED else layout]
        card = Card(spec, spec.linear(head.shape[1])) if head else None
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
            "adapters with different dropout, rslora or dora do not fit into one PEFT config: write them separately"
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
    """Combine all adapters on a kernel into one; its rank is the sum of their ranks."""
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
    """Split an adapter on a fused kernel into one adapter per torch module."""
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
    """A model with adapters: its skeleton and parameters, and one `LoRA` for each rank and alpha that was added."""

    skeleton: Skeleton
    flat: Flat
    loras: tuple[LoRA, ...]


def load_adapter(
    folder: str | Path, spec: ModelSpec, skeleton: Skeleton, flat: Flat, *, layout: str | None = None
) -> Read:
    """Add PEFT's adapters to a model without adapters; it computes the same outputs as the torch model with them.

    Args:
      folder: folder with `adapter_config.json` and `adapter_model.safetensors` or `.bin`.
      skeleton, flat: of the model, with the paths of `spec.build`.
      layout: of the torch model they were trained on; by default detected from the names.

    Returns:
      `Read`; the adapters' leaves are float32.

    Raises:
      UserError: if a file is missing or damaged, an adapter is of another kind or not on a linear layer of the model,
        or the config and the tensors disagree on ranks, shapes or targets. There is no partial load.
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
                raise UserError(f"{folder}: the parts of {path} have different ranks or alphas, which is not supported")
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
    """Read a tensor as float32, which represents half precision exactly."""
    if not jax.dtypes.issubdtype(source.dtype(key), np.floating):
        raise UserError(f"{source.origin['path']}: {key} is {source.dtype(key)}, not floating point")
    return np.ascontiguousarray(source.read(key).T.astype(np.float32))


def _grouped(source: Source) -> dict[str, dict[str, str]]:
    """Group the keys: {torch module: {our leaf name: key}}."""
    endings = {f".{ending}": leaf for leaf, ending in TENSORS.items()}
    endings[".lora_magnitude_vector.weight"] = "magnitude"
    found: dict[str, dict[str, str]] = {}
    for key in source.keys():  # noqa: SIM118 (our own method)
        ending = next((ending for ending in endings if key.endswith(ending)), None)
        if ending is None or not key.startswith(STEM):
            raise UserError(
                f"{source.origin['path']}: {key} is not a tensor of a LoRA adapter on a linear layer; expected: "
                f"{STEM}<module>.lora_A.weight, .lora_B.weight and .lora_magnitude_vector"
            )
        found.setdefault(key.removeprefix(STEM).removesuffix(ending), {})[endings[ending]] = key
    return found


def _shapes(kernel: tuple[int, ...], part: str, rank: int, dora: bool) -> dict[str, tuple[int, ...]]:
    """Return the shapes of PEFT's tensors for an adapter on one of our kernels, or on a part of it."""
    n_in, n_out = kernel
    if part:
        where = columns(part, n_out)
        n_out = where.stop - where.start
    return {"a": (rank, n_in), "b": (n_out, rank)} | ({"magnitude": (n_out,)} if dora else {})


def _check_shapes(name: str, path: str, given: dict[str, tuple], wanted: dict[str, tuple]) -> None:
    if given != wanted:
        have, want = (", ".join(f"{TENSORS[leaf]} {s}" for leaf, s in shapes.items()) for shapes in (given, wanted))
        raise UserError(
            f"the adapter of {name} holds {have}; the config's rank and {path} of this model require {want}"
        )


def _named(model, spec: ModelSpec, places: list[tuple[str, str]], rest: LoRA) -> LoRA:
    """Return `rest` with targets that match exactly these places: short names if possible, else full names."""
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
