"""Names of classes: one for each class of the head, by number, or none and a line that says so."""

import pytest

from convert.labels import class_names, purpose
from convert.readers import Source
from jaxdino.core.errors import UserError

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


def test_a_head_for_several_classes_at_once_is_said():
    (note,) = purpose({"problem_type": "multi_label_classification"}, 3)
    assert note.startswith("warning: ") and "multi_label_classification" in note
    assert purpose({"problem_type": "multi_label_classification"}, 0) == purpose({}, 3) == []
    assert purpose({"problem_type": "single_label_classification"}, 3) == []
