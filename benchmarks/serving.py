"""Load on the server of `jaxdino serve`, and on LitServe with the same model: throughput, latency, memory, losses.

    jaxdino serve --workdir runs/mine --port 8000 &
    python -m benchmarks.serving load --url http://127.0.0.1:8000/predict --images photos --requests 20000 --pid PID

    pip install litserve
    python -m benchmarks.serving compare --workdir runs/mine --images photos --rounds 7

Every client sends one image at a time over one connection, and the next when it has the answer. `compare` starts the
servers one after the other, in turns, with the same model, preprocessing, batch size and waiting time, and prints
medians and quartiles of the rounds. LitServe takes JSON, so its images are sent in base64; they are encoded before the
measurement. `litserve` serves alone, for `load --base64`.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.serving_load import load, processor_seconds, resident
from jaxdino.core.table import format_table

START_SECONDS, STOP_SECONDS = 300.0, 20.0
OURS, PEER, PEER_ZMQ = "jaxdino serve", "LitServe", "LitServe, fast_queue"


def command(name: str, args: argparse.Namespace, port: int) -> tuple[list[str], str, str]:
    """Return the command of a server, the path that tells when it is ready, and the one that classifies."""
    same = ["--workdir", args.workdir, "--port", str(port), "--max_batch", str(args.max_batch)]
    if name == OURS:
        return ["-m", "jaxdino.serve", *same, "--max_wait_ms", str(args.wait * 1000)], "/health/ready", "/predict"
    more = ["--fast_queue"] if name == PEER_ZMQ else []
    return ["-m", "benchmarks.serving", "litserve", *same, "--wait", str(args.wait), *more], "/health", "/predict"


@contextlib.contextmanager
def served(name: str, args: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """Start a server, and end it; yields its process and address. Raises RuntimeError if it does not become ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags, ready, path = command(name, args, port)
    where = f"http://127.0.0.1:{port}"
    log_file = Path(args.logs) / f"benchmark_{name.replace(', ', '_').replace(' ', '_')}.log"
    with open(log_file, "a") as log:  # a pipe that nobody reads would stop a server
        process = subprocess.Popen([sys.executable, *flags], stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_ready(process, where + ready, log.name)
        yield process.pid, where + path
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            os.killpg(process.pid, signal.SIGKILL)  # also the workers of a server that has left them
        process.wait(STOP_SECONDS)


def _wait_until_ready(process: subprocess.Popen, url: str, log: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the server was not ready after {START_SECONDS:g} s, or ended: {log} says why")


def compare(args: argparse.Namespace) -> None:
    """Measure the servers in turns, and print medians and quartiles."""
    measured: dict[str, list[list[float]]] = {name: [] for name in (OURS, PEER, PEER_ZMQ)}
    for turn in range(args.rounds):
        names = list(measured)[:: 1 if turn % 2 else -1]
        for name in names:
            with served(name, args) as (pid, url):
                before, base64 = 0.0, name != OURS

                def each(number: int, pid: int = pid) -> None:
                    nonlocal before
                    if number == args.warm:
                        before = processor_seconds(pid)

                found = load(url, args.images, requests=args.requests, warm=args.warm, base64=base64,
                             clients=args.clients, each=each)  # fmt: skip
                spent = (processor_seconds(pid) - before) * 1000 / args.requests
            measured[name].append([found.rate, *found.latency(50, 99), spent])
            print(f"{turn + 1} {name}: {found}; {spent:.2f} ms of processors an image", flush=True)
    rows = [["", "images/s", "p50, ms", "p99, ms", "processor time an image, ms"]]
    for name, values in measured.items():
        low, middle, high = np.percentile(np.array(values), [25, 50, 75], axis=0)
        rows.append([name, *(f"{m:.3g} ({a:.3g} to {b:.3g})" for a, m, b in zip(low, middle, high, strict=True))])
    print(format_table(rows))


def one_load(args: argparse.Namespace) -> None:
    """Send images to a server that runs, and print what came back."""

    def each(number: int) -> None:
        if args.pid and number % max(1, args.requests // 10) == 0:
            print(f"{number:7,} requests: {resident(args.pid):.0f} MiB resident", flush=True)

    how = {"clients": args.clients, "requests": args.requests, "warm": args.warm, "base64": args.base64}
    print(f"{args.clients} clients: {load(args.url, args.images, **how, each=each)}")


def litserve(args: argparse.Namespace) -> None:
    """Serve the classes of a model with LitServe: the same preprocessing, model, batch size and waiting time."""
    os.environ["SERVED_WORKDIR"], os.environ["SERVED_BATCH"] = args.workdir, str(args.max_batch)
    from benchmarks.litserve_peer import Api, LitServer

    api = Api(max_batch_size=args.max_batch, batch_timeout=args.wait)
    LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60, fast_queue=args.fast_queue).run(
        port=args.port, log_level="warning", generate_client_file=False
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    of_load = commands.add_parser("load")
    of_load.add_argument("--url", required=True)
    of_load.add_argument("--pid", type=int, default=0, help="of the server: its memory is printed ten times")
    of_load.add_argument("--base64", action="store_true", help='send {"image": BASE64}')
    of_load.set_defaults(run=one_load)
    of_peer, of_both = commands.add_parser("litserve"), commands.add_parser("compare")
    of_peer.add_argument("--port", type=int, default=8001)
    of_peer.add_argument("--fast_queue", action="store_true", help="messages over ZeroMQ")
    of_peer.set_defaults(run=litserve)
    of_both.add_argument("--rounds", type=int, default=7)
    of_both.add_argument("--logs", default=tempfile.gettempdir(), help="folder of the servers' logs (%(default)s)")
    of_both.set_defaults(run=compare)
    for one in (of_load, of_both):
        one.add_argument("--images", required=True, help="folder of image files")
        one.add_argument("--clients", type=int, default=32)
        one.add_argument("--requests", type=int, default=5000)
        one.add_argument("--warm", type=int, default=500, help="requests before the measurement")
    for one in (of_peer, of_both):
        one.add_argument("--workdir", required=True)
        one.add_argument("--max_batch", type=int, default=32)
        one.add_argument("--wait", type=float, default=0.005, help="longest wait for a batch to fill, in seconds")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
