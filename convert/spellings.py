"""Rename the keys of a checkpoint that was saved with in-memory names (`state_dict()`) to the published names."""

import re
from collections.abc import Iterable, Mapping

from convert.byte_ranges import ByteRange, Joined
from convert.family import Spelling
from jaxdino.core.errors import UserError

WRAPPERS = re.compile(r"(?<=\.\d)(\d*)\.(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
"""Words that torch.compile, FSDP and activation checkpointing add after a block's number."""
ByteRanges = Mapping[str, ByteRange | Joined]


def published(spans: ByteRanges, spellings: Iterable[Spelling]) -> tuple[dict[str, ByteRange | Joined], list[str]]:
    """Return the tensors with their published names, and a line for each network that was renamed.

    Raises:
      UserError: if the file has a tensor under both names.
    """
    found = {WRAPPERS.sub(r"\1", key): span for key, span in spans.items()}
    found, said = (found if len(found) == len(spans) else dict(spans)), []
    for spelling in spellings:
        for prefix in _prefixes(found, spelling):
            found = _renamed(found, prefix, spelling)
            where = f"under {prefix!r} " if prefix else ""
            said.append(f"the names {where}are those of {spelling.what}: read and exported as the published ones")
    return found, said


def _prefixes(spans: ByteRanges, spelling: Spelling) -> list[str]:
    first, *rest = spelling.witness
    found = (key.removesuffix(first) for key in spans if key.endswith(first))
    return [p for p in found if (not p or p.endswith(".")) and all(p + key in spans for key in rest)]


def _renamed(spans: ByteRanges, prefix: str, spelling: Spelling) -> dict[str, ByteRange | Joined]:
    """Rename each key to its published name; join parts that are one tensor in the published layout."""
    named: dict[str, ByteRange | Joined] = {}
    parts: dict[str, dict[int, str]] = {}
    for key, span in spans.items():
        own, n = _translated(key.removeprefix(prefix), spelling) if key.startswith(prefix) else (None, None)
        target = key if own is None else prefix + own
        if n is None:
            if target in named:
                raise UserError(f"{key} and {target} are two names of one tensor, and the file holds both")
            named[target] = span
        else:
            parts.setdefault(target, {})[n] = key
            named.setdefault(target, span)
    for target, keys in parts.items():
        named[target] = Joined(target, tuple(spans[keys[n]] for n in sorted(keys)))
    return named


def _translated(key: str, spelling: Spelling) -> tuple[str | None, int | None]:
    """Return (published name, index of the part if there are several); (None, None) for other keys."""
    for memory, name in spelling.names:
        several = isinstance(memory, tuple)
        for n, template in enumerate(memory if several else (memory,)):
            pattern = re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)")
            if match := re.fullmatch(rf"{pattern}\.(?P<rest>.+)", key):
                place = f"{name}.{match['rest']}".replace("{i}", match.groupdict().get("i") or "")
                return place, n if several else None
    return None, None
