"""Choose between the preprocessing files beside the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdino.core.errors import UserError

PREPROCESSOR, NESTED = "preprocessor_config.json", "processor_config.json"
"""transformers' files: up to version 4, and from version 5 on, with the image processor nested inside."""
INSIDE = ("image_processor", "feature_extractor")
"""Keys of the image processor in `NESTED`: current, and of older versions."""

Json = Mapping[str, Any]


def processor(plain: Json | None, nested: Json | None) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the image processor's settings, and a note if two files differ.

    Settings inside processor_config.json have priority, as in transformers
    (image_processing_base.py get_image_processor_dict).

    Args:
      plain, nested: the contents of `PREPROCESSOR` and `NESTED`, None for a missing file.
    """
    inside = next((name for name in INSIDE if nested and nested.get(name) is not None), None)
    if inside is None:
        within = next((name for name in INSIDE if isinstance((plain or {}).get(name), dict)), None)
        return (dict(plain[within]) if within else plain), []
    found = nested[inside]
    if not isinstance(found, dict):
        raise UserError(f"{NESTED}: {inside} is a {type(found).__name__}, not an object")
    differing = [name for name in found if plain is not None and name in plain and plain[name] != found[name]]
    if not differing:
        return found, []
    shown = ", ".join(f"{name} ({found[name]!r} and {plain[name]!r})" for name in differing[:5])
    return found, [f"{NESTED} and {PREPROCESSOR} differ in {shown}: {NESTED} is followed, as transformers does"]


def unread(folder: Path) -> list[str]:
    """Return a note on files beside a weights file that are read only when the folder is given."""
    found = [name for name in ("config.json", PREPROCESSOR, NESTED) if (folder / name).is_file()]
    if not found:
        return []
    return [f"{' and '.join(found)} in {folder} were not read: give the folder in place of the file to follow them"]
