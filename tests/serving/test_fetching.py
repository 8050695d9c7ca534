"""Images that are fetched by address: which address of a host, which hosts, and the memory that they take."""

import asyncio
import socket

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
    monkeypatch.setattr(fetcher, "fetch", lambda url: (url, bytes(600_000)))
    assert len(asyncio.run(fetcher.files(["a"], bodies.hold))) == 1 and bodies.held == 600_000
    with pytest.raises(Refusal, match="as it has memory for"):
        asyncio.run(fetcher.files(["b"], bodies.hold))
    assert bodies.held == 600_000
