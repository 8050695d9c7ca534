"""Thirty steps of each strategy are thirty steps of a plain PyTorch loop, in loss and in parameters."""

import functools
import importlib
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from convert.load import load_pretrained
from convert.store import Card
from jaxdino import optim
from jaxdino.core import sharding
from jaxdino.core.image_sizes import Sizes
from jaxdino.core.params import Flat
from jaxdino.stage import stages
from jaxdino.strategy import resolve
from jaxdino.train import slicing, state, step
from jaxdino.train.task import Part
from jaxdino.train.tasks.classify import Classification
from tests.parity.cases import CLASSES, GRID, PATCH, WIDTH
from tests.parity.drawing import draw
from tests.parity.hf_models import SHAPE, save
from tests.parity.torch_training import Phase, Recipe, train

STEPS, EPOCH, BATCH = 30, 3, 8
TOLERANCE = 1e-4
"""Of the loss; a run that is right stays below a tenth of it, and a mistake shows above."""
PARAMETER_TOLERANCE = 1e-5
"""Of each parameter, after updates of some 1e-2."""
RATES = 10
"""The configs' rates are for hundreds of steps: at ten times as much, a mistake shows in thirty."""
MEAN, STD = (torch.tensor(value).reshape(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

HEAD = Phase(steps=10, head=1e-2)
LAST = Phase(steps=10, warmup=EPOCH, head=1e-2, norm=1e-3, backbone=1e-3, blocks=2, decay=0.9)
EVERYTHING = Phase(10, EPOCH, head=1e-2, norm=1e-4, backbone=1e-4, stem=1e-4, blocks=math.inf, decay=0.9)
RECIPES = {
    "linear": Recipe((replace(HEAD, steps=30),), weight_decay=0.0),
    "gradual": Recipe((HEAD, LAST, EVERYTHING)),
    "full_llrd": Recipe((replace(EVERYTHING, steps=30, warmup=2 * EPOCH),)),
    "progressive": Recipe((HEAD, replace(LAST, blocks=4), EVERYTHING)),
}
"""Each config in words of its own: what it does to a published model, at `RATES` times its rates."""
MODELS = {
    "linear": ("dinov2", 3),
    "gradual": ("dinov3", 3),
    "full_llrd": ("dinov2", 3),
    "progressive": ("dinov3", 5),  # one block more than the last 4
}
"""strategy -> family and depth of the model it is run on."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny tensors are slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Dinov3Classifier(nn.Module):
    """A linear head on the class token; transformers has no such class."""

    def __init__(self, config: hf.DINOv3ViTConfig):
        super().__init__()
        self.backbone = hf.DINOv3ViTModel(config)
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(pixels).pooler_output)


class Dinov2Classifier(hf.Dinov2ForImageClassification):
    """The class of transformers, bare logits given back."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels).logits


def build(family: str, depth: int) -> nn.Module:
    """The same drawn model at each call."""
    shape = SHAPE | dict(num_hidden_layers=depth)
    if family == "dinov2":
        return draw(Dinov2Classifier(hf.Dinov2Config(**shape, mlp_ratio=2)))
    fields = dict(intermediate_size=2 * WIDTH, num_register_tokens=4)
    return draw(Dinov3Classifier(hf.DINOv3ViTConfig(**shape, **fields)))


def converted(model: nn.Module) -> tuple[Card, Flat]:
    """A model as ours, through its saved folder and the tables."""
    with tempfile.TemporaryDirectory() as folder:
        found = load_pretrained(save(getattr(model, "backbone", model), Path(folder)))
    if found.card.num_classes:
        return found.card, found.flat
    head = {name: value.detach().numpy().copy() for name, value in model.classifier.named_parameters()}
    flat = found.flat | {"head.kernel": head["weight"].T, "head.bias": head["bias"]}
    return replace(found.card, head=found.card.spec.linear(CLASSES, found.card.pool)), flat


@functools.cache
def batches() -> list[dict[str, np.ndarray]]:
    """A batch for each step."""
    rng = np.random.default_rng(0)
    size = (BATCH, GRID * PATCH, GRID * PATCH, 3)
    return [
        {
            "image": rng.integers(0, 256, size, np.uint8),
            "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
            "weight": np.ones(BATCH, np.float32),
        }
        for _ in range(STEPS)
    ]


def theirs(strategy: str, recipe: Recipe) -> tuple[list[float], Flat]:
    """Losses and final parameters of the PyTorch loop."""
    given = []
    for batch in batches():
        images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2) / 255
        given.append(((images - MEAN) / STD, torch.from_numpy(batch["label"]).long()))
    family, depth = MODELS[strategy]
    model = build(family, depth)
    losses = train(model, depth, recipe, given)
    return losses, converted(model)[1]


def config_of(strategy: str, **optimizer):
    """A strategy's config for a published model, cut to thirty steps in all."""
    config = importlib.import_module(f"configs.{strategy}").get_config("dinov3_vits16")
    config.objective.label_smoothing = 0.1
    config.optimizer.update(weight_decay=0.1, clip_norm=1.0, **optimizer)
    for given in config.stages:
        given.steps, given.augment = STEPS // len(config.stages), "none"
        for group in given.groups.values():
            group.lr = None if group.frozen else group.lr * RATES
    return config


@functools.cache
def ours(strategy: str, **optimizer) -> tuple[list[float], Flat]:
    """Losses and final parameters of our stages, one after the other."""
    config = config_of(strategy, **optimizer)
    card, flat = converted(build(*MODELS[strategy]))
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    task = Classification.__new__(Classification)  # without its data: batches are given here
    task.config, task.card, task.spec = config, card, card.spec
    task.counts, task.source = np.ones(CLASSES, int), SimpleNamespace(class_names=[str(i) for i in range(CLASSES)])
    flat, opt, plans, losses = sharding.put(flat, sharding.replicated(mesh)), None, [], []
    for stage in (slicing.sliced_stage(one, 0, 1) for one in stages(config)):  # whole batches
        skeleton = card.spec.skeleton(CLASSES, pool=card.pool, drop_path=stage.drop_path)
        plans.append(resolve(card.spec, skeleton, stage))
        total = stage.length(EPOCH)
        tx = optim.build(plans[-1], stage, total, optim.ages(plans), EPOCH)
        now = state.begin(flat, skeleton, plans[-1], tx, seed=0, mesh=mesh)
        if opt is not None:
            now["moving"]["opt"] = jax.device_put(optim.carry(opt, now["moving"]["opt"]), sharding.replicated(mesh))
        sizes = Sizes.one((GRID * PATCH,) * 2)
        part = Part(len(plans) - 1, stage, plans[-1], skeleton, tx, EPOCH, total, sizes, sizes.final, 0)
        train_step = step.compile_train_step(task.train_step(part, now), now, mesh)
        for batch in batches()[len(losses) : len(losses) + total]:
            now["moving"], found = train_step(now["moving"], now["frozen"], sharding.put_batch(batch, mesh))
            losses.append(float(found["loss"]))
        flat, opt = state.whole(state.evaluated(now["moving"]), now["frozen"]), now["moving"]["opt"]
    return losses, sharding.gather(flat)


def apart(a: list[float], b: list[float]) -> float:
    """The largest difference of two trajectories in loss."""
    assert len(a) == len(b) == STEPS
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def assert_same(found: tuple[list[float], Flat], reference: tuple[list[float], Flat]) -> None:
    """Fails where losses or final parameters differ."""
    assert apart(found[0], reference[0]) <= TOLERANCE
    assert set(found[1]) == set(reference[1])
    over = {}
    for path, value in reference[1].items():
        difference = np.abs(found[1][path] - value)
        if path.endswith("qkv.bias"):  # softmax cancels the keys' bias: its gradient is rounding, which Adam magnifies
            difference[WIDTH : 2 * WIDTH] = 0
        if not difference.max() <= PARAMETER_TOLERANCE:
            over[path] = difference.max()
    assert not over


@pytest.mark.parametrize("strategy", RECIPES)
def test_a_strategy_is_the_plain_loop(strategy):
    assert_same(ours(strategy), theirs(strategy, RECIPES[strategy]))


def test_slices_of_a_batch_and_nesterov_momentum():
    momentum = functools.partial(torch.optim.SGD, momentum=0.9)
    nesterov = functools.partial(momentum, nesterov=True)
    recipe = replace(RECIPES["gradual"], optimizer=nesterov, accumulate=2)
    found = ours("gradual", name="sgd", momentum=0.9, nesterov=True, accumulate=2)
    assert_same(found, theirs("gradual", recipe))
    for mistake in (dict(optimizer=momentum), dict(forget=("momentum_buffer",))):
        assert apart(found[0], theirs("gradual", replace(recipe, **mistake))[0]) > TOLERANCE


def in_each_phase(**change) -> Callable[[Recipe], Recipe]:
    """The mistake of a wrong value in each phase."""
    return lambda recipe: replace(recipe, phases=tuple(replace(phase, **change) for phase in recipe.phases))


def in_all(**change) -> Callable[[Recipe], Recipe]:
    """The mistake of a wrong value of the whole run."""
    return lambda recipe: replace(recipe, **change)


MISTAKES = [  # strategy, what is wrong in the PyTorch loop, how
    ("linear", "no clipping", in_all(clip_norm=math.inf)),
    ("gradual", "another decay", in_each_phase(decay=0.8)),
    ("gradual", "no warm-up", in_each_phase(warmup=0)),
    ("gradual", "one block for two", in_each_phase(blocks=1)),
    ("gradual", "a frozen norm", in_each_phase(norm=0.0)),
    ("gradual", "forgotten moments", in_all(forget=("exp_avg", "exp_avg_sq"))),
    ("gradual", "forgotten counts", in_all(forget=("step",))),
    ("gradual", "weight decay of everything", in_all(decay_all=True)),
    ("gradual", "no smoothing", in_all(smoothing=0.0)),
    ("full_llrd", "another decay", in_each_phase(decay=0.8)),
    ("full_llrd", "a frozen stem", in_each_phase(stem=0.0)),
    ("progressive", "another decay", in_each_phase(decay=0.8)),
    ("progressive", "five blocks for four", in_each_phase(blocks=5)),
]


@pytest.mark.parametrize(("strategy", "name", "mistake"), MISTAKES)
def test_a_mistake_would_show(strategy, name, mistake):
    assert apart(ours(strategy)[0], theirs(strategy, mistake(RECIPES[strategy]))[0]) > TOLERANCE
