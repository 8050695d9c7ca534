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


def test_the_bar_of_a_stage_is_lines_in_a_log(monkeypatch):
    monkeypatch.setattr(bars, "LOGGED", 0)
    seen = []
    for stream in (Screen(), io.StringIO()):
        monkeypatch.setattr("sys.stderr", stream)
        with bars.stage_bar(4, 1, "head (1 of 3)", hidden=False) as drawn:
            bars.show(drawn, "loss 0.5")
            drawn.update()
        seen.append(stream.getvalue())
    assert "|" in seen[0] and "\r" in seen[0]
    assert "\r" not in seen[1] and seen[1].splitlines()[-1] == "head (1 of 3):  50% 2/4 steps [00:00, loss 0.5]"


def test_a_log_gets_few_lines(monkeypatch):
    monkeypatch.setattr("sys.stderr", stream := io.StringIO())
    with bars.stage_bar(400, 0, "head", hidden=False) as drawn:
        for step in range(400):
            bars.show(drawn, f"loss {step}")
            drawn.update()
    assert stream.getvalue() == ""
