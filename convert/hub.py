"""Resolve SRC: a path, a published model's name or a Hugging Face repository."""

import re
from pathlib import Path

from convert.hub_cache import snapshot_of
from convert.readers import missing
from convert.store import is_model
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.registry import MODELS
from jaxdino.models.spec import ModelSpec

FILES = ["*.json", "*.safetensors", "merges.txt"]
OLD_FILES = ["*.json", "pytorch_model*.bin", "merges.txt"]
"""File patterns to download if a repository has no safetensors."""


def find(src: str | Path) -> Path:
    """Return the file or folder of SRC; a hub name is downloaded into Hugging Face's cache.

    The name of published weights has priority over a folder of the same name; `./NAME` is the folder. A workdir gives
    its best model, an imported training checkpoint gives the teacher's backbone.

    Raises:
      UserError: if SRC does not exist, the hub cannot be reached, or the repository is gated.
    """
    spec = MODELS.get(src) if isinstance(src, str) else None
    if spec and (found := _embedded(src)):
        return found
    if spec and spec.hub:
        return _download(spec.hub, spec)
    path = Path(src).expanduser()
    if path.exists():
        path = snapshot_of(path)
        inside = () if is_model(path) else (path / "best", path / "teacher" / "backbone")
        return next(filter(is_model, inside), path)
    if on_hub(src):
        return _download(str(src), next((spec for spec in MODELS.values() if spec.hub == str(src)), None))
    if spec:
        where = f": download the file from {spec.page} and give its path" if spec.page else ": give a file or a folder"
        raise UserError(f"{src} has no weights on the hub{where}, or, in a config, the weights 'random'")
    if "/" not in str(src) and not path.suffix:
        raise UserError(f"{str(src)!r} is not a file, folder, hub name or model; {did_you_mean(str(src), MODELS)}")
    return path  # open_source raises the error


def check_there(src: str | Path) -> None:
    """Refuse a path that does not exist; hub names are not downloaded.

    Raises:
      UserError: if SRC does not exist and is neither a published name nor of the form of a hub name.
    """
    if src not in MODELS and not on_hub(src) and not (path := find(src)).exists():
        raise UserError(missing(path))


def on_hub(src: str | Path) -> bool:
    """Return whether SRC is OWNER/NAME and not a path."""
    path = Path(src).expanduser()
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(src))) and not path.exists() and not path.parent.is_dir()


def _embedded(name: str) -> Path | None:
    folder = Path(__file__).parent.parent / "jaxdino" / "assets" / name
    return folder if folder.is_dir() else None


def _download(repo: str, spec: ModelSpec | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, allow_patterns=FILES))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repo, allow_patterns=OLD_FILES))
        return folder
    except Exception as err:
        page = f"https://huggingface.co/{repo}" + (f" or {spec.page}" if spec and spec.page else "")
        why = (
            "is gated: accept its licence there and run `hf auth login`, or" if _gated(err) else "could not be fetched:"
        )
        raise UserError(
            f"{repo} {why} download the file from {page} and give its path: --config.model.weights=PATH (training), "
            f"--config.objective.teacher=PATH (a teacher) or as SRC (convert, jaxdino.load). [{type(err).__name__}]"
        ) from err


def _gated(err: Exception) -> bool:
    from huggingface_hub.errors import GatedRepoError

    status = getattr(getattr(err, "response", None), "status_code", None)
    return isinstance(err, GatedRepoError) or status in (401, 403)
