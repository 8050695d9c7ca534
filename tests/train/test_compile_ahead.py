"""The next stage's step is compiled in a thread while a stage trains, and is the same program."""

import threading

import jax
import numpy as np
import pytest
import tiny

from convert.store import load_model
from jaxdino.train import step
from jaxdino.train.compile_ahead import CompileAhead
from jaxdino.train.loop import run


@pytest.fixture
def made(monkeypatch):
    """(stage, thread, step) of each jitted step of the runs of a test, in order."""
    found, jitted = [], CompileAhead.jitted

    def kept(self, part, current):
        found.append((part.index, threading.current_thread() is threading.main_thread(), jitted(self, part, current)))
        return found[-1][2]

    monkeypatch.setattr(CompileAhead, "jitted", kept)
    return found


@pytest.fixture
def compiled(monkeypatch):
    """What the main thread compiled for its first batch, in order."""
    found, plain = [], step.compiled
    monkeypatch.setattr(step, "compiled", lambda *given: found.append(given) or plain(*given))
    return found


def config():
    changed = tiny.config(1, 1)
    changed.stages[1].batch_size = 32
    return changed


def test_later_stages_compile_in_a_thread_and_give_the_same_model(tmp_path, made, compiled, monkeypatch):
    run(config(), tmp_path / "ahead")
    assert len(compiled) == 1 and [jitted._cache_size() for _, main, jitted in made if main] == [0, 0]
    assert [stage for stage, main, _ in made if not main] == [1]

    monkeypatch.setattr(CompileAhead, "begin", lambda self, part, batch: None)
    run(config(), tmp_path / "plain")
    assert len(compiled) == 3
    (_, ahead), (_, plain) = (load_model(tmp_path / name / "best") for name in ("ahead", "plain"))
    assert ahead.keys() == plain.keys() and all(np.array_equal(ahead[path], plain[path]) for path in ahead)


@pytest.mark.parametrize(
    ("expected", "by_hand", "programs"),
    [(lambda batch, part, after: {}, 2, [0, 0]), (lambda batch, part, after: doubled(batch), 1, [0, 1])],
    ids=["no step can be made", "other shapes"],
)
def test_a_stage_compiles_its_own_step_if_the_batch_is_another_than_expected(
    tmp_path, made, compiled, monkeypatch, expected, by_hand, programs
):
    monkeypatch.setattr("jaxdino.train.compile_ahead.batch_shapes", expected)
    run(tiny.config(1, 1), tmp_path / "run")
    assert len(compiled) == by_hand
    assert [jitted._cache_size() for _, main, jitted in made if main] == programs


def doubled(batch):
    return {name: jax.ShapeDtypeStruct((2 * len(x), *x.shape[1:]), x.dtype) for name, x in batch.items()}
