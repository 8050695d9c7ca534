"""Whole runs of instance segmentation: strategies, exact resumption, devices, files, and what does not fit."""

import json

import numpy as np
import pytest
import tiny_instances
from measured import losses
from midway import Midway
from tiny_instances import config

from convert.store import load_model
from jaxdino import evaluate
from jaxdino.core.errors import UserError
from jaxdino.core.sharding import make_mesh
from jaxdino.data.record import Source
from jaxdino.data.sources import SOURCES, Listing, instance_maps
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig
from jaxdino.train import loop
from jaxdino.train.setup import prepare

DRAWN = True


def few_shapes(cfg):
    """An eighth of the shapes: validation was most of a tiny run."""
    whole = instance_maps.shapes(cfg)
    splits = {name: split.chosen(range(0, len(split), 8)) for name, split in whole.splits.items()}
    return Source("few_shapes", whole.class_names, splits)


SOURCES["few_shapes"] = Listing({"instances": few_shapes})


def made():
    return config("full", steps=4, checkpoint__every_steps=2, ema_decay=0.9, data__name="few_shapes")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run of four steps that trains everything, and what a kill after its third step would leave."""
    root = tmp_path_factory.mktemp("instances")
    loop.run(made(), root / "run", Midway(root / "run", {3: root / "killed"}, saved=2))
    return root / "run", root / "killed"


def test_killed_and_started_again_the_result_is_bit_identical(runs, capsys):
    loop.run(made(), runs[1])
    assert "resuming after step 2" in capsys.readouterr().out
    (card, _), (other, _) = (load_model(folder / "best") for folder in runs)
    assert card.digest == other.digest
    assert card.head == MaskQueriesHeadConfig(15, 8, "tokens", 1, 0, 8, (True,) * 15)


def test_what_a_run_leaves(runs):
    summary = json.loads((runs[0] / "summary.json").read_text())
    assert summary.keys() >= {"test/mask_map", "test/mask_map50", "test/pq", "test/miou"}
    assert all((runs[0] / name).stat().st_size > 1000 for name in ("instances.png", "precision_recall.png"))


def test_an_evaluation_has_the_runs_figures_with_intervals(runs, tmp_path):
    assert evaluate.main(["--workdir", str(runs[0]), "--out", str(tmp_path), "--resamples", "100"]) == 0
    found, summary = (json.loads(file.read_text()) for file in (tmp_path / "evaluation.json", runs[0] / "summary.json"))
    for ours, theirs in {"map": "mask_map", "map50": "mask_map50", "pq": "pq", "sq": "sq", "rq": "rq"}.items():
        one = found["metrics"]["whole"][ours]
        assert one["value"] == pytest.approx(summary[f"test/{theirs}"], abs=2e-3), ours
        assert one["n"] == found["images"] and "interval" in one
    assert "data:image/jpeg" in (tmp_path / "evaluation.html").read_text()


def test_four_devices_equal_one(runs, all_devices, tmp_path):
    loop.run(made(), tmp_path)
    assert make_mesh().size == 4 and len(losses(runs[0])) >= 4
    np.testing.assert_allclose(losses(tmp_path), losses(runs[0]), rtol=2e-4)


def test_what_each_strategy_trains():
    rows = {n: set(prepare(config(n), lambda _: None).parts[0].plan.trainable) for n in tiny_instances.RULES}
    head = {path for path in rows["head"] if path.startswith("head.")}
    assert head == rows["head"] and {"head.query", "head.fc3.bias", "head.class_predictor.kernel"} < head
    assert head < rows["lora"] and head < rows["last"] < rows["full"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(data__name="folder"), "unknown source of objects with masks 'folder'"),
        (dict(objective__width=12), "width=12 of a head of mask queries must be a multiple of 8"),
        (dict(objective__layers=3), "the queries pass through 3 blocks, and the model has 2"),
        (dict(objective__none_weight=0.0), "objective.none_weight=0.0"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        prepare(config(**changes), lambda _: None)
