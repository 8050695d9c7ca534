"""What a user says of weights on a command line: one definition for every command that opens them."""

import argparse
from collections.abc import Collection
from typing import Any


def count(text: str) -> int:
    """A flag's whole number above zero."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def sides(text: str) -> int | tuple[int, int]:
    """A flag's number of pixels, or height and width, "224x448"."""
    found = text.split("x")
    if len(found) > 2 or not all(side.isdecimal() and int(side) for side in found):
        raise argparse.ArgumentTypeError(f"{text!r} is no size in pixels, such as 224 or 224x448")
    return int(text) if len(found) == 1 else (int(found[0]), int(found[1]))


def grid(text: str) -> tuple[int, int]:
    """A flag's height and width in patches, "2x8"."""
    if isinstance(found := sides(text), int):
        raise argparse.ArgumentTypeError(f"{text!r} is not height x width, such as 2x8")
    return found


OVERRULES: dict[str, dict[str, Any]] = {
    "model": dict(help="the model's published name, where keys and shapes leave it open"),
    "layout": dict(help="hf, meta, timm, ..., likewise"),
    "prefix": dict(help="which network of the checkpoint: what stands before its keys ('teacher')"),
    "num_heads": dict(type=count, help="attention heads of a custom width"),
    "pos_grid": dict(type=grid, metavar="HxW", help="position table of a ViT, in patches: 2x8"),
    "pool": dict(help="what the classification head looks at: cls, mean, cls_mean or cls4_mean"),
    "image_size": dict(type=sides, metavar="N|HxW", help="of the images that the model sees"),
}
"""{name of a keyword of `convert.load.open_pretrained`: its flag}."""


def overrules(without: Collection[str] = ()) -> argparse.ArgumentParser:
    """A parent for parsers of commands that open weights, `without` some of the flags."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("weights", "what overrules what is recognised from the file")
    for name, how in OVERRULES.items():
        if name not in without:
            group.add_argument(f"--{name}", **how)
    return parser


def given(args: argparse.Namespace, without: Collection[str] = ()) -> dict[str, Any]:
    """The values of those flags, as `open_pretrained` takes them."""
    return {name: getattr(args, name) for name in OVERRULES if name not in without}
