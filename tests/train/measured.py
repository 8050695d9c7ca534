"""Readings of metrics.jsonl: the losses of a run, and the entries that differ between equal runs."""

import json
from pathlib import Path

MEASURED = ("time", "images_per_second", "waiting", "process_memory_gib", "device_memory_gib")
"""Entries that every run measures anew."""


def losses(folder: Path) -> list[float]:
    """Return the logged losses of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]
