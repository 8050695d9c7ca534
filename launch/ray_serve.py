"""Serve models with Ray Serve: `python -m launch.ray_serve --replicas 2 --workdir DIR --port 8000`.

Each replica is a whole `jaxdino serve`: the same endpoints, batches, limits, keys and metrics, and the same flags. Ray
starts replicas on the machines of its cluster, sends requests to the least busy ones, and replaces those that die. With
--max_replicas, their number follows the load. Without RAY_ADDRESS, Ray is started on this machine. Needs
`pip install 'jaxdino[ray,serve]'`.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from jaxdino import serve as command
from jaxdino.core.command import expanded, finish
from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range

NAME = "jaxdino"
"""Of the application and its deployment."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    own = argparse.ArgumentParser(
        prog="python -m launch.ray_serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own.add_argument("--replicas", type=int, default=1, help="number of replicas, the smallest with --max_replicas")
    own.add_argument("--max_replicas", type=int, help="largest number; Ray adds replicas under load")
    own.add_argument(
        "--target", type=float, default=8, help="requests of a replica at a time beyond which one is added"
    )
    own.add_argument("--cpus", type=float, default=1, help="CPUs that Ray reserves for a replica (default 1)")
    own.add_argument("--gpus", type=float, default=0, help="GPUs that Ray reserves for a replica (default 0)")
    given, rest = own.parse_known_args(expanded(list(sys.argv[1:] if argv is None else argv)))
    check_range("--replicas", given.replicas, "[1, inf)")
    if given.max_replicas is not None:
        check_range("--max_replicas", given.max_replicas, f"[{given.replicas}, inf)")
    return run(given, command.parser().parse_args(rest))


def run(given: argparse.Namespace, args: argparse.Namespace) -> int:
    """Start the replicas, wait for a signal, and end them.

    Args:
      given: the flags above. args: those of `jaxdino serve`.

    Raises:
      UserError: without Ray, for wrong settings, as `check_address`, and if the replicas do not start.
    """
    try:
        import ray
        from ray import serve

        from jaxdino.serving.server.catalogue import places
        from jaxdino.serving.server.settings import read_settings
    except ImportError as err:
        raise UserError(f"{err.name} is not installed: pip install 'jaxdino[ray,serve]'") from None
    settings = read_settings(args, args.config)
    places(args.workdir, args.model)  # refuses folders before Ray starts
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # a busy machine takes longer than Ray's 30 s
    ray.init(**({} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}))
    began = not os.environ.get("RAY_ADDRESS")
    signal.signal(signal.SIGTERM, _interrupt)  # also before the replicas are ready, where Ray's own handler aborts
    try:
        serve.start(http_options={"host": settings.host, "port": settings.port})
        check_address(settings, *_address())
        began = True
        built = serve.ingress(builder(args.workdir, args.model, settings))()
        deployment = serve.deployment(
            built,
            name=NAME,
            max_ongoing_requests=settings.max_requests,
            graceful_shutdown_timeout_s=settings.drain_timeout,
            ray_actor_options={"num_cpus": given.cpus, "num_gpus": given.gpus},
            **number(given),
        )
        try:
            serve.run(deployment.bind(), name=NAME, route_prefix="/")
        except RuntimeError as err:
            raise UserError(f"the replicas did not start: {err}") from None
        print(f"ready: http://{settings.host}:{settings.port}", flush=True)
        _wait()
        return 0
    finally:
        if began:
            _end(serve)
        ray.shutdown()


def _address() -> tuple[str, int]:
    """Return where the Ray Serve of the cluster listens."""
    from ray.serve.context import _get_global_client

    options = _get_global_client().http_config
    return str(options.host), options.port


def check_address(settings: Any, host: str, port: int) -> None:
    """Raise UserError if Ray Serve ran in the cluster before, and listens elsewhere: it ignores a new address."""
    if (host, port) != (settings.host, settings.port):
        raise UserError(
            f"Ray Serve runs in this cluster already and listens on {host}:{port}, not on {settings.host}:"
            f"{settings.port}: give --host={host} --port={port}, or end it first with `serve shutdown`"
        )


def _end(serve: Any) -> None:
    """End the replicas; of a cluster, other applications go on."""
    if os.environ.get("RAY_ADDRESS"):
        with contextlib.suppress(serve.exceptions.RayServeException):  # it has not begun
            serve.delete(NAME)
    else:
        serve.shutdown()


def number(given: argparse.Namespace) -> dict[str, Any]:
    """Return Ray's settings of the number of replicas."""
    if given.max_replicas is None:
        return {"num_replicas": given.replicas}
    scaling = {"min_replicas": given.replicas, "max_replicas": given.max_replicas}
    return {"autoscaling_config": {**scaling, "target_ongoing_requests": given.target}}


def builder(workdir: str | None, models: list[str], settings: Any) -> Callable[[], Any]:
    """Return a function that makes the application, in a replica."""
    workdir = os.path.abspath(workdir) if workdir else None
    models = [f"{name}={os.path.abspath(folder)}" for name, _, folder in (one.partition("=") for one in models)]

    def application() -> Any:
        from jaxdino.serving.server import catalogue, keys, logs
        from jaxdino.serving.server.app import Server
        from jaxdino.serving.server.metrics import Metrics
        from jaxdino.serving.watching.watchers import watchers_of

        places, metrics = catalogue.places(workdir, models), Metrics()
        given = [catalogue.opened(place, settings, lambda line: logs.log("note", note=line)) for place in places]
        watching = watchers_of(settings, metrics, logs.log)
        known = keys.read_keys(settings.api_keys)
        return Server(given, settings, known, watching, metrics, compiled_first=True).app

    return application


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _wait() -> None:
    """Wait for SIGTERM or Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
