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


def batch() -> dict[str, np.ndarray]:
    """With images that could not be read, that have no mask, and in which the prompt names nothing."""
    rng = np.random.default_rng(0)
    given = {
        "image": rng.normal(size=(B, 16, 16, 3)).astype(np.float32),
        "mask": (rng.random((B, 16, 16)) < 0.4).astype(np.uint8),
        "label": rng.integers(0, 3, B).astype(np.int32),
        "masked": np.array([1, 1, 0, 1, 1, 1, 0, 1], np.float32),
        "weight": np.array([1, 1, 1, 0, 1, 1, 1, 1], np.float32),
    }
    given["mask"][5] = 0
    return given


def stepped(slices: int, **losses: float) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What a step of plain descent measures, and where it leads."""
    ids = np.random.default_rng(1).integers(1, 49, (3, 2, 6)).astype(np.int32)
    ids[..., -1] = 49
    objective = Segment(Segmenting(**losses), ids, None, SKELETON)
    tx = optax.sgd(0.1)
    trainable = {path: FLAT[path] for path in TRAINED}
    frozen = {path: leaf for path, leaf in FLAT.items() if path not in trainable}
    moving = state.moving(trainable, {}, tx.init(trainable), jax.random.key(0), {}, {})
    run = jax.jit(step.make_train_step(SKELETON, objective, tx, lambda _, given: given, accumulate=slices))
    moving, measured = run(moving, frozen, batch())
    return {name: float(value) for name, value in measured.items()}, jax.device_get(moving["trainable"])


@pytest.mark.parametrize("losses", [dict(dice=0.0, bce=0.0, iou=0.0, align=1.0), dict(align=0.5)])
def test_slices_are_the_whole_batch(losses):
    (whole, there), (sliced, here) = stepped(1, **losses), stepped(4, **losses)
    assert whole.keys() == sliced.keys() and whole["align_loss"] > 0.1
    for name, value in whole.items():
        assert sliced[name] == pytest.approx(value, rel=1e-4), name
    changes = {path: np.abs(there[path] - FLAT[path]).max() for path in TRAINED}
    assert max(changes.values()) > 1e-3 and any(changes[path] for path in TRAINED if "clip" in path)
    for path in TRAINED:
        np.testing.assert_allclose(here[path], there[path], atol=2e-6, rtol=1e-4, err_msg=path)
