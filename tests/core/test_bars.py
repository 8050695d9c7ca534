"""Progress on standard error."""

import io

import pytest

from jaxdino.core import bars


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[Screen, io.StringIO])
def stream(request, capsys, monkeypatch):
    found = request.param()
    monkeypatch.setattr("sys.stderr", found)
    return found


def test_what_is_done_at_once_shows_no_bar(stream, capsys):
    assert list(bars.bar([1, 2, 3], "images")) == [1, 2, 3]
    assert stream.getvalue() == "" and capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar_and_a_log_gets_lines(stream, monkeypatch, capsys):
    monkeypatch.setattr(bars, "DELAY", 0)
    monkeypatch.setattr(bars, "LOGGED", 0)
    flat = {"a": Array(1000), "b": Array(3000)}
    assert [path for path, _ in bars.by_bytes(flat, "reading")] == ["a", "b"]
    drawn = stream.getvalue()
    assert "reading: 100%" in drawn and "4.00k/4.00k" in drawn and capsys.readouterr().out == ""
    assert ("\r" in drawn) == stream.isatty() and ("\n" in drawn) != stream.isatty()


class Array:
    def __init__(self, nbytes: int):
        self.nbytes = nbytes
