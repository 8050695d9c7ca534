"""Points at which a recorder may look into a function while it is traced; without one they do nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Recorder(Protocol):
    """Looks at values and models while a function is traced."""

    def value(self, name: str, tree: Any) -> Any:
        """Return a tree of arrays, unchanged in its values."""

    def model(self, model: Any) -> None:
        """Note a model that was just bound to its parameters."""


_recorder: Recorder | None = None


def probe(name: str, tree: T) -> T:
    """Show a tree of arrays to the recorder; return it."""
    return tree if _recorder is None else _recorder.value(name, tree)


def probe_model(model: Any) -> None:
    """Show a model to the recorder."""
    if _recorder is not None:
        _recorder.model(model)


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Let a recorder look at what is traced in the block, in this thread."""
    global _recorder
    before, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = before
