"""Serve models over HTTP: `python -m jaxdino.serve --workdir DIR`.

POST /predict, /embed, /segment and /detect take images, as far as the model has them; GET / is a page to try it, /docs
lists the endpoints. Requests are computed in batches, and refused when there are too many. Several models are given by
--model NAME=DIR, versions of one by --model NAME@VERSION=DIR.
"""

import argparse
import sys

from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.host_memory import keep_freed

NEEDED = {"fastapi", "httptools", "prometheus_client", "pydantic", "python_multipart", "starlette", "uvicorn"}


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    try:
        from jaxdino.serving.server import settings as options
    except ImportError as err:
        raise _missing(err) from None
    parser = argparse.ArgumentParser(
        prog=program("serve"),
        description=described("serve", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", help="the folder of a training run")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=DIR", help="a further model; may be repeated"
    )
    parser.add_argument("--config", metavar="FILE", help="a JSON file with the settings below; flags come first")
    options.add_flags(parser)
    args = parser.parse_args(expanded(argv))
    settings = options.read_settings(args, args.config)
    keep_freed()
    return serve(args.workdir, args.model, settings)


def serve(workdir: str | None, models: list[str], settings: object) -> int:
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
        from jaxdino.serving.server.settings import ServeSettings
    except ImportError as err:
        raise _missing(err) from None
    assert isinstance(settings, ServeSettings)
    places, known = catalogue.places(workdir, models), keys.read_keys(settings.api_keys)
    with listening.bound_socket(settings.host, settings.port) as where:
        given = [catalogue.opened(place, settings, lambda line: logs.log("note", note=line)) for place in places]
        return listening.listen(Server(given, settings, known), where)


def _missing(err: ImportError) -> UserError:
    if (err.name or "").partition(".")[0] not in NEEDED:
        raise err
    return UserError(f"{program('serve')} needs {err.name}: pip install 'jaxdino[serve]'")


if __name__ == "__main__":
    sys.exit(main())
