"""Find the grid of a position table; its number of rows does not determine height and width."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from convert.assumptions import assume
from convert.family import Hints
from jaxdino.core.errors import UserError
from jaxdino.models.registry import MODELS

Grid = tuple[int, int]


def pos_grid(rows: int, patch: int, hints: Hints) -> tuple[Grid, bool, tuple[str, ...]]:
    """Return (height, width), whether the class token has its own row, and the assumption if the grid was assumed.

    If nothing gives the grid, a square is assumed and reported, except for the patch and grid of a published model.

    Args:
      rows: number of rows of the position table.
      patch: side of a patch in pixels.

    Raises:
      UserError: if --pos_grid does not fit the table, or the table is not square and its grid is unknown.
    """
    if hints.pos_grid is not None:
        return _given(hints.pos_grid, rows)
    unfit = []
    for what, size in _sizes(hints.json):
        height, width = size if isinstance(size, list | tuple) else (size, size)
        grid = height // patch, width // patch
        if (cells := grid[0] * grid[1]) in (rows - 1, rows):
            return grid, cells == rows - 1, ()
        unfit.append(f"{what}={size} would be {grid[0]} x {grid[1]}")
    for has_cls in (True, False):
        side = math.isqrt(rows - has_cls)
        if side and side * side == rows - has_cls:
            known = not unfit and (patch, (side, side)) in _published()
            why = "; ".join([f"a square of {rows} rows", *unfit])
            said = () if known else (assume(f"a position grid of {side} x {side}", why, "pos_grid"),)
            return (side, side), has_cls, said
    also = f" ({'; '.join(unfit)}, which does not fit either)" if unfit else ""
    raise UserError(
        f"a position table of {rows} rows is not a square grid, with or without a class token's row{also}: give its "
        "height and width in patches with --pos_grid, such as 2x8"
    )


def _given(grid: Grid, rows: int) -> tuple[Grid, bool, tuple[str, ...]]:
    height, width = grid
    if height * width not in (rows, rows - 1):
        raise UserError(
            f"--pos_grid {height}x{width} has {height * width} places, and the position table {rows} rows: {rows - 1} "
            f"with a class token's row, {rows} without"
        )
    return (height, width), height * width == rows - 1, ()


def _sizes(json: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the image sizes in config.json with their field names; the one that its library uses comes first."""
    pretrained = json.get("pretrained_cfg") or {}
    said = {
        "image_size": json.get("image_size") if "model_type" in json else None,
        "model_args.img_size": (json.get("model_args") or {}).get("img_size"),
        "pretrained_cfg.input_size": (pretrained.get("input_size") or [])[1:] or None,
    }
    yield from ((f"config.json's {name}", size) for name, size in said.items() if size is not None)


def _published() -> set[tuple[int, Grid]]:
    """Return (patch, grid) of the published models with learned positions."""
    configs = (spec.config for spec in MODELS.values() if spec.family in ("dino", "dinov2", "vit"))
    return {(config.patch_size, config.pos_grid) for config in configs}
