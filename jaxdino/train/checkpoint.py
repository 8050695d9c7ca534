"""Orbax checkpoints, written in the background, each with a manifest of its files.

The manifest (name, size and SHA-256 of every file) is written inside Orbax's temporary folder, just before the rename
that makes the checkpoint visible. An unfinished or damaged checkpoint is therefore detected: a warning names it, and
the previous checkpoint is used.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from jaxdino.core import processes
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json
from jaxdino.core.words import bounded

MANIFEST = "manifest.json"
STAMP = "_CHECKPOINT_METADATA"  # Orbax writes it again during the rename
UNSEALED = {MANIFEST, STAMP, "commit_success.txt"}  # in the folder itself: written after the manifest
SLICED = 2**20
"""Bytes a device from which the devices that hold the same array each write a part of it. Slicing smaller arrays took
most of the time of a checkpoint."""
OTHERS = re.compile(r"(^|/)(\.DS_Store|\.nfs[^/]*|Thumbs\.db|desktop\.ini)$")  # which file systems and browsers leave


def flatten(tree: Any) -> dict[str, Any]:
    """Flatten a tree to {"trainable/backbone.norm.scale": leaf}. The names do not depend on optax's classes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _digest(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        sha = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": sha}


def _files(folder: Path) -> dict[str, Path]:
    """Return {path in the folder: file} of everything that the manifest lists."""
    found = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: file for name, file in found.items() if name not in UNSEALED and not OTHERS.search(name)}


def seal(folder: Path) -> None:
    """Write the manifest of a folder's files: to a temporary file first, which is then renamed."""
    files = _files(folder)
    with ThreadPoolExecutor(4) as pool:
        entries = dict(zip(files, pool.map(_digest, files.values()), strict=True))
    beside = folder / f"{MANIFEST}.part"
    beside.write_text(json.dumps(entries, indent=1))
    beside.rename(folder / MANIFEST)


def flaw(folder: Path) -> str | None:
    """Return what is wrong with a sealed folder, naming the file, or None if it holds every byte that was sealed.

    The manifest must list exactly the files that are there: an empty or shorter one proves nothing.
    """
    return _lacking(folder) or _changed(folder)


def _lacking(folder: Path) -> str | None:
    """Return what is missing in a sealed folder, or None. Files are also missing when a deletion was interrupted."""
    for name in (STAMP, MANIFEST):
        if not (folder / name).is_file():
            return f"{name} is missing"
    gone = sorted(_entries(folder).keys() - _files(folder).keys())
    return f"{gone[0]} is missing" if gone else None


def _entries(folder: Path) -> dict[str, Any]:
    """Return the manifest, or {} if it is damaged."""
    try:
        return read_json(folder / MANIFEST, dict)
    except JsonError:
        return {}


def _changed(folder: Path) -> str | None:
    """Return which file of a sealed folder differs from its manifest, or None. Missing files do not count."""
    for name in (STAMP, MANIFEST):
        try:
            read_json(folder / name, dict)
        except JsonError as err:
            if (folder / name).exists():
                return f"{name} cannot be read ({err.reason})"
    if not (folder / MANIFEST).exists():
        return None
    entries, files = _entries(folder), _files(folder)
    if unlisted := sorted(files.keys() - entries.keys()):
        return f"{MANIFEST} does not list {unlisted[0]}"
    for name, file in files.items():
        wanted = entries[name]
        if not isinstance(wanted, dict) or wanted.keys() != {"bytes", "sha256"}:
            return f"{MANIFEST} has no checksum of {name}"
        if file.stat().st_size != wanted["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {wanted['bytes']}"
        if _digest(file) != wanted:
            return f"{name} has a different checksum than when it was written"
    return None


def _stamp_fault(folder: Path) -> str | None:
    """Return why Orbax cannot read the stamp of a checkpoint, which no checksum covers, or None."""
    try:
        ocp.step.standard_name_format().find_step(folder.parent, int(folder.name)).commit_timestamp  # noqa: B018
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as err:
        return f"{STAMP} cannot be read ({bounded(str(err))})"
    return None


class Checkpoints:
    """Save and restore the checkpoints of one run. Steps are counted over the whole run.

    Args:
      folder: folder of the checkpoints; created if it does not exist.
      keep: number of checkpoints to keep; at least 2, so that there is always a previous one.
      warn: called with one line for each checkpoint that cannot be used.
    """

    def __init__(self, folder: Path, keep: int = 2, warn: Callable[[str], None] = print):
        self.folder = Path(folder).absolute()
        self._chief = processes.chief()
        self._set_aside(warn)
        processes.barrier("damaged checkpoints are set aside")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal_unfinished),
        )
        arrays = type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICED)
        registry = type_handlers.create_type_handler_registry(
            (jax.Array, arrays), (np.ndarray, type_handlers.NumpyHandler())
        )
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
            "meta": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Copy the state to the host, then write it and the JSON metadata in the background."""
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(flatten(state)), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=args, force=True)

    def wait(self) -> None:
        """Wait until everything saved is on disk; raise any error from the background writes."""
        self._manager.wait_until_finished()

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return (step, meta) of the newest checkpoint, or None. Damaged ones were removed when the run began."""
        step = self._manager.latest_step()
        if step is None:
            return None
        return step, self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta

    def restore(self, step: int, like: Any) -> Any:
        """Restore the state of a step, placed as `like`: a tree of ShapeDtypeStruct with shardings, on any mesh.

        Raises:
          UserError: if the leaves or shapes in the checkpoint differ from `like`.
        """
        wanted = flatten(like)
        stored = self._manager.item_metadata(step).state.tree
        shapes = {name: tuple(leaf.shape) for name, leaf in stored.items()}
        other = {name for name, leaf in wanted.items() if shapes.get(name) != tuple(leaf.shape)}
        if other := sorted(other | shapes.keys() - wanted.keys()):
            raise UserError(
                f"checkpoint {step} in {self.folder} does not fit this run ({other[0]} and {len(other) - 1} more): "
                "was it written by another version? Use a new --workdir"
            )
        placed = ocp.checkpoint_utils.construct_restore_args(wanted)
        args = ocp.args.Composite(state=ocp.args.PyTreeRestore(wanted, restore_args=placed))
        flat = self._manager.restore(step, args=args).state
        return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in wanted])

    def close(self) -> None:
        """Finish writing and close."""
        self._manager.close()

    def _seal_unfinished(self) -> None:
        if self._chief:
            for folder in self.folder.glob("*orbax-checkpoint-tmp*"):
                seal(folder)

    def _set_aside(self, warn: Callable[[str], None]) -> None:
        """Delete unfinished checkpoints, and move damaged ones to the folder `damaged/` next to `folder`.

        Unfinished are those that were being written or deleted when the run ended: Orbax deletes an old checkpoint,
        file by file, after two newer ones are complete.
        """
        if not self._chief or not self.folder.is_dir():
            return
        numbered = {path: re.match(r"\d+", path.name) for path in self.folder.iterdir() if path.is_dir()}
        steps = {path: int(found[0]) for path, found in numbered.items() if found}
        sound, lines = [], []
        for folder in sorted(steps, key=lambda path: (-steps[path], path.name)):
            name = f"checkpoint {steps[folder]}"
            if not folder.name.isdigit():
                shutil.rmtree(folder)
                lines.append(f"{name} is unfinished: the run ended while it was written (removed)")
            elif (fault := _lacking(folder)) and len(sound) >= 2 and not _changed(folder):
                shutil.rmtree(folder)
                lines.append(f"{name} is unfinished: the run ended while it was deleted (removed)")
            elif fault := fault or _changed(folder) or _stamp_fault(folder):
                lines.append(f"{name} is damaged: {fault} (moved to {self._moved(folder)})")
            else:
                sound.append(steps[folder])
        used = f"checkpoint {sound[0]} is used" if sound else "none is left: the run starts over from the beginning"
        for line in lines:
            warn(f"{line}; {used}")

    def _moved(self, folder: Path) -> Path:
        target = self.folder.with_name("damaged") / folder.name
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(folder, target)
        return target


def abstract(tree: Any, where: Any) -> Any:
    """Return the shapes and dtypes of a tree with the shardings `where`, as `restore` expects them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding), tree, where
    )
