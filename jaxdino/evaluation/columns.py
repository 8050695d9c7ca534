"""Columns that say of each image to what group it belongs: its patient, its camera, its hospital."""

from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import few
from jaxdino.data.sources.cells import read_cells
from jaxdino.data.sources.listed_rows import open_list
from jaxdino.evaluation.finished_run import FinishedRun
from jaxdino.evaluation.predictions import Predictions

PATH = "path"
NONE = "(empty)"


def check_columns(run: FinishedRun, file: str | None, names: list[str], root: str | None) -> str | None:
    """Return the file that holds the columns, None if none are asked for.

    It is `file`, or the manifest that lists the data.

    Raises:
      UserError: if there is no such file, or it has no such column (with the nearest), before an image is read.
    """
    if not names:
        if file is not None:
            raise UserError(f"--group_file {file} is not read: name its columns with --group or --resample_by")
        return None
    if file is not None and not Path(file).expanduser().is_file():
        folder = Path(file).expanduser().absolute().parent
        lists = [path.name for path in folder.glob("*") if path.suffix in (".csv", ".jsonl")]
        raise UserError(f"--group_file {file}: there is no such file; {did_you_mean(Path(file).name, lists)}")
    place = file or root or (run.data.root if run.data.name == "manifest" else None)
    if place is None or not Path(place).expanduser().is_file():
        raise UserError(
            f"--group and --resample_by name columns, and the data ({run.data.name}) is not a manifest: give a CSV or "
            f"JSONL file with a column {PATH!r} and these columns, --group_file FILE"
        )
    listed = open_list(place)
    for name in (PATH, *names):
        if name not in listed.columns:
            raise UserError(f"{place} has no column {name!r}; {did_you_mean(name, list(listed.columns))}")
    return place


def read_columns(file: str, names: list[str], found: Predictions) -> dict[str, np.ndarray]:
    """Return {column: its value for each image as text (N,)}.

    Paths of the file are those of the images below the data's root, or absolute ones.

    Raises:
      UserError: for images that the file does not list.
    """
    cells = read_cells(open_list(file), PATH, tuple(names))
    base = Path(file).expanduser().absolute().parent
    rows = {str(path): row for row, path in enumerate(cells.paths)}
    rows |= {str(base / path): row for path, row in list(rows.items())}
    places, missing = [], []
    for index in found.indices.tolist():
        name, record = found.split.record_name(index), str(found.split.records[index])
        row = rows.get(name, rows.get(record))
        (missing if row is None else places).append(name if row is None else row)
    if missing:
        raise UserError(
            f"{file} does not list {len(missing)} of the {len(found)} images of {found.split.name} "
            f"({few(missing, 3)}): its column {PATH!r} takes paths below the data's root"
        )
    result = {}
    for name in names:
        values = np.array([str(value) if value not in ("", None) else NONE for value in cells.coded[name].values])
        result[name] = values[cells.coded[name].numbers[places]]
    return result
