"""List the supported models with the parity that the tests measured (`parity.json`)."""

import re
from collections.abc import Iterator
from pathlib import Path

from convert.tables import layouts
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import read_json
from jaxdino.models.registry import MODELS

MEASURED = Path(__file__).parent / "parity.json"
"""Written by `pytest tests/parity/test_families.py --record-parity`."""

START, END = "<!-- parity: written by python -m convert list --doc -->", "<!-- end of parity -->"
COLUMNS = ("float32", "bfloat16", "gradient")


def measured() -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return {family: {layout: {what: [absolute, relative]}}}, the largest differences last measured."""
    return read_json(MEASURED, dict) if MEASURED.is_file() else {}


def lines() -> Iterator[str]:
    """Yield a line for each model: name, parameters, and each layout with its relative difference in float32."""
    found = measured()
    yield f"{'model':<24}{'parameters':>15}  layouts (largest relative difference of the outputs, float32)"
    for name, spec in MODELS.items():
        known = (f"{layout} {_figure(found, spec.family, layout)}" for layout in layouts(spec))
        yield f"{name:<24}{spec.skeleton().num_params:>15,}  {', '.join(known)}"


def _figure(found: dict, family: str, layout: str) -> str:
    pair = found.get(family, {}).get(layout, {}).get("float32")
    return f"{pair[1]:.0e}" if pair else "(not measured)"


def table() -> str:
    """Return the measurements as a Markdown table."""
    head = "| family | layout | float32 | bfloat16 | gradient | round trip |\n|---|---|---|---|---|---|"
    rows = [
        f"| {family} | `{layout}` | " + " | ".join(_cell(own.get(what)) for what in COLUMNS) + f" | {_trip(own)} |"
        for family, of in sorted(measured().items())
        for layout, own in sorted(of.items())
    ]
    return "\n".join([head, *rows])


def _cell(pair: list[float] | None) -> str:
    return f"{pair[0]:.1e} ({pair[1]:.1e})" if pair else "-"


def _trip(own: dict) -> str:
    return "bit-exact" if own.get("round trip") == [0.0, 0.0] else "-"


def write_table(doc: str | Path) -> None:
    """Write the table between its two markers in a Markdown file.

    Raises:
      UserError: if the file does not have both markers.
    """
    doc = Path(doc)
    text = doc.read_text() if doc.is_file() else ""
    if START not in text or END not in text:
        raise UserError(f"{doc}: the table goes between two lines, {START!r} and {END!r}, which are missing")
    block = f"{START}\n{table()}\n{END}"
    doc.write_text(re.sub(re.escape(START) + r".*" + re.escape(END), lambda _: block, text, flags=re.DOTALL))
