"""Whole runs of segmentation: what each stage trains and leaves alone, how stages follow, what is refused."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from measured import MEASURED
from midway import Midway
from tiny_segment import all_options, config

from convert.store import load_card, load_model
from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.core.rules import patterns
from jaxdino.models import lora, registry
from jaxdino.models.resnet import ResNetConfig
from jaxdino.models.spec import ModelSpec
from jaxdino.train import adapters, loop, state
from jaxdino.train.session import Session
from jaxdino.train.setup import prepare

DRAWN = True

RESNET = ResNetConfig(bottleneck=False, depths=(1, 1), widths=(8, 12), reduction=1, stem=8)
registry.MODELS["small_resnet"] = ModelSpec("small_resnet", "resnet", RESNET, pool="mean")


def timeless(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def prepared(made):
    return prepare(made, lambda _: None)


@pytest.fixture(scope="module")
def run4(tmp_path_factory) -> tuple[Path, list[tuple[dict, dict]]]:
    """The folder of a run of all stages, and of each: all leaves of what it hands on, and of what it ended with."""
    ended = []

    class Watched(Session):
        def end(self, part, current):
            both = (state.whole(one, current["frozen"]) for one in (current["best"], current["moving"]))
            ended.append(tuple(map(sharding.gather, both)))
            super().end(part, current)

    folder = tmp_path_factory.mktemp("segment") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Session", Watched)
        loop.run(config(2, 2, 2, 2), folder)
    return folder, ended


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """The folder of a run of the first stage alone."""
    folder = tmp_path_factory.mktemp("segment") / "one"
    loop.run(config(2, stage=1), folder)  # the step that run4 compiles
    return folder


PROJECTIONS = {
    *(f"backbone.token_projection.{name}" for name in ("norm.scale", "norm.bias")),
    *(f"backbone.token_projection.{name}.{leaf}" for name in ("fc1", "fc2") for leaf in ("kernel", "bias")),
    *(f"backbone.token_to_mask.neck.{n}.kernel" for n in (0, 2)),
    *(f"backbone.token_to_mask.neck.{n}.{leaf}" for n in (1, 3) for leaf in ("scale", "bias")),
    *(f"backbone.token_to_mask.{name}" for name in ("similarity", "text.kernel", "text.bias")),
}
ATTENTIONS = (
    *(f"layers.{n}.{name}" for n in (0, 1) for name in ("self_attn", "cross_attn_token_to_image")),
    *(f"layers.{n}.cross_attn_image_to_token" for n in (0, 1)),
    "final_attn_token_to_image",
)
DECODER_LAYERS = (
    *(f"transformer.{name}.{part}_proj" for name in ATTENTIONS for part in ("q", "k", "v", "out")),
    *(f"transformer.layers.{n}.mlp.lin{m}" for n in (0, 1) for m in (1, 2)),
    *(f"output_hypernetworks_mlps.{n}.layers.{m}" for n in range(4) for m in range(3)),
    *(f"iou_prediction_head.layers.{n}" for n in range(3)),
)
DECODER_LORA = {f"backbone.sam.mask_decoder.{name}.lora.{leaf}" for name in DECODER_LAYERS for leaf in "ab"}
DINO_LORA = {f"backbone.dino.blocks.1.attn.qkv.lora.{part}.{leaf}" for part in "qv" for leaf in "ab"}
BLOCK = {
    *(f"{name}.{leaf}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2") for leaf in ("kernel", "bias")),
    *(f"norm{n}.{leaf}" for n in (1, 2) for leaf in ("scale", "bias")),
    *(f"ls{n}.gamma" for n in (1, 2)),
}
DINO = {
    *(f"backbone.dino.blocks.{n}.{name}" for n in (0, 1) for name in BLOCK),
    *(f"backbone.dino.{name}" for name in ("cls_token", "mask_token", "register_tokens", "norm.scale", "norm.bias")),
    *(f"backbone.dino.patch_embed.proj.{leaf}" for leaf in ("kernel", "bias")),
}


def test_each_stage_trains_its_own_paths_and_no_other():
    found = [set(part.plan.trainable) for part in prepared(config(1, 1, 1, 1)).parts]
    first, second = PROJECTIONS | DECODER_LORA, PROJECTIONS | DECODER_LORA | DINO_LORA
    assert found == [first, second, second, PROJECTIONS | DECODER_LORA | DINO]


def test_what_a_stage_does_not_train_keeps_its_bits(run4):
    parts = prepared(config(2, 2, 2, 2)).parts
    _, ended = run4
    for (old, _), (_, new), part in zip(ended, ended[1:], parts[1:], strict=False):
        trained = set(part.plan.trainable)
        kept = {path for path in old if path in new and not (part.stage.name == "full" and "backbone.dino" in path)}
        assert kept - trained and all(np.array_equal(old[path], new[path]) for path in kept - trained)
        assert any(not np.array_equal(old[path], new[path]) for path in kept & trained), part.stage.name
    assert not any("backbone.dino" in path for path in lora.leaves(ended[-1][1]))


def test_the_summary_has_a_row_for_each_stage(run4):
    folder, _ = run4
    summary = json.loads((folder / "summary.json").read_text())
    rows = summary["stages"]
    assert [row["name"] for row in rows] == ["align", "adapt", "refine", "full"]
    assert all(row.keys() >= {"val/miou", "val/dice", "trainable_params", "seconds"} for row in rows)
    assert [row["val/miou"] for row in rows] == sorted(row["val/miou"] for row in rows)
    assert summary["val/miou"] == pytest.approx(rows[-1]["val/miou"], abs=1e-5)  # measured again, on best/
    assert len(summary["val/per_prompt"]) == 15 and "test/iou_50" in summary
    assert (folder / "segmentation.png").stat().st_size > 1000 and (folder / "val_miou.png").is_file()
    assert "backbone.dino.blocks.1.attn.qkv.lora.q.a" in rows[1]["trainable_paths"]
    name = "backbone.sam.mask_decoder.transformer.layers.{0,1}.self_attn.q_proj.lora.b"
    assert all(name in row["trainable_paths"] for row in rows)


def test_a_stage_goes_on_from_the_folder_of_the_one_before_on_four_devices(first, all_devices, tmp_path):
    loop.run(config(0, 1, stage=2, model__weights=str(first)), tmp_path / "two")
    cards = [load_card(folder / "best") for folder in (first, tmp_path / "two")]
    assert [card.source["stage"] for card in cards] == ["align", "adapt"]
    assert [bool(card.spec.config.dino_lora) for card in cards] == [False, True]
    assert all(card.spec.config.decoder_lora.rank == 2 for card in cards)
    (_, old), (_, new) = (load_model(folder / "best") for folder in (first, tmp_path / "two"))
    assert all(np.array_equal(old[path], new[path]) for path in old if path.startswith("backbone.clip"))


def test_a_checkpoint_of_another_stage_is_refused(first):
    with pytest.raises(UserError, match=r"stage 4 \(full\) continues stage 3 \(refine\).*'align'"):
        prepared(config(0, 0, 0, 1, stage=4, model__weights=str(first)))


@pytest.mark.parametrize("dora", [False, True])
def test_no_progress_is_lost_when_adapters_are_merged_go_on_or_begin(dora):
    setup = prepared(config(1, 1, 0, 1))
    align, adapt, full = (setup.task.spec_of(part.stage) for part in setup.parts)
    if dora:

        def spec(one):
            given = {name: getattr(one.config, f"{name}_lora") for name in ("dino", "decoder")}
            given = {f"{n}_lora": s and dataclasses.replace(s, dora=True) for n, s in given.items()}
            return dataclasses.replace(one, config=dataclasses.replace(one.config, **given))

        align, adapt, full = map(spec, (align, adapt, full))
    rng = np.random.default_rng(0)
    first = adapters.refitted(setup.task.spec, align, dict(setup.task.flat), 0)
    drawn = {p: np.float32(rng.normal(size=x.shape) * 0.05) if p.endswith(".b") else x for p, x in first.items()}
    images = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
    text = rng.normal(size=(2, 1, 64)).astype(np.float32)

    def answer(spec, flat):
        net = bind(spec.skeleton(), flat).backbone
        return np.asarray(net.masks(net.tokens(images), text)[0])

    second = adapters.refitted(align, adapt, drawn, 1)
    begun = lora.leaves(set(second) - set(drawn))
    assert begun and all("dino" in path for path in begun)
    assert all(np.array_equal(second[path], drawn[path]) for path in drawn)
    np.testing.assert_array_equal(answer(align, drawn), answer(adapt, second))
    third = {
        p: np.float32(rng.normal(size=x.shape) * 0.05) if p in begun and p.endswith(".b") else x
        for p, x in second.items()
    }
    fourth = adapters.refitted(adapt, full, third, 2)
    assert not any("dino" in path for path in lora.leaves(fourth)) and lora.leaves(fourth)
    np.testing.assert_allclose(answer(full, fourth), answer(adapt, third), atol=1e-5, rtol=1e-4)
    assert not np.allclose(answer(adapt, third), answer(adapt, second), atol=1e-3)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> tuple[Path, Path]:
    """The folder of a run of two stages with every option, and what a kill after its third step would have left."""
    root = tmp_path_factory.mktemp("segment")
    loop.run(all_options(), root / "options", Midway(root / "options", {3: root / "killed"}))
    return root / "options", root / "killed"


def test_a_killed_run_goes_on_to_the_same_weights(options, capsys):
    whole, killed = options
    assert not json.loads((killed / "summary.json").read_text())["finished"]
    loop.run(all_options(), killed)
    assert re.search(r"resuming after step [23]\b", capsys.readouterr().out)
    assert timeless(whole) == timeless(killed)
    assert load_card(whole / "best").digest == load_card(killed / "best").digest


def test_all_options_of_a_stage_train_together(options):
    parts = prepared(all_options()).parts
    assert any("clip" in path for path in lora.leaves(parts[0].plan.trainable))
    assert "backbone.clip.text.token_embedding" in parts[1].plan.trainable
    assert "backbone.sam.mask_decoder.iou_token.embedding" in parts[1].plan.trainable
    last = timeless(options[0])[-1]
    assert last.keys() >= {"dice_loss", "bce_loss", "iou_loss", "align_loss", "ssl_loss"} and last["ssl_loss"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(stage=5), r"no stage 5.*1 \(align\)"),
        (dict(stage=2), "stage 2 continues stage 1"),
        (dict(stages__0__lora__decoder__targets=("q_prj",)), "q_proj"),
        (dict(stages__0__lora__decoder__rank=0), "rank=0"),
        (dict(stages__1__lora__dino__last_blocks=9), "last_blocks=9"),
        (dict(text__name="clip_tinny"), "clip_tiny"),
        (dict(sam__name="clip_tiny"), "sam_tiny"),
        (dict(data__image_size=18), "18"),
        (dict(prompts__templates=("{} " * 1 + "very " * 90,)), "tokens long"),
        (dict(objective__dice=0.0, objective__bce=0.0, objective__iou=0.0), "nothing to learn from"),
        (dict(objective__align=-1.0), "align=-1"),
        (dict(early_stopping__monitor="val.mIoU"), "val/miou"),
        (
            dict(early_stopping__monitor="val/loss", stages__0__objective__iou=0.5),
            "cannot compare stages with different objectives: monitor",
        ),
        (dict(data__root="DIR"), "data.root=DIR is not read: data.name is 'shapes'.*data.name=masks"),
        (dict(model__in_channels=4), r"model\.in_channels: an image encoder of 4 channels; segmentation needs"),
        (dict(model__name="small_resnet", model__configured_for="small_resnet"), "image encoder must be a ViT"),
    ],
)
def test_bad_input_is_one_clear_error(changes, message):
    with pytest.raises(UserError, match=message):
        prepared(config(1, 1, 1, 1, **changes))


def test_patterns_put_numbers_together():
    assert patterns(["a.0.x", "a.1.x", "b", "a.0.y"]) == ["a.{0,1}.x", "b", "a.0.y"]
    assert patterns(["a.0.b.1", "a.1.b.0"]) == ["a.0.b.1", "a.1.b.0"]
