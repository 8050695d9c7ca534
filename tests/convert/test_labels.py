"""Names of classes: one for each class of the head, by number, or none and a line that says so."""

import pytest

from convert.card import Card
from convert.label_fields import label_fields
from convert.labels import class_names, purpose, thresholds
from convert.readers import Source
from jaxdino.core.errors import UserError
from jaxdino.models import heads, registry
from jaxdino.models.heads.linear import LinearHeadConfig

NUMBERED = {"2": "c", "0": "a", "1": "b"}


def named(config: dict, classes: int = 3) -> tuple:
    return class_names(Source("pth", {}, [], {"path": "x"}, config=config), classes)


@pytest.mark.parametrize(
    "config",
    [
        {"id2label": NUMBERED},
        {"id2label": {2: "c", 0: "a", 1: "b"}},
        {"label2id": {"c": 2, "a": 0, "b": 1}},
        {"label2id": {"c": "2", "a": "0", "b": "1"}},
        {"label_names": ["a", "b", "c"]},
        {"pretrained_cfg": {"label_names": ["a", "b", "c"]}},
        {"label_names": {"1": "b", "0": "a", "2": "c"}},
    ],
)
def test_names_come_by_number(config):
    assert named(config) == (("a", "b", "c"), [])


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "a", "1": "b"},
        {"1": "a", "2": "b", "3": "c"},
        {"0": None, "1": None, "2": None},
    ],
)
def test_names_that_do_not_fit_the_head_are_said(labels):
    names, (note,) = named({"id2label": labels})
    assert names == () and "id2label does not name the head's classes 0 to 2" in note
    assert named({"id2label": labels}, classes=0) == ((), [])


@pytest.mark.parametrize("field", ["id2label", "label2id"])
@pytest.mark.parametrize("labels", [["a", "b", "c"], "a, b, c", {"a": "x", "b": "y", "c": "z"}])
def test_names_without_numbers_are_refused(field, labels):
    with pytest.raises(UserError, match=f"{field} in config.json cannot be understood"):
        named({field: labels})


def saying(config: dict, **notes) -> Source:
    return Source("pth", {}, [], {"path": "x"}, config=config, notes=notes)


def test_a_head_for_images_with_several_labels():
    several = {"problem_type": "multi_label_classification"}
    (line,) = purpose(saying(several), 3)
    assert "multi_label_classification" in line and "at least 0.5" in line and "`threshold`" in line
    assert thresholds(saying(several), 3) == (0.5, 0.5, 0.5)
    (line,) = purpose(saying({"problem_type": "regression"}), 3)
    assert line.startswith("warning: ") and "regression" in line
    for config, classes in ((several, 0), ({}, 3), ({"problem_type": "single_label_classification"}, 3)):
        assert purpose(saying(config), classes) == [] and thresholds(saying(config), classes) == ()


def test_our_notes_hold_the_thresholds_of_several_labels():
    noted = saying({}, head=heads.to_json(LinearHeadConfig(3, "cls", (0.1, 0.2, 0.3))))
    assert thresholds(noted, 3) == (0.1, 0.2, 0.3) and purpose(noted, 3) == []
    assert thresholds(saying({}, head=heads.to_json(LinearHeadConfig(3))), 3) == ()


@pytest.mark.parametrize("thresholds", [(), (0.1, 0.2)])
def test_transformers_is_told_of_several_labels(thresholds):
    head = LinearHeadConfig(2, "cls", thresholds)
    found = label_fields(Card(registry.get("dino_vits16"), head, ("a", "b")))
    assert found.pop("problem_type", None) == ("multi_label_classification" if thresholds else None)
    assert found == {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
