"""Train in several processes of this machine: `python -m launch.local -n 2 --config=configs/gradual.py --workdir=DIR`.

The output of process 0 is shown as it is, the errors of the others with their number in front. SIGTERM and Ctrl-C are
passed on, and the run is saved. When a process fails, the others end too, and its status is returned.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from jaxdino.core.command import finish
from jaxdino.core.errors import UserError

GRACE = 120.0
"""Seconds in which processes end by themselves after one has failed, or after SIGTERM, before they are killed."""
DEVICES = "--xla_force_host_platform_device_count="


def main(argv: Sequence[str] | None = None) -> int:
    """Start the processes; return 0 or the status of the first one that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, required=True, help="number of processes")
    parser.add_argument("--devices_per_process", type=int, help="devices of each: of the CPU, or GPUs of this machine")
    parser.add_argument("--port", type=int, help="port of process 0; by default a free one")
    given, rest = parser.parse_known_args(argv)
    return finish(lambda: run(given.n, rest, given.devices_per_process, given.port))


def run(count: int, flags: Sequence[str], devices: int | None = None, port: int | None = None) -> int:
    """Train with these flags in `count` processes; return the status.

    Raises:
      UserError: for less than one process or device, or more GPUs than there are.
    """
    if count < 1 or (devices is not None and devices < 1):
        raise UserError(f"-n {count} and --devices_per_process {devices} must be at least 1")
    at = f"--coordinator=127.0.0.1:{port or free_port()}"
    base = [sys.executable, "-m", "jaxdino.main", *flags]
    started: list[subprocess.Popen] = []
    for index in range(count):
        more = [at, f"--num_processes={count}", f"--process_id={index}"] if count > 1 else ["--num_processes=1"]
        pipe = subprocess.PIPE if index else None
        settings = os.environ | environment(index, count, devices)
        process = subprocess.Popen([*base, *more], env=settings, stdout=pipe, stderr=pipe, start_new_session=True)
        started.append(process)
    shown = [threading.Thread(target=show, args=(index, one.stderr)) for index, one in enumerate(started) if index]
    unread = [threading.Thread(target=discard, args=(one.stdout,)) for one in started[1:]]
    for thread in (*shown, *unread):
        thread.start()
    status = watch(started)
    for thread in (*shown, *unread):
        thread.join()
    return status


def environment(index: int, count: int, devices: int | None) -> dict[str, str]:
    """Return the variables that give a process its devices: its GPUs, or so many devices of the CPU.

    Raises:
      UserError: for more GPUs than this machine has.
    """
    gpus = visible_gpus()
    if not gpus or os.environ.get("JAX_PLATFORMS") == "cpu":
        others = os.environ.get("XLA_FLAGS", "")
        return {} if devices is None else {"XLA_FLAGS": f"{others} {DEVICES}{devices}".strip()}
    each = devices or len(gpus) // count
    if not each or each * count > len(gpus):
        raise UserError(f"{count} processes with {devices or 'at least 1'} GPU(s) each: this machine has {len(gpus)}")
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * each : (index + 1) * each])}


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that processes may use, as CUDA_VISIBLE_DEVICES takes them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip()]
    try:
        return [str(index) for index in range(len(os.listdir("/proc/driver/nvidia/gpus")))]
    except OSError:
        return []


def free_port() -> int:
    """Return a port that nothing uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def show(index: int, stream: IO[bytes]) -> None:
    """Print the lines of another process's errors, with its number."""
    for line in stream:
        sys.stderr.buffer.write(f"[{index}] ".encode() + line.rstrip(b"\n") + b"\n")
        sys.stderr.buffer.flush()


def discard(stream: IO[bytes]) -> None:
    """Read and forget the output of another process, which is that of process 0 again."""
    while stream.read(1 << 16):
        pass


def watch(started: Sequence[subprocess.Popen]) -> int:
    """Wait for all processes, and pass signals on; return 0 or the status of the first one that failed."""
    end = [float("inf")]

    def pass_on(number: int, _: object) -> None:
        end[0] = time.monotonic() + GRACE
        send(started, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    first = 0
    try:
        while any(one.poll() is None for one in started):
            failed = [one.returncode for one in started if one.returncode]
            if failed and not first:
                first, end[0] = failed[0], min(end[0], time.monotonic() + GRACE)
            if time.monotonic() > end[0]:
                send(started, signal.SIGKILL)
            time.sleep(0.1)
    finally:
        send(started, signal.SIGKILL)
        for number, handler in before.items():
            signal.signal(number, handler)
    first = first or next((one.returncode for one in started if one.returncode), 0)
    return 128 - first if first < 0 else first


def send(started: Sequence[subprocess.Popen], number: int) -> None:
    """Send a signal to the processes that run."""
    for one in started:
        if one.poll() is None:
            one.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
