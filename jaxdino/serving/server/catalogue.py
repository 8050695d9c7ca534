"""The models that are served: names, versions, reloading without a gap."""

import asyncio
import dataclasses
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from convert import assumptions
from jaxdino.api.detector import Detector
from jaxdino.api.instances import InstanceModel
from jaxdino.api.model import Model
from jaxdino.api.opening import open_model
from jaxdino.api.run_folder import check_run_folder
from jaxdino.api.segmenter import Segmenter
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.data.channels import Reading
from jaxdino.data.ranges import ARGUMENT
from jaxdino.serving.server import garbage
from jaxdino.serving.server.batcher import Batcher
from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.settings import ServeSettings
from jaxdino.serving.server.uploads import blank_file
from jaxdino.serving.server.work import Asked, Work
from jaxdino.serving.server.works import works_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
FIRST_VERSION = "1"


class Unknown(UserError):
    """There is no such model, version or ability."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a model comes from: a workdir, or what else `jaxdino.load` takes."""

    name: str
    version: str
    source: str


def places(workdir: str | None, models: Sequence[str]) -> list[Place]:
    """Read `--workdir DIR` and each `--model NAME=DIR` or `NAME@VERSION=DIR`.

    Raises:
      UserError: if there is none, a name or version has other characters than `NAME`, or one is given twice.
    """
    found: list[Place] = []
    if workdir is not None:
        name = Path(workdir).resolve().name
        found.append(Place(name if NAME.fullmatch(name) else "model", FIRST_VERSION, workdir))
    for text in models:
        key, _, source = text.partition("=")
        name, _, version = key.partition("@")
        version = version or FIRST_VERSION
        if not source or not NAME.fullmatch(name) or not NAME.fullmatch(version):
            raise UserError(f"--model {text!r}: give NAME=DIR or NAME@VERSION=DIR; names are of letters, digits, . _ -")
        found.append(Place(name, version, source))
    if not found:
        raise UserError("give the model to serve: --workdir DIR, or --model NAME=DIR for several")
    for place in found:
        if sum((place.name, place.version) == (other.name, other.version) for other in found) > 1:
            raise UserError(f"--model {place.name}@{place.version} is given twice: add another @VERSION")
    return found


@dataclasses.dataclass(frozen=True)
class Served:
    """A loaded model, and what it computes.

    Attributes:
      works: {endpoint: work}. state: the `fingerprint` of its folder when it was loaded.
    """

    place: Place
    model: Model
    works: Mapping[str, Work]
    state: str = ""

    @property
    def label(self) -> tuple[str, str]:
        """The model's name and version."""
        return self.place.name, self.place.version

    def work(self, endpoint: str) -> Work:
        """Return the work of an endpoint. Raises Unknown if the model does not have it."""
        if endpoint not in self.works:
            has = " and ".join(f"/{name}" for name in self.works)
            raise Unknown(f"the model {self.place.name} does not serve /{endpoint}; it serves {has}")
        return self.works[endpoint]


def opened(place: Place, settings: ServeSettings, say: Callable[[str], None]) -> Served:
    """Load a model from its folder.

    Raises:
      UserError: as `jaxdino.load`, and for a model that cannot be served.
    """
    if Path(place.source).is_dir():
        check_run_folder(place.source)
    state = fingerprint(place.source)
    model, lines = open_model(place.source, settings.dtype, words=assumptions.IMPORT)
    for line in lines:
        say(f"{place.name}: {line}")
    return Served(place, model, works_of(model, reading_for(model, settings), settings.max_batch), state)


def reading_for(model: Model, settings: ServeSettings) -> Reading:
    """Return how uploaded images are read: as the model says, with the server's limit of pixels."""
    found = model.reading((), settings.sixteen_bit or None, ARGUMENT)
    return dataclasses.replace(found, max_pixels=settings.max_pixels)


def fingerprint(source: str) -> str:
    """Return names, sizes and times of the files of a model, to notice that it was replaced; "" for hub names."""
    top = Path(source)
    top = top / "best" if (top / "best").is_dir() else top
    files = sorted(file for file in top.rglob("*") if file.is_file()) if top.is_dir() else [top]
    try:
        found = [(str(file.relative_to(top)), file.stat()) for file in files]
    except OSError:
        return ""
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}" for name, stat in found)


class Catalogue:
    """The served models by name and version; the last version given of a name is its default.

    Args:
      settings, metrics: of the server. say: called with a line of the log.
    """

    def __init__(self, given: Sequence[Served], settings: ServeSettings, metrics: Metrics, say: Callable[..., None]):
        self.settings, self.metrics, self.say = settings, metrics, say
        self.served: dict[tuple[str, str], Served] = {one.label: one for one in given}
        self.default = given[0].place.name
        self.newest = {one.place.name: one.place.version for one in given}
        self.ready = self.ending = False
        self._batchers: dict[int, Batcher] = {}
        self._tried: dict[tuple[str, str], str] = {}
        self._reloading = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def find(self, name: str | None, version: str | None) -> Served:
        """Return a model; None is the default. Raises Unknown with the nearest name."""
        name = name or self.default
        if name not in self.newest:
            raise Unknown(f"there is no model {name[:80]!r}; {did_you_mean(name, list(self.newest))}")
        label = name, version or self.newest[name]
        if label not in self.served:
            known = [each for one, each in self.served if one == name]
            raise Unknown(f"{name} has no version {label[1][:80]!r}; {did_you_mean(label[1], known)}")
        return self.served[label]

    def batcher(self, work: Work) -> Batcher:
        """Return the queue of a work."""
        return self._batchers[id(work)]

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compile all batch sizes of all models and start their queues. Blocks; called in a thread."""
        self._loop = loop
        for one in list(self.served.values()):
            self._begin(one)
            if self.ending:
                return
        garbage.set_aside()
        self.ready = True
        self.metrics.ready.set(1)
        self.say("ready")

    def _begin(self, one: Served) -> None:
        sizes: list[int] = []

        def compiled(size: int) -> None:
            sizes.append(size)
            if self.ending:  # SIGTERM while it starts: the sizes that are left are not waited for
                raise UserError("the server ends")

        assert self._loop is not None  # set by `start`
        for work in _distinct(one.works):
            work.warm(compiled)
            work.read(blank_file(len(one.model.card.spec.preprocess.mean)), Asked())  # loads the decoders
            self._batchers[id(work)] = Batcher(
                work.compute,
                self._loop,
                max_batch=self.settings.max_batch,
                max_wait=self.settings.max_wait_ms / 1000,
                max_queue=self.settings.max_queue,
                seen=lambda count, seconds, waits: self.metrics.saw_batch(*one.label, count, seconds, waits),
            )
        self.metrics.info.labels(*one.label, one.model.digest[:12]).set(1)
        self.say("compiled", model=one.place.name, version=one.place.version, batch_sizes=sizes)

    def reload(self, name: str, version: str | None) -> Served:
        """Load a model again from its folder and replace it; the one before answers until then. Blocks.

        Raises:
          UserError: if the new one cannot be served; the one before stays.
        """
        with self._reloading:
            before = self.find(name, version)
            self._tried[before.label] = fingerprint(before.place.source)
            try:
                after = opened(before.place, self.settings, lambda line: self.say("note", note=line))
                if not set(before.works) <= set(after.works):
                    lost = " and ".join(f"/{one}" for one in sorted(set(before.works) - set(after.works)))
                    raise UserError(f"the new model of {name} does not serve {lost}: give it another name")
                self._begin(after)
            except Exception as err:
                self.metrics.reloads.labels(name, "refused").inc()
                self.say("reload refused", level="error", model=name, why=str(err))
                raise UserError(f"{name} was not reloaded, the model before is still served: {err}") from err
            self.served[before.label] = after
        if after.model.digest != before.model.digest:
            self.metrics.info.remove(*before.label, before.model.digest[:12])
        self.metrics.reloads.labels(name, "done").inc()
        self.say("reloaded", model=name, version=after.place.version, digest=after.model.digest[:12])
        later = threading.Timer(self.settings.request_timeout, self._retire, [[before]])
        later.daemon = True
        later.start()
        return after

    def changed(self) -> list[Served]:
        """Return the models whose folders have changed since they were loaded or last refused."""
        found = [(one, fingerprint(one.place.source)) for one in self.served.values()]
        return [one for one, state in found if state not in ("", one.state, self._tried.get(one.label))]

    def _end(self, one: Served) -> None:
        """End the queues of a model."""
        for work in _distinct(one.works):
            if batcher := self._batchers.pop(id(work), None):
                batcher.close()

    def _retire(self, replaced: list[Served]) -> None:
        """End a model that was replaced, after the requests that had found it; the list held it, and is emptied."""
        self._end(replaced.pop())
        garbage.set_aside()

    def close(self) -> None:
        """Compute what is queued and end."""
        for one in list(self.served.values()):
            self._end(one)
        garbage.take_back()

    def listed(self) -> list[dict[str, Any]]:
        """Return a description of each model."""
        return [
            {
                "name": one.place.name,
                "version": one.place.version,
                "default": one.place.name == self.default and self.newest[one.place.name] == one.place.version,
                "architecture": one.model.name,
                "digest": one.model.digest,
                "endpoints": list(one.works),
                "prompts": isinstance(one.model, Segmenter),
                "scores": isinstance(one.model, Detector | InstanceModel),
                "classes": list(one.model.class_names),
            }
            for one in self.served.values()
        ]


def _distinct(works: Mapping[str, Work]) -> list[Work]:
    return list({id(work): work for work in works.values()}.values())
