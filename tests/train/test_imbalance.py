"""Class weights, focal loss, logit adjustment and sampling of a run: what is said, passed on and refused."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxdino.core.errors import UserError
from jaxdino.train.setup import prepare
from tests.train import tiny


def config(*stages: dict, **data):
    """A config with a stage for each set of changes: "sampling", and settings of the objective."""
    made = tiny.config(*[1] * len(stages))
    with made.unlocked():
        made.data.update(data)
        for stage, given in zip(made.stages, stages, strict=True):
            stage.sampling = given.pop("sampling", None)
            stage.objective = ConfigDict(given)
    return made


def test_a_stage_has_its_own_weights_and_sampling():
    said = []
    setup = prepare(
        config(
            dict(class_weights="balanced", focal_gamma=2.0),
            dict(sampling="balanced", class_weights="balanced", logit_adjustment=1.0),
            dict(logit_adjustment=0.5, class_weights="effective", effective_beta=0.9),
        ),
        said.append,
    )
    counts = np.bincount(setup.task.source.split("train").labels)
    first, second, third = (setup.task.objective(part, {}) for part in setup.parts)
    np.testing.assert_allclose(first.class_weights, counts.sum() / (10 * counts))
    assert (first.focal_gamma, first.logit_offset) == (2.0, None)
    np.testing.assert_allclose(second.class_weights, 1.0)  # of the shares as they are drawn
    np.testing.assert_allclose(second.logit_offset, np.log(0.1))
    np.testing.assert_allclose(third.logit_offset, 0.5 * np.log(counts / counts.sum()))
    number = (1 - 0.9**counts) / 0.1
    np.testing.assert_allclose(third.class_weights, (1 / number) / np.mean(1 / number))
    assert [setup.task.train_batches(part).state()["sampling"] for part in setup.parts] == [
        "uniform",
        "balanced",
        "uniform",
    ]
    lines = [line for line in said if line.startswith("stage")]
    assert lines[0].startswith("stage 'head': class_weights: 0 ")
    assert lines[1].startswith("stage 'last': sampling=balanced: the ") and "times each in an epoch" in lines[1]
    assert len(lines) == 4


def test_settings_of_all_stages():
    made = config({}, {}, sampling="square_root")
    made.objective.class_weights = "effective"
    setup = prepare(made, lambda _: None)
    assert {part.stage.sampling for part in setup.parts} == {"square_root"}
    one, other = (setup.task.objective(part, {}) for part in setup.parts)
    assert one == other and len(one.class_weights) == 10


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(class_weights=(1.0, 2.0)), r"class_weights has 2 values for 10 classes: .* order: 0, 1, 2"),
        (dict(class_weights="balansed"), "class_weights='balansed' is not known; nearest: balanced; or give a number"),
        (dict(class_weights=0.0), "class_weights=0.0 must be in"),
        (dict(focal_gamma=-1.0), "focal_gamma=-1.0 must be at least 0"),
        (dict(effective_beta=1.0), "effective_beta=1.0 must be in"),
        (dict(logit_adjustment=float("nan")), "logit_adjustment=nan is no number"),
        (dict(focal=2.0), "the objective has no field 'focal'.*nearest: focal_gamma"),
        (dict(sampling="balance"), "sampling='balance' is not known.*nearest: balanced"),
    ],
)
def test_wrong_settings_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        prepare(config(given), lambda _: None)
