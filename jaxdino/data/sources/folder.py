"""The sources "folder" and "images": image files in folders, with the folders as classes or without labels."""

from pathlib import Path

import numpy as np

from jaxdino.data.config import DataConfig
from jaxdino.data.folders import list_folder, list_images
from jaxdino.data.record import Source, Split
from jaxdino.data.roots import visible_folders
from jaxdino.data.split_names import SPLITS, split_of
from jaxdino.data.splitting import origins, ratios_of, stratified


def folder(cfg: DataConfig) -> Source:
    """List image folders: root/{train,val,test}/<class>/**, or root/<class>/** with a stratified, seeded split.

    A missing validation (or test) folder is filled from the training images by `val_ratio` (`test_ratio`).

    Raises:
      UserError: for a missing root, no images, an empty class, fewer than two classes, a class of val or test that
        train lacks, a class too small to split, or an ambiguous layout (see `layout`).
    """
    listing = list_folder(cfg.root, cfg.given_splits, cfg.classes)
    class_names = tuple(listing.files["train"])
    flat = {name: _flatten(classes, class_names) for name, classes in listing.files.items()}
    ratios = ratios_of(cfg, flat)
    if ratios:
        paths, labels = flat["train"]
        keys = [Path(path).relative_to(listing.root).as_posix() for path in paths]
        for name, rows in stratified(keys, labels, ratios, cfg.split_seed, class_names).items():
            flat[name] = [paths[i] for i in rows], labels[rows]
    splits = {
        name: Split(name, flat[name][0], {"label": flat[name][1]}, class_names, listing.root)
        for name in SPLITS
        if name in flat
    }
    return Source("folder", class_names, splits, listing.ignored, origins(cfg, listing.called), listing.notes)


def _flatten(classes: dict[str, list[str]], class_names: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """Flatten {class: paths} to one list of paths and its labels, class by class."""
    labels = {name: label for label, name in enumerate(class_names)}
    paths = [path for files in classes.values() for path in files]
    counts = [len(files) for files in classes.values()]
    return paths, np.repeat(np.array([labels[name] for name in classes], np.int32), counts)


def images(cfg: DataConfig) -> Source:
    """List unlabelled images: all below the root, or below several roots separated by commas, at any depth.

    There is one split, "train", and no class: folders that other sources read as splits or classes have no special
    meaning here, and no share is split off.

    Raises:
      UserError: if a root is missing or holds no image.
    """
    top, paths, ignored = list_images(cfg.root)
    split = Split("train", paths, {"label": np.zeros(len(paths), np.int32)}, (), top)
    return Source("images", (), {"train": split}, ignored, notes=_all_taken(top))


def _all_taken(top: str) -> tuple[str, ...]:
    """Return a line if validation or test folders are among the folders that are read."""
    found = [path.name for path in visible_folders(Path(top)) if split_of(path.name) in ("val", "test")]
    return (f"all folders are read, {' and '.join(found)} too: to leave them out, set a lower root",) * bool(found)
