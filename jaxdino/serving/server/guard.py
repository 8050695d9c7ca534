"""What surrounds every request: its number, the API key, limits of requests, logs, metrics, errors."""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from jaxdino.core.json_file import finite
from jaxdino.serving.server.keys import Client, Keys, key_in
from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.refusal import Refusal, busy
from jaxdino.serving.server.settings import ServeSettings

OPEN = ("/", "/health", "/health/live", "/health/ready", "/metrics", "/favicon.ico", "/docs", "/openapi.json")
"""Paths that need no key: probes, measurements, and pages, whose requests send the key."""
QUIET = ("/health", "/health/live", "/health/ready", "/metrics")
"""Paths that are logged only when they fail, and are not counted as work."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
DRAINED, DRAIN_SECONDS = 8 << 20, 2.0  # of a refused body, so that the client reads the answer instead of a reset


class Guard:
    """ASGI middleware around the application.

    Args:
      app: the application. log: writes a line. draining: whether the server ends.
    """

    def __init__(
        self,
        app: Any,
        settings: ServeSettings,
        keys: Keys,
        metrics: Metrics,
        log: Callable[..., None],
        draining: Callable[[], bool],
    ):
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.log, self.draining = log, draining
        self.running = 0
        self.clients: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Exchange(self, scope, receive, send).run()

    def enter(self, client: Client, path: str) -> None:
        """Count a request. Raises Refusal if there are too many."""
        if self.running >= self.settings.max_requests:
            raise busy(close=True)
        if self.settings.per_client and self.clients[client.name] >= self.settings.per_client:
            message = f"you have {self.settings.per_client} requests at a time already: wait for their answers"
            raise Refusal(429, "too_many_requests", message, retry=1, close=True)
        self.running += 1
        self.clients[client.name] += 1
        self.metrics.running.set(self.running)

    def leave(self, client: Client) -> None:
        """Undo `enter`."""
        self.running -= 1
        self.clients[client.name] -= 1
        if not self.clients[client.name]:
            del self.clients[client.name]
        self.metrics.running.set(self.running)

    def client(self, scope: Any, headers: dict[str, str]) -> Client:
        """Return who sends a request. Raises Refusal without a valid key where one is needed."""
        address = Client((scope.get("client") or ("unknown",))[0])
        if not self.keys or scope["path"] in OPEN:
            return address
        found = self.keys.client(key_in(headers))
        if found is None:
            raise Refusal(401, "no_key", "send a valid key: X-API-Key: KEY, or Authorization: Bearer KEY", close=True)
        return found


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Any, receive: Any, send: Any):
        self.guard, self.scope, self._receive, self._send = guard, scope, receive, send
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        asked = self.headers.get("x-request-id", "")
        self.number = asked if REQUEST_ID.fullmatch(asked) else f"{random.getrandbits(128):032x}"
        self.status, self.received, self.whole = 0, 0, False
        self.fields: dict[str, Any] = {}
        scope["state"] = {**scope.get("state", {}), "request_id": self.number, "log": self.fields}

    async def run(self) -> None:
        start, client = time.monotonic(), None
        quiet = self.scope["path"] in QUIET
        try:
            client = self.guard.client(self.scope, self.headers)
            self.scope["state"]["client"] = client
            if not quiet:
                self.guard.enter(client, self.scope["path"])
            try:
                await self.guard.app(self.scope, self.receive, self.send)
            finally:
                if not quiet:
                    self.guard.leave(client)
        except Refusal as err:
            await self.refuse(err)
        except Exception as err:
            self.guard.log("error", level="error", request_id=self.number, why=f"{type(err).__name__}: {err}"[:2000])
            if not self.status:
                await self.refuse(Refusal(500, "error", f"an error of the server; its log has {self.number}"))
        finally:
            self.record(time.monotonic() - start, client, quiet)

    async def receive(self) -> Any:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        return message

    async def send(self, message: Any) -> None:
        """Send a part of the answer with the headers of every answer; read on if the body of the request is refused."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            more = [(b"x-request-id", self.number.encode()), (b"x-content-type-options", b"nosniff")]
            if self.guard.draining():
                more.append((b"connection", b"close"))
            headers = [*message.get("headers", []), *more]
            self.closes = (b"connection", b"close") in [(name.lower(), value.lower()) for name, value in headers]
            message = {**message, "headers": headers}
        elif self.status >= 400 and self.closes and not message.get("more_body") and not self.whole:
            await self._send({**message, "more_body": True})
            await self._read_on()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _read_on(self) -> None:
        """Read what the client still sends, within limits: a connection closed before that loses the answer."""
        first = self.received
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self.received - first < DRAINED:
                    message = await self.receive()
                    if self.whole or message["type"] == "http.disconnect":
                        return
        except TimeoutError:
            return

    async def refuse(self, why: Refusal) -> None:
        from jaxdino.serving.server.answers import as_bytes

        self.fields["reason"] = why.reason
        body = as_bytes(why.body())
        headers = {**why.headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": why.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})

    def record(self, seconds: float, client: Client | None, quiet: bool) -> None:
        if quiet and self.status < 500:
            return
        route = self.scope.get("route")
        endpoint = getattr(route, "path", None) or "(other)"
        metrics = self.guard.metrics
        metrics.requests.labels(endpoint, str(self.status)).inc()
        metrics.seconds.labels(endpoint).observe(seconds)
        if "reason" in self.fields:
            metrics.refused.labels(self.fields["reason"]).inc()
        self.guard.log(
            "request",
            request_id=self.number,
            method=self.scope["method"],
            path=self.scope["path"][:200],
            status=self.status,
            ms=round(seconds * 1000, 2),
            bytes=self.received,
            client=client.name if client else None,
            **finite(self.fields),
        )
