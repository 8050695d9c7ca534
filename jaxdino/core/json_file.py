"""Read and write JSON files: the only place that reads, with limits on size, depth, types and numbers.

What Python's `json` accepts or dies of, and this refuses with one line: values nested too deeply, files too large for
what they are, the same key twice, NaN and Infinity (they are not JSON), numbers beyond 64 bits, and text that cannot
be printed (half of a surrogate pair). Files that are not regular ones (pipes, devices) are not opened.
"""

import contextlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdino.core.errors import UserError

MAX_BYTES = 64 << 20
MAX_DEPTH = 64
LARGEST = 1 << 64
MEMORY = 128 << 20
"""Limits of a file, by default, in bytes; of nested values; of a whole number's absolute value; and of the memory of
all lists, objects and numbers together, in bytes: "{}" takes 40 times as much as in the text."""
COSTS = {"{": 300, "[": 80, ":": 150, ",": 40}
"""About the memory that a character stands for, outside of texts and inside (which is rare)."""
KINDS: Mapping[type, str] = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
KINDS = {**KINDS, bool: "true or false", type(None): "null"}
LONG_NUMBER = re.compile(r"\d{19}|[eE]\+?\d{3}")  # what may be above the limits: only then every number is checked
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(UserError):
    """A file or text that cannot be read as JSON. `reason` is the message without the file's name."""

    def __init__(self, what: object, reason: str):
        super().__init__(f"{what}: {reason}")
        self.reason = reason


def read_json(
    file: str | os.PathLike,
    kind: type | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    max_memory: int = MEMORY,
    any_number: bool = False,
) -> Any:
    """Read a JSON file; see `parse_json`.

    Args:
      max_bytes: largest size of the file.

    Raises:
      JsonError: if the file does not exist or cannot be read, and as in `parse_json`.
    """
    try:
        with open(file, "rb", opener=_without_waiting) as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise JsonError(file, "cannot be read: not a file")
            if found.st_size > max_bytes:
                raise JsonError(file, f"{found.st_size} bytes are above the limit of {max_bytes} for such a file")
            data = stream.read(max_bytes + 1)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the name
        if isinstance(err, JsonError):
            raise
        raise JsonError(file, f"cannot be read: {getattr(err, 'strerror', None) or err}") from None
    return parse_json(data, file, kind, max_bytes=max_bytes, max_memory=max_memory, any_number=any_number)


def _without_waiting(name: Any, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would wait for one


def parse_json(
    text: str | bytes,
    what: object,
    kind: type | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    max_memory: int = MEMORY,
    max_depth: int = MAX_DEPTH,
    any_number: bool = False,
) -> Any:
    """Parse JSON text.

    Args:
      text: bytes are decoded as UTF-8 (with or without a byte order mark), UTF-16 or UTF-32.
      what: the file or flag, for error messages.
      kind: required type of the value, such as dict.
      max_memory: largest estimate of the memory that the value takes, in bytes, without its texts.
      max_depth: largest number of lists and objects inside each other.
      any_number: accept NaN, Infinity and numbers of any size, which other programs write in fields that nobody reads.

    Raises:
      JsonError: if the text is not JSON or is beyond a limit; says where.
    """
    if len(text) > max_bytes:
        raise JsonError(what, f"{len(text)} bytes are above the limit of {max_bytes}")
    try:
        text = text.decode(json.detect_encoding(text)) if isinstance(text, bytes) else text
        if sum(cost * text.count(mark) for mark, cost in COSTS.items()) > max_memory:
            raise JsonError(what, f"its lists and objects would take more than {max_memory >> 20} MB of memory")
        value = json.loads(text.removeprefix("\ufeff"), **_hooks(text, any_number))
        _check_depth(value, max_depth)
        if SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise JsonError(what, f"not valid JSON: nested more than {max_depth} levels deep") from None
    except UnicodeError as err:
        where = f"byte {err.start}" if isinstance(err, UnicodeDecodeError) else "half of a surrogate pair"
        raise JsonError(what, f"not valid JSON: not valid text ({where})") from None
    except JsonError:
        raise
    except ValueError as err:
        raise JsonError(what, f"not valid JSON: {str(err).splitlines()[0][:200]}") from None
    if kind is not None and type(value) is not kind:
        raise JsonError(what, f"must be {KINDS[kind]}, not {KINDS[type(value)]}")
    return value


def _hooks(text: str, any_number: bool) -> dict[str, Any]:
    """Return hooks for `json.loads`: those for each number only if one may be too large, since they are slow."""
    found: dict[str, Any] = {"object_pairs_hook": _once}
    if not any_number:
        found["parse_constant"] = _no_constant
        if LONG_NUMBER.search(text):
            found |= {"parse_int": _whole, "parse_float": _finite}
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:100]!r} twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int:
    if len(digits) > 21 or not -LARGEST < int(digits) < LARGEST:
        raise ValueError(f"the number {digits[:20]}... is beyond 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


def _check_depth(value: Any, most: int) -> None:
    """Raise RecursionError for values nested deeper than `most`."""
    level, nests = [value], (dict, list)
    for _ in range(most):
        inner = (part.values() if type(part) is dict else part for part in level if type(part) in nests)
        level = [one for part in inner for one in part if type(one) in nests]
        if not level:
            return
    raise RecursionError


def write_json(file: Path, value: Any) -> None:
    """Write JSON to a temporary file and rename it, so that a file is never incomplete. NaN and inf become null."""
    beside = file.with_name(file.name + ".part")
    try:
        beside.write_text(json.dumps(finite(value), indent=2, default=str) + "\n")
        os.replace(beside, file)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def finite(value: Any) -> Any:
    """Return nested dicts and lists with None in place of NaN and inf; tuples become lists."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
