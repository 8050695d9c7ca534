"""Whole runs of self-distillation: what they leave, how they go on, what they refuse, how a collapse ends them."""

import json
import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_distill
from measured import MEASURED
from midway import Midway
from PIL import Image

from convert.load import load_pretrained
from convert.store import load_model
from convert.training_checkpoint import main_export, read_training
from jaxdino.core.errors import UserError
from jaxdino.evals import report
from jaxdino.train import loop
from jaxdino.train.loop import run
from jaxdino.train.progress import Progress
from jaxdino.train.session import Session
from jaxdino.train.setup import prepare
from jaxdino.train.stop import Stopped
from jaxdino.train.watch import Lost

SIGNALS = {
    "loss",
    "teacher_entropy",
    "kl_to_uniform",
    "feature_rank",
    "feature_std",
    "momentum",
    "dino_head_centre_norm",
}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines(folder)]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """The folder of a short run from random weights."""
    folder = tmp_path_factory.mktemp("ssl") / "run"
    run(tiny_distill.config(2, evaluation__linear_steps=64), folder)
    return folder


def three_stages(pretrained: Path):
    """The config of a continuation in three stages."""
    return tiny_distill.continued(str(pretrained / "best"), 1, 1, 1, checkpoint__every_steps=3)


@pytest.fixture(scope="module")
def continued(pretrained, tmp_path_factory) -> tuple[Path, Path, list[dict[str, dict]]]:
    """A continuation in three stages that nothing disturbed.

    Its folder, what a kill after its fourth step would have left, and the backbones that each stage leaves.
    """
    folder, killed, ended = *(tmp_path_factory.mktemp("ssl") / name for name in ("undisturbed", "killed")), []

    class Watched(Session):
        def end(self, part, current):
            super().end(part, current)
            networks = read_training(folder / "training").networks
            ended.append({role: parts["backbone"].flat for role, parts in networks.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Session", Watched)
        run(three_stages(pretrained), folder, Midway(folder, {4: killed}))
    return folder, killed, ended


def test_the_lines_and_the_summary_hold_what_is_promised(pretrained):
    assert all(line.keys() >= SIGNALS for line in lines(pretrained))
    measured = [line["val/knn_accuracy"] for line in lines(pretrained) if "val/knn_accuracy" in line]
    summary = json.loads((pretrained / "summary.json").read_text())
    assert summary["finished"] and summary["val/knn_accuracy"].keys() == {"start", "end", "pixels"}
    assert summary["val/knn_accuracy"]["end"] == measured[-1] and len(measured) == 2
    assert summary["evaluation"]["teacher"].keys() == summary["evaluation"]["student"].keys()
    assert {"loss.png", "entropy.png", "features.png", "knn_accuracy.png"} <= {f.name for f in pretrained.glob("*.png")}
    card, flat = load_model(pretrained / "best")
    assert card.num_classes == 0 and card.spec.preprocess.size == (16, 16)
    assert all(path.startswith("backbone.") for path in flat)


def test_momentum_rises_and_the_weights_move(pretrained):
    momenta = [line["momentum"] for line in lines(pretrained)]
    assert momenta[0] == pytest.approx(0.996) and momenta == sorted(momenta) and momenta[-1] > 0.9998
    whole = read_training(pretrained / "training").networks
    teacher, student = (whole[role]["backbone"].flat for role in ("teacher", "student"))
    assert not np.array_equal(teacher["backbone.norm.scale"], student["backbone.norm.scale"])
    start = prepare(tiny_distill.config(2), lambda _: None).task.flat
    assert not np.array_equal(teacher["backbone.norm.scale"], start["backbone.norm.scale"])


@pytest.mark.slow
def test_killed_and_started_again_the_result_is_bit_identical(pretrained, continued, capsys):
    def interrupt(at: int, step: int) -> None:
        if step == at:
            raise InterruptedError

    whole, killed, _ = continued
    last = lines(whole)[-1]["step"]
    with pytest.raises(InterruptedError):
        run(three_stages(pretrained), killed, partial(interrupt, last - 2))  # in the last stage
    run(three_stages(pretrained), killed)
    found = re.findall(r"resuming after step \d+, in stage (\w+)", capsys.readouterr().out)
    assert found[-1] == "lora"  # the first checkpoint may not have been whole
    assert timeless(whole) == timeless(killed)
    ours, theirs = (read_training(folder / "training") for folder in (whole, killed))
    for role, parts in ours.networks.items():
        for name, part in parts.items():
            assert part.card.digest == theirs.networks[role][name].card.digest, (role, name)
    for head, centre in ours.centres.items():
        assert np.any(centre != 0)
        assert np.array_equal(centre, theirs.centres[head])


@pytest.mark.slow
def test_each_stage_of_a_continuation_moves_what_it_may(pretrained, continued):
    _, start = load_model(pretrained / "best")
    head, before, after = continued[2]
    for flat in head.values():
        assert all(np.array_equal(flat[path], start[path]) for path in start)
    for role in ("teacher", "student"):
        changed = {path for path in start if not np.array_equal(after[role][path], before[role][path])}
        assert changed == {path for path in start if ".attn." in path and path.endswith("kernel")}  # merged adapters
    qkv = "backbone.blocks.0.attn.qkv.kernel"
    assert not np.array_equal(after["teacher"][qkv], after["student"][qkv])


def test_a_checkpoint_in_dinos_layout_holds_teacher_student_and_centre(pretrained, tmp_path):
    main_export(pretrained / "training", tmp_path / "out", layout="dino")
    import torch

    found = torch.load(tmp_path / "out" / "checkpoint.pth", weights_only=True)
    assert {"student", "teacher", "dino_loss"} <= found.keys()
    assert "backbone.blocks.0.attn.qkv.weight" in found["teacher"] and "head.last_layer.weight_v" in found["teacher"]
    assert "module.backbone.cls_token" in found["student"] and found["dino_loss"]["center"].shape == (1, 64)
    teacher = load_pretrained(tmp_path / "out" / "checkpoint.pth", num_heads=2).flat
    ours = load_model(pretrained / "best")[1]
    assert all(np.array_equal(teacher[path], ours[path]) for path in ours if "mask_token" not in path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective__method": "dinov4"}, "nearest: dinov3"),
        ({"objective__centring": "center"}, "nearest: centre"),
        ({"objective__momentum": 1.5}, r"objective.momentum=1.5 must be"),
        ({"objective__gram": 1.0}, "random"),
        ({"objective__mask_ratio": (0.5, 0.1)}, "the smaller first"),
        ({"objective__dino": 0.0}, "nothing to learn from"),
        ({"objective__gram_negatives": "bth"}, "nearest: both"),
        ({"alarms__patience": 0}, "alarms.patience=0"),
        ({"evaluation__every_epochs": 0}, "evaluation.every_epochs=0"),
        ({"evaluation__image_size": 30}, "evaluation.image_size"),
        ({"evaluation__pool": "gird"}, "evaluation.pool 'gird' .* grid"),
        ({"ema_decay": 0.9}, "ema_decay=0.9 is not read"),
        ({"projection__out_dim": 0}, "projection.out_dim=0"),
        ({"data__image_size": 32}, "image_size"),
        ({"early_stopping__monitor": "knn_acuracy"}, "val/knn_accuracy"),
        ({"early_stopping__patience": 3}, "needs a metric to monitor"),
        ({"evaluation__root": "nowhere"}, "nowhere"),
        ({"data__views": ()}, "global views"),
        (
            {"data__views": (tiny_distill.VIEWS[0], dict(kind="local", size=9))},
            r"multiples of 4, as .*views\[1\].size=8 does",
        ),
        ({"data__views": (dict(kind="globl"),)}, "nearest: global"),
    ],
)
def test_what_cannot_work_is_refused_at_once_and_leaves_no_folder(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        made = tiny_distill.config(1)
        with made.unlocked():
            for path, value in changes.items():
                *parents, leaf = path.split("__")
                node = made
                for name in parents:
                    node = node[name]
                node[leaf] = value
        run(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_student_that_is_not_softer_than_its_teacher_is_warned_of():
    said = []
    prepare(tiny_distill.config(1, objective__student_temperature=0.04), said.append)
    assert any("WARNING" in line and "student_temperature=0.04" in line for line in said)
    said.clear()
    prepare(tiny_distill.config(1), said.append)
    assert not any("WARNING" in line for line in said)


def test_a_stop_while_the_end_is_measured_is_heeded_and_the_same_command_goes_on(pretrained, tmp_path, monkeypatch):
    shutil.copytree(pretrained, tmp_path / "run")
    made, folder = tiny_distill.config(2, evaluation__linear_steps=64), tmp_path / "run"
    (folder / "summary.json").unlink()  # as if the run was stopped before its end was measured
    with monkeypatch.context() as patch:
        patch.setattr(report, "draw", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert run(made, folder)["stopped"] == {"why": "by SIGTERM", "step": 16}
    found = run(made, folder)
    assert found["finished"] and timeless(folder) == timeless(pretrained)
    assert found["evaluation"] == json.loads((pretrained / "summary.json").read_text())["evaluation"]


@pytest.mark.parametrize("work", ["_linear", "_accuracies"])
def test_neighbours_and_probes_ask_whether_to_stop(work):
    def check():
        raise Stopped

    task = prepare(tiny_distill.config(1, evaluation__linear_steps=64), lambda line: None).task
    split = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32), np.arange(40) % 10
    with pytest.raises(Stopped):
        getattr(task.retrieval, work)(SimpleNamespace(stop=SimpleNamespace(check=check)), "val", split, split)


def test_the_size_of_the_weights_is_not_said_where_the_views_decide(tmp_path):
    vit = pytest.importorskip("timm.models.vision_transformer").VisionTransformer
    import torch

    model = vit(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=1, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    said, made = [], tiny_distill.config(1, model__name="dino_custom", model__configured_for="dino_custom")
    made.model.weights = str(tmp_path / "w.pth")
    prepare(made, said.append)
    assert any("--config.model.num_heads overrules" in line for line in said)
    assert not any("image_size" in line for line in said)


def test_the_labelled_folder_of_the_evaluation_is_said(tmp_path):
    for place in ("Training/a", "Training/b", "dev/a"):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / place / "1.png")
    said = []
    task = prepare(tiny_distill.config(1, evaluation__root=str(tmp_path)), said.append).task
    line = "evaluation: folder, 2 classes; images: train 2 (Training), val 1 (dev)"
    assert f"{line}\nevaluation: val has no images of 1 of the 2 classes: b" in said
    # Digits have 8 bits, so these images tell their own range.
    assert any(line.startswith("evaluation pixels: 16-bit images hold values up to 4000") for line in said)
    assert task.retrieval.cfg.sixteen_bit == "0,4095" and task.card.spec.preprocess.sixteen_bit == "auto"


def test_evaluation_images_are_read_in_the_range_of_the_training_images(tmp_path):
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / place / "1.png")
    changes = dict(evaluation__root=str(tmp_path), data__sixteen_bit="0,9999")
    task = prepare(tiny_distill.config(1, **changes), lambda line: None).task
    assert task.retrieval.cfg.sixteen_bit == "0,9999"
    session = SimpleNamespace(each=lambda split, batches: batches)
    batch = next(iter(task.retrieval._batches(session, "val")))
    assert np.all(batch["image"][batch["weight"] == 1] == 102)


def test_unreadable_images_of_the_evaluation_are_named_and_counted(tmp_path, capsys):
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / place / "1.png")
    task = prepare(tiny_distill.config(1, evaluation__root=str(tmp_path)), lambda line: None).task
    whole = (tmp_path / "val/b/1.png").read_bytes()
    (tmp_path / "val/b/1.png").write_bytes(whole[: len(whole) // 2])
    session = SimpleNamespace(stop=SimpleNamespace(check=lambda: None), progress=Progress(), _remarked={})
    session.note_bad = partial(Session.note_bad, session)
    session.each = partial(Session.each, session)
    rows = sum(batch["weight"].sum() for batch in task.retrieval._batches(session, "val"))
    assert rows == 1 and list(session.progress.bad) == ["evaluation val"]
    assert list(session.progress.bad["evaluation val"]) == ["val/b/1.png"]
    assert "skipped val/b/1.png: " in capsys.readouterr().out


def test_images_without_labels_train_and_nothing_is_measured_on_them(tmp_path):
    for number in range(32):
        noise = np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
    data = dict(data__name="images", data__root=str(tmp_path / "images"), alarms__stop=False)
    found = run(tiny_distill.config(1, **data), tmp_path / "run")
    assert found["finished"] and "val/knn_accuracy" not in found and found["class_names"] == []


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        (dict(objective__centring="none", objective__momentum=0.9), "constant"),
        pytest.param(
            dict(objective__momentum=0.0, objective__final_momentum=0.0),
            "constant",
            marks=pytest.mark.soak,
        ),
        (dict(objective__teacher_temperature=1.0, objective__warmup_teacher_temperature=1.0), "uniform"),
    ],
    ids=["no centring", "momentum 0", "no sharpening"],
)
def test_a_collapse_ends_the_run_and_leaves_the_last_healthy_weights(tmp_path, changes, kind):
    often = dict(log_every=4, evaluation__every_epochs=100, checkpoint__every_steps=16)
    made = tiny_distill.config(12, data__batch_size=16, **often, **changes)
    made.stages[0].groups.all.lr = 3e-3
    made.alarms.grace_steps = 40
    with pytest.raises(Lost, match=rf"collapse \({kind}\)"):
        run(made, tmp_path / "run")
    saved = sorted(int(folder.name) for folder in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved and saved[-1] < lines(tmp_path / "run")[-1]["step"]
    load_model(tmp_path / "run" / "best")
    assert kind in json.loads((tmp_path / "run" / "summary.json").read_text())["lost"]
    assert (tmp_path / "run" / "entropy.png").exists()


def learning():
    """The config of a run that learns: with this seed; in so few steps others may collapse."""
    made = tiny_distill.config(
        12, log_every=4, evaluation__every_epochs=12, projection__use_bn=True, data__name="digits"
    )
    made.data.batch_size = 64
    made.objective.update(centring="sinkhorn", koleo=0.05, momentum=0.98)
    made.objective.update(teacher_temperature=0.03, warmup_teacher_temperature=0.03)
    made.data.views[0].scale, made.data.views[1].scale = (0.75, 1.0), (0.5, 0.85)  # views with something in common
    made.stages[0].groups.all.lr = 3e-3
    made.alarms.grace_steps, made.seed = 100, 1
    return made


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "run"
    run(learning(), folder)
    return folder


def test_a_run_that_learns_is_left_alone(learned):
    found = json.loads((learned / "summary.json").read_text())["val/knn_accuracy"]
    assert found["end"] > found["start"]


@pytest.mark.soak  # tests/parity/test_distill_trajectory.py has devices, with the same losses
def test_four_devices_begin_as_one(learned, all_devices, tmp_path):
    """The run of the test before, on four devices, until its second line."""

    class Enough(Exception):
        pass

    def stop(step):
        if step == 8:
            raise Enough

    with pytest.raises(Enough):
        run(learning(), tmp_path / "run", stop)
    four, one = ([line["loss"] for line in lines(folder)][:2] for folder in (tmp_path / "run", learned))
    np.testing.assert_allclose(four, one, rtol=1e-3)
