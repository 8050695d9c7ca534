"""Ten steps of knowledge distillation are ten steps of a plain PyTorch loop, in loss and in parameters."""

import importlib
from types import SimpleNamespace

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from jaxdino import optim
from jaxdino.core import sharding
from jaxdino.core.image_sizes import Sizes
from jaxdino.models.heads.align import AlignHeadConfig
from jaxdino.objectives.knowledge import FEATURES, PATCHES
from jaxdino.stage import stages
from jaxdino.strategy import resolve
from jaxdino.train import state, step
from jaxdino.train.task import Part
from jaxdino.train.tasks.knowledge_distillation import Taught
from tests.parity.cases import CLASSES, GRID, PATCH, WIDTH
from tests.parity.test_trajectory import MEAN, STD, batches, build, converted

STEPS, RATE, MOMENTUM, ALPHA, T, FEATURE, DENSE = 10, 0.05, 0.9, 0.7, 3.0, 0.4, 0.3


def heads():
    """The student's layers to the teacher's width, {path: array}."""
    rng = np.random.default_rng(5)
    found = {}
    for name in (FEATURES, PATCHES):
        found[f"{name}.kernel"] = rng.normal(0, 0.2, (WIDTH, WIDTH)).astype(np.float32)
        found[f"{name}.bias"] = rng.normal(0, 0.2, WIDTH).astype(np.float32)
    return found


def seen(model, pixels):
    """Logits, class token and patch tokens."""
    tokens = model.dinov2(pixels)[0]
    cls, patches = tokens[:, 0], tokens[:, 1:]
    return model.classifier(torch.cat([cls, patches.mean(1)], dim=1)), cls, patches


def theirs(temperature=T):
    """Losses and final parameters of the PyTorch loop."""
    student, teacher, aligned = build("dinov2", 1), build("dinov2", 3), {}
    for name in (FEATURES, PATCHES):
        aligned[name] = nn.Linear(WIDTH, WIDTH)
        given = heads()
        aligned[name].weight.data = torch.from_numpy(given[f"{name}.kernel"].T.copy())
        aligned[name].bias.data = torch.from_numpy(given[f"{name}.bias"].copy())
    extra = [parameter for layer in aligned.values() for parameter in layer.parameters()]
    optimizer, losses = torch.optim.SGD([*student.parameters(), *extra], RATE, momentum=MOMENTUM), []
    for batch in batches()[:STEPS]:
        images = (torch.from_numpy(batch["image"]).permute(0, 3, 1, 2) / 255 - MEAN) / STD
        with torch.no_grad():
            wanted, wanted_cls, wanted_patches = seen(teacher, images)
        logits, cls, patches = seen(student, images)
        soft = F.kl_div(
            F.log_softmax(logits / temperature, -1), F.softmax(wanted / temperature, -1), reduction="batchmean"
        )
        loss = (1 - ALPHA) * F.cross_entropy(logits, torch.from_numpy(batch["label"]).long())
        loss += ALPHA * temperature**2 * soft
        loss += FEATURE * (1 - F.cosine_similarity(aligned[FEATURES](cls), wanted_cls)).mean()
        loss += DENSE * (1 - F.cosine_similarity(aligned[PATCHES](patches), wanted_patches, dim=-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, converted(student)[1]


def ours():
    """Losses and final parameters of our task."""
    config = importlib.import_module("configs.distill").get_config("dinov3_vits16")
    config.objective.update(
        teacher="x", alpha=ALPHA, temperature=T, features=FEATURE, patches=DENSE, label_smoothing=0.0
    )
    config.optimizer.update(name="sgd", momentum=MOMENTUM, weight_decay=0.0, clip_norm=0.0, accumulate=1)
    config.optimizer.schedule.update(name="constant", warmup_epochs=0.0)
    config.stages[0].update(steps=STEPS, epochs=None, augment="none")
    for group in config.stages[0].groups.values():
        group.lr = RATE
    (stage,) = stages(config)
    mesh, task = sharding.make_mesh(devices=jax.devices()[:1]), Taught.__new__(Taught)  # without its data
    task.config, (task.card, flat) = config, converted(build("dinov2", 1))
    task.of_teacher, reference = converted(build("dinov2", 3))
    task.spec = task.card.spec
    task.spec = type(task.spec)(
        **vars(task.spec) | {"heads": tuple((n, AlignHeadConfig(WIDTH)) for n in (FEATURES, PATCHES))}
    )
    task.counts, task.source = np.ones(CLASSES, int), SimpleNamespace(class_names=[str(i) for i in range(CLASSES)])
    task.reference, task.cached = sharding.put(reference, sharding.replicated(mesh)), False
    skeleton = task.bare(stage)
    plan = resolve(task.spec, skeleton, stage)
    tx = optim.build(plan, stage, STEPS, optim.ages([plan]), STEPS)
    flat = sharding.put(flat | heads(), sharding.replicated(mesh))
    now = state.begin(flat, skeleton, plan, tx, seed=0, mesh=mesh, more=task.more(flat))
    sizes = Sizes.one((GRID * PATCH,) * 2)
    part = Part(0, stage, plan, skeleton, tx, STEPS, STEPS, sizes, sizes.final, 0)
    train_step, losses = step.compile_train_step(task.train_step(part, now), now, mesh), []
    for batch in batches()[:STEPS]:
        now["moving"], found = train_step(now["moving"], now["frozen"], sharding.put_batch(batch, mesh))
        losses.append(float(found["loss"]))
    return losses, sharding.gather(state.whole(state.evaluated(now["moving"]), now["frozen"]))


def test_a_student_learns_as_in_the_plain_loop():
    found, reference = ours(), theirs()
    np.testing.assert_allclose(found[0], reference[0], atol=1e-4)
    for path, value in reference[1].items():
        np.testing.assert_allclose(found[1][path], value, atol=1e-5, err_msg=path)
    assert np.abs(np.array(theirs(temperature=2 * T)[0]) - found[0]).max() > 1e-3  # a mistake would show
