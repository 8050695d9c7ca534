"""The command `jaxdino`: training, prediction, segmentation, evaluation, checks of data and conversion.

`jaxdino train` is `python -m jaxdino.main`, `jaxdino convert` is `python -m convert`, and so on, with the same
arguments and exit statuses. jax is imported only by commands that use it.
"""

import importlib
import sys
from collections.abc import Sequence

from jaxdino import __version__
from jaxdino.core.command import COMMANDS, finish, started_as
from jaxdino.core.errors import UserError
from jaxdino.core.host_memory import in_huge_pages
from jaxdino.core.rules import did_you_mean

LINES = {
    "train": "train with a config: adapt a backbone, or learn one without labels",
    "predict": "classify images with a trained model",
    "segment": "segment images by text prompts or by classes",
    "detect": "find objects in images: boxes, as COCO JSON and pictures",
    "depth": "measure the distance of every pixel: 16-bit PNG in millimetres, and pictures",
    "evaluate": "evaluate frozen features: k-NN, linear probe",
    "compare": "train strategies with several seeds, and compare them on one page",
    "extract": "write the features of a data set to disk, once for many probes",
    "probe": "train hundreds of heads on such features, and choose one by validation",
    "embed": "write one embedding for each image of a folder",
    "search": "find similar images by image or text, near-duplicates and clusters, in such embeddings",
    "match": "draw what two images share: matching patches",
    "anomaly": "find anomalies with good images alone: scores, heat maps, AUROC and PRO",
    "check-data": "check a data set: unreadable files, duplicates, leaks between splits, classes, boxes",
    "prepare": "write a data set as shards, for large sets",
    "serve": "serve models over HTTP: classes, embeddings, masks, boxes, with a page to try them",
    "replay": "take a step again that was not finite, and name the layer",
    "export": "export a model as StableHLO, ONNX (also int8) or PyTorch",
    "convert": "convert weights between PyTorch and jaxdino: import, export, inspect, verify, list",
    "configs": "list the configs that `jaxdino train --config=NAME` takes",
}
"""Command -> what it does."""
HOMES = {"main": "train", "fit": "train", "classify": "predict", "check": "check-data"} | {
    name: f"convert {name}" for name in ("import", "inspect", "verify", "list")
}
"""Names that users may type but that are not commands -> the command to use."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `jaxdino NAME ARGUMENTS...`; return the exit status.

    Args:
      argv: the arguments after `jaxdino`; by default those of the command line.
    """
    if argv is None:
        in_huge_pages()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "-help", "--help", "help"):
        return finish(lambda: print(usage()))
    if argv[0] in ("-V", "-version", "--version", "version"):
        return finish(lambda: print(f"jaxdino {__version__}"))
    name, *rest = argv
    if name not in LINES:
        return finish(lambda: _refuse(name))
    started_as(name)
    if name == "configs":
        return finish(lambda: _configs(rest))
    if name == "train":
        from jaxdino.main import start

        return start(rest)
    module = COMMANDS[name]
    return importlib.import_module("convert.__main__" if module == "convert" else module).main(rest)


def usage() -> str:
    """Format the list of commands, one line each."""
    wide = max(map(len, LINES))
    return "\n".join(
        [
            "usage: jaxdino COMMAND ...",
            "",
            *(f"  {name:<{wide}}  {line}" for name, line in LINES.items()),
            "",
            "`jaxdino COMMAND --help` lists the arguments of a command; `jaxdino --version` prints the version.",
        ]
    )


def _configs(args: Sequence[str]) -> None:
    """Print the name of each config and what it does."""
    from jaxdino.settings.config_search import INSTALLED, lines

    if args:
        asked = args[0] in ("-h", "--help")
        if not asked:
            raise UserError(f"jaxdino configs takes no arguments, but got {args[0]!r}")
        print("usage: jaxdino configs\n\nList the installed configs and those in ./configs, a line each.")
        return
    print("\n".join([*lines(), "", f"installed in {INSTALLED}; a config of the same name in ./configs comes first"]))


def _refuse(name: str) -> None:
    """Raise UserError for an unknown command, with the nearest one."""
    if name.startswith("-"):
        raise UserError(f"{name} comes after a command, as in jaxdino train {name}; jaxdino --help lists the commands")
    meant = f"use jaxdino {HOMES[name]}" if name in HOMES else did_you_mean(name, LINES)
    raise UserError(f"{name!r} is not a command; {meant}; jaxdino --help lists them all")


if __name__ == "__main__":
    sys.exit(main())
