"""Open a checkpoint of any format as a Source: keys and shapes at once, each tensor on access."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from convert import foreign, head_keys
from convert.byte_ranges import BinaryFile, ByteRange, Joined
from convert.hub_cache import refuse_broken, said
from convert.processor_files import NESTED, PREPROCESSOR, processor, unread
from convert.safetensors_file import read_safetensors
from convert.spellings import published
from convert.tables import SPELLINGS, eomt
from convert.tables.patches import MODULES
from convert.torch_file import LEGACY_START, read_torch
from jaxdino.core.errors import UserError
from jaxdino.core.file_names import is_file_name
from jaxdino.core.json_file import read_json
from jaxdino.core.rules import nearest
from jaxdino.core.words import few

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
HEAD = "head.safetensors"
HEAD_FILES = r"head\.safetensors|.*_(linear\d*|ms|dpt|mlp|fpn|fcos|detr|masks)_head(-[0-9a-f]+)?\.pth"
"""Name patterns of files that contain only a head, ours and Meta's."""
CLASSES = ("meta.CLASSES", "meta.dataset_meta.classes")
"""Where checkpoints of mmsegmentation 0.x and 1.x name their classes, in `Source.extras`."""
NOTES = "jaxdino.json"
VARIANT = r"model\.(?!safetensors)[^.]+\.safetensors"
"""transformers' `save_pretrained(variant="fp16")`."""
LFS_POINTER = b"version https://git-lfs"


@dataclass
class Source:
    """An open checkpoint. `kind` is "safetensors", "pth" or "hf_folder".

    `extras` holds the values in a .pth that are not tensors (epoch, args, optimiser settings) by joined key; `config`
    and `preprocessor` the JSON files of a Hugging Face folder (None if absent); `notes` the notes of our own export;
    `origin` the path and the weights' size in bytes; `said` how the file was interpreted, a line each.
    """

    kind: str
    spans: dict[str, ByteRange | Joined]
    files: list[BinaryFile]
    origin: dict
    metadata: dict[str, str] = field(default_factory=dict)
    extras: dict[str, object] = field(default_factory=dict)
    config: dict | None = None
    preprocessor: dict | None = None
    notes: dict = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def keys(self) -> list[str]:
        return list(self.spans)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._span(key).shape

    def dtype(self, key: str) -> np.dtype:
        return self._span(key).dtype

    def read(self, key: str) -> np.ndarray:
        """Read one tensor into a new contiguous array that is not shared."""
        return self._span(key).read()

    def blocks(self, key: str) -> Iterator[np.ndarray]:
        """Read one tensor in blocks of its first axis."""
        return self._span(key).blocks()

    def _span(self, key: str) -> ByteRange | Joined:
        if key not in self.spans:
            near = ", ".join(nearest(key, self.spans)) or "nothing like it"
            raise UserError(f"{self.origin['path']}: no tensor {key!r}; nearest: {near}")
        return self.spans[key]

    def close(self) -> None:
        for file in self.files:
            file.close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_source(path: str | Path, head: str | Path | None = None) -> Source:
    """Open a .safetensors, .pth, .pt, .bin or .ckpt file, a Hugging Face folder, or a folder with a single .pth.

    A linear head is added from the file `head`, or from the one that our own export wrote beside it.

    The format is detected from the content, not the name. Raise UserError if the path does not exist (with the nearest
    names), if it is not a checkpoint (with what it is instead), or if it is damaged or hostile.
    """
    path = Path(path).expanduser()
    refuse_broken(_read_by_us(path) if path.is_dir() else [path])
    if not path.exists():
        raise UserError(missing(path))
    source = _open_folder(path) if path.is_dir() else _open_file(path)
    folder = path if path.is_dir() else path.parent
    notes = _json(folder / NOTES) or {}
    source.notes = notes if path.is_dir() or notes.get("file") == path.name else {}
    if path.is_file() and not source.notes:
        source.said += unread(folder)
    head = _head_beside(path, source) if head is None else Path(head).expanduser()
    if head is not None:
        _add_head(source, head)
    try:
        source.spans, more = (source.spans, []) if eomt.holds(source.spans) else published(source.spans, SPELLINGS)
    except UserError as error:
        source.close()
        raise UserError(f"{path}: {error}") from None
    source.said += more + said(path)
    return source


def _read_by_us(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in (*SUFFIXES, ".json")]


def _head_beside(path: Path, source: Source) -> Path | None:
    """Return the head file named in our export's notes, or the one in the folder."""
    noted = source.notes.get("head_file")
    if is_file_name(noted) and re.fullmatch(HEAD_FILES, noted):
        return (path if path.is_dir() else path.parent) / noted
    found = sorted(p for p in path.iterdir() if re.fullmatch(HEAD_FILES, p.name)) if path.is_dir() else []
    if len(found) > 1:
        source.close()
        names = ", ".join(p.name for p in found)
        raise UserError(f"{path}: holds several heads ({names}): give the backbone's file, and one of them as the head")
    return found[0] if found else None


def missing(path: Path) -> str:
    """Return the error message for a path that does not exist, with the nearest names."""
    parent = path.parent
    if not parent.is_dir():
        return f"{path}: not found; its folder {parent} does not exist either"
    near = ", ".join(nearest(path.name, [p.name for p in parent.iterdir()]))
    return f"{path}: not found; nearest in {parent}: {near or 'nothing like it'}"


def _open_file(path: Path) -> Source:
    if not path.is_file():
        raise UserError(f"{path}: neither a file nor a folder")
    file = BinaryFile(path)
    try:
        source = Source(_kind(file), {}, [file], {"path": str(path), "bytes": file.size})
        if source.kind == "safetensors":
            source.spans, source.metadata = read_safetensors(file)
        else:
            source.spans, source.extras, source.said = read_torch(file)
    except BaseException:
        file.close()
        raise
    return source


def _kind(file: BinaryFile) -> str:
    head = file.read(0, 32)
    if not head:
        raise UserError(f"{file.path}: the file is empty")
    if head.startswith(LFS_POINTER):
        raise UserError(f"{file.path}: a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= file.size:
        return "safetensors"
    if head.startswith((b"PK\x03\x04", LEGACY_START)):
        return "pth"
    if what := foreign.kind(head, file.path.name):
        raise UserError(f"{file.path}: not a checkpoint but {what}")
    if file.read(257, 5) == b"ustar":
        raise UserError(
            f"{file.path}: a tar archive (or a PyTorch file older than 0.1.10): unpack it, or save it again"
        )
    if head[8:9] == b"{" or file.path.suffix == ".safetensors":
        return "safetensors"
    raise UserError(f"{file.path}: not a checkpoint; expected the content of one of {', '.join(SUFFIXES)}")


def _open_folder(folder: Path) -> Source:
    name = next((name for name in FOLDER_FILES if (folder / name).is_file()), None)
    name = name or _only_checkpoint(folder)
    config = _json(folder / "config.json")
    if config is None or name.startswith("open_clip_"):
        config = _json(folder / "open_clip_config.json") or config
    preprocessor, said = processor(_json(folder / PREPROCESSOR), _json(folder / NESTED))
    source = _open_shards(folder, name) if name.endswith(".json") else _open_file(folder / name)
    source.kind, source.config, source.preprocessor = "hf_folder", config, preprocessor
    source.said += [*said, *foreign.left_beside(folder)]
    source.origin["path"] = str(folder)
    return source


def _only_checkpoint(folder: Path) -> str:
    """Return the file named in our export's notes, or the only checkpoint in the folder."""
    noted = (_json(folder / NOTES) or {}).get("file")
    if is_file_name(noted) and (folder / noted).is_file():
        return noted
    files = [p for p in folder.iterdir() if p.is_file()]
    found = [p.name for p in files if p.suffix in SUFFIXES[1:] and not re.fullmatch(HEAD_FILES, p.name)]
    found += [p.name for p in files if re.fullmatch(VARIANT, p.name)]
    if len(found) != 1:
        raise UserError(_no_weights(folder))
    return found[0]


def _add_head(source: Source, path: Path) -> None:
    """Add a head from a separate file, for formats whose classes do not include it."""
    try:
        head = _open_file(path) if path.exists() else None
        if head is None:
            raise UserError(missing(path))
    except BaseException:
        source.close()
        raise
    source.files += head.files
    found = head_keys.alone({key: span.shape for key, span in head.spans.items()})
    source.origin["head"] = path.name
    if found is None:
        source.close()
        if known := head_keys.unsupported(head.spans):
            raise UserError(f"{path}: {known}. Read are linear heads, and DINOv2's depth heads, linear and DPT")
        raise UserError(
            f"{path}: holds {', '.join(sorted(head.spans)[:5])}, which is not a linear classification head: "
            "expected the weight and bias of a linear layer, or of one called linear_head, head or classifier; "
            "or a segmentation head of a batch norm and a convolution, called "
            f"{' or '.join(dict.fromkeys(MODULES.values()))}*"
        )
    keys, aside = found
    if twice := sorted(source.spans.keys() & keys.keys()):
        source.close()
        raise UserError(f"{path}: holds {twice[0]}, which the backbone's file also holds")
    source.spans |= {key: head.spans[full] for key, full in keys.items()}
    source.extras |= {key: value for key, value in head.extras.items() if key in CLASSES}
    source.said += [f"left aside {len(aside)} tensors of the head's file, {aside[0]} to {aside[-1]}"] if aside else []


def _no_weights(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    single = [name for name in names if name.endswith(SUFFIXES)]
    hint = foreign.way_out(folder, names, single[0] if single else None)
    wanted, found = ", ".join(FOLDER_FILES), few(names, 8) or "nothing"
    return f"{folder}: no checkpoint in this folder: expected {wanted}; found {found}{hint}"


def _json(path: Path) -> dict | None:
    if not path.is_file():
        return None
    return read_json(path, dict, any_number=True)


def _open_shards(folder: Path, index_name: str) -> Source:
    weight_map = _weight_map(folder / index_name)
    names = sorted(set(weight_map.values()))
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise UserError(f"{folder}: {index_name} names missing shards: {', '.join(lacking[:5])}")
    whole = Source("hf_folder", dict.fromkeys(weight_map), [], {"path": str(folder), "bytes": 0})
    try:
        for name in names:
            shard = _open_file(folder / name)
            whole.files += shard.files
            whole.metadata |= shard.metadata
            whole.said += shard.said
            whole.origin["bytes"] += shard.origin["bytes"]
            listed = {key for key, place in weight_map.items() if place == name}
            if listed != set(shard.spans):
                wrong = sorted(listed ^ set(shard.spans))
                raise UserError(f"{folder / name}: {index_name} and this shard disagree on {', '.join(wrong[:5])}")
            whole.spans |= shard.spans
    except BaseException:
        whole.close()
        raise
    return whole


def _weight_map(path: Path) -> dict[str, str]:
    weight_map = _json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path}: weight_map is missing")
    for key, name in weight_map.items():
        if not is_file_name(name):
            raise UserError(f"{path}: the shard of {key!r} is {name!r}, not a file name in this folder")
    return weight_map
