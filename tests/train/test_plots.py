"""The pictures of a run."""

import matplotlib.pyplot as plt
import pytest

from jaxdino.train import plots

DRAWN = True


@pytest.mark.parametrize("highest", [15.0, 0.02])
def test_lines_of_features_are_whole_and_both_axes_named(highest):
    ranks = [highest, highest - 0.01, highest]
    records = [{"step": step, "feature_rank": rank, "feature_std": rank / 20} for step, rank in enumerate(ranks, 1)]
    figure, axes = plt.subplots()
    plots._features(axes, records)
    assert [at.get_ylabel() for at in figure.axes] == ["rank", "spread"]
    for at, top in zip(figure.axes, (highest, highest / 20), strict=True):
        assert at.get_ylim()[0] == 0 and at.get_ylim()[1] > 1.05 * top
    plt.close(figure)


def test_a_single_logged_step_is_seen(tmp_path):
    figures = []
    record = {"step": 4, "stage": "head", "loss": 1.0, "learning_rates": {"head": 0.1, "frozen": None}}

    def paint(axes, records):
        figures.append(axes.figure)
        plots._rates(axes, records)

    plots._picture([record], tmp_path / "one.png", paint)
    assert [line.get_marker() for line in figures[0].axes[0].get_lines()] == ["o", "None"]
    plots._picture([record, record | {"step": 5}], tmp_path / "two.png", paint)
    assert [line.get_marker() for line in figures[1].axes[0].get_lines()] == ["None", "None"]


@pytest.mark.parametrize("values", [[0.05401, 0.05404, 0.05409], [0.25, 0.5417, 0.3333]])
def test_ticks_of_a_metric_that_hardly_moves_differ(values):
    figure, axes = plt.subplots()
    paint = plots.supervised("val/accuracy", "Accuracy")["val_accuracy"]
    paint(axes, [{"step": step, "val/accuracy": value} for step, value in enumerate(values, 1)])
    figure.canvas.draw()
    shown = [tick.get_text() for tick in axes.get_yticklabels()]
    assert len(set(shown)) == len(shown) and axes.yaxis.get_offset_text().get_text() == ""
    assert all(float(text) == pytest.approx(at) for text, at in zip(shown, axes.get_yticks(), strict=True))
    plt.close(figure)
