"""Write predictions as parquet tables: when, by which model, which classes; never the images or their names."""

import itertools
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jaxdino.core.errors import UserError
from jaxdino.core.writable import check_writable
from jaxdino.serving.server.catalogue import Served
from jaxdino.serving.server.work import Seen
from jaxdino.serving.watching.background import Background

ROWS, SECONDS = 10_000, 60.0
"""A file is written when so many predictions, or the first of them so long ago, are waiting."""
SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("request_id", pa.string()),
        ("model", pa.string()),
        ("version", pa.string()),
        ("digest", pa.string()),
        ("endpoint", pa.string()),
        ("class", pa.string()),
        ("probability", pa.float32()),
        ("classes", pa.list_(pa.struct([("class", pa.string()), ("probability", pa.float32())]))),
    ]
)


Store = Callable[[pa.Table, str], None]
"""Keeps a table of predictions under the name of a file."""


class Folder:
    """A folder with a parquet file for each table.

    Raises:
      UserError: for a folder that cannot be written to.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)
        check_writable(f"--log_predictions {folder}", self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise UserError(f"--log_predictions {folder} cannot be made: {err.strerror}") from None

    def __call__(self, table: pa.Table, name: str) -> None:
        """Write a file under another name and rename it, so that none is ever incomplete."""
        file = self.folder / name
        beside = file.with_name(file.name + ".part")
        try:
            pq.write_table(table, beside)
            os.replace(beside, file)
        except Exception:
            beside.unlink(missing_ok=True)
            raise


class PredictionLog:
    """Collect predictions, and keep them as tables `predictions-TIME-PROCESS-NUMBER.parquet`.

    Args:
      store: where; its `close`, if it has one, is called at the end.
      lost: called for each prediction that is dropped: writing is slow or fails. failed: called with an error.
    """

    def __init__(
        self,
        store: Store,
        lost: Callable[[], None] = lambda: None,
        failed: Callable[[Exception], None] = lambda err: None,
        seconds: float = SECONDS,
    ):
        self.store, self.seconds, self._lost, self._failed = store, seconds, lost, failed
        self._rows: list[dict[str, Any]] = []
        self._since, self._numbers = 0.0, itertools.count(1)
        every = min(5.0, seconds)
        self._background = Background(self._add, idle=self._look, seconds=every, lost=lost, failed=failed)

    def saw(self, served: Served, endpoint: str, request_id: str, seen: Seen) -> None:
        """Keep a prediction. Embeddings are not predictions."""
        if endpoint != "embed":
            self._background.put((datetime.now(UTC), request_id, served, endpoint, seen))

    def close(self) -> None:
        """Write what is kept."""
        self._background.close()
        try:
            self._write()
            getattr(self.store, "close", lambda: None)()
        except Exception as err:  # a full disk, a tracking server that is away: the server ends all the same
            self._failed(err)

    def _add(self, thing: Any) -> None:
        when, request_id, served, endpoint, seen = thing
        name, odds = seen.classes[0] if seen.classes else (None, None)
        classes = [{"class": one, "probability": value} for one, value in seen.classes]
        row = {"time": when, "request_id": request_id, "model": served.place.name, "version": served.place.version}
        row |= {"digest": served.model.digest, "endpoint": endpoint, "class": name, "probability": odds}
        self._since = self._since if self._rows else time.monotonic()
        self._rows.append({**row, "classes": classes})
        self._look()

    def _look(self) -> None:
        if self._rows and (len(self._rows) >= ROWS or time.monotonic() - self._since >= self.seconds):
            self._write()

    def _write(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        name = f"predictions-{stamp}-{os.getpid()}-{next(self._numbers)}.parquet"
        try:
            self.store(pa.Table.from_pylist(rows, SCHEMA), name)
        except Exception:
            for _ in rows:
                self._lost()
            raise
