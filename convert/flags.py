"""Command-line flags for weights, defined once for every command that opens weights."""

import argparse
from collections.abc import Collection
from typing import Any

from jaxdino.core.arguments import Parser


def count(text: str) -> int:
    """Parse a positive integer."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def sides(text: str) -> int | tuple[int, int]:
    """Parse a size in pixels: one number, or height and width like "224x448"."""
    found = text.split("x")
    if len(found) > 2 or not all(side.isdecimal() and int(side) for side in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in pixels, such as 224 or 224x448")
    return int(text) if len(found) == 1 else (int(found[0]), int(found[1]))


def grid(text: str) -> tuple[int, int]:
    """Parse a height and width in patches, like "2x8"."""
    if isinstance(found := sides(text), int):
        raise argparse.ArgumentTypeError(f"{text!r} is not height x width, such as 2x8")
    return found


def blocks(text: str) -> int | tuple[int, ...]:
    """Parse a number of blocks like "4", or indices of blocks like "2,5,8,11"."""
    found = text.split(",")
    if not all(index.isdecimal() for index in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of blocks, such as 4, or indices, such as 2,5,8,11")
    return int(text) if len(found) == 1 else tuple(map(int, found))


OVERRULES: dict[str, dict[str, Any]] = {
    "model": dict(help="the model's published name, if keys and shapes fit several"),
    "layout": dict(help="hf, meta, timm, ..., if keys and shapes fit several"),
    "prefix": dict(help="which network of the checkpoint, by the prefix of its keys ('teacher')"),
    "num_heads": dict(type=count, help="number of attention heads, for a custom width"),
    "pos_grid": dict(type=grid, metavar="HxW", help="size of a ViT's position table, in patches: 2x8"),
    "pool": dict(help="pooling of the classification head: cls, mean, cls_mean or cls4_mean"),
    "head_blocks": dict(type=blocks, metavar="N|I,J,..", help="the blocks that a segmentation head reads"),
    "image_size": dict(type=sides, metavar="N|HxW", help="size of the model's input images"),
}
"""{keyword of `convert.load.open_pretrained`: options of its flag}."""


def overrules(without: Collection[str] = ()) -> Parser:
    """Return a parent parser for commands that open weights, `without` some of the flags."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("weights", "override what is recognised from the file")
    for name, how in OVERRULES.items():
        if name not in without:
            group.add_argument(f"--{name}", **how)
    return parser


def tiles() -> Parser:
    """Return a parent parser for commands that see large images in windows; `jaxdino.api.tiled.given` reads it."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("large images")
    group.add_argument(
        "--tiled",
        type=sides,
        metavar="N|HxW",
        help="prepare images at this size, and see them in overlapping windows of the model's own",
    )
    group.add_argument("--overlap", type=float, metavar="SHARE", help="of neighbouring windows (default a third)")
    return parser


def given(args: argparse.Namespace, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the values of these flags as keywords of `open_pretrained`."""
    return {name: getattr(args, name) for name in OVERRULES if name not in without}
