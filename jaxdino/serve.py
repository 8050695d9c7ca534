"""Serve models over HTTP: `python -m jaxdino.serve --workdir DIR`.

POST /predict, /embed, /segment and /detect take images, as far as the model has them; GET / is a page to try it, /docs
lists the endpoints. Requests are computed in batches, and refused when there are too many. Several models are given by
--model NAME=DIR, versions of one by --model NAME@VERSION=DIR.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from jaxdino.core.arguments import Parser
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs

if TYPE_CHECKING:
    from jaxdino.serving.server.settings import ServeSettings

NEEDED = {"fastapi", "httptools", "prometheus_client", "pydantic", "python_multipart", "starlette", "uvicorn"}


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    args = parser().parse_args(expanded(argv))
    from jaxdino.serving.server.logs import log
    from jaxdino.serving.server.settings import read_settings

    settings = read_settings(args, args.config)
    prepare()
    keep_programs(lambda line: log("note", message=line))
    if args.make_reference:
        return make_reference(args.workdir, args.model, settings, args.make_reference, args.drift_window)
    return serve(args.workdir, args.model, settings)


def parser() -> argparse.ArgumentParser:
    """Return the flags of the command."""
    from jaxdino.serving.server.settings import add_flags

    found = Parser(
        prog=program("serve"),
        description=described("serve", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--workdir", help="the folder of a training run")
    add("--model", action="append", default=[], metavar="NAME=DIR", help="a further model; may be repeated")
    add("--config", metavar="FILE", help="a JSON file with the settings below; flags come first")
    add(
        "--make_reference",
        metavar="SPLIT|DIR",
        help="write what the drift watch compares with: a split of the run (val), or a folder of images; then end",
    )
    add("--drift_window", type=int, default=256, help="images that are compared at a time (default 256)")
    add_flags(found)
    return found


def serve(workdir: str | None, models: list[str], settings: "ServeSettings") -> int:
    """Load the models and answer requests; return the exit status.

    Args:
      workdir: the first model. models: `NAME=DIR` or `NAME@VERSION=DIR`. settings: a `ServeSettings`.

    Raises:
      UserError: before a model is loaded, for wrong settings, keys or an address in use; for a model that cannot be
        loaded or served.
    """
    try:
        from jaxdino.serving.server import catalogue, keys, listening, logs
        from jaxdino.serving.server.app import Server
        from jaxdino.serving.server.metrics import Metrics
        from jaxdino.serving.watching.watchers import watchers_of
    except ImportError as err:
        raise _missing(err) from None
    places, known = catalogue.places(workdir, models), keys.read_keys(settings.api_keys)
    metrics = Metrics()
    watching = watchers_of(settings, metrics, logs.log)
    with listening.bound_socket(settings.host, settings.port) as where:
        given = [catalogue.opened(place, settings, lambda line: logs.log("note", note=line)) for place in places]
        return listening.listen(Server(given, settings, known, watching, metrics), where)


def make_reference(workdir: str | None, models: list[str], settings: "ServeSettings", of: str, window: int) -> int:
    """Write the reference of each model into its folder; return 0.

    Raises:
      UserError: as `watching.making.make`.
    """
    from jaxdino.core.options import check_range

    check_range("--drift_window", window, "[20, 100000]")
    try:
        from jaxdino.serving.server import catalogue
        from jaxdino.serving.watching import making
    except ImportError as err:
        raise _missing(err) from None
    for place in catalogue.places(workdir, models):
        making.make(catalogue.opened(place, settings, print), of, settings, window, print)
    return 0


def _missing(err: ImportError) -> UserError:
    if (err.name or "").partition(".")[0] not in NEEDED:
        raise err
    return UserError(f"{program('serve')} needs {err.name}: pip install 'jaxdino[serve]'")


if __name__ == "__main__":
    sys.exit(main())
