"""The manifest of a cache: what its features were made of, so that a stale cache is refused with the reason."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdino
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json
from jaxdino.data.changes import changes
from jaxdino.data.config import DataConfig
from jaxdino.data.identity import Identity, identify
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.sources import load_source

FILE, FORMAT = "manifest.json", 1
KIND = "jaxdino features"
CODE = 1
"""Version of the code that computes features: raised when the same images would give other features."""
MAX_BYTES, MAX_MEMORY = 1 << 30, 4 << 30


@dataclasses.dataclass(frozen=True)
class Made:
    """How features are made; two caches are the same if all of this is.

    Attributes:
      weights: {"digest", "name", "dtype"}. preprocess: the fields of `models.spec.Preprocess`.
      settings: layers, patches, store, views, preset, seed, shard_rows.
      data: {"settings", "field"}: the `DataConfig` that was given, and "label", "labels" or "".
      identity: what the data consists of.
      opened_by: the source of the weights and the flags they were opened with; not compared.
    """

    weights: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    identity: Identity
    code: int = CODE
    opened_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the manifest's entries."""
        own = {"class_names": list(self.identity.class_names), "splits": self.identity.splits}
        fields = ("weights", "preprocess", "settings", "data", "code", "opened_by")
        return {name: _plain(getattr(self, name)) for name in fields} | {"identity": _plain(own)}


def made_of(found: Mapping[str, Any]) -> Made:
    """Return the entries of a manifest as `Made`."""
    own = found["identity"]
    identity = Identity(tuple(own["class_names"]), own["splits"])
    entries = {name: found[name] for name in ("weights", "preprocess", "settings", "data", "code", "opened_by")}
    return Made(**entries, identity=identity)


def differences(there: Made, now: Made) -> list[str]:
    """Return a line for each thing in which the features of a cache differ from those that would be made now."""
    lines = []
    if there.code != now.code:
        lines.append(f"code: features of version {there.code}, this jaxdino makes version {now.code}")
    for part in ("weights", "preprocess", "settings"):
        old, new = _plain(getattr(there, part)), _plain(getattr(now, part))
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                lines.append(f"{part}: {name} was {_short(old.get(name))}, now {_short(new.get(name))}")
    if there.data["field"] != now.data["field"]:
        lines.append(f"data: classes were read as {there.data['field']!r}, now as {now.data['field']!r}")
    return lines + [f"data: {line}" for line in changes(there.identity, now.identity)]


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read the manifest of a folder.

    Raises:
      UserError: if there is no such folder, if it holds no features, or those of another version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of features; write one with jaxdino extract --out {folder}")
    if not (folder / FILE).exists():
        raise UserError(f"{folder} holds no features: there is no {FILE}; jaxdino extract --out DIR writes it")
    try:
        found = read_json(folder / FILE, dict, max_bytes=MAX_BYTES, max_memory=MAX_MEMORY)
    except JsonError as err:
        raise UserError(f"{err}; jaxdino extract --overwrite makes the features anew") from None
    if found.get("kind") != KIND or found.get("format") != FORMAT:
        what = f"format {found.get('format')}" if found.get("kind") == KIND else "of another program"
        raise UserError(
            f"{folder / FILE} is {what}, and this version reads format {FORMAT}: make the features anew with "
            "jaxdino extract --overwrite"
        )
    return found


def write_manifest(folder: Path, made: Made, about: Mapping[str, Any]) -> None:
    """Write the manifest: how the features are made, and `about`: the features, shards and whether all are there."""
    head = {"kind": KIND, "format": FORMAT, "jaxdino": jaxdino.__version__}
    write_json(folder / FILE, head | made.as_json() | dict(about))


def stale(folder: Path, made: Made) -> tuple[list[str], str]:
    """Compare the cache with its data as they are now: what differs, and a note if they cannot be compared."""
    given = {name: value for name, value in made.data["settings"].items() if value is not None}
    prompts = {name: value for name, value in made.data.get("prompts", {}).items() if value is not None}
    root = given.get("root")
    if root is not None and not any(Path(one).exists() for one in str(root).split(",")):
        return [], f"the images of {folder} are not at {root}: whether they have changed is not known"
    cfg = DataConfig.of(given)
    source = load_source(cfg, made.data["field"] or "label", PromptConfig.of(prompts))
    now = dataclasses.replace(made, code=CODE, identity=identify(source))
    return differences(made, now), ""


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else f"{value}"
