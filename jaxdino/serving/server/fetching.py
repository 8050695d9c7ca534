"""Fetch images from hosts that were allowed, and from no address of the own network."""

import asyncio
import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from jaxdino.core.words import printable
from jaxdino.serving.server.body import Files, shown_name
from jaxdino.serving.server.refusal import Refusal
from jaxdino.serving.server.settings import ServeSettings

PORTS = {"http": 80, "https": 443}
CHUNK = 1 << 16
THREADS = 8


class Fetcher:
    """Fetch images over http and https.

    The name is resolved once, each address of it must be public, and the connection goes to that address: a name that
    resolves differently a moment later changes nothing. Redirects are refused, since they could lead elsewhere.
    """

    def __init__(self, settings: ServeSettings):
        self.settings = settings
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")

    async def files(self, urls: Sequence[str], hold: Callable[[int], None]) -> Files:
        """Return (name, bytes) of each address; all of them together have `body_timeout` seconds.

        Args:
          hold: called with the number of bytes of each image; may raise Refusal.

        Raises:
          Refusal: 403 for an address that is not allowed, 422 if it fails.
        """
        loop, end = asyncio.get_running_loop(), time.monotonic() + self.settings.body_timeout

        async def one(url: str) -> tuple[str, bytes]:
            name, found = await loop.run_in_executor(self.pool, self.fetch, url, end)
            hold(len(found))
            return name, found

        files: Files = []
        for found in await asyncio.gather(*map(one, urls), return_exceptions=True):  # none holds more after this
            if isinstance(found, BaseException):
                raise found
            files.append(found)
        return files

    def fetch(self, url: str, end: float) -> tuple[str, bytes]:
        """Return the name and the bytes of an address. Raises Refusal, also if it is not there at the time `end`."""
        scheme, host, port, path = self._parts(url)
        address = public_address(host, port)
        try:
            return shown_name(path.partition("?")[0]) or host, self._read(scheme, host, port, path, address, end)
        except (OSError, http.client.HTTPException) as err:
            raise Refusal(422, "not_fetched", f"{host} did not give the image: {printable(str(err))[:200]}") from None

    def _parts(self, url: str) -> tuple[str, str, int, str]:
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            scheme, host, port, parts = "", "", None, urlsplit("")
        if scheme not in PORTS or not host or parts.username is not None:
            raise Refusal(422, "bad_url", "an address must be https://HOST/PATH or http://HOST/PATH")
        allowed = [one.lower() for one in self.settings.allow_url]  # `host` is in lower case
        if not any(host == one or (one[:2] == "*." and host.endswith(one[1:])) for one in allowed):
            raise Refusal(403, "host_not_allowed", f"images are not fetched from {printable(host)[:200]}")
        if port not in (None, PORTS[scheme]):
            raise Refusal(403, "port_not_allowed", f"images are fetched from port {PORTS[scheme]} only")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if any(ord(one) <= 32 or ord(one) > 126 for one in path):
            raise Refusal(422, "bad_url", "an address must have its special characters as %XX")
        return scheme, host, PORTS[scheme], path

    def _read(self, scheme: str, host: str, port: int, path: str, address: str, end: float) -> bytes:
        late = f"it was not there after {self.settings.body_timeout:g} seconds"
        left = end - time.monotonic()
        if left <= 0:  # the addresses before it took all of the time
            raise TimeoutError(late)
        connection = _Connection(scheme, host, port, address, left)
        timer = threading.Timer(left, connection.abort)
        timer.start()
        try:
            connection.request("GET", path, headers={"User-Agent": "jaxdino", "Accept": "image/*"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise http.client.HTTPException(f"it answered {answer.status}")
            found = bytearray()
            while part := answer.read(CHUNK):
                found += part
                if len(found) > self.settings.max_body:
                    limit = f"{self.settings.max_body_mb:g} MiB"
                    raise Refusal(413, "body_too_large", f"the image at {host} has more than {limit}")
            if connection.aborted:
                raise TimeoutError(late)
            return bytes(found)
        except (OSError, http.client.HTTPException) as err:
            raise TimeoutError(late) if connection.aborted else err from None
        finally:
            timer.cancel()
            connection.close()


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was checked, for a host by name."""

    def __init__(self, scheme: str, host: str, port: int, address: str, timeout: float):
        super().__init__(host, port, timeout=timeout)
        self.scheme, self.address, self.aborted = scheme, address, False
        self.socket: socket.socket | None = None  # also when `sock` is given up, as for a body of unknown length

    def connect(self) -> None:
        self.sock = self.socket = socket.create_connection((self.address, self.port), self.timeout)
        if self.scheme == "https":
            context = ssl.create_default_context()
            found = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock = self.socket = found
            found.do_handshake()

    def abort(self) -> None:
        """End a host that sends a little at a time, whose every part is in time; called by another thread."""
        self.aborted = True
        if self.socket is not None:
            with contextlib.suppress(OSError):  # it ended meanwhile
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


def public_address(host: str, port: int) -> str:
    """Return the address of a host that the system prefers: one of IPv4 where IPv6 does not lead out.

    Raises:
      Refusal: if one of its addresses is not public: 10.0.0.1, 127.0.0.1, ::1.
    """
    try:
        found = [str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise Refusal(422, "not_fetched", f"there is no host {printable(host)[:200]}") from None
    for one in found:
        address = ipaddress.ip_address(one.partition("%")[0])
        inner = getattr(address, "ipv4_mapped", None) or address
        if not inner.is_global or inner.is_multicast:
            raise Refusal(403, "private_address", f"{printable(host)[:200]} is in a private network")
    return found[0]
