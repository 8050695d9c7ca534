"""The way of a request: body, images, queue, results."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from starlette.requests import Request

from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.stored import Stored
from jaxdino.serving.server.batcher import Batcher, Busy
from jaxdino.serving.server.body import Bodies, Files, files_of, urls_of
from jaxdino.serving.server.catalogue import Catalogue, Served, Unknown
from jaxdino.serving.server.fetching import Fetcher
from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.refusal import Refusal, busy
from jaxdino.serving.server.settings import ServeSettings
from jaxdino.serving.server.uploads import records
from jaxdino.serving.server.work import Asked, Seen, Work


class Watcher(Protocol):
    """What is told of every image that was answered."""

    def saw(self, served: Served, endpoint: str, request_id: str, seen: Seen) -> None:
        """Keep what an image gave. Called in the event loop: it must return at once."""


class Answering:
    """Answer requests with the models of a catalogue.

    Args:
      watchers: are told of each image that was answered.
    """

    def __init__(self, catalogue: Catalogue, settings: ServeSettings, metrics: Metrics, watchers: list[Watcher]):
        self.catalogue, self.settings, self.metrics, self.watchers = catalogue, settings, metrics, watchers
        self.bodies, self.fetcher = Bodies(settings), Fetcher(settings)
        self.pool = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        self._places: WeakKeyDictionary[Work, asyncio.Semaphore] = WeakKeyDictionary()

    async def answer(
        self, request: Request, endpoint: str, name: str | None, version: str | None, asked: Asked
    ) -> dict[str, Any]:
        """Return the JSON of an answer. Raises Refusal."""
        log = request.state.log
        if not self.catalogue.ready:
            raise busy("the models are still being compiled: try again", close=True)
        served, work = self._found(endpoint, name, version, asked)
        log["model"], log["version"] = served.label
        body = await self.bodies.read(request.receive, request.headers.get("content-length"))
        held = [len(body)]

        def hold(count: int) -> None:
            self.bodies.hold(count)
            held.append(count)

        try:
            files = await self._files(request.headers.get("content-type", ""), body, hold)
            log["images"] = len(files)
            results = await self._computed(served, work, files, asked, log)
        finally:
            self.bodies.release(sum(held))
        quick = work.quick and len(results) == 1
        given = work, endpoint, results, asked
        answers = _answers(*given) if quick else await asyncio.to_thread(_answers, *given)
        number = request.state.request_id
        rows = [self._row(served, endpoint, number, name, one) for (name, _), one in zip(files, answers, strict=True)]
        self.metrics.images.labels(*served.label, endpoint).inc(len(rows))
        unread = [row["error"] for row in rows if "error" in row]
        if len(unread) == len(rows):
            raise Refusal(422, "bad_image", "; ".join(dict.fromkeys(unread)))
        model, of_version = served.label
        return {"model": model, "version": of_version, "digest": served.model.digest, "results": rows}

    def _found(self, endpoint: str, name: str | None, version: str | None, asked: Asked) -> tuple[Served, Work]:
        try:
            served = self.catalogue.find(name, version)
            work = served.work(endpoint)
            work.check(endpoint, asked)
        except Unknown as err:
            raise Refusal(404, "unknown_model", str(err), close=True) from None
        except UserError as err:
            raise Refusal(422, "bad_parameter", str(err), close=True) from None
        return served, work

    async def _files(self, kind: str, body: bytes, hold: Callable[[int], None]) -> Files:
        if self.settings.allow_url and kind.partition(";")[0].strip().lower() == "application/json":
            return await self.fetcher.files(urls_of(body, self.settings.max_images), hold)
        return files_of(kind, body, self.settings.max_images)

    async def _computed(self, served: Served, work: Work, files: Files, asked: Asked, log: dict[str, Any]) -> list[Any]:
        """Return the result of each image, or its BadImage."""
        batcher, loop, count = self.catalogue.batcher(work), asyncio.get_running_loop(), len(files)
        queue, start = self.metrics.queue.labels(*served.label), time.monotonic()
        try:
            batcher.reserve(count)
        except Busy:
            raise busy() from None
        queue.set(batcher.held)
        futures, begun = [loop.create_future() for _ in files], 0
        try:
            async with asyncio.timeout(self.settings.request_timeout):
                for record, future in zip(records(files), futures, strict=True):
                    await self._room(work, future)
                    self.pool.submit(_read, work, record, asked, batcher, future, loop)
                    begun += 1
                results = await asyncio.gather(*futures, return_exceptions=True)
        except TimeoutError:
            raise busy(f"the result was not there after {self.settings.request_timeout:g} seconds: try again") from None
        finally:
            for future in futures:
                future.cancel()
            batcher.skip(count - begun)
            batcher.release(count)
            queue.set(batcher.held)
        log["model_ms"] = round((time.monotonic() - start) * 1000, 2)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, BadImage | UserError):
                raise result
        return results

    async def _room(self, work: Work, future: asyncio.Future) -> None:
        """Wait until an image of this work may be decoded; it has its place until `future` is done."""
        if not work.most_decoded:
            return
        places = self._places.setdefault(work, asyncio.Semaphore(work.most_decoded))
        await places.acquire()
        future.add_done_callback(lambda _: places.release())

    def _row(self, served: Served, endpoint: str, request_id: str, name: str, answer: Any) -> dict[str, Any]:
        if isinstance(answer, Exception):
            self.metrics.bad.labels(*served.label).inc()
            return {"name": name, "error": str(answer)}
        fields, seen = answer
        self.metrics.saw_classes(*served.label, seen.classes)
        for watcher in self.watchers:
            watcher.saw(served, endpoint, request_id, seen)
        return {"name": name, **fields}

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)


def _answers(work: Work, endpoint: str, results: list[Any], asked: Asked) -> list[Any]:
    """Return (fields, what the watch keeps) of each result, or its error. Masks take long: not in the loop."""
    return [one if isinstance(one, Exception) else work.answer(endpoint, one, asked) for one in results]


def _read(
    work: Work, record: Stored, asked: Asked, batcher: Batcher, future: asyncio.Future, loop: asyncio.AbstractEventLoop
) -> None:
    """Decode an image in a thread, and put it into the queue; an error goes to the future."""
    if future.done():  # the request was given up
        batcher.skip()
        return
    try:
        item = work.read(record, asked)
    except Exception as err:
        batcher.skip()
        loop.call_soon_threadsafe(_fail, future, err)
    else:
        batcher.put(item, future)


def _fail(future: asyncio.Future, err: Exception) -> None:
    if not future.done():
        future.set_exception(err)
