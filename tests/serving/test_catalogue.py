"""The models of a server: reloading."""

import asyncio
import threading
import time
import weakref
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")

from jaxdino.serving.server import catalogue
from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.settings import ServeSettings


class Model(SimpleNamespace):
    """Unlike its base, it can be referred to weakly."""


def made(place, number):
    """A model without weights."""
    work = SimpleNamespace(warm=lambda say: None, read=lambda record, asked: None, compute=list)
    spec = SimpleNamespace(preprocess=SimpleNamespace(mean=(0.0, 0.0, 0.0)))
    model = Model(name="m", digest=f"digest {number}", card=SimpleNamespace(spec=spec))
    return catalogue.Served(place, model, {"embed": work})


def test_two_reloads_at_a_time_leave_one_model(monkeypatch, tmp_path):
    place, numbers, loop = catalogue.Place("m", "1", str(tmp_path)), iter(range(9)), asyncio.new_event_loop()

    def slow(*given):
        time.sleep(0.2)
        return made(place, next(numbers))

    monkeypatch.setattr(catalogue, "opened", slow)
    settings = ServeSettings(request_timeout=0.01)
    first = made(place, "first")
    first.model.itself, before = first.model, weakref.ref(first.model)  # as real ones: freed by the collector alone
    found = catalogue.Catalogue([first], settings, Metrics(), lambda *given, **fields: None)
    del first
    found.start(loop)
    both = [threading.Thread(target=found.reload, args=("m", None)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    for _ in range(50):
        if len(found._batchers) == 1 and before() is None:
            break
        time.sleep(0.05)
    assert list(found._batchers) == [id(found.served["m", "1"].works["embed"])]
    assert before() is None, "a model that was replaced stays in memory"
    found.close()
    loop.close()
