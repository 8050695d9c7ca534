"""Run the application with uvicorn: a bound on the time of a header, and an end that loses no request."""

import asyncio
import math
import signal
import socket
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from jaxdino.core.errors import UserError
from jaxdino.serving.server.app import Server
from jaxdino.serving.server.logs import log, take_over

BACKLOG = 1024
LAST_MOMENT = 0.5  # seconds


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket on which nothing listens yet, so that a port in use is an error before a model is loaded.

    Raises:
      UserError: if the address cannot be bound.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
    except OSError as err:
        raise UserError(f"--host {host}: {err.strerror or err}") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as err:
        found.close()
        raise UserError(f"--host {host} --port {port} cannot be listened on: {err.strerror or err}") from None
    return found


class Protocol(HttpToolsProtocol):
    """HTTP that closes connections whose header does not arrive in time: uvicorn waits for ever for the rest of one."""

    header_timeout = 10.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End an idle connection; one that has just been made has a moment to send its request."""
        if self.cycle is None:
            self.loop.call_later(LAST_MOMENT, self._close_unused)
        else:
            super().shutdown()

    def _close_unused(self) -> None:
        if self.cycle is None:
            self._close()

    def _wait(self) -> None:
        self._stop()
        self._late = self.loop.call_later(self.header_timeout, self._close)

    def _stop(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        if self.transport and not self.transport.is_closing():
            self.transport.close()


class _Listener(uvicorn.Server):
    """uvicorn's server, which on SIGTERM first becomes not ready and takes requests for some seconds more.

    A second signal ends it at once. It ends with status 0, where uvicorn ends by the signal.
    """

    def __init__(self, config: uvicorn.Config, served: Server):
        super().__init__(config)
        self.served = served

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.served.draining:
            self.should_exit = self.force_exit = True
            return
        self.served.drain()
        delay = self.served.settings.drain_delay if sig == signal.SIGTERM else 0.0
        timer = threading.Timer(delay, self._end)
        timer.daemon = True
        timer.start()

    def _end(self) -> None:
        self.should_exit = True


def listen(served: Server, where: socket.socket) -> int:
    """Answer requests until SIGTERM or Ctrl-C; return the exit status.

    After SIGTERM the server is not ready, answers for `drain_delay` seconds what still comes, then takes no more
    connections, and ends when the requests that have begun are answered.
    """
    settings = served.settings
    take_over()
    timed = type("TimedProtocol", (Protocol,), {"header_timeout": settings.header_timeout})
    config = uvicorn.Config(
        served.app,
        http=timed,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        proxy_headers=False,
        timeout_keep_alive=math.ceil(settings.keep_alive),
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
    )
    listener, failed = _Listener(config, served), []

    def stop() -> None:
        failed.append(True)
        listener.should_exit = True

    served.stop = stop
    host, port = where.getsockname()[:2]
    log("listening", host=host, port=port, models=[list(label) for label in served.catalogue.served])
    listener.run([where])
    log("ended")
    return int(bool(failed))
