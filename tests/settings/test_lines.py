"""Every setting of the shipped configs has a type and a line that says what it means."""

import importlib
from pathlib import Path

import pytest

from configs import common
from jaxdino.data.config import OF_SIZES
from jaxdino.settings.lines import attributes, line_of
from jaxdino.settings.tree import parent_of, settings
from jaxdino.stage import Stage

CONFIGS = sorted(
    path.stem for path in Path(common.__file__).parent.glob("*.py") if path.stem not in ("__init__", "common")
)
OF_SEVERAL_TYPES = ("pos_weight", "class_weights", *OF_SIZES, "size")  # a number, several, or a word


@pytest.mark.parametrize("model", [None, "resnet18"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_setting_has_a_type_and_a_line(name, model):
    found = settings(importlib.import_module(f"configs.{name}").get_config(model))
    assert len(found) > 100
    assert [path for path in found if not line_of(path)] == []
    typed = [one for one in found.values() if one.name not in OF_SEVERAL_TYPES]
    assert {one.kind for one in typed} <= {int, float, bool, str, tuple}


def test_a_line_is_the_attribute_of_the_class_that_declares_the_setting():
    assert line_of("stages[2].groups.head.lr").startswith("peak learning rate")
    assert line_of("data.augment") == line_of("stages[0].augment") == attributes(Stage)["augment"]
    assert attributes(Stage)["monitor"].endswith("are the best")  # the whole of an entry of two lines
    assert line_of("of.my.own") == ""


def test_the_parent_of_a_setting():
    config = common.get_config()
    config.stages = (common.stage("all", (("@all", "all"),), dict(all=dict(lr=1e-3)), epochs=1),)
    node, key = parent_of(config, "stages[0].groups.all.lr")
    assert node is config.stages[0].groups.all and key == "lr"
