"""A step of segmentation is the same whether its batch is taken whole or in slices; the alignment too."""

import jax
import numpy as np
import optax
import pytest

from jaxdino.models.lora import LoRA
from jaxdino.objectives.segment import Segment
from jaxdino.objectives.segment_settings import Segmenting
from jaxdino.train import state, step
from tests.models.tiny_clipdinosam import spec_of, start

B = 8
SPEC = spec_of(clip_lora=LoRA(rank=2, alpha=2.0, targets=("q", "v")))
SKELETON, FLAT = start(SPEC)
TRAINED = tuple(
    path for path in SKELETON.paths("param") if "sam" not in path and ("clip" not in path or "lora" in path)
)


def batch(prompts: int) -> dict[str, np.ndarray]:
    """With images that could not be read, that have no mask, and in which the prompt names nothing."""
    rng = np.random.default_rng(0)
    given = {
        "image": rng.normal(size=(B, 16, 16, 3)).astype(np.float32),
        "mask": (rng.random((B, prompts, 16, 16)) < 0.4).astype(np.uint8),
        "label": rng.integers(0, 3, (B, prompts)).astype(np.int32),
        "masked": np.array([1, 1, 0, 1, 1, 1, 0, 1], np.float32)[:, None].repeat(prompts, axis=1),
        "weight": np.array([1, 1, 1, 0, 1, 1, 1, 1], np.float32)[:, None].repeat(prompts, axis=1),
    }
    given["weight"][4:7, 1:] = 0  # images of fewer prompts
    given["mask"][5] = 0
    return given


def stepped(slices: int, prompts: int, **losses: float) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    return of_batch(batch(prompts), slices, **losses)


def of_batch(given, slices: int = 1, **losses: float) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What a step of plain descent measures, and where it leads."""
    ids = np.random.default_rng(1).integers(1, 49, (3, 2, 6)).astype(np.int32)
    ids[..., -1] = 49
    objective = Segment(Segmenting(**losses), ids, None, SKELETON)
    tx = optax.sgd(0.1)
    trainable = {path: FLAT[path] for path in TRAINED}
    frozen = {path: leaf for path, leaf in FLAT.items() if path not in trainable}
    moving = state.moving(trainable, {}, tx.init(trainable), jax.random.key(0), {}, {})
    run = jax.jit(step.make_train_step(SKELETON, objective, tx, lambda _, given: given, accumulate=slices))
    moving, measured = run(moving, frozen, given)
    return {name: float(value) for name, value in measured.items()}, jax.device_get(moving["trainable"])


ALONE, TOGETHER = dict(dice=0.0, bce=0.0, iou=0.0, align=1.0), dict(align=0.5)


@pytest.mark.parametrize(
    ("losses", "prompts"),
    [(ALONE, 1), (TOGETHER, 3), *(pytest.param(*one, marks=pytest.mark.soak) for one in ((ALONE, 3), (TOGETHER, 1)))],
)
def test_slices_are_the_whole_batch(losses, prompts):
    (whole, there), (sliced, here) = stepped(1, prompts, **losses), stepped(4, prompts, **losses)
    assert whole.keys() == sliced.keys() and whole["align_loss"] > 0.1
    for name, value in whole.items():
        assert sliced[name] == pytest.approx(value, rel=1e-4), name
    changes = {path: np.abs(there[path] - FLAT[path]).max() for path in TRAINED}
    assert max(changes.values()) > 1e-3 and any(changes[path] for path in TRAINED if "clip" in path)
    for path in TRAINED:
        np.testing.assert_allclose(here[path], there[path], atol=2e-6, rtol=1e-4, err_msg=path)


def test_the_prompts_of_an_image_are_pairs_that_share_its_features():
    """A step over images of three prompts is the step over their pairs, one by one."""
    losses = dict(align=0.5, ssl=0.0)
    together = batch(3)
    pairs = {name: value.reshape(3 * B, 1, *value.shape[2:]) for name, value in together.items() if name != "image"}
    alone = pairs | {"image": together["image"].repeat(3, axis=0)}
    (found, here), (expected, there) = (of_batch(given, **losses) for given in (together, alone))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    for path in TRAINED:
        np.testing.assert_allclose(here[path], there[path], atol=2e-6, rtol=1e-4, err_msg=path)
