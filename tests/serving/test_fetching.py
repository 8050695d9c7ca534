"""Images that are fetched by address: which address of a host, which hosts, and the memory that they take."""

import socket

import pytest

pytest.importorskip("fastapi")

from jaxdino.serving.server import fetching
from jaxdino.serving.server.refusal import Refusal


def resolved(monkeypatch, *addresses):
    rows = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **how: rows)


def test_the_address_is_the_one_that_the_system_prefers(monkeypatch):
    resolved(monkeypatch, "93.184.216.34", "2606:2800:220:1::1")
    assert fetching.public_address("images.example", 443) == "93.184.216.34"
    resolved(monkeypatch, "93.184.216.34", "10.0.0.1")
    with pytest.raises(Refusal, match="private network"):
        fetching.public_address("images.example", 443)
