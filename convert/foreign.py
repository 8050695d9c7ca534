"""Identify files and folders that cannot be read as checkpoints, for errors that say what to do."""

from collections.abc import Iterable
from pathlib import Path

SIGNATURES = {
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"\xfd7zXZ": "an xz archive: unpack it first",
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"\x93NUMPY": "a numpy array",
    b"GGUF": "a GGUF file of quantised weights: take the PyTorch weights that it was made from",
    b"<!DO": "a web page: the download went to a login or error page",
    b"<htm": "a web page: the download went to a login or error page",
    b"{": "a JSON text: give the weights beside it, or the folder of both",
    b"\x80": "a plain pickle: load it where you trust it, and torch.save its state dict",
}
"""First bytes of other file types -> description."""
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
MERGE = "PeftModel.from_pretrained(base, DIR).merge_and_unload().save_pretrained(OUT)"


def kind(head: bytes, name: str) -> str | None:
    """Describe a file by its first bytes; return None if the type is unknown."""
    if name.endswith(".onnx"):
        return "an ONNX graph: take the PyTorch weights that it was made from"
    return next((what for start, what in SIGNATURES.items() if head.startswith(start)), None)


def way_out(folder: Path, names: Iterable[str], single: str | None) -> str:
    """Suggest what to give instead of a folder without readable weights, or return "".

    Args:
      names: names of the folder's entries. single: a weights file in it.
    """
    names = set(names)
    if any(name.endswith(".distcp") for name in names):
        how = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.pth"
        return f"; a sharded training checkpoint, as DINOv3 writes it: gather it into one file with `{how}`"
    if "zero_to_fp32.py" in names:
        return f"; a DeepSpeed checkpoint: gather it with `python {folder / 'zero_to_fp32.py'} {folder} OUT`"
    if ADAPTER in names or "adapter_model.bin" in names:
        return f"; an adapter (PEFT) without its base model: merge them with `{MERGE}`, and give OUT"
    inner = sorted(p.parent.name for p in folder.glob("*/*.safetensors")) or sorted(
        p.parent.name for p in folder.glob("*/pytorch_model*.bin")
    )
    if inner:
        return f"; there are weights in the folders {', '.join(dict.fromkeys(inner))}: give one of them"
    if names & {"tf_model.h5", "flax_model.msgpack"}:
        return "; weights of TensorFlow or Flax are not read: give those of PyTorch"
    return f"; to read {single}, pass that file itself" if single else ""


def left_beside(folder: Path) -> list[str]:
    """Return a line for an adapter in the folder that is not read."""
    if (folder / ADAPTER_CONFIG).is_file() and (folder / ADAPTER).is_file():
        return [f"warning: {ADAPTER} in {folder} was not applied: the base alone was read. Merge first: {MERGE}"]
    return []
