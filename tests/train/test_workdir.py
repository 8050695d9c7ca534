"""Run folders that an earlier version wrote."""

import json

import pytest

from configs import clipdinosam, gradual, multilabel, segment_linear, ssl
from jaxdino.core.errors import UserError
from jaxdino.train.older_runs import ADDED, ADDED_TO_VIEWS
from jaxdino.train.recorded import plain
from jaxdino.train.workdir import Workdir


@pytest.mark.parametrize("config", [gradual, ssl, clipdinosam])
def test_a_folder_without_the_newer_settings_is_of_the_same_run(config, tmp_path):
    config = config.get_config()
    old, removed = plain(config), 0
    for part, values in ADDED.items():
        found = old.get(part, {})
        for name in [name for name, value in plain(values).items() if name in found and found[name] == value]:
            del found[name]
            removed += 1
    for view in old["data"].get("views", ()):
        removed += sum(view.pop(name, None) is not None for name in ADDED_TO_VIEWS)
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert removed and Workdir(tmp_path, config).lengthened == []


@pytest.mark.parametrize(
    ("config", "monitor"),
    [
        (gradual, "val/accuracy"),
        (gradual, "val_accuracy"),
        (multilabel, "val/map"),
        (segment_linear, "val/miou"),
        (clipdinosam, "val/miou"),
    ],
)
def test_a_folder_that_names_the_default_metric_is_of_the_same_run(config, monitor, tmp_path):
    """Configs named it; now it is open, and the task's own metric is taken."""
    config = config.get_config()
    assert config.early_stopping.monitor is None
    old = plain(config)
    old["early_stopping"]["monitor"] = monitor
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert Workdir(tmp_path, config).lengthened == []
    old["early_stopping"]["monitor"] = "val/loss"
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match=r'early_stopping\.monitor: "val/loss" there, null now'):
        Workdir(tmp_path, config)


@pytest.mark.parametrize(
    ("path", "value"),
    [("early_stopping.monitor", 5), ("early_stopping.monitor", ["val/loss"]), ("objective.name", [1]), ("model", "x")],
)
def test_a_damaged_config_is_named(path, value, tmp_path):
    config = gradual.get_config()
    old = plain(config)
    *parts, last = path.split(".")
    (old[parts[0]] if parts else old)[last] = value
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match=rf"{path} is of another form"):
        Workdir(tmp_path, config)
