"""Load on a server: clients with a connection each, one request at a time; no wait is without a bound."""

import asyncio
import dataclasses
import json
import os
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

ANSWER_SECONDS = 60.0
"""Longest wait for an answer. It then counts as lost, and the connection is opened anew."""


@dataclasses.dataclass
class Load:
    """What came back of the requests after the first `warm` ones.

    Attributes:
      seconds: of each request that was answered. whole: seconds of all. answers: number of each status, or of each
        error that took the place of an answer, of all requests.
    """

    answers: Counter[str] = dataclasses.field(default_factory=Counter)
    seconds: list[float] = dataclasses.field(default_factory=list)
    whole: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.whole

    def latency(self, *quantiles: float) -> list[float]:
        """Milliseconds from the request to the answer."""
        return (np.percentile(self.seconds, quantiles) * 1000).tolist()

    def __str__(self) -> str:
        p50, p95, p99 = self.latency(50, 95, 99)
        return (
            f"{dict(self.answers)}: {self.rate:.0f} images/s; latency p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f} ms, "
            f"longest {max(self.seconds) * 1000:.0f} ms"
        )


def requests_of(url: str, folder: str, base64: bool) -> list[bytes]:
    """Return the bytes of a request for each image of a folder."""
    parts = urlsplit(url)
    bodies = [file.read_bytes() for file in sorted(Path(folder).iterdir()) if file.is_file()]
    if base64:
        bodies = [json.dumps({"image": b64encode(body).decode()}).encode() for body in bodies]
    kind = "application/json" if base64 else "image/png"
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {kind}\r\nContent-Length: "
    return [head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies]


def load(
    url: str,
    folder: str,
    *,
    clients: int = 32,
    requests: int = 5000,
    warm: int = 200,
    base64: bool = False,
    each: Callable[[int], None] = lambda number: None,
) -> Load:
    """Send the images of a folder; `each` is called with the number of every request before it is sent."""
    given, found = requests_of(url, folder, base64), Load()
    numbers, parts = iter(range(warm + requests)), urlsplit(url)

    async def main() -> float:
        address = parts.hostname or "127.0.0.1", parts.port or 80
        await asyncio.gather(*(_client(address, given, numbers, warm, found, each) for _ in range(clients)))
        return time.perf_counter()

    ended = asyncio.run(main())
    found.whole += ended  # `_client` has subtracted the beginning
    return found


async def _client(
    address: tuple[str, int],
    given: list[bytes],
    numbers: Iterator[int],
    warm: int,
    found: Load,
    each: Callable[[int], None],
) -> None:
    """Take numbers until there are none; send a request and read its answer for each."""
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for number in numbers:
        each(number)
        start = time.perf_counter()
        if number == warm:
            found.whole -= start
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                streams = streams or await asyncio.open_connection(*address)
                streams[1].write(given[number % len(given)])
                status, keeps = await _answer(streams[0])
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as err:
            status, keeps = type(err).__name__, False
        else:
            if number >= warm:
                found.seconds.append(time.perf_counter() - start)
        found.answers[status] += 1
        if not keeps and streams:
            streams[1].close()
            streams = None
    if streams:
        streams[1].close()


async def _answer(reader: asyncio.StreamReader) -> tuple[str, bool]:
    """Read an answer; return its status, and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, _, length = head.partition(b"content-length:")
    await reader.readexactly(int(length.partition(b"\r\n")[0]))
    return head.split(None, 2)[1].decode(), b"connection: close" not in head


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process and of all that it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # with that of its children that have ended
    return own + sum(processor_seconds(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    found = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for one in found for child in one.split()]
