"""Search the embeddings of `jaxdino embed`: `python -m jaxdino.search --embeddings FILE photo.jpg`.

The images that are most similar to each given image, or with a CLIP to a text (--text "a red car"); groups of
near-duplicates (--near_duplicates 0.95), or clusters (--clusters 20). Prints lines of group, cosine and path,
tab-separated; --out writes all of them as a table, --html a page with thumbnails.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdino import results
from jaxdino.core.arguments import Parser
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.words import printable

COLUMNS = ("group", "rank", "path", "cosine")
TITLES = {
    "queries": "Most similar images",
    "near_duplicates": "Near-duplicates, cosine at least {near_duplicates}",
    "clusters": "{clusters} clusters",
}
"""What is asked for -> the title of the page."""
SHOWN = 3  # images of a group that are printed; --out has all


def main(argv: list[str] | None = None) -> int:
    """Search; return the exit status, see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> None:
    parser = Parser(
        prog=program("search"),
        description=described("search", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="files, folders or patterns in quotes: find what is similar to each")
    add("--text", nargs="+", default=[], metavar="TEXT", help="find the images that fit each text best (CLIP)")
    add("--near_duplicates", type=float, metavar="COSINE", help="groups of images of at least this cosine")
    add("--clusters", type=int, metavar="K", help="K clusters, by k-means")
    add("--embeddings", required=True, metavar="FILE", help="a file that jaxdino embed wrote")
    add("--weights", help="where the weights that made the embeddings are now, if they were moved")
    add("--top", type=int, default=10, metavar="N", help="images found for each query (default 10)")
    add("--engine", default="auto", help="of --near_duplicates: exact, faiss or auto (faiss above a million images)")
    add("--seed", type=int, default=0, help="of --clusters (default 0)")
    add("--out", metavar="FILE", help="write all results there (.csv, .json or .jsonl)")
    add("--html", metavar="FILE", help="write a page with thumbnails there")
    add("--overwrite", action="store_true", help="let --out and --html replace a file")
    search(parser.parse_args(expanded(argv)))


def search(args: argparse.Namespace) -> None:
    """Search as the flags say: print the results, write the table and the page.

    Raises:
      UserError: for wrong arguments, before the embeddings are read; for embeddings that cannot be read or were made
        by other weights; for a query image that cannot be read.
    """
    asked = _checked(args)
    from convert.atomic import AtomicFiles
    from jaxdino.retrieval import embeddings

    made = embeddings.read(args.embeddings)
    work: dict[str, Callable[[argparse.Namespace, Any], list[_Found]]] = {
        "queries": _queries,
        "near_duplicates": _near_duplicates,
        "clusters": _clusters,
    }
    found = work[asked](args, made)
    with results.opened(args.out, COLUMNS, lambda row: None) as add:
        for group in found:
            for rank, (row, cosine) in enumerate(group.members, start=1):
                more = {} if cosine is None else {"cosine": round(cosine, 6)}
                add({"group": group.name, "rank": rank, "path": made.paths[row]} | more)
    _print(found, made, everything=asked == "queries")
    if args.html:
        page = Path(args.html).absolute()
        with AtomicFiles(page.parent) as drafts, drafts.open(page.name) as file:
            file.write(_page(args, asked, made, found).encode("utf-8", "backslashreplace"))
    for file in filter(None, (args.out, args.html)):
        print(file)


class _Found(NamedTuple):
    """A query, a group of duplicates or a cluster.

    Attributes:
      members: rows of the file of embeddings, and their cosines where they have one. query: the image file asked for.
    """

    name: str
    members: Sequence[tuple[int, float | None]]
    query: str = ""


def _checked(args: argparse.Namespace) -> str:
    """Check the flags; return which work they ask for."""
    from jaxdino.core.options import check_range
    from jaxdino.core.rules import did_you_mean
    from jaxdino.retrieval.pairs import ENGINES

    given = {
        "queries": bool(args.images or args.text),
        "near_duplicates": args.near_duplicates is not None,
        "clusters": args.clusters is not None,
    }
    asked = [name for name, there in given.items() if there]
    if len(asked) != 1:
        flags = [{"queries": "images or texts"}.get(name, f"--{name}") for name in asked]
        what = f"{' and '.join(flags)} are asked for at once" if asked else "nothing to search for"
        raise UserError(f"{what}: give images or --text, or --near_duplicates COSINE, or --clusters K")
    for text in args.text:
        if not text.strip():
            raise UserError("--text has an empty text")
        if Path(text).exists():
            raise UserError(f"--text {text} is a file: give images before --text, jaxdino search IMAGE... --text TEXT")
    if args.near_duplicates is not None:
        check_range("--near_duplicates", args.near_duplicates, "(0, 1]")
    if args.engine not in ENGINES:
        raise UserError(f"--engine {args.engine} is not known; {did_you_mean(args.engine, ENGINES)}")
    check_range("--top", args.top, "[1, inf)")
    check_range("--seed", args.seed, "[0, 4294967295]")
    results.check("--out", args.out, args.overwrite)
    if args.out and Path(args.out).resolve() == Path(args.embeddings).with_suffix(".json").resolve():
        raise UserError(f"--out {args.out} belongs to the embeddings {args.embeddings}: give another file")
    if args.html:
        page = Path(args.html)
        if page.suffix.lower() not in (".html", ".htm") or page.is_dir() or not page.absolute().parent.is_dir():
            raise UserError(f"--html {args.html}: give a file that ends in .html, in a folder that exists")
        if page.exists() and not args.overwrite:
            raise UserError(f"--html {args.html} exists already: give another file, or --overwrite")
    return asked[0]


def _queries(args: argparse.Namespace, made: Any) -> list[_Found]:
    """Return what is nearest to each image and text. It is always compared with every embedding."""
    import numpy as np

    from jaxdino.core.processor import prepare
    from jaxdino.core.program_cache import keep_programs
    from jaxdino.data.inputs import find_inputs
    from jaxdino.evals.knn import neighbours
    from jaxdino.made_by import reopened
    from jaxdino.retrieval import query
    from jaxdino.retrieval.embeddings import AGAIN

    inputs, notes = find_inputs(args.images)
    for note in notes:
        say(note)
    prepare()
    keep_programs()
    model = reopened(made.about["weights"], made.file, args.weights, AGAIN)
    texts = [query.of_texts(model, made, args.text)] if args.text else []
    files = [one.path for one in inputs]
    images = [query.of_images(model, made, files)] if files else []
    cosines, rows = neighbours(made.values, np.concatenate([*images, *texts]), min(args.top, len(made)))
    names = [*((file, file) for file in files), *((text, "") for text in args.text)]
    return [
        _Found(name, list(zip(rows[i].tolist(), cosines[i].tolist(), strict=True)), file)
        for i, (name, file) in enumerate(names)
    ]


def _near_duplicates(args: argparse.Namespace, made: Any) -> list[_Found]:
    from jaxdino.retrieval import pairs

    engine = pairs.engine_for(len(made), args.engine, say)
    groups = pairs.near_duplicates(made.values, args.near_duplicates, engine)
    return [_Found(f"near-duplicates {i}", [(row, None) for row in group]) for i, group in enumerate(groups, start=1)]


def _clusters(args: argparse.Namespace, made: Any) -> list[_Found]:
    from jaxdino.retrieval import clusters

    groups = clusters.clusters(made.values, args.clusters, args.seed)
    return [_Found(f"cluster {i}", [(row, None) for row in group]) for i, group in enumerate(groups, start=1)]


def _print(found: Sequence[_Found], made: Any, everything: bool) -> None:
    """Print a line for each image: all of a query, of a group the first ones and how many there are."""
    for group in found:
        for row, cosine in group.members if everything else group.members[:SHOWN]:
            fields = [group.name, "" if cosine is None else f"{cosine:.4f}", made.paths[row]]
            print("\t".join(printable(field, keep="") for field in fields))
        if not everything and (more := len(group.members) - SHOWN) > 0:
            print(f"{group.name}\t\tand {more:,} more")
    if not found:
        print("no near-duplicates")


def _page(args: argparse.Namespace, asked: str, made: Any, found: Sequence[_Found]) -> str:
    from jaxdino.data.channels import Reading
    from jaxdino.data.ranges import Range
    from jaxdino.retrieval.page import MEMBERS, Group, Picture, page

    groups = []
    for one in found:
        members = one.members if asked == "queries" else one.members[:MEMBERS]
        asks = [Picture(one.query, Path(one.query).name, "the query")] if one.query else []
        pictures = [
            Picture(made.record(row), made.paths[row], "" if cosine is None else f"cosine {cosine:.3f}")
            for row, cosine in members
        ]
        count = "" if asked == "queries" else f", {len(one.members):,} images"
        groups.append(Group(f"{one.name}{count}", [*asks, *pictures], len(one.members) - len(members)))
    about = made.about
    lines = [f"{made.file}: {len(made):,} images, {about['pool']} of {about['weights'].get('name')}"]
    if not found:
        lines.append("no image has a near-duplicate")
    how = about.get("preprocess", {})
    reading = Reading(len(how.get("mean", (0, 0, 0))), Range.of(how.get("sixteen_bit", "auto")))
    return page(TITLES[asked].format(**vars(args)), lines, groups, reading)


def say(line: str) -> None:
    """Print a note."""
    print(printable(line), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
