"""Progress on standard error."""

import io
from types import SimpleNamespace

import pytest

from jaxdino.core import bars


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def drawn(stream, monkeypatch) -> str:
    """What 4,000 bytes in two arrays draw."""
    monkeypatch.setattr("sys.stderr", stream)
    flat = {path: SimpleNamespace(nbytes=count) for path, count in {"a": 1000, "b": 3000}.items()}
    assert [path for path, _ in bars.by_bytes(flat, "reading")] == ["a", "b"]
    return stream.getvalue()


@pytest.mark.parametrize("stream", [Screen, io.StringIO])
def test_what_is_done_at_once_shows_no_bar(stream, monkeypatch):
    assert drawn(stream(), monkeypatch) == ""


def test_a_terminal_gets_a_bar_and_a_log_gets_lines(monkeypatch):
    monkeypatch.setattr(bars, "DELAY", 0)
    monkeypatch.setattr(bars, "LOGGED", 0)
    bar, lines = drawn(Screen(), monkeypatch), drawn(io.StringIO(), monkeypatch)
    assert bar.startswith("\rreading:   0%") and "\n" not in bar
    assert len(lines.splitlines()) == 3 and "\r" not in lines and "4.00k/4.00k" in lines
