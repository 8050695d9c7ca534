"""Keep compiled programs between runs, with jax's persistent compilation cache in a folder of the user."""

import os
import platform
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

CHOSEN = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
SETTINGS = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1", "JAX_COMPILATION_CACHE_MAX_SIZE": str(4 << 30)}
"""Environment variable -> value, if it is not set: the shortest compilation that is kept, and the most bytes in all."""


def to_stderr(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr)


def keep_programs(say: Callable[[str], None] = to_stderr) -> Path | None:
    """Let jax read compiled programs from the user's cache folder, and write new ones there. Return the folder.

    A program is found again only for the same computation, versions, flags and device. The folder is
    `$XDG_CACHE_HOME/jaxdino` or `~/.cache/jaxdino`, with one folder for each kind of processor: programs for a CPU use
    its instructions. At 4 GiB the programs that were not used for longest are deleted. Returns None and changes nothing
    if one of `CHOSEN` is set, or if the folder cannot be written.

    Args:
      say: called with one line when the folder is created.
    """
    if any(name in os.environ for name in CHOSEN):
        return None
    try:
        folder = place(os.environ)
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    _set({"JAX_COMPILATION_CACHE_DIR": str(folder)} | SETTINGS)
    if new:
        say(
            f"compiled programs are kept in {folder} for later runs; JAX_COMPILATION_CACHE_DIR names another folder, "
            "JAX_ENABLE_COMPILATION_CACHE=0 keeps none"
        )
    return folder


def place(environment: Mapping[str, str]) -> Path:
    """Return the cache folder for this processor."""
    home = environment.get("XDG_CACHE_HOME")
    base = Path(home) if home and os.path.isabs(home) else Path.home() / ".cache"
    return base / "jaxdino" / "programs" / f"{platform.machine()}-{zlib.crc32(instructions()):08x}"


def instructions() -> bytes:
    """Return the names of the CPU's instruction sets, where Linux lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")


def _set(variables: Mapping[str, str]) -> None:
    """Set environment variables of jax that are not set, and the options of a jax that is already imported."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    if "jax" in sys.modules:
        import jax

        for name, value in new.items():
            option = name.lower()
            jax.config.update(option, type(getattr(jax.config, option) or value)(value))
