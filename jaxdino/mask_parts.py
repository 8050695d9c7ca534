"""Masks of many images, written by one process or by several: each writes the files of its images and blocks of rows.

The last process joins the blocks to the table and to the list of all masks. See `parts`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdino import parts, results
from jaxdino.data.inputs import Input
from jaxdino.mask_files import MaskFiles
from jaxdino.result_folder import check_shared

BLOCK = 256  # images of a block of --shard
MASKS = "masks"
"""Key of the last row of a block: the entries of its images in the list of all masks."""
Run = Callable[[Sequence[Input], results.Add], int]
"""Function that writes the files of images, adds their rows, and returns how many images failed."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where the rows of masks go.

    Attributes:
      table: a file, or None to show each row. overwrite: whether it may replace a file.
      shard: "I/N", the part of the images to work on, or None.
    """

    table: str | None
    overwrite: bool
    shard: str | None

    def check(self, out: str) -> None:
        """Raise UserError if the table or the results of a part cannot be written."""
        results.check("--table", self.table, self.overwrite)
        if self.shard is not None:
            parts.shard_of(self.shard)
            check_shared(out)


def write(
    run: Run,
    images: Sequence[Input],
    files: MaskFiles,
    to: Rows,
    columns: Sequence[str],
    show: results.Add,
    made: Mapping[str, Any],
    counts: Callable[[int], str],
) -> int:
    """Write the masks of images, or of this process's part of them, and print what was written.

    Args:
      columns: of a CSV table. show: prints a row.
      made: what the masks are made of, as JSON has it. counts: number of failed images -> what is printed of all.

    Returns:
      How many images failed: of all, or of this part if others are missing.

    Raises:
      UserError: if the parts that are there were made otherwise.
    """
    if to.shard is None:
        with results.opened(to.table, columns, show) as add, files:
            failed = run(images, add)
        said = counts(failed)
    else:
        said, failed = _share(run, images, files, to, columns, show, made, counts)
    if said:
        print(said)
    return failed


def counts(images: int, what: str, where: str, failed: int) -> str:
    """Return "17 masks in DIR; 1 image could not be read"."""
    done = f"{images - failed} {what} in {where}"
    return f"{done}; {failed} image{'s' * (failed > 1)} could not be read" if failed else done


def _share(
    run: Run,
    images: Sequence[Input],
    files: MaskFiles,
    to: Rows,
    columns: Sequence[str],
    show: results.Add,
    made: Mapping[str, Any],
    counts: Callable[[int], str],
) -> tuple[str, int]:
    """Write the blocks of a part, and join all if it is the last one; return what is said, and how many failed."""
    out, mine = str(files.folder), 0
    named = [image.path for image in images]
    to.check(out)  # again: other parts may have been joined meanwhile
    parts.begin(out, {**made, "images": len(named), "paths": parts.digest_of(named)}, to.overwrite)
    files.folder.mkdir(parents=True, exist_ok=True)

    def block(file: Path, places: range) -> None:
        nonlocal mine
        with results.Table(file, ()) as table:

            def add(row: dict[str, Any]) -> None:
                table.add(row)
                if to.table is None:
                    show(row)

            mine += run([images[place] for place in places], add)
            table.add({MASKS: files.taken()})

    def joined(blocks: Sequence[Path]) -> int:
        with results.opened(to.table, columns, lambda row: None) as add, files:
            return sum(_joined(row, add, files) for row in parts.rows_of(blocks))

    share = parts.Share(out, parts.shard_of(to.shard or ""), len(images), BLOCK)
    said, failed = parts.work(share, block, joined)
    return (said, mine) if failed is None else ("; ".join(filter(None, [said, counts(failed)])), failed)


def _joined(row: dict[str, Any], add: results.Add, files: MaskFiles) -> bool:
    """Add a row of a block to the results; return whether it is the error of an image."""
    if MASKS in row:
        files.extend(row[MASKS])
        return False
    add(row)
    return "error" in row
