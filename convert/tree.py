"""Flatten a checkpoint's nested containers: tensors by joined key, and the other values."""

import numpy as np

from convert.torch_names import Callee, NumpyArray, NumpyType, StorageType, Tensor
from jaxdino.core.errors import UserError

MAX_ENTRIES = 300_000
MAX_NAMES = 32_000_000
"""Limits of a checkpoint: entries, and characters of all their names. An entry takes about 300 bytes."""
MAX_SCANNED = 50_000_000
MAX_DEPTH = 64
MAX_KEY = 4096
MAX_LISTED = 64
LEAVES = (str, bytes, bool, int, float, complex, type(None), np.generic, np.dtype)


def unlisted(tree: object, where: str) -> tuple[object, list[str]]:
    """Return the only network's state in a list or tuple, and a note on which item it is; return others unchanged.

    Optimiser states (`state` and `param_groups`) are skipped.

    Raises:
      UserError: if several items, or none, hold named tensors.
    """
    said: list[str] = []
    while isinstance(tree, (list, tuple)):
        kind, items = type(tree).__name__, list(tree[:MAX_LISTED])
        named = {n: names for n, item in enumerate(items) if (names := _names(item)) and not _is_optimiser(item)}
        if len(named) != 1 or len(tree) > MAX_LISTED:
            held = "; ".join(f"[{n}] {', '.join(names)}, ..." for n, names in named.items())
            few = f"{len(named)} of its {len(tree)} items hold networks ({held})" if named else "no item holds any"
            raise UserError(
                f"{where}: holds a {kind}, not a dictionary of named tensors: {few}. Save the one you mean: "
                f"torch.save(torch.load('{where}', weights_only=True)[N], 'weights.pth')"
            )
        place = next(iter(named))
        said.append(f"the file holds a {kind} of {len(tree)}: item {place} was taken, the only one with a network")
        tree = items[place]
    return tree, said


def _names(item: object) -> list[str]:
    """Return the first tensor names in an item, [] if it has none."""
    found, seen, todo = [], 0, [("", "", item, 0)]
    while todo and len(found) < 2 and seen < MAX_ENTRIES:
        (above, key, node, depth), seen = todo.pop(), seen + 1
        name = _joined(above, key)[:MAX_KEY]
        if isinstance(node, Tensor) and depth:
            found.append(name)
        elif depth < MAX_DEPTH and isinstance(node, (dict, list, tuple)) and len(node) + len(todo) <= MAX_ENTRIES:
            inner = _children(node) or []
            todo.extend((name, key, value, depth + 1) for key, value in reversed(inner))
    return found


def _joined(above: str, key: object) -> str:
    return f"{above}.{key}" if above else str(key)


def _is_optimiser(item: object) -> bool:
    return isinstance(item, dict) and item.keys() == {"state", "param_groups"}


def flatten(tree: object, where: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Join nested keys with "." and separate the tensors from the other values.

    Lists are flattened if they hold more than plain values. Raise UserError if two joined keys are equal, there is no
    tensor, or the tree is too deep, too large, or contains itself.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{where}: holds a {type(tree).__name__}, not a dictionary of tensors")
    tensors: dict[str, Tensor] = {}
    extras: dict[str, object] = {}
    seen, scanned, names, todo = 0, 0, 0, [("", "", tree, 0)]
    while todo:
        above, key, node, depth = todo.pop()
        prefix = _joined(above, key) if depth else ""
        if depth > MAX_DEPTH or len(prefix) > MAX_KEY:
            raise UserError(f"{where}: {prefix[:80]!r} is nested more than {MAX_DEPTH} deep, or its name is too long")
        seen, scanned = seen + 1, scanned + (len(node) if isinstance(node, (list, tuple)) else 0)
        held = len(node) if isinstance(node, dict) else 0
        children = _children(node) if held <= MAX_ENTRIES and scanned <= MAX_SCANNED else None
        if seen + len(todo) + max(held, len(children or ())) > MAX_ENTRIES or scanned > MAX_SCANNED:
            raise UserError(f"{where}: holds more than {MAX_ENTRIES} entries, or contains itself")
        if children is None:
            names += len(prefix)
            if names > MAX_NAMES:
                raise UserError(f"{where}: the names of its entries have more than {MAX_NAMES} characters")
            if prefix in tensors or prefix in extras:
                raise UserError(f"{where}: two entries are both named {prefix!r}")
            (tensors if isinstance(node, Tensor) else extras)[prefix] = _leaf(node)
        else:
            todo.extend((prefix, key, value, depth + 1) for key, value in reversed(children))
    if not tensors:
        names = ", ".join(key[:40] for key in list(extras)[:5])
        raise UserError(f"{where}: holds no tensor (found {names or 'nothing'})")
    return tensors, extras


def _children(node: object) -> list | None:
    if isinstance(node, dict):
        return list(node.items())
    if isinstance(node, (list, tuple)) and not all(isinstance(item, LEAVES) for item in node):
        return list(enumerate(node))
    return None


def _leaf(node: object) -> object:
    if isinstance(node, (NumpyArray, NumpyType)):
        return node.value
    return node.name if isinstance(node, (Callee, StorageType)) else node
