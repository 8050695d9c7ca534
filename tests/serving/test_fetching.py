"""Images that are fetched by address: which address of a host, which hosts, and the memory that they take."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi")

from jaxdino.serving.server import fetching
from jaxdino.serving.server.body import Bodies
from jaxdino.serving.server.refusal import Refusal
from jaxdino.serving.server.settings import ServeSettings


def resolved(monkeypatch, *addresses):
    rows = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **how: rows)


def test_the_address_is_the_one_that_the_system_prefers(monkeypatch):
    resolved(monkeypatch, "93.184.216.34", "2606:2800:220:1::1")
    assert fetching.public_address("images.example", 443) == "93.184.216.34"
    resolved(monkeypatch, "93.184.216.34", "10.0.0.1")
    with pytest.raises(Refusal, match="private network"):
        fetching.public_address("images.example", 443)


def test_hosts_are_allowed_in_capitals_too():
    fetcher = fetching.Fetcher(ServeSettings(allow_url=("Images.Example", "*.Other.example")))
    assert fetcher._parts("https://IMAGES.example/a.png")[1] == "images.example"
    assert fetcher._parts("https://a.other.example/a.png")[1] == "a.other.example"
    with pytest.raises(Refusal, match="not fetched from"):
        fetcher._parts("https://example/a.png")


def test_fetched_images_count_as_memory(monkeypatch):
    settings = ServeSettings(max_memory_mb=1)
    bodies, fetcher = Bodies(settings), fetching.Fetcher(settings)
    monkeypatch.setattr(fetcher, "fetch", lambda url, end: (url, bytes(600_000)))
    assert len(asyncio.run(fetcher.files(["a"], bodies.hold))) == 1 and bodies.held == 600_000
    with pytest.raises(Refusal, match="as it has memory for"):
        asyncio.run(fetcher.files(["b"], bodies.hold))
    assert bodies.held == 600_000


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nA: b", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["header", "body"])
def test_a_host_that_sends_a_byte_at_a_time_is_given_up(monkeypatch, said):
    def drip():
        with contextlib.suppress(OSError), listening.accept()[0] as client:
            client.sendall(said)
            while True:
                client.sendall(b"x")
                time.sleep(0.05)

    fetcher = fetching.Fetcher(ServeSettings(allow_url=("slow.example",), body_timeout=0.5))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, daemon=True).start()
        monkeypatch.setattr(fetching, "public_address", lambda host, port: "127.0.0.1")
        monkeypatch.setattr(fetching, "PORTS", {"http": listening.getsockname()[1]})
        start = time.monotonic()
        with pytest.raises(Refusal, match="was not there after 0"):
            asyncio.run(fetcher.files(["http://slow.example/a.png"], lambda count: None))
        assert time.monotonic() - start < 10
