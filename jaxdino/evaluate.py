"""Evaluate frozen features: `python -m jaxdino.evaluate --weights SRC --root DIR`.

Prints the accuracy of k nearest neighbours and, with --probe, of a linear classifier, compared with raw pixels.
Without --root, the embedded digits are used.

A finished run is evaluated with `--workdir DIR`: metrics with intervals, as JSON, Markdown and one page. Its flags are
others: `--workdir DIR --help` lists them.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert import flags
from jaxdino.core.arguments import Parser
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import printable

OF_HEAD = ("pool", "head_blocks")
"""Flags of weights that only concern their head; --pool here chooses the features."""


def main(argv: list[str] | None = None) -> int:
    """Print a table of results; return the exit status, see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    given = sys.argv[1:] if argv is None else argv
    if any(one.split("=")[0] == "--workdir" for one in given):
        return of_run(given)
    if not any(one.split("=")[0] in ("--weights", "--help", "-h") for one in given):
        raise UserError(
            "give --weights SRC, whose frozen features are evaluated, or --workdir DIR, a finished run; "
            f"{program('evaluate')} --help lists the flags of both"
        )
    parser = Parser(
        prog=program("evaluate"),
        description=described("evaluate", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[flags.overrules(without=OF_HEAD)],
    )
    parser.add_argument(
        "--weights", required=True, help="a file, folder, hub name or workdir, as jaxdino.load takes it"
    )
    parser.add_argument("--root", help="image folder with a sub-folder for each class; by default the digits")
    parser.add_argument("--split", default="val", help="the images to classify, val or test (default val)")
    for split in ("train", "val", "test"):
        parser.add_argument(f"--{split}_split", metavar="NAME", help=f"the folder of {split}, if its name is unusual")
    parser.add_argument(
        "--classes", default="top", help="top (default): the first folders are the classes; leaf: the last ones"
    )
    parser.add_argument(
        "--put_aside",
        type=float,
        default=0.2,
        help="share of each class to classify where there is no folder of --split",
    )
    parser.add_argument(
        "--sixteen_bit",
        default="auto",
        help="black and white of 16-bit and float images: full, image, window, percentiles, 0,4095 (default the model)",
    )
    parser.add_argument("--k", type=int, nargs="+", default=[10, 20], help="numbers of neighbours (default 10 20)")
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[], help="also k-NN with only N labelled images of each class"
    )
    parser.add_argument("--temperature", type=float, default=0.07, help="temperature of the votes (default 0.07)")
    parser.add_argument("--pool", default="cls", help="features: cls (default), mean, cls_mean, cls4_mean or grid")
    parser.add_argument("--probe", action="store_true", help="also train a linear classifier")
    parser.add_argument("--random", action="store_true", help="also evaluate the same model with random weights")
    parser.add_argument("--pictures", metavar="DIR", help="draw attention and patch features of some images there")
    parser.add_argument("--picture_size", type=int, help="pixels a side of the images drawn (default the model's)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float16")
    parser.add_argument("--batch_size", type=int, default=64, help="images per batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of the linear classifier and the random weights")
    args = parser.parse_args(expanded(argv))
    prepare()
    keep_programs()
    try:
        evaluate(args)
    except UserError as err:
        say(f"error: {err}")
        return 2
    return 0


def of_run(argv: Sequence[str]) -> int:
    """Evaluate a finished run; see `jaxdino.evaluation.command`."""
    from jaxdino.evaluation import command

    if any(one.split("=")[0] == "--weights" for one in argv):
        raise UserError(
            "--workdir and --weights are both given: --weights measures features, and takes the folder of a run too; "
            "--workdir evaluates the finished run itself"
        )
    return command.run(argv)


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate as the flags say: print the table, write the JSON file and the pictures.

    Raises:
      UserError: for invalid arguments, before any long work.
    """
    from convert.hub import check_there
    from jaxdino.data.config import DataConfig
    from jaxdino.data.ranges import ARGUMENT, Range
    from jaxdino.data.sources import load_source
    from jaxdino.evals import report
    from jaxdino.train import pixels
    from jaxdino.train.data import summary

    place = Path(args.json or ".json").absolute()
    if place.is_dir():
        raise UserError(f"--json {args.json} is a folder: give a file")
    if not place.parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {place.parent} to write it in")
    if args.seed < 0 or args.temperature <= 0:
        raise UserError(f"--seed {args.seed} must be at least 0, --temperature {args.temperature} above 0")
    Range.of(args.sixteen_bit, ARGUMENT)
    how = {name: getattr(args, name) for name in ("train_split", "val_split", "test_split", "classes")}
    if args.split in ("val", "test"):
        how |= {"val_ratio": 0.0, f"{args.split}_ratio": args.put_aside}
    data = DataConfig(name="folder" if args.root else "digits", root=args.root, sixteen_bit=args.sixteen_bit, **how)
    check_there(args.weights)
    source = load_source(data)
    if args.root:
        say(summary(source))
    split = source.split(args.split)
    model = opened(args)
    how = pixels.settled(data, source, model.card, say).spec.preprocess
    data = pixels.of_model(data, how)
    names = ("split", "k", "shots", "temperature", "pool", "probe", "random", "batch_size", "seed")
    how = {name: getattr(args, name) for name in names}
    found = report.report(model, source, data, **how, say=say)
    print(report.table(found))
    if args.json:
        Path(args.json).write_text(json.dumps({"weights": args.weights, "root": args.root} | found, indent=2) + "\n")
    if args.pictures:
        for file in report.draw(model, split, args.pictures, args.picture_size):
            print(file)


def opened(args: argparse.Namespace, mesh: Any = None) -> Any:
    """Open the model, without its classification head if the head cannot be read: features do not need it.

    Args:
      mesh: the devices that hold the parameters; None for the first one.
    """
    from convert import assumptions
    from convert.describe import UnknownPool
    from jaxdino.api.opening import open_model

    given = flags.given(args, OF_HEAD)

    def load(**more: Any) -> tuple[Any, list[str]]:
        return open_model(args.weights, args.dtype, words=assumptions.ARGUMENTS, mesh=mesh, **given, **more)

    try:
        model, lines = load()
    except UnknownPool:
        model, lines = load(drop_head=True)
        lines.append("the classification head was left aside: features do not need it")
    for line in lines:
        if not line.endswith(tuple(f"--{flag} overrules" for flag in OF_HEAD)):
            say(line)
    return model


def say(line: str) -> None:
    """Print a note; settings in it are spelled as flags of this command."""
    line = re.sub(r"--config\.data\.(val|test)_ratio", "--put_aside", line)
    print(printable(line.replace("--config.data.", "--")), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
