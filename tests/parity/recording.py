"""What the parity tests measure, kept for `python -m convert list` and the table in docs/conversion.md."""

import json
from pathlib import Path

from tests.parity.family_case import FamilyCase

FILE = Path(__file__).parents[2] / "convert" / "parity.json"


class Recorder:
    """The largest differences of each family and layout over all its cases."""

    def __init__(self):
        self.found: dict[str, dict[str, dict[str, list[float]]]] = {}

    def note(self, case: FamilyCase, what: str, absolute: float, relative: float) -> None:
        """Takes in one measurement.

        Args:
          what: "float32", "bfloat16", "gradient" or "round trip".
          absolute, relative: largest difference, and as a share of the reference's largest value.
        """
        own = self.found.setdefault(case.family, {}).setdefault(case.layout, {})
        own[what] = [max(pair) for pair in zip(own.get(what, [0.0, 0.0]), (absolute, relative), strict=True)]

    def write(self) -> None:
        """Writes the file anew."""
        FILE.write_text(json.dumps(self.found, indent=1, sort_keys=True) + "\n")
