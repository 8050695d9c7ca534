"""How many slices a step takes a batch in, if that is left open."""

import dataclasses

import jax
import pytest
import tiny
import tiny_distill

from benchmarks.ours import stage_of
from jaxdino.core.json_file import write_json
from jaxdino.models import few_images, registry
from jaxdino.train.setup import prepare
from jaxdino.train.slicing import keep_slices, plan_lines, sliced_stage, tokens

VIT = tokens(registry.get("vit_small_patch16_224"), [(224, 224)])


def slices(batch: int, each: int = VIT, devices: int = 1, **more) -> int | None:
    return sliced_stage(stage_of("all", batch_size=batch, **more), each, devices).accumulate


def test_large_batches_are_divided_on_a_cpu():
    assert (slices(32), slices(30), slices(64, devices=4)) == (8, 10, 4)
    assert (slices(8), slices(32, each=10), slices(32, each=0), slices(13)) == (1, 1, 1, 1)
    assert (slices(32, accumulate=1), slices(32, accumulate=2)) == (1, 2)


def test_batches_stay_whole_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert slices(32) == 1


def test_only_wide_transformers_are_divided():
    assert VIT == 197
    assert tokens(registry.get("dinov3_vits16"), [(224, 224), (96, 96)]) == 201 + 41
    assert tokens(registry.get("resnet50"), [(224, 224)]) == 0
    assert tokens(tiny.SPEC, [(224, 224)]) == 0


@pytest.mark.parametrize("given", [None, 1])
def test_a_run_says_in_how_many_slices_it_trains(given, monkeypatch):
    monkeypatch.setattr(few_images, "NARROW", 0)
    made = tiny.config(1, batch_size=64, data__image_size=32, optimizer__accumulate=given)
    (part,) = prepare(made, lambda _: None).parts
    assert part.stage.accumulate == (given or 8)
    assert ("64 images in 8 slices of 8" in plan_lines(part)) == (given is None)
    whole = dataclasses.replace(part, stage=dataclasses.replace(part.stage, accumulate=1))
    assert "slices" not in plan_lines(whole)


@pytest.mark.parametrize("use_bn", [False, True])
def test_views_are_divided_unless_the_heads_normalise_over_the_batch(use_bn, monkeypatch):
    monkeypatch.setattr(few_images, "NARROW", 0)
    monkeypatch.setattr(few_images, "LARGE", 512)
    (part,) = prepare(tiny_distill.config(1, projection__use_bn=use_bn), lambda _: None).parts
    assert (part.stage.accumulate == 1) == use_bn


@pytest.mark.parametrize(("before", "now", "kept"), [(1, None, 1), (2, 4, 4), (None, None, None)])
def test_a_resumed_run_keeps_its_slices(before, now, kept, tmp_path):
    write_json(tmp_path / "config.json", {"optimizer": {"accumulate": before}})
    config = tiny.config(1, optimizer__accumulate=now)
    keep_slices(config, tmp_path)
    assert config.optimizer.accumulate == kept
