"""Recognise the names of splits: the usual names of training, validation and test folders, lists and files."""

import re
import shlex
from collections.abc import Iterable, Mapping

from jaxdino.core.errors import UserError
from jaxdino.core.rules import nearest

SPLITS = ("train", "val", "test")
ROOT, NONE = ".", "none"
"""Values of `train_split` and of all `*_split`: the root itself; no folder, even if one has a usual name."""

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
AFFIXES = frozenset(("set", "split", "data", "dataset", "image", "images", "img", "imgs", "folder"))


def _parts(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return (split, the other words) of a name such as TrainingSet or flowers_test; split is None if unknown."""
    found, rest = [], []
    for word in re.findall(r"[^\W\d_]+", name.casefold()):
        bare = next((word.removesuffix(end) for end in AFFIXES if word.removesuffix(end) in WORDS), word)
        if bare in WORDS:
            found.append(WORDS[bare])
        elif word not in AFFIXES:
            rest.append(word)
    return (found[0] if len(found) == 1 else None), tuple(rest)


def split_of(name: str) -> str | None:
    """Return the split of a name with any case and affixes (TRAIN, train_set, val2017), or None."""
    split, rest = _parts(name)
    return None if rest else split


def split_word(name: str) -> str | None:
    """Return the split whose word a name contains, such as train_red or val.X; None for no split or several."""
    return _parts(name)[0]


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Return {name: split} for the names that stand for a split.

    Besides the usual names, these are names that share another word: seg_train and seg_test.
    """
    parts = {name: _parts(name) for name in names}
    kinds: dict[tuple[str, ...], set[str]] = {}
    for split, rest in parts.values():
        if split:
            kinds.setdefault(rest, set()).add(split)
    return {name: split for name, (split, rest) in parts.items() if split and (not rest or len(kinds[rest]) > 1)}


def flag(split: str, value: str) -> str:
    """Return the flag that names the folder of a split."""
    return f"--config.data.{split}_split={shlex.quote(value)}"


def assign(
    names: Iterable[str],
    given: Mapping[str, str | None],
    where: str,
    known: Iterable[str] | None = None,
    way: str = "",
) -> dict[str, str]:
    """Return {split: name}: the names in `given`, and usual names for the other splits.

    Args:
      names: names that may be used without being given, such as those of folders that hold folders.
      given: {split: name}; None looks for a usual name, "none" leaves the split out.
      where: the place of the names, for messages.
      known: all names that `given` may use; `names` if None.
      way: another way out if two names match, for messages.

    Raises:
      UserError: if a given name does not exist or is used twice, or two names match the same split.
    """
    names = list(names)
    chosen = named(given, names if known is None else list(known), where)
    usual = splits_of(name for name in names if name not in chosen.values())
    for split in SPLITS:
        if given.get(split) is not None:
            continue
        found = [name for name, meant in usual.items() if meant == split]
        if len(found) > 1:
            raise UserError(
                f"{where} has both {' and '.join(found)}, and each could be the {split} split: name the right one "
                f"with {flag(split, found[0])}{way}"
            )
        if found:
            chosen[split] = found[0]
    return {split: chosen[split] for split in SPLITS if split in chosen}


def named(given: Mapping[str, str | None], known: list[str], where: str) -> dict[str, str]:
    """Return {split: name} of the names that are given. Raise UserError for one that is not known or given twice.

    The arguments are those of `assign`.
    """
    chosen = {split: name for split, name in given.items() if name is not None and (name != NONE or NONE in known)}
    for split, name in chosen.items():
        if name not in known:
            first = [other for other in known if "/" not in other]
            found = ", ".join(first) if 0 < len(first) <= 8 else near_names(name, known) or "nothing"
            raise UserError(f"{split}_split is {name!r}, which is not in {where}; found: {found}")
        if list(chosen.values()).count(name) > 1:
            raise UserError(f"{name!r} is given for two splits: {' '.join(flag(*item) for item in chosen.items())}")
    return chosen


def near_names(name: str, names: Iterable[str]) -> str:
    """Return the names most similar to `name`, ignoring case, separated by commas."""
    by_case = {other.casefold(): other for other in names}
    return ", ".join(by_case[other] for other in nearest(name.casefold(), by_case))


def missing_train(where: str, found: Mapping[str, str], names: Iterable[str]) -> UserError:
    """Return the error for a data set without a training split."""
    others = [name for name in names if name not in found.values()]
    beside = f" beside {', '.join(others[:8])}" if others else ""
    return UserError(
        f"{where} has no train folder; found: {', '.join(found.values())}{beside}. Name it with "
        f"{flag('train', others[0] if len(others) == 1 else 'NAME')}; if all of these are classes, give "
        f"{flag('train', ROOT)} (the root itself)"
    )
