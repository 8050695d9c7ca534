"""Detection by queries: costs, matching and losses of Deformable DETR, noise, and what noisy queries see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from scipy.optimize import linear_sum_assignment

from jaxdino.models.boxes import detections
from jaxdino.models.heads import from_json, to_json
from jaxdino.models.heads.detr import DETRHeadConfig, Noised
from jaxdino.models.output import Output
from jaxdino.objectives.detect_queries import DetectQueries, costs, noisy
from tests.torchvision_stub import import_torchvision

import_torchvision()
B, Q, M, C, SIDE = 2, 12, 4, 3, 64
HEAD = DETRHeadConfig(C, queries=Q, layers=2, width=16)


def scene(counts=(3, 1)):
    """Boxes in pixels, labels, valid slots."""
    rng = np.random.default_rng(1)
    low, sides = rng.uniform(0, 40, (B, M, 2)), rng.uniform(8, 24, (B, M, 2))
    valid = (np.arange(M)[None] < np.array(counts)[:, None]).astype(np.float32)
    boxes = np.concatenate([low, low + sides], axis=-1).astype(np.float32) * valid[..., None]
    batch = dict(boxes=boxes, box_labels=rng.integers(0, C, (B, M)), box_valid=valid, box_ignored=0 * valid)
    batch |= dict(image=np.zeros((B, SIDE, SIDE, 3), np.float32), weight=np.ones(B, np.float32))
    found = {name: jnp.asarray(value) for name, value in batch.items()}
    return DetectQueries(C).targets({}, {}, found)[0]


def predictions(layers=1):
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, (B, layers + 1, Q, C)).astype(np.float32)
    boxes = rng.uniform(0.2, 0.6, (B, layers + 1, Q, 4)).astype(np.float32)
    last = {"logits": logits[:, 0], "boxes": boxes[:, 0], "aux_logits": logits[:, 1:], "aux_boxes": boxes[:, 1:]}
    return {name: jnp.asarray(value) for name, value in last.items()}


class Model:
    """Gives what it was given."""

    def __init__(self, found):
        self.predictions = found

    def __call__(self, image, key=None):
        return self


def targets_of(batch):
    """As transformers takes them."""
    found = []
    for boxes, labels, valid in zip(*(np.asarray(batch[n]) for n in ("boxes", "box_labels", "box_valid")), strict=True):
        own = boxes[valid > 0] / SIDE
        centred = np.concatenate([(own[:, :2] + own[:, 2:]) / 2, own[:, 2:] - own[:, :2]], axis=1)
        found.append({"class_labels": torch.tensor(labels[valid > 0]).long(), "boxes": torch.tensor(centred)})
    return found


def test_matching_and_losses_are_those_of_transformers():
    from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

    batch, found, how = scene(), predictions(), DetectQueries(C, denoising=0)
    targets = targets_of(batch)
    matcher = DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
    outputs = {
        "logits": torch.tensor(np.asarray(found["logits"])),
        "pred_boxes": torch.tensor(np.asarray(found["boxes"])),
    }
    theirs = matcher(outputs, targets)
    for row, target in enumerate(targets):
        own = costs(found["logits"][row], found["boxes"][row], *(jnp.asarray(target[n]) for n in target), how)
        rows, columns = linear_sum_assignment(np.asarray(own).T)
        assert rows.tolist() == theirs[row][0].tolist() and columns.tolist() == theirs[row][1].tolist()
    last = [{"logits": found["aux_logits"][:, 0], "boxes": found["aux_boxes"][:, 0]}]
    last = [{f"pred_{n}" if n == "boxes" else n: torch.tensor(np.asarray(v)) for n, v in one.items()} for one in last]
    criterion = DeformableDetrImageLoss(matcher, C, 0.25, ["labels", "boxes"])
    want = criterion(outputs | {"auxiliary_outputs": last}, targets)
    loss, parts = jax.jit(how.loss, static_argnums=0)(Model(found), batch, None)
    for name, theirs_name, weight in (("class_loss", "ce", 2), ("box_loss", "bbox", 5), ("giou_loss", "giou", 2)):
        total = weight * float(want[f"loss_{theirs_name}"] + want[f"loss_{theirs_name}_0"])
        assert float(parts[name]) == pytest.approx(total, rel=1e-5), name
    assert float(loss) == pytest.approx(sum(map(float, parts.values())), rel=1e-6)


def outputs():
    rng = np.random.default_rng(0)
    sizes, widths = [(8, 8), (4, 4), (2, 2)], (8, 16, 32)
    maps = tuple(jnp.asarray(rng.normal(size=(B, *s, w)), jnp.float32) for s, w in zip(sizes, widths, strict=True))
    none = jnp.zeros((B, 0, 1))
    return [Output(none, maps[-1], none, none, maps)]


@pytest.fixture(scope="module")
def head():
    assert from_json(to_json(HEAD)) == HEAD
    return HEAD.build(32, nnx.Rngs(0))


def test_noisy_queries_are_not_seen_and_see_their_group(head):
    rng = np.random.default_rng(3)

    graph, state = nnx.split(head)

    def of(labels, boxes, used, noised):
        own = nnx.merge(graph, state)
        own.noised = Noised(labels, boxes, used, 2) if noised else None
        return own(outputs(), jax.random.key(0))

    labels = jnp.asarray(rng.integers(0, C, (B, 4)))
    boxes = jnp.asarray(rng.uniform(0.2, 0.5, (B, 4, 4)), jnp.float32)
    run = jax.jit(of, static_argnums=3)
    with_noise, without = (run(labels, boxes, jnp.ones((B, 4), bool), noised) for noised in (True, False))
    for name in ("logits", "boxes", "aux_logits", "aux_boxes"):
        np.testing.assert_allclose(with_noise[name], without[name], atol=1e-5)
    other = run(labels, boxes.at[:, 0].add(0.1), jnp.ones((B, 4), bool), True)
    changed = np.abs(np.asarray(other["noised_logits"] - with_noise["noised_logits"])).max(axis=(0, 1, 3)) > 1e-5
    assert changed.tolist() == [True, True, False, False]
    assert with_noise["noised_boxes"].shape == (B, 2, 4, 4) and without["aux_boxes"].shape == (B, 2, Q, 4)


def test_noise_is_near_or_farther():
    batch = scene((M, M))
    truth = jnp.concatenate(
        [(batch["boxes"][..., :2] + batch["boxes"][..., 2:]) / 2 / SIDE, jnp.full((B, M, 2), 0.1)], -1
    )
    made = noisy(jax.random.key(0), batch["box_labels"], truth, batch["box_valid"], C, 3)
    assert made.labels.shape == (B, 6 * M) and bool(made.used.all())
    apart = np.abs(np.asarray(made.boxes[..., :2]).reshape(B, 3, 2, M, 2) - np.asarray(truth[:, None, None, :, :2]))
    assert apart[:, :, 0].max() <= 0.05 + 1e-6 and apart[:, :, 1].max() <= 0.1 + 1e-6
    assert 0.5 < float((made.labels.reshape(B, 6, M) == batch["box_labels"][:, None]).mean()) < 1


@pytest.mark.slow
def test_it_learns_the_boxes_and_gives_them(head):
    """Forty steps on two images; every leaf has a gradient."""
    graph, state = nnx.split(head)
    batch, how = scene(), DetectQueries(C, denoising=2 * M)

    class Net:
        def __init__(self, made):
            self.head = made

        def __call__(self, image, key=None):
            return Output(None, None, None, None, (), self.head(outputs(), key))

    import optax

    tx = optax.adam(3e-3)

    @jax.jit
    def step(state, moments, key):
        (loss, _), slopes = jax.value_and_grad(lambda s: how.loss(Net(nnx.merge(graph, s)), batch, key), has_aux=True)(
            state
        )
        updates, moments = tx.update(slopes, moments, state)
        return optax.apply_updates(state, updates), moments, loss, slopes

    moments, losses = tx.init(state), []
    for number in range(40):
        state, moments, loss, slopes = step(state, moments, jax.random.key(number))
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0]
    kept = [slope for path, slope in jax.tree_util.tree_leaves_with_path(slopes) if "'k'" not in str(path)]
    assert len(kept) > 40 and all(np.asarray(slope).any() for slope in kept)  # a bias of the keys has no effect
    found = jax.jit(lambda s: detections(nnx.merge(graph, s)(outputs()), (SIDE, SIDE), ()))(state)
    assert found["boxes"].shape == (B, Q * C, 4) and (np.diff(np.asarray(found["scores"]), axis=1) <= 0).all()
    empty = how.targets({}, {}, batch | {"box_valid": 0 * batch["box_valid"]})[0]
    loss, parts = how.loss(Net(nnx.merge(graph, state)), empty, jax.random.key(0))
    assert np.isfinite(float(loss)) and float(parts["box_loss"]) == 0 < float(parts["class_loss"])
