"""Save and load a model in jaxdino's own format: `model.json`, and Orbax checkpoints in `params/`.

The parameters are split into parts, because Orbax copies what it writes: only one part, not the model, is held twice.
"""

import dataclasses
import functools
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from convert.atomic import atomic_folder, refuse_occupied
from convert.card import CARD, Card, load_card
from convert.lazy_array import LazyArray
from convert.orbax_faults import readable, writable
from convert.plausible import check_counts, understood
from convert.seal import SEAL, write_seal
from jaxdino.core import sharding
from jaxdino.core.bars import bytes_bar
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import parse_json
from jaxdino.core.params import Digest, Skeleton, natural_key

PARAMS, COMPANIONS = "params", "companions"
PART_BYTES, READ_BYTES = 1 << 27, 1 << 24
"""Bytes that are written at once, and read at once; a larger leaf alone."""


def is_model(folder: Path) -> bool:
    """Return whether the folder holds a model in this format."""
    return (folder / CARD).is_file() and (folder / PARAMS).is_dir()


def refuse_foreign(folder: str | Path, overwrite: bool) -> None:
    """Raise UserError if the folder has files that must not be overwritten or do not belong to a model."""
    refuse_occupied(folder, overwrite, {CARD, PARAMS, COMPANIONS, SEAL}.__contains__)


def save_model(
    folder: str | Path,
    card: Card,
    flat: Mapping[str, Any],
    *,
    companions: Iterable[Path] = (),
    mesh: Mesh | None = None,
    overwrite: bool = False,
) -> Card:
    """Save a model atomically: write it beside the folder, then rename it.

    Args:
      flat: arrays, or lazy leaves that are read when they are written (`convert.lazy_array`).
      companions: files to copy beside the weights (a tokenizer's).
      mesh: devices for a sharded write, each device its own slices.

    Returns:
      The written card, with the digest of `flat`.

    Raises:
      UserError: if the folder exists and must not be overwritten, or holds files that do not belong to a model.
    """
    refuse_foreign(folder, overwrite)
    with atomic_folder(folder) as beside:
        for file in companions:
            (beside / COMPANIONS).mkdir(exist_ok=True)
            shutil.copyfile(file, beside / COMPANIONS / file.name)
        return write_model(beside, card, flat, mesh)


def write_model(folder: Path, card: Card, flat: Mapping[str, Any], mesh: Mesh | None = None) -> Card:
    """Write a model into an empty folder, with one part in memory at a time; see `save_model`.

    Raises:
      UserError: if the disk is full, or the model cannot be written for another reason.
    """
    digest, need, free = Digest(), sum(leaf.nbytes for leaf in flat.values()), shutil.disk_usage(folder).free
    if need > free:
        raise UserError(f"{folder.parent}: the model needs {need / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} left")
    with (
        writable(folder),
        _checkpointer() as checkpointer,
        ThreadPoolExecutor(1) as beside,
        bytes_bar(need, "writing") as watched,
    ):
        for number, paths in enumerate(_grouped({path: leaf.nbytes for path, leaf in flat.items()}, PART_BYTES)):
            part = {path: np.asarray(flat[path]) for path in paths}
            hashed = [beside.submit(digest.add, path, array) for path, array in part.items()]
            placed = part if mesh is None else jax.device_put(part, sharding.shardings(part, mesh))
            checkpointer.save(folder / PARAMS / f"{number:05d}", placed)
            for each in hashed:
                each.result()
            watched.update(sum(array.nbytes for array in part.values()))
            del part, placed, hashed
    card = dataclasses.replace(card, digest=digest.value())
    write_card(folder, card)
    return card


def write_card(folder: Path, card: Card) -> None:
    """Write or replace the card of a model, and its seal.

    A process killed in between leaves a model without a seal, which is loaded with a word about that.
    """
    text, beside = card.to_json(), folder / f"{CARD}.part"
    (folder / SEAL).unlink(missing_ok=True)
    beside.write_text(text)
    beside.replace(folder / CARD)
    write_seal(folder, parse_json(text, CARD, dict))


def _checkpointer() -> Any:
    """Return an Orbax checkpointer for weights: no compression, since they do not compress, and no defensive copy."""
    import orbax.checkpoint as ocp

    kinds = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, ocp.type_handlers.ArrayHandler()),
    )
    me = jax.process_index()  # of several processes, each reads and writes models by itself
    alone: dict[str, Any] = {}
    if jax.process_count() > 1:
        how = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"model{me}"
        )
        alone = {"multiprocessing_options": how}
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=kinds, **alone)
    return ocp.Checkpointer(handler, **alone)


def companions_of(folder: Path) -> tuple[Path, ...]:
    """Return the companion files of a model in our own format."""
    return tuple(sorted((folder / COMPANIONS).iterdir())) if (folder / COMPANIONS).is_dir() else ()


def load_model(folder: str | Path) -> tuple[Card, dict[str, np.ndarray]]:
    """Load a model: its card and its parameters as numpy arrays.

    Raises:
      UserError: if the parameters are damaged: their digest differs from the card's.
    """
    with open_model(folder) as (card, flat):
        return card, {path: np.asarray(leaf) for path, leaf in flat.items()}


def load_sharded(folder: str | Path, mesh: Mesh, rules: sharding.Rules = ()) -> tuple[Card, dict[str, jax.Array]]:
    """Load a model directly onto the devices of a mesh, each device its own slices; any saved sharding works.

    Raises:
      UserError: as in `load_model`.
    """
    with open_model(folder) as (card, leaves):
        return card, {path: sharding.place(path, np.asarray(leaf), mesh, rules) for path, leaf in leaves.items()}


def _check_digest(folder: Path, card: Card, digest: Digest) -> None:
    if digest.value() != card.digest:
        raise UserError(f"the parameters in {folder} are damaged: their digest is not the one in {CARD}")


@contextmanager
def open_model(folder: str | Path) -> Iterator[tuple[Card, dict[str, LazyArray]]]:
    """Open a model: its card and its leaves in natural order, each read on access.

    Raises:
      UserError: on exit, if the digest differs from the card's. Leaves that were not accessed are read then.
    """
    folder = Path(folder).absolute()
    card = load_card(folder)
    with _checkpointer() as checkpointer:
        with readable(folder):
            parts = _Parts(checkpointer, folder)
        check_counts((card.spec.config, card.head), len(parts.places), f"{folder / CARD}")
        with understood(str(folder / CARD)):
            skeleton = card.spec.skeleton(head=card.head)
        leaves = parts.leaves(skeleton)
        _check_leaves(folder, skeleton, leaves, parts.places)
        yield card, leaves
        for path in leaves:  # in their order: leaves of a group are read together
            if path not in parts.seen:
                parts.read(path)
        _check_digest(folder, card, parts.digest)


def _check_leaves(folder: Path, skeleton: Skeleton, leaves: Mapping[str, LazyArray], found: Iterable[str]) -> None:
    wrong = sorted(set(found) ^ set(skeleton.entries))
    wrong += [path for path, leaf in leaves.items() if leaf.shape != tuple(skeleton.entries[path].shape)]
    if wrong:
        listed = ", ".join(wrong[:5])
        raise UserError(f"{folder}: the parameters are not those of the model in {CARD}: they differ in {listed}")


class _Parts:
    """The parts of a model on disk; the leaves that were read last are cached."""

    def __init__(self, checkpointer: Any, folder: Path):
        self.checkpointer, self.folder = checkpointer, folder
        self.places: dict[str, tuple[Path, Any]] = {}
        self._groups: dict[str, list[str]] = {}
        for part in sorted((folder / PARAMS).iterdir()):
            tree = getattr(checkpointer.metadata(part).item_metadata, "tree", None)
            if tree is None:
                raise UserError(f"{part}: its _METADATA is damaged")
            self.places |= {path: (part, entry) for path, entry in tree.items()}
            sizes = {path: math.prod(e.shape) * np.dtype(e.dtype).itemsize for path, e in tree.items()}
            ordered = {path: sizes[path] for path in sorted(sizes, key=natural_key)}
            self._groups |= {path: group for group in _grouped(ordered, READ_BYTES) for path in group}
        self.digest, self.seen = Digest(), set()
        self._held: dict[str, np.ndarray] = {}

    def leaves(self, skeleton: Skeleton) -> dict[str, LazyArray]:
        """Return the leaves in the skeleton's order."""
        found = {path: self.places[path][1] for path in skeleton.entries if path in self.places}
        return {
            path: LazyArray(tuple(entry.shape), np.dtype(entry.dtype), functools.partial(self.read, path))
            for path, entry in found.items()
        }

    def read(self, path: str) -> np.ndarray:
        """Read one leaf; its group is read unless it is cached."""
        if path not in self._held:
            self._held = {}
            self._held = self._read(self._groups[path])
        array = self._held[path]
        if len(self._held) == 1:
            self._held = {}  # the caller may free it before the next one is read
        if path not in self.seen:
            self.digest.add(path, array)
            self.seen.add(path)
        return array

    def _read(self, paths: list[str]) -> dict[str, np.ndarray]:
        import orbax.checkpoint as ocp

        item = {path: self.places[path][1] for path in paths}
        how = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in paths}
        asked = ocp.args.PyTreeRestore(item, restore_args=how, partial_restore=True)
        with readable(self.folder):
            return self.checkpointer.restore(self.places[paths[0]][0], args=asked)


def _grouped(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Group paths, with the bytes of each, so that those of a group have at most `most`; a larger one stands alone."""
    group, size = [], 0
    for path, need in sizes.items():
        if group and size + need > most:
            yield group
            group, size = [], 0
        group.append(path)
        size += need
    yield group
