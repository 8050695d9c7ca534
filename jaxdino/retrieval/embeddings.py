"""Embeddings of images in a file: parquet, or .npy with a .json beside it; readable by pandas or numpy alone.

`FILE.parquet` has the columns `path` (below the root) and `embedding` (D numbers), and what the embeddings were made of
in its metadata, under the key `jaxdino`. `FILE.npy` is float32 (N, D); `FILE.json` has the paths and the same facts.
"""

import contextlib
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from convert.atomic import AtomicFiles, refuse_existing
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, parse_json, read_json

SUFFIXES = (".parquet", ".npy")
KEY = b"jaxdino"
PATHS_BYTES = 8 << 30  # of the .json beside .npy
AGAIN = "jaxdino embed --overwrite writes it anew"


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings of N images.

    Attributes:
      values: float32 (N, D), not normalised. paths: N paths below `root`.
      about: what they were made of: root, pool, and the weights' name, digest, dtype and how they were opened.
    """

    file: Path
    values: np.ndarray
    paths: Sequence[str]
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.values)

    def record(self, row: int) -> str:
        """Return the path of an image's file."""
        return str(Path(self.about["root"]) / self.paths[row])


def check_out(file: str, overwrite: bool) -> Path:
    """Return the path of a new file of embeddings. Raise UserError if it cannot be written there."""
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise UserError(f"--out {file}: give a file that ends in {' or '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"--out {file} is a folder: give a file")
    try:
        refuse_existing(_files(path), overwrite)
    except UserError:
        raise UserError(f"--out {file} exists already: give another file, or --overwrite") from None
    return path


def _files(path: Path) -> list[Path]:
    return [path] if path.suffix == ".parquet" else [path, path.with_suffix(".json")]


class Writer:
    """Write embeddings batch by batch, in bounded memory. A context manager; after an error, no file is left."""

    def __init__(self, path: Path, width: int):
        self.path, self.width = path.absolute(), width
        self._drafts = AtomicFiles(self.path.parent)
        self._paths: list[str] = []  # of .npy
        self.rows = 0

    def __enter__(self) -> "Writer":
        import pyarrow as pa
        from pyarrow import parquet

        self._drafts.__enter__()
        self._opened = self._drafts.open(self.path.name)
        self._file: BinaryIO = self._opened.__enter__()
        if self.path.suffix == ".parquet":
            columns = [("path", pa.string()), ("embedding", pa.list_(pa.float32(), self.width))]
            self._parquet = parquet.ParquetWriter(self._file, pa.schema(columns))
        else:
            self._file.write(self._head())
        return self

    def add(self, paths: Sequence[str], values: np.ndarray) -> None:
        """Write rows: B paths and float32 (B, D)."""
        values = np.ascontiguousarray(values, np.float32)
        if self.path.suffix == ".parquet":
            import pyarrow as pa

            column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), self.width)
            self._parquet.write_batch(pa.record_batch([pa.array(paths), column], names=["path", "embedding"]))
        else:
            self._file.write(values.tobytes())
            self._paths.extend(paths)
        self.rows += len(values)

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write what the embeddings were made of; called once, after the last row."""
        if self.path.suffix == ".parquet":
            self._parquet.add_key_value_metadata({KEY: json.dumps(about)})
            self._parquet.close()
            return
        self._file.seek(0)
        self._file.write(self._head())
        with self._drafts.open(self.path.with_suffix(".json").name) as beside:
            beside.write(json.dumps({**about, "paths": self._paths}).encode())

    def _head(self) -> bytes:
        """Return the head of the .npy file; numpy leaves room in it for any number of rows."""
        head, form = io.BytesIO(), {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
        np.lib.format.write_array_header_1_0(head, form)
        return head.getvalue()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self.path.suffix == ".parquet":
                # otherwise its end is written when it is collected, to a closed file
                with contextlib.suppress(Exception):
                    self._parquet.close()
            self._opened.__exit__(kind, error, trace)
        finally:
            self._drafts.__exit__(kind, error, trace)


def copied(file: Path, writer: Writer) -> Mapping[str, Any]:
    """Add the rows of a .parquet file to `writer`, batch by batch; return what they were made of.

    Raises:
      UserError: if the file is damaged.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                found = opened.read_row_group(group)
                flat = found.column("embedding").combine_chunks().flatten().to_numpy()
                writer.add(found.column("path").to_pylist(), flat.reshape(len(found), -1))
            return parse_json(opened.metadata.metadata[KEY].decode(), str(file), dict)
    except (OSError, pa.ArrowException) as err:
        raise UserError(f"{file} cannot be read: {err}; delete it and call the command again") from None


def read(file: str | Path) -> Embeddings:
    """Read the embeddings of a file. Those of .npy are mapped into memory.

    Raises:
      UserError: if the file is missing or damaged, or `jaxdino embed` did not write it.
    """
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{file}: embeddings are in a file that ends in {' or '.join(SUFFIXES)}; jaxdino embed writes it"
        )
    if not path.is_file():
        raise UserError(f"{file}: there is no such file; jaxdino embed --weights SRC --root DIR --out {file} writes it")
    values, paths, about = _of_parquet(path) if path.suffix == ".parquet" else _of_npy(path)
    needed = {"root": str, "pool": str, "weights": dict, "preprocess": dict}
    if wrong := [name for name, kind in needed.items() if not isinstance(about.get(name), kind)]:
        raise UserError(f"{path} does not say its {wrong[0]}: jaxdino embed did not write it; {AGAIN}")
    if values.ndim != 2 or values.dtype != np.float32 or len(values) != len(paths) or not values.size:
        what = f"{len(paths)} paths and embeddings {values.dtype} {values.shape}"
        raise UserError(f"{path} has {what}; float32 (N, D) with a path for each row is needed; {AGAIN}")
    if not all(isinstance(one, str) for one in paths):
        raise UserError(f"{path}: its paths are not all texts; {AGAIN}")
    return Embeddings(path, values, paths, about)


def _of_parquet(path: Path) -> tuple[np.ndarray, Sequence[str], dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        said = (parquet.read_metadata(path).metadata or {}).get(KEY)
        if said is None:
            raise UserError(f"{path} does not say what its embeddings were made of: jaxdino embed did not write it")
        found = parquet.read_table(path, columns=["path", "embedding"])
        column = found.column("embedding").combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False)
        if column.null_count or len(flat) % max(1, len(found)):
            raise UserError(f"{path}: its embeddings differ in length; {AGAIN}")
        paths = found.column("path").to_pylist()
        return (
            flat.reshape(len(found), len(flat) // max(1, len(found))),
            paths,
            parse_json(said.decode(), str(path), dict),
        )
    except (OSError, pa.ArrowException, AttributeError, UnicodeDecodeError) as err:
        raise UserError(f"{path} cannot be read: {(str(err).splitlines() or [''])[0]}; {AGAIN}") from None


def _of_npy(path: Path) -> tuple[np.ndarray, Sequence[str], dict[str, Any]]:
    beside = path.with_suffix(".json")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        about = read_json(beside, dict, max_bytes=PATHS_BYTES, max_memory=2 * PATHS_BYTES)
    except JsonError:
        raise
    except (OSError, ValueError, EOFError) as err:
        raise UserError(f"{path} cannot be read: {err}; {AGAIN}") from None
    paths = about.pop("paths", None)
    if not isinstance(paths, list) or not all(isinstance(one, str) for one in paths):
        raise UserError(f"{beside} has no list of paths; {AGAIN}")
    return values, paths, about
