"""Fill the templates of `assets/pages` with values: HTML files without scripts, and with nothing from elsewhere."""

import base64
from pathlib import Path
from typing import Any

from jaxdino.core.words import printable

LONG = 300  # characters of a name or a reason
TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


def render(template: str, **values: Any) -> str:
    """Return the page of a template; what is inserted is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("jaxdino", "assets/pages")
    return Environment(autoescape=True, undefined=StrictUndefined, loader=loader).get_template(template).render(values)


def shown(text: str) -> str:
    """Return a text without characters that change how it is shown, and not too long."""
    text = printable(text, keep="")
    return text if len(text) <= LONG else f"{text[: LONG // 2]}...{text[-LONG // 2 :]}"


def data_uri(content: bytes, kind: str) -> str:
    """Return an image as text that a page can hold. `kind` is a key of `TYPES`."""
    return f"data:{TYPES[kind]};base64,{base64.b64encode(content).decode()}"


def picture(file: Path) -> str:
    """Return an image file as a data URI."""
    return data_uri(file.read_bytes(), file.suffix)
