"""Images on their way through the server: how many are decoded at a time."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")

from jaxdino.serving.server.answering import Answering
from jaxdino.serving.server.batcher import Batcher
from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.refusal import Refusal
from jaxdino.serving.server.settings import ServeSettings

FILES = [(f"{n}.png", b"") for n in range(20)]


class Large:
    """A work that keeps its images large, and counts those that are decoded."""

    most_decoded = 3

    def __init__(self, wait: float):
        self.wait, self.decoded, self.most, self.lock = wait, 0, 0, threading.Lock()

    def read(self, record, asked):
        with self.lock:
            self.decoded += 1
            self.most = max(self.most, self.decoded)
        return record.row

    def compute(self, items):
        time.sleep(self.wait)
        with self.lock:
            self.decoded -= len(items)
        return items


def computed(work, requests, **settings):
    """Answer requests of 20 images each at a time; return their results, and the queue."""

    async def main():
        given = ServeSettings(threads=4, **settings)
        batcher = Batcher(work.compute, asyncio.get_running_loop(), max_batch=8, max_wait=0.01, max_queue=1000)
        catalogue = SimpleNamespace(batcher=lambda _: batcher)
        answering = Answering(catalogue, given, Metrics(), [])
        served = SimpleNamespace(label=("a", "1"))
        each = (answering._computed(served, work, FILES, None, {}) for _ in range(requests))
        found = await asyncio.gather(*each, return_exceptions=True)
        await asyncio.to_thread(batcher.close)
        answering.close()
        return found, batcher

    return asyncio.run(main())


def test_few_large_images_are_decoded_at_a_time():
    work = Large(0.001)
    found, batcher = computed(work, 3)
    assert [list(one) for one in found] == [list(range(20))] * 3
    assert work.most <= 3 and batcher.held == 0 and batcher._expected == 0


def test_a_request_that_waits_too_long_gives_all_its_places_back():
    work = Large(0.3)
    found, batcher = computed(work, 2, request_timeout=0.2)
    assert all(isinstance(one, Refusal) and one.status == 503 for one in found)
    assert batcher.held == 0 and batcher._expected == 0
