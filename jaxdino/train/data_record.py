"""What the data of a run consists of, kept in its folder and compared when the run is resumed.

data.json      {"format": 1, "sources": {name: {"class_names", "splits": {split: counts and digests}}},
                "model": {"weights", "digest", "classes"}, "accepted": [changes that the user accepted]}
data_files.gz  a line per record, tab-separated: source, split, and the columns of `jaxdino.data.identity`. It only
               serves to name what differs, and is left out above `LISTED` records.
"""

import gzip
import os
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convert.card import Card
from jaxdino.core import processes
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json
from jaxdino.data.changes import changes
from jaxdino.data.config import DataConfig
from jaxdino.data.identity import COLUMNS, MANY, Identity, Records, identify
from jaxdino.data.record import Source
from jaxdino.train.workdir import Workdir

FILE, LISTING, FORMAT = "data.json", "data_files.gz", 1
LISTED = MANY  # records whose names are kept
LONGEST = 1 << 16  # characters of a line of the listing
ACCEPT = "--config.data.accept_change=True"


class DataRecord:
    """The data that a run began with, and the data that it finds now.

    Attributes:
      accepted: the changes that were accepted so far, a text each.

    Raises:
      UserError: if the record is damaged.
    """

    def __init__(self, folder: Workdir, cfg: DataConfig, say: Callable[[str], None]):
        self.folder, self.cfg, self.say = folder, cfg, say
        self.found: dict[str, Identity] = {}
        self.model: dict[str, Any] = {}
        self.saved, fault = _read(folder / FILE)
        self.begun = any(path.name.isdecimal() for path in (folder / "checkpoints").glob("*"))
        if fault and self.begun and not cfg.accept_change:
            raise UserError(f"{fault}: restore it, or resume without comparing the data: {ACCEPT}")
        self.accepted: list[str] = list(self.saved.get("accepted", ()))
        self.new = not self.saved or not self.begun
        if self.begun and not self.saved:
            self.say(
                f"this run has no {FILE}, as those of an earlier version: whether its data has changed since it began "
                "is not known. It is recorded from now on"
            )
            if cfg.accept_change:
                self.accepted.append("the data was not recorded before")

    def check(self, name: str, source: Source) -> None:
        """Compare a source with that of the run's beginning.

        Raises:
          UserError: if it differs, naming what has changed, unless `data.accept_change` is set.
        """
        begin = time.monotonic()
        found = self.found[name] = identify(source, self.cfg.digest)
        if self.cfg.digest:
            self.say(f"{name}: contents of all files read for data.digest in {time.monotonic() - begin:.1f} s")
        old = None if self.new else self._identity(name)
        lines = []
        if old is not None and (lines := changes(old, found)):
            lines = changes(self._listing(name, old), found) or lines
        elif old is None and not self.new:
            lines = ["was not used when the run began"]
        self._refuse([line if name == "data" else f"{name}: {line}" for line in lines], "data has")
        if old is not None:
            self._remark(name, old, found)

    def _remark(self, name: str, old: Identity, found: Identity) -> None:
        """Say which contents were not compared; keep them in the record if they were not read now."""
        known = [all(split.get("contents") for split in one.splits.values()) for one in (old, found)]
        if not self.cfg.digest and any(split["sizes"] is None for split in found.splits.values()):
            self.say(f"{name}: sizes of more than {MANY:,} files are not compared; data.digest compares contents")
        if self.cfg.digest and not known[0]:
            self.say(f"{name}: contents were not recorded so far; they are from now on")
        if known[0] and not known[1]:
            self.say(f"{name}: contents of files are not compared, since data.digest is False this time")

    def check_model(self, card: Card, weights: str | None) -> None:
        """Compare the initial weights and the number of classes with those of the run's beginning.

        Raises:
          UserError: for other weights, unless `data.accept_change` is set; for another number of classes in any case.
        """
        self.model = {"weights": weights, "digest": card.digest, "classes": card.num_classes}
        old = self.saved.get("model", {})
        if not self.new and old["classes"] != card.num_classes:
            raise UserError(
                f"the head in {self.folder.folder} has {old['classes']} classes, and the data now has "
                f"{card.num_classes}: restore the data, or start a new run. {self.folder.way_on()}"
            )
        lines = []
        if not self.new and old["digest"] not in ("", card.digest):
            lines = [f"model.weights={weights}: other parameters, SHA-256 {old['digest'][:12]} -> {card.digest[:12]}"]
        self._refuse(lines, "initial weights have")

    def _refuse(self, lines: list[str], what: str) -> None:
        """Raise UserError if there are changes that are not accepted, in all processes of the run."""
        refused = bool(lines) and not self.cfg.accept_change
        if processes.any_of(f"{what} changed", refused) and not refused:
            raise UserError(f"the {what} changed in another process of this run: see its message")
        if refused:
            raise UserError(
                f"the {what} changed since the run in {self.folder.folder} was started:\n  - "
                + "\n  - ".join(lines)
                + f"\nRestore what was there, or go on with the change: {ACCEPT}. {self.folder.way_on()}"
            )
        for line in lines:
            self.say(f"the {what} changed, as data.accept_change allows: {line}")
        self.accepted += lines

    def keep(self) -> None:
        """Write the record, if it is new or a change was accepted. Only the first process of a run writes.

        Raises:
          UserError: if the processes of the run find different data.
        """
        same = self.accepted == self.saved.get("accepted", [])
        sources = {name: _entry(found, self._before(name)) for name, found in self.found.items()}
        processes.agree("data", self._facts(), "The files, their order, sizes and labels must be equal on all machines")
        if not self.folder.lock.chief or (not self.new and same and sources == self.saved["sources"]):
            return
        _write_listing(self.folder / LISTING, self.found)
        write_json(
            self.folder / FILE,
            {"format": FORMAT, "sources": sources, "model": self.model, "accepted": self.accepted},
        )

    def _facts(self) -> dict[str, str | None]:
        """Return what must be equal in all processes of a run, for the messages of `processes.agree`."""
        splits = {f"{name} {split}": one for name, found in self.found.items() for split, one in found.splits.items()}
        facts = {f"{column} of {name}": str(one[column])[:16] for name, one in splits.items() for column in one}
        return facts | {"SHA-256 of the initial weights": self.model["digest"][:16]}

    def _before(self, name: str) -> Mapping[str, Any]:
        """Return the saved splits of a source, whose contents stay known if they were not read this time."""
        unchanged = not self.new and self.accepted == self.saved.get("accepted", [])
        return self.saved["sources"][name]["splits"] if unchanged else {}

    def _identity(self, name: str) -> Identity | None:
        entry = self.saved["sources"].get(name)
        return entry and Identity(tuple(entry["class_names"]), entry["splits"])

    def _listing(self, name: str, old: Identity) -> Identity:
        """Return the identity with the columns of its records, if the listing is that of the record."""
        counts = {split: found["records"] for split, found in old.splits.items()}
        try:
            records = _read_listing(self.folder / LISTING, name, counts)
        except (OSError, EOFError, ValueError, KeyError, zlib.error):  # missing or damaged
            return old
        pairs = [(records[split].digests(), found) for split, found in old.splits.items()]
        agree = all(now[column] == found[column] for now, found in pairs for column in COLUMNS[:3])
        return Identity(old.class_names, old.splits, records) if agree else old


def _entry(found: Identity, before: Mapping[str, Any]) -> dict[str, Any]:
    splits = {name: dict(split) for name, split in found.splits.items()}
    for name, split in splits.items():
        split["contents"] = split["contents"] or before.get(name, {}).get("contents")
    return {"class_names": list(found.class_names), "splits": splits}


def _read(file: Path) -> tuple[dict[str, Any], str]:
    """Return (the record or {}, what is wrong with it or "")."""
    if not os.path.lexists(file):
        return {}, ""
    try:
        found = read_json(file, dict)
    except JsonError as err:
        return {}, str(err)
    if found.get("format") != FORMAT or not _is_record(found):
        return {}, f"{file} was not written by this version of a run"
    return found, ""


def _is_record(found: Mapping[str, Any]) -> bool:
    """Return whether all parts have the form that `keep` writes."""

    def is_split(one: Any) -> bool:
        words = isinstance(one, dict) and one.keys() >= set(COLUMNS) and [one[column] for column in COLUMNS]
        return (
            isinstance(words, list)
            and type(one.get("records")) is int
            and all(isinstance(w, str | None) for w in words)
        )

    sources, model = found.get("sources"), found.get("model")
    if not isinstance(sources, dict) or not isinstance(model, dict) or not isinstance(found.get("accepted"), list):
        return False
    for one in sources.values():
        names, splits = (one.get("class_names"), one.get("splits")) if isinstance(one, dict) else (None, None)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return False
        if not isinstance(splits, dict) or not all(map(is_split, splits.values())):
            return False
    return isinstance(model.get("digest"), str) and type(model.get("classes")) is int


def _write_listing(file: Path, found: Mapping[str, Identity]) -> None:
    """Write the columns of all records, or nothing for too many; to a temporary file first, which is then renamed."""
    if sum(split["records"] for one in found.values() for split in one.splits.values()) > LISTED:
        file.unlink(missing_ok=True)
        return
    beside = file.with_name(file.name + ".part")
    try:
        with gzip.open(beside, "wt", compresslevel=6, encoding="utf-8", newline="\n") as stream:
            for name, one in found.items():
                for split, records in one.records.items():
                    rows = zip(*(getattr(records, column) for column in COLUMNS), strict=True)
                    stream.writelines("\t".join((name, split, *row)) + "\n" for row in rows)
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)


def _read_listing(file: Path, name: str, counts: Mapping[str, int]) -> dict[str, Records]:
    """Read the columns of a source. Raises OSError, EOFError or ValueError for a damaged file."""
    found = {split: Records([], [], [], []) for split in counts}
    with gzip.open(file, "rt", encoding="utf-8", newline="\n") as stream:
        while line := stream.readline(LONGEST):
            source, split, *row = line.removesuffix("\n").split("\t")
            if source != name:
                continue
            for column, text in zip(COLUMNS, row, strict=True):
                getattr(found[split], column).append(text)
            if len(found[split].names) > counts[split]:
                raise ValueError(f"more than {counts[split]} records")
    return found
