"""`jaxdino.History`: reading, recording, tables and plots."""

import json

import numpy as np
import pytest

import jaxdino

RECORDS = [
    dict(stage="head", epoch=1, step=1, loss=2.0, learning_rates=dict(head=0.1), time=1.0),
    dict(stage="head", epoch=1, step=2, loss=1.0, learning_rates=dict(head=0.2), time=2.0, **{"val/accuracy": 0.5}),
    dict(stage="all", epoch=1, step=3, loss=0.5, learning_rates=dict(head=0.1, body=0.01), time=3.0),
    dict(stage="all", epoch=1, step=4, loss=None, learning_rates=dict(head=0.1, body=0.02), time=4.0),
]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in RECORDS) + "{damaged\n")
    return folder


def test_a_run_is_read(run):
    history = jaxdino.History.load(run)
    assert history.name == "mine" and len(history.records) == 4
    assert history.metrics == ["loss", "learning_rates/head", "val/accuracy", "learning_rates/body"]
    steps, losses = history.series("loss")
    assert steps.tolist() == [1, 2, 3] and losses.tolist() == [2, 1, 0.5]
    assert [array.tolist() for array in history.series("loss", "epoch")] == [[1, 2], [1.5, 0.5]]
    assert [array.tolist() for array in history.series("val/accuracy", "epoch")] == [[1], [0.5]]


def test_tables(run):
    history = jaxdino.History.load(run / "metrics.jsonl")
    steps, epochs = history.to_dataframe(), history.to_dataframe("epoch")
    assert len(steps) == 4 and steps["learning_rates/body"].isna().tolist() == [True, True, False, False]
    assert epochs["stage"].tolist() == ["head", "all"] and epochs["loss"].tolist() == [1.5, 0.5]
    np.testing.assert_allclose(epochs["learning_rates/head"], [0.15, 0.1])


def test_own_records_are_saved_and_read_again(tmp_path):
    history = jaxdino.History(name="own")
    for loss in (3.0, float("nan"), 1.0):
        history.record(loss=loss, stage="all", rates={"head": 0.1})
    history.save(tmp_path / "metrics.jsonl")
    again = jaxdino.History.load(tmp_path)
    assert [one["step"] for one in again.records] == [1, 2, 3]
    assert again.series("loss")[1].tolist() == [3, 1] and again.series("rates/head")[0].tolist() == [1, 2, 3]
    with pytest.raises(jaxdino.UserError, match="step 2 comes after step 3"):
        history.record(step=2)


def test_plots(run, tmp_path):
    history = jaxdino.History.load(run)
    figure = history.plot(["loss", "learning_rates"], file=tmp_path / "all.png")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["loss", "learning_rates/head", "learning_rates/body"]
    assert axes.get_yscale() == "linear" and history.plot("learning_rates").axes[0].get_yscale() == "log"
    both = jaxdino.History.compare({"one": history, "two": history}, "loss", file=tmp_path / "both.svg")
    assert [line.get_label() for line in both.axes[0].lines] == ["one", "two"]
    assert (tmp_path / "all.png").stat().st_size > 5000 and b"<svg" in (tmp_path / "both.svg").read_bytes()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda history: history.series("val/acuracy"), "no metric 'val/acuracy'; nearest: val/accuracy"),
        (lambda history: history.plot("loss", level="epochs"), "level='epochs' is not known; nearest: epoch"),
        (lambda history: history.to_dataframe("day"), "level='day' is not known"),
    ],
)
def test_unknown_names(run, act, words):
    with pytest.raises(jaxdino.UserError, match=words):
        act(jaxdino.History.load(run))


def test_a_folder_without_metrics(tmp_path):
    with pytest.raises(jaxdino.UserError, match="does not exist: give the --workdir of a run"):
        jaxdino.History.load(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(jaxdino.UserError, match="has no metrics yet"):
        jaxdino.History.load(tmp_path)
