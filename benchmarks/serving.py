"""Load on the server of `jaxdino serve`, and on LitServe with the same model: throughput, latency, memory, losses.

    jaxdino serve --workdir runs/mine --port 8000 &
    python -m benchmarks.serving load --url http://127.0.0.1:8000/predict --images photos --clients 32 --requests 5000

    pip install litserve
    python -m benchmarks.serving litserve --workdir runs/mine --port 8001 &
    python -m benchmarks.serving load --url http://127.0.0.1:8001/predict --images photos --base64

Every client sends one image at a time over one connection, and the next when it has the answer. LitServe takes
JSON, so its images are sent in base64 (--base64); they are encoded before the measurement.
"""

import argparse
import http.client
import json
import os
import threading
import time
from base64 import b64encode
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np


def load(url: str, folder: str, clients: int, requests: int, warm: int, pid: int, base64: bool) -> None:
    """Send images from several clients, and print what came back."""
    parts = urlsplit(url)
    images = [file.read_bytes() for file in sorted(Path(folder).iterdir()) if file.is_file()]
    kind = "application/json" if base64 else "image/png"
    if base64:
        images = [json.dumps({"image": b64encode(image).decode()}).encode() for image in images]
    lock, statuses, seconds, left = threading.Lock(), Counter(), [], iter(range(warm + requests))
    began: list[float] = []

    def client() -> None:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        while True:
            with lock:
                number = next(left, None)
                if number == warm:
                    began.append(time.perf_counter())
            if number is None:
                return
            start = time.perf_counter()
            try:
                connection.request("POST", parts.path, images[number % len(images)], {"Content-Type": kind})
                answer = connection.getresponse()
                answer.read()
                status = str(answer.status)
            except (OSError, http.client.HTTPException) as err:
                status = type(err).__name__
                connection.close()
            with lock:
                statuses[status] += 1
                if number >= warm:
                    seconds.append(time.perf_counter() - start)
                    if pid and number % max(1, requests // 10) == 0:
                        print(f"{number:7,} requests: {resident(pid):.0f} MiB resident", flush=True)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = time.perf_counter() - began[0]
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1000
    print(f"{clients} clients, {requests} requests: {dict(statuses)}")
    print(f"{len(seconds) / whole:.0f} images/s; latency p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f} ms")


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def litserve(workdir: str, port: int, max_batch: int, wait: float) -> None:
    """Serve the classes of a model with LitServe: the same preprocessing, model, batch size and waiting time."""
    os.environ["SERVED_WORKDIR"], os.environ["SERVED_BATCH"] = workdir, str(max_batch)
    from benchmarks.litserve_peer import Api, LitServer

    api = Api(max_batch_size=max_batch, batch_timeout=wait)
    LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60).run(
        port=port, log_level="warning", generate_client_file=False
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    of_load, of_peer = commands.add_parser("load"), commands.add_parser("litserve")
    of_load.add_argument("--url", required=True)
    of_load.add_argument("--images", required=True, help="folder of image files")
    of_load.add_argument("--clients", type=int, default=32)
    of_load.add_argument("--requests", type=int, default=5000)
    of_load.add_argument("--warm", type=int, default=200, help="requests before the measurement")
    of_load.add_argument("--pid", type=int, default=0, help="of the server: its memory is printed ten times")
    of_load.add_argument("--base64", action="store_true", help='send {"image": BASE64}')
    of_peer.add_argument("--workdir", required=True)
    of_peer.add_argument("--port", type=int, default=8001)
    of_peer.add_argument("--max_batch", type=int, default=32)
    of_peer.add_argument("--wait", type=float, default=0.005, help="seconds")
    args = parser.parse_args()
    if args.what == "load":
        load(args.url, args.images, args.clients, args.requests, args.warm, args.pid, args.base64)
    else:
        litserve(args.workdir, args.port, args.max_batch, args.wait)


if __name__ == "__main__":
    main()
