"""Name what differs between two identities of a data set: classes, files, labels, sizes, contents, order."""

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from jaxdino.core.words import few
from jaxdino.data.identity import COLUMNS, SHORT, Identity

SHOWN = 3  # names listed of each kind
LONGEST = 120  # characters of a name
WORDS = {"names": "names or order of the files", "values": "labels", "sizes": "sizes", "contents": "contents"}
Places = dict[str, tuple[str, int]]  # {name: (split, row)}
Sizes = dict[str, tuple[str, str]]  # {name: (split, size)}


def changes(old: Identity, new: Identity) -> list[str]:
    """Return a line for each kind of difference, with the first names; [] if there is none.

    Contents count only if both sides have read them.
    """
    renamed = _renamed(old, new)
    lines = _classes(old, new, renamed)
    lines += [f"split {name}: gone" for name in old.splits if name not in new.splits]
    lines += [f"split {name}: new" for name in new.splits if name not in old.splits]
    differing = [name for name in old.splits if name in new.splits and _columns(old, new, name)]
    if differing or old.splits.keys() != new.splits.keys():
        if all(name in old.records for name in old.splits):
            lines += _files(old, new, renamed)
        else:
            lines += [f"{name}: {_coarse(old, new, name)} (the list of files is missing)" for name in differing]
    if differing and not lines:
        lines = [f"{name}: {_coarse(old, new, name)}" for name in differing]
    return lines


def _columns(old: Identity, new: Identity, split: str) -> list[str]:
    """Return the columns of a split that differ."""
    pairs = [(column, old.splits[split].get(column), new.splits[split].get(column)) for column in COLUMNS]
    return [column for column, there, now in pairs if there != now and None not in (there, now)]


def _coarse(old: Identity, new: Identity, split: str) -> str:
    counts = [one.splits[split].get("records") for one in (old, new)]
    if counts[0] != counts[1]:
        return f"{counts[0]} records there, {counts[1]} now"
    return f"{', '.join(WORDS[column] for column in _columns(old, new, split))} differ"


def _renamed(old: Identity, new: Identity) -> dict[str, str]:
    """Return {old class: new class} where the files are the same, or, where none are known by class, the number is."""
    gone = [name for name in old.class_names if name not in new.class_names]
    added = [name for name in new.class_names if name not in old.class_names]
    there, now = _by_class(old), _by_class(new)
    found: dict[str, str] = {}
    for name in gone:
        for other in added:
            if there and now:
                alike = there.get(name) and there.get(name) == now.get(other)
            else:
                same_number = len(old.class_names) == len(new.class_names)
                alike = same_number and old.class_names.index(name) == new.class_names.index(other)
            if alike and other not in found.values():
                found[name] = other
                break
    return found


def _by_class(one: Identity) -> dict[str, set[tuple[str, str]]]:
    """Return {class: {(file name, size)}}, for records with one class each."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for records in one.records.values():
        for name, value, size in zip(records.names, records.values, records.sizes, strict=True):
            if not value.isdecimal() or int(value) >= len(one.class_names):
                return {}
            found[one.class_names[int(value)]].add((posixpath.basename(name), size))
    return found


def _classes(old: Identity, new: Identity, renamed: Mapping[str, str]) -> list[str]:
    pairs = [f"{name} -> {other}" for name, other in renamed.items()]
    lines = [f"{_counted(len(pairs), 'class', 'classes')} renamed: {_few(pairs)}"] * bool(pairs)
    gone = [name for name in old.class_names if name not in new.class_names and name not in renamed]
    added = [name for name in new.class_names if name not in old.class_names and name not in renamed.values()]
    lines += [f"{_counted(len(gone), 'class', 'classes')} gone: {_few(gone)}"] * bool(gone)
    lines += [f"{_counted(len(added), 'class', 'classes')} added: {_few(added)}"] * bool(added)
    now = {name: label for label, name in enumerate(new.class_names)}
    kept = [(renamed.get(name, name), label) for label, name in enumerate(old.class_names)]
    moved = [f"{name} {label} -> {now[name]}" for name, label in kept if name in now and now[name] != label]
    return lines + [f"the label changes of {_counted(len(moved), 'class', 'classes')}: {_few(moved)}"] * bool(moved)


def _files(old: Identity, new: Identity, renamed: Mapping[str, str]) -> list[str]:
    """Return lines about files, given the lists of both sides; a file below a renamed class counts as the same."""

    def moved(name: str) -> str:
        return "/".join(renamed.get(part, part) for part in name.split("/")) if renamed else name

    there = {moved(name): place for name, place in _places(old).items()}
    now = _places(new)
    gone, added = [name for name in there if name not in now], [name for name in now if name not in there]
    lines = []
    sizes_there = {name: (there[name][0], _cell(old, there[name], "sizes")) for name in gone}
    sizes_now = {name: (now[name][0], _cell(new, now[name], "sizes")) for name in added}
    pairs: dict[str, str] = {}
    for part in (posixpath.dirname, posixpath.basename):
        pairs = pairs or _pairs(sizes_there, sizes_now, part)
    if pairs:
        shown = _few(f"{name} -> {other}" for name, other in pairs.items())
        lines.append(f"{_counted(len(pairs), 'file')} renamed or moved (same size): {shown}")
    for word, names, places, taken in (
        ("gone", gone, there, set(pairs)),
        ("added", added, now, set(pairs.values())),
    ):
        for split in dict.fromkeys(places[name][0] for name in names if name not in taken):
            found = [name for name in names if name not in taken and places[name][0] == split]
            lines.append(f"{split}: {_counted(len(found), 'file')} {word}: {_few(found)}")
    common = [name for name in there if name in now]
    shifted = [f"{one} ({there[one][0]} -> {now[one][0]})" for one in common if there[one][0] != now[one][0]]
    lines += [f"{_counted(len(shifted), 'file')} moved to another split: {_few(shifted)}"] * bool(shifted)
    for column in COLUMNS[1:]:
        cells = [(n, _shown(old, there[n], column, renamed), _shown(new, now[n], column, {})) for n in common]
        lines += _cells(column, [row for row in cells if row[1] != row[2] and "" not in row[1:]])
    explained = gone or added or shifted or renamed
    return lines if explained else lines + _order(old, new)


def _places(one: Identity) -> Places:
    return {name: (split, row) for split, found in one.records.items() for row, name in enumerate(found.names)}


def _cell(one: Identity, place: tuple[str, int], column: str) -> str:
    return getattr(one.records[place[0]], column)[place[1]]


def _shown(one: Identity, place: tuple[str, int], column: str, renamed: Mapping[str, str]) -> str:
    """Return an entry as it is compared: classes by name, since `_classes` names those whose number changes."""
    text = _cell(one, place, column)
    if column != "values":
        return text
    numbers = text.split(",")
    if not all(part.isdecimal() and int(part) < len(one.class_names) for part in numbers):
        return text or "none"
    names = (one.class_names[int(part)] for part in numbers)
    return ", ".join(sorted(renamed.get(name, name) for name in names))


def _cells(column: str, found: list[tuple[str, str, str]]) -> list[str]:
    """Return the line about entries (name, there, now) that differ."""
    if not found:
        return []
    hashed = column == "contents" or (column == "values" and any(len(row[1]) == SHORT for row in found))
    shown = [name if hashed else f"{name} ({there} -> {now})" for name, there, now in found]
    what = "labels, masks or prompts" if column == "values" and hashed else WORDS[column]
    return [f"{what} of {_counted(len(found), 'record')} differ: {_few(shown)}"]


def _order(old: Identity, new: Identity) -> list[str]:
    """Return lines about records in another order."""
    lines = []
    for split in (name for name in old.records if name in new.records):
        pairs = zip(old.records[split].names, new.records[split].names, strict=False)
        first = next(((row, *pair) for row, pair in enumerate(pairs) if pair[0] != pair[1]), None)
        if first:
            row, name, other = first
            lines.append(f"{split}: the order of the records differs, first record {row}: {name} -> {other}")
    return lines


def _pairs(gone: Sizes, added: Sizes, part: Callable[[str], str]) -> dict[str, str]:
    """Return {gone file: added file} of the same split, size and folder (or name), where there is one such pair.

    Args:
      part: returns the folder or the name.
    """
    sides = []
    for files in (gone, added):
        found = defaultdict(list)
        for name, size in files.items():
            found[part(name), size].append(name)
        sides.append(found)
    there, now = sides
    return {found[0]: now[key][0] for key, found in there.items() if len(found) == len(now.get(key, ())) == 1}


def _counted(number: int, word: str, several: str = "") -> str:
    return f"{number:,} {word if number == 1 else several or word + 's'}"


def _few(names: Iterable[str]) -> str:
    return few([name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}" for name in names], SHOWN)
