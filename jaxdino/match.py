"""Draw what two images share: `python -m jaxdino.match --weights SRC A B --out FILE.png`.

Patches that are each other's most similar ones are joined by lines. With --point X,Y the picture
shows how similar every patch of both images is to the patch of A at that place; X and Y are shares of A's width and
height, as the model receives it.
"""

import argparse
import sys
from pathlib import Path

from convert import flags
from jaxdino.core.arguments import Parser
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.evaluate import OF_HEAD


def main(argv: list[str] | None = None) -> int:
    """Draw the picture; return the exit status, see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> None:
    parser = Parser(
        prog=program("match"),
        description=described("match", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[flags.overrules(without=OF_HEAD)],
    )
    add = parser.add_argument
    add("a", metavar="A", help="an image file")
    add("b", metavar="B", help="another one")
    add("--weights", required=True, help="a file, folder, hub name or workdir, as jaxdino.load takes it")
    add("--out", required=True, metavar="FILE", help="the picture, a .png, .jpg, .svg or .pdf file")
    add("--most", type=int, default=30, metavar="N", help="matches drawn (default 30)")
    add("--point", metavar="X,Y", help="show the similarity to the patch of A at this place instead")
    add("--dtype", default="float32", help="of the computation: float32 (default), bfloat16 or float16")
    add("--overwrite", action="store_true", help="let --out replace a file")
    match(parser.parse_args(expanded(argv)))


def match(args: argparse.Namespace) -> None:
    """Draw as the flags say.

    Raises:
      UserError: for wrong arguments, images that cannot be read, and models without patch features.
    """
    from jaxdino.core.options import check_range
    from jaxdino.evals.report import check_sight
    from jaxdino.evaluate import opened
    from jaxdino.retrieval import match_pictures

    check_range("--most", args.most, "[1, inf)")
    out = match_pictures.check_out(args.out, args.overwrite)
    if out.exists() and any(Path(one).exists() and out.samefile(one) for one in (args.a, args.b)):
        raise UserError(f"--out {out} is one of the two images: give another file")
    point = None if args.point is None else _point(args.point)
    model = opened(args)
    check_sight(model)
    images = model.preprocess([args.a, args.b])
    a, b = images[:1], images[1:]
    if point is None:
        found = model.matches(a, b)[0]
        match_pictures.draw_matches(images, found[: args.most], out)
        print(f"{out}: {min(args.most, len(found))} of {len(found)} matches")
        return
    both = [model.similarity(a, other)[0] for other in (a, b)]
    row, column = (int(share * cells) for share, cells in zip(point[::-1], both[0].shape[:2], strict=True))
    match_pictures.draw_similarity(images, [one[row, column] for one in both], point, out)
    print(out)


def _point(text: str) -> tuple[float, float]:
    """Parse X,Y. Raise UserError unless both are shares."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        x = y = -1.0
    if not (0 <= x < 1 and 0 <= y < 1):
        raise UserError(f"--point {text}: give two shares from 0 to 1 of A's width and height, such as 0.5,0.25")
    return x, y


if __name__ == "__main__":
    sys.exit(main())
