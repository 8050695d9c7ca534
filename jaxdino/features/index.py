"""The index of a cache as parquet: which image has its features where, its class, or why it has none."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from jaxdino.core.errors import UserError
from jaxdino.data.record import Split
from jaxdino.data.stored import ImageFile

if TYPE_CHECKING:
    from jaxdino.features.writer import Shard

OF_FIELD = {
    "label": [("label", pa.int64()), ("class", pa.string())],
    "labels": [("labels", pa.list_(pa.int32())), ("classes", pa.list_(pa.string()))],
    "": [],
}
"""Field of the data -> its columns: the indices of the classes and their names."""


def schema(field: str) -> pa.Schema:
    """Return the columns; `row` and `reason` exclude each other."""
    before = [("path", pa.string()), ("split", pa.string())]
    after = [("folder", pa.string()), ("row", pa.int64()), ("reason", pa.string())]
    return pa.schema([*before, *OF_FIELD[field], *after])


def write_rows(
    file: Path,
    split: Split,
    shard: "Shard",
    class_names: Sequence[str],
    field: str,
    index: np.ndarray,
    reasons: Mapping[int, str],
) -> int:
    """Write the lines of one shard to the disk itself; return the size of the file.

    Args:
      split: the shard's records. index: places of the readable ones (rows,). reasons: {place: why it was not read}.
    """
    count, rows = len(split), np.full(len(split), -1, np.int64)
    rows[index] = np.arange(len(index))
    paths = [
        split.record_name(i) if isinstance(split.records[i], ImageFile) else f"{split.name}[{shard.start + i}]"
        for i in range(count)
    ]
    columns: dict[str, Any] = {"path": paths, "split": [shard.split] * count, **_classes(split, class_names, field)}
    columns |= {"folder": [shard.place] * count, "row": [None if row < 0 else int(row) for row in rows]}
    columns["reason"] = [reasons.get(i) for i in range(count)]
    parquet.write_table(pa.table(columns, schema=schema(field)), file)
    handle = os.open(file, os.O_RDWR)
    os.fsync(handle)
    os.close(handle)
    return file.stat().st_size


def _classes(split: Split, names: Sequence[str], field: str) -> dict[str, Any]:
    if not field:
        return {}
    values = np.asarray(split.fields[field])
    if field == "label":
        return {"label": values.tolist(), "class": [names[label] for label in values.tolist()]}
    found = [np.flatnonzero(row > 0.5).tolist() for row in values]
    return {"labels": found, "classes": [[names[label] for label in row] for row in found]}


def merge(file: Path, parts: Sequence[Path]) -> None:
    """Join the lines of all shards in one file, a shard in memory at a time."""
    beside = file.with_name(file.name + ".part")
    with parquet.ParquetWriter(beside, parquet.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(parquet.read_table(part))
    os.replace(beside, file)


def read_index(file: Path, split: str, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Return columns of the readable images of a split, in the order of their features.

    Raises:
      UserError: if the file is missing or damaged.
    """
    try:
        found = parquet.read_table(file, columns=list(columns), filters=[("split", "=", split), ("row", ">=", 0)])
    except (OSError, pa.ArrowException) as err:
        raise UserError(f"{file} cannot be read: {str(err).splitlines()[0]}; jaxdino extract writes it anew") from None
    return {name: found.column(name).to_numpy(zero_copy_only=False) for name in columns}
