"""Read what W&B wrote offline: a LevelDB log of protobuf records, after a header of 7 bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER, BLOCK, PREFIX = 7, 32768, 7  # bytes; a record's prefix is a checksum (4), a length (2) and a kind (1)
FULL, LAST = 1, 4


def records(file: Path) -> Iterator[Any]:
    """Yield the records of a file."""
    from wandb.proto import wandb_internal_pb2

    content, at, begun = file.read_bytes(), HEADER, b""
    while at + PREFIX <= len(content):
        if (room := BLOCK - at % BLOCK) < PREFIX:
            at += room
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        begun, at = begun + content[at + PREFIX : at + PREFIX + length], at + PREFIX + length
        if kind in (FULL, LAST):
            found = wandb_internal_pb2.Record()
            found.ParseFromString(begun)
            begun = b""
            yield found


def starts(folder: Path) -> list[Path]:
    """Return the files of all starts of a run, in order, without the link to the latest."""
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def logged(file: Path) -> list[dict[str, str]]:
    """Return the metrics of each line, as JSON texts, with "_step"."""
    lines = [one.history for one in records(file) if one.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): item.value_json for item in line.item} for line in lines]


def run_of(file: Path) -> Any:
    """Return the record of the run: run_id, project, display_name, config."""
    return next(one.run for one in records(file) if one.WhichOneof("record_type") == "run")


def summary(file: Path) -> dict[str, str]:
    """Return the last values of the summary, as JSON texts."""
    found: dict[str, str] = {}
    for one in records(file):
        if one.WhichOneof("record_type") == "summary":
            found |= {item.key or "/".join(item.nested_key): item.value_json for item in one.summary.update}
    return found
