"""Suggest the right spelling of a wrong setting: the nearest by its last word, anywhere in the config."""

import difflib
import re
from collections.abc import Iterable, Mapping

from jaxdino.settings.tree import Setting

MOST = 3
PLACES = (
    (r"stages\[\]\.groups\.\w+\.\w+", "{} belongs to the groups of a stage"),
    (r"stages\[\]\..*", "{} belongs to a stage"),
)
"""Path of a setting -> what to say if it is found nowhere else."""
ELSEWHERE = {
    **dict.fromkeys(("learning_rate", "base_lr"), "lr"),
    **dict.fromkeys(("num_epochs", "max_epochs", "n_epochs"), "epochs"),
    **dict.fromkeys(("max_steps", "num_steps", "iterations"), "steps"),
    **dict.fromkeys(("batch", "bs", "train_batch_size"), "batch_size"),
    **dict.fromkeys(("img_size", "input_size", "resolution"), "image_size"),
    **dict.fromkeys(("wd",), "weight_decay"),
    **dict.fromkeys(("data_dir", "data_path", "dataset_dir", "path", "dir", "folder"), "root"),
    **dict.fromkeys(("pretrained", "checkpoint_path", "pretrained_weights", "ckpt"), "weights"),
    **dict.fromkeys(("augmentation", "aug"), "augment"),
    **dict.fromkeys(("freeze",), "frozen"),
    **dict.fromkeys(("workers",), "num_workers"),
    **dict.fromkeys(("fp16", "bf16", "amp", "dtype"), "precision"),
    **dict.fromkeys(("smoothing",), "label_smoothing"),
}
"""Names of settings in other libraries -> the last word of the name here."""
ALL = "--help-config lists all settings"


def advice(path: str, text: str | None, known: Mapping[str, Setting]) -> str:
    """Suggest settings for an unknown one, as flags with the given value.

    Args:
      path: the unknown path, without "--config.".
      text: the given value, if there is one.
    """
    value = "" if text is None else f"={text}"
    plain = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", path.replace("-", "_"))
    if plain in known:
        return f"there is no such setting; write --config.{plain}{value}"
    if below := [one for one in known if one.startswith((f"{plain}.", f"{plain}["))]:
        return f"a part of the config, not a setting: {_flags(below[:MOST], '')}, ...; {ALL}"
    if stages := _out_of_range(plain, known):
        return f"there is no such setting; {stages}"
    found = _alike(plain, known)
    if not found:
        return f"there is no such setting; {ALL}"
    general = [known[one].general for one in found]
    fitting = (phrase for pattern, phrase in PLACES if all(re.fullmatch(pattern, one) for one in general))
    said = next(fitting, "nearest").format(known[found[0]].name)
    numbered = f"; stages: {_names(known)}" if any("[" in one for one in general) else ""
    return f"there is no such setting; {said}: {_flags(found, value)}{numbered}; {ALL}"


def _alike(path: str, known: Mapping[str, Setting]) -> list[str]:
    """Return the paths most similar to a wrong one: those with the same or a similar last word; one for all stages."""
    last = re.sub(r"\[\d+\]$", "", path).rpartition(".")[2]
    words = {one.name for one in known.values()}
    last = ELSEWHERE.get(last, last)
    same = [last] if last in words else difflib.get_close_matches(last, words, n=MOST, cutoff=0.7)
    chosen = [one for one in known.values() if one.name in same]
    if not chosen:
        return difflib.get_close_matches(path, known, n=MOST, cutoff=0.7)
    frozen = {path.rpartition(".")[0] for path, one in known.items() if one.name == "frozen" and one.value}
    trained = [one for one in chosen if one.path.rpartition(".")[0] not in frozen] or chosen
    firsts: dict[str, str] = {}
    for one in trained:
        firsts.setdefault(one.general, one.path)

    def rank(place: str) -> tuple[int, bool, float]:
        inside = place.startswith("stages[") and not path.startswith("stage")
        return same.index(known[place].name), inside, -difflib.SequenceMatcher(None, path, place).ratio()

    return sorted(firsts.values(), key=rank)[:MOST]


def _out_of_range(path: str, known: Mapping[str, Setting]) -> str | None:
    """Return a message for an index that is too large: how many entries there are."""
    for found in re.finditer(r"\[\d+\]", path):
        start = path[: found.start()]
        numbers = {int(n[1]) for one in known if (n := re.match(rf"{re.escape(start)}\[(\d+)\]\.", one))}
        if numbers and int(found[0][1:-1]) not in numbers:
            return f"{start} has {_names(known) if start == 'stages' else f'the numbers 0 to {max(numbers)}'}"
    return None


def _names(known: Mapping[str, Setting]) -> str:
    """List the stages with their numbers: "[0] head, [1] all"."""
    named = (re.fullmatch(r"stages(\[\d+\])\.name", path) for path in known)
    return ", ".join(f"{one[1]} {known[one[0]].value}" for one in named if one)


def _flags(paths: Iterable[str], value: str) -> str:
    return ", ".join(f"--config.{path}{value}" for path in paths)
