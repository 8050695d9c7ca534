"""Adapters as stages of a strategy: what they move, what they leave, one set after another."""

import numpy as np
import pytest
import tiny

from configs import common
from convert.store import load_model
from jaxdino import optim
from jaxdino.core.errors import UserError
from jaxdino.models import lora
from jaxdino.train.loop import run
from jaxdino.train.setup import prepare

RULES = ((common.LORA, "lora"), ("@head", "head"), ("@all", "frozen"))
GROUPS = dict(lora=dict(lr=1e-2, weight_decay=0.0), head=dict(lr=3e-3), frozen=dict(frozen=True))


def config(*ranks: int, **more):
    made = tiny.config(1)
    made.stages = tuple(
        common.stage(f"lora{n}", epochs=1, rules=RULES, groups=GROUPS, lora=dict(rank=rank, targets=("q", "v"), **more))
        for n, rank in enumerate(ranks)
    )
    return made


def test_adapters_of_one_stage_are_merged_and_another_set_starts_anew(tmp_path):
    start = {path: np.asarray(leaf) for path, leaf in prepare(config(2), lambda _: None).task.flat.items()}
    run(config(2, 4), tmp_path / "run")
    _, best = load_model(tmp_path / "run" / "best")
    assert best.keys() == start.keys()
    changed = {path for path in start if not np.array_equal(best[path], start[path])}
    assert {path for path in changed if path.startswith("backbone")} <= {
        f"backbone.blocks.{i}.attn.qkv.kernel" for i in range(2)
    }
    width = tiny.SPEC.config.width
    for path in changed - {"head.kernel", "head.bias"}:
        assert np.array_equal(best[path][:, width : 2 * width], start[path][:, width : 2 * width])  # keys have none


def test_no_moment_of_merged_adapters_goes_on():
    parts = prepare(config(2, 2), lambda _: None).parts
    ages = optim.ages([part.plan for part in parts], lora.leaves(parts[1].plan.trainable))
    assert {ages[path] for path in lora.leaves(ages)} == {0} and ages["head.kernel"] == 1
    labels = [label for label in parts[1].tx.init({p: np.zeros(1) for p in parts[1].plan.trainable})[1].inner_states]
    assert any("age=0" in label for label in labels) and any("age=1" in label for label in labels)


def test_targets_that_match_nothing_are_refused():
    made = config(2)
    made.stages[0].lora.targets = ("attn.qvk",)
    with pytest.raises(UserError, match=r"attn\.qkv"):
        prepare(made, lambda _: None)
