"""Thirty steps of AdamW on each kind of dense head give the losses of a PyTorch loop around the module in the docs.

The PyTorch losses are plain statements of the papers; which place learns which object is ours (tested apart).
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_for_object_detection import generalized_box_iou

from convert.table import BoundTable
from convert.tables import depth as depth_table
from convert.tables.own_heads import PREFIX, rules
from jaxdino.core.params import bind, split
from jaxdino.models.boxes import grid
from jaxdino.models.heads.decoders import FPNHeadConfig
from jaxdino.models.heads.depth import DepthLinearHeadConfig
from jaxdino.models.heads.detr import DETRHeadConfig
from jaxdino.models.heads.fcos import FCOSHeadConfig
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig
from jaxdino.models.output import Output
from jaxdino.models.resnet import ResNetConfig
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.depth import Depth
from jaxdino.objectives.detect import IGNORED, Detect, assigned, centerness
from jaxdino.objectives.detect_queries import DetectQueries
from jaxdino.objectives.instances import Instances, truth_in
from jaxdino.objectives.semantic import Semantic
from tests.parity.test_torch_heads import published

STEPS, SIDE, C, CHANNELS, STRIDES = 30, 64, 3, (8, 16, 16, 32), (8, 16, 32, 64)
RESNET = ModelSpec("resnet_custom", "resnet", ResNetConfig(False, (1, 1, 1, 1), (4, 8, 16, 32), 1, 8))
GRIDS = [(16, 16), (8, 8), (4, 4), (2, 2)]


def features():
    """Four feature maps of two images; the last has a class token as well."""
    rng = np.random.default_rng(0)
    widths = RESNET.config.widths
    maps = [rng.normal(size=(2, *size, width)).astype(np.float32) for size, width in zip(GRIDS, widths, strict=True)]
    return maps, rng.normal(size=(2, widths[-1])).astype(np.float32)


def outs():
    maps, token = (jax.tree.map(jnp.asarray, one) for one in features())
    return [Output(token, maps[-1], jnp.zeros((2, 0, 1)), token, tuple(maps))]


def shared():
    return {"image": jnp.zeros((2, SIDE, SIDE, 3)), "weight": jnp.ones(2)}


def semantic():
    mask = features()[0][0][..., :C].argmax(-1).repeat(SIDE // 16, 1).repeat(SIDE // 16, 2)
    mask[:, :9] = 255

    def loss(module, maps):
        logits, truth = F.interpolate(module(maps), (SIDE, SIDE), mode="bilinear"), torch.tensor(mask)
        known = truth != 255
        target = F.one_hot(truth.where(known, torch.zeros(())).long(), C).permute(0, 3, 1, 2) * known[:, None]
        share = logits.softmax(1) * known[:, None]
        both, sizes = (share * target).sum((2, 3)), share.sum((2, 3)) + target.sum((2, 3))
        return F.cross_entropy(logits, truth, ignore_index=255) + (1 - (2 * both + 1) / (sizes + 1)).mean()

    objective = Semantic(0.0, 1.0, 1.0, 0.0, 0.0, (), 0)
    return (
        FPNHeadConfig(C, 1, "stages", width=8),
        objective,
        {"mask": jnp.asarray(mask)},
        loss,
        ("FPN", C, 8, CHANNELS4),
    )


CHANNELS4 = (4, 8, 16, 32)


def detection():
    boxes = np.array([[[4, 4, 30, 28], [20, 30, 60, 62]], [[10, 6, 26, 40], [0, 0, 0, 0]]], np.float32)
    batch = dict(boxes=boxes, box_labels=np.array([[0, 2], [1, 0]]), box_valid=np.array([[1.0, 1], [1, 0]]))
    batch = {name: jnp.asarray(value) for name, value in batch.items()} | {"box_ignored": jnp.zeros((2, 2))}
    places = grid((SIDE, SIDE), STRIDES)
    labels, sides = (np.asarray(one) for one in jax.jit(lambda b: assigned(b, places, 1.5))(batch))
    central = torch.tensor(np.asarray(centerness(jnp.asarray(sides), places)))
    positive, sides = torch.tensor(labels >= 0), torch.tensor(sides)
    assert not (labels == IGNORED).any() and positive.sum() > 8
    centre, stride = torch.tensor(places.centre), torch.tensor(places.stride)

    def loss(module, maps):
        logits, distances, centre_logits = module(maps[1:])
        target = F.one_hot(torch.tensor(labels).clamp(min=0).long(), C).float() * positive[..., None]
        odds, entropy = logits.sigmoid(), F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        right = odds * target + (1 - odds) * (1 - target)
        classes = ((0.25 * target + 0.75 * (1 - target)) * (1 - right) ** 2 * entropy).sum()
        pixels = distances * stride[:, None]
        found = torch.cat([centre - pixels[..., :2], centre + pixels[..., 2:]], -1)[positive]
        true, count = sides[positive], positive.sum()
        area = lambda box: (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])  # noqa: E731
        inner = torch.cat([torch.maximum(found[:, :2], true[:, :2]), torch.minimum(found[:, 2:], true[:, 2:])], 1)
        inter = (inner[:, 2:] - inner[:, :2]).clamp(min=0).prod(1)
        hull = torch.cat([torch.minimum(found[:, :2], true[:, :2]), torch.maximum(found[:, 2:], true[:, 2:])], 1)
        union = area(found) + area(true) - inter
        giou = inter / union - (area(hull) - union) / area(hull)
        box = ((1 - giou) * central[positive]).sum() / central[positive].sum()
        centres = F.binary_cross_entropy_with_logits(centre_logits[positive], central[positive], reduction="sum")
        return classes / count + box + centres / count

    return FCOSHeadConfig(C, width=8, convs=1), Detect(STRIDES), batch, loss, ("FCOS", C, 8, 1, CHANNELS4[1:])


def queries():
    boxes = np.array(
        [[[0.25, 0.25, 0.4, 0.375], [0.6, 0.7, 0.6, 0.5]], [[0.3, 0.4, 0.25, 0.5], [0, 0, 0, 0]]], np.float32
    )
    labels, valid = np.array([[0, 2], [1, 0]]), np.array([[1.0, 1], [1, 0]])
    corner = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1) * SIDE
    batch = dict(boxes=corner, box_labels=labels, box_valid=valid, box_ignored=np.zeros((2, 2)))

    def loss(module, maps):
        logits, found = module(maps[1:])
        total = 0.0
        for row in range(2):
            own = valid[row] > 0
            truth, kinds, odds = torch.tensor(boxes[row][own]), torch.tensor(labels[row][own]), logits[row].sigmoid()
            entropy = -0.25 * (1 - odds) ** 2 * odds.log(), -0.75 * odds**2 * (1 - odds).log()
            apart = (found[row][None] - truth[:, None]).abs().sum(-1)
            giou = generalized_box_iou(center_to_corners_format(truth), center_to_corners_format(found[row]))
            cost = 2 * (entropy[0] - entropy[1])[:, kinds].T + 5 * apart - 2 * giou
            objects, columns = linear_sum_assignment(cost.detach().numpy())
            goal = torch.zeros_like(odds)
            goal[columns, kinds[objects]] = 1.0
            classes = (entropy[0] * goal + entropy[1] * (1 - goal)).sum()
            total = total + 2 * classes + 5 * apart[objects, columns].sum() + 2 * (1 - giou[objects, columns]).sum()
        return total / valid.sum()

    head = DETRHeadConfig(C, queries=12, layers=2, width=8)
    return head, DetectQueries(C), batch, loss, ("DETR", C, 12, 8, 2, CHANNELS4[1:])


def instances():
    ids = np.zeros((2, SIDE, SIDE), np.int32)
    ids[0, 5:25, 8:30], ids[0, 30:60, 20:50], ids[1, 10:40, 3:20] = 1, 2, 1
    labels, valid = np.array([[1, 2], [0, 0]]), np.array([[1.0, 1], [1, 0]])
    batch = dict(instances=ids, instance_labels=labels, instance_valid=valid)
    truths = [np.array(truth_in(jnp.asarray(one), GRIDS[0], 2)[0]) for one in ids]

    def loss(module, maps):
        logits, masks = module(maps)
        masks, total, weights, entropies = masks.flatten(2), 0.0, 0.0, 0.0
        for row in range(2):
            own = valid[row] > 0
            truth, x = torch.tensor(truths[row][own]), masks[row]
            pairs = lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(-1)  # noqa: E731
            dices = lambda p, t: 1 - (2 * (p * t).sum(-1) + 1) / (p.sum(-1) + t.sum(-1) + 1)  # noqa: E731
            wide, tall = x[None].expand(len(truth), -1, -1), truth[:, None].expand(-1, len(x), -1)
            cost = (
                5 * pairs(wide, tall)
                + 5 * dices(wide.sigmoid(), tall)
                - 2 * logits[row].softmax(-1)[:, labels[row][own]].T
            )
            rows, columns = linear_sum_assignment(cost.detach().numpy())
            total = total + 5 * (pairs(x[columns], truth[rows]) + dices(x[columns].sigmoid(), truth[rows])).sum()
            goal = torch.full((len(x),), C)
            goal[columns] = torch.tensor(labels[row][own][rows])
            weight = torch.where(goal == C, 0.1, 1.0)
            entropies = entropies + (F.cross_entropy(logits[row], goal, reduction="none") * weight).sum()
            weights = weights + weight.sum()
        return total / valid.sum() + 2 * entropies / weights

    head = MaskQueriesHeadConfig(C, 6, "stages", layers=2, width=8)
    return head, Instances(points=0), batch, loss, ("Masks", C, 6, 8, 2, CHANNELS4)


def depth():
    page = (Path(__file__).parents[2] / "docs" / "depth.md").read_text()
    code = re.search(r"```python\n(class Depth.*?)```", page, re.DOTALL)[1]
    names = {"torch": torch, "F": F}
    exec(code, names)
    metres = (5 + np.tanh(features()[0][3][..., 0]) * 4).repeat(SIDE // 2, 1).repeat(SIDE // 2, 2)
    metres[:, :, :5] = 0
    token = torch.tensor(features()[1])

    def loss(module, maps):
        found = F.interpolate(module([(maps[-1], token)])[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
        truth, known = torch.tensor(metres), torch.tensor(metres > 0)
        d = (found.log() - truth.where(known, torch.ones(())).log()) * known
        count = known.sum((1, 2))
        silog = ((d**2).sum((1, 2)) / count - 0.85 * (d.sum((1, 2)) / count) ** 2 + 1e-8).sqrt()
        slopes = 0
        for n in (1, 2, 4, 8):
            x, m = d[:, ::n, ::n], known[:, ::n, ::n]
            down = ((x[:, 1:] - x[:, :-1]).abs() * m[:, 1:] * m[:, :-1]).sum((1, 2))
            slopes = slopes + (
                down + ((x[..., 1:] - x[..., :-1]).abs() * m[..., 1:] * m[..., :-1]).sum((1, 2))
            ) / m.sum((1, 2))
        return (silog + 0.5 * slopes).mean()

    head = DepthLinearHeadConfig(1, 1, bins=16, min_depth=0.5, max_depth=10.0)
    module = names["Depth"](64, 16, 0.5, 10.0)
    return head, Depth(0.5, 10.0), {"depth": jnp.asarray(metres)}, loss, module


KINDS = {"semantic": semantic, "detection": detection, "queries": queries, "instances": instances, "depth": depth}


RATES = {"depth": 5e-2}  # its kernel begins near 0 and has no hidden layers


@pytest.mark.parametrize(
    "kind", ["semantic", "detection", "queries", "depth", pytest.param("instances", marks=pytest.mark.slow)]
)
def test_thirty_steps(kind):
    config, objective, batch, torch_loss, module = KINDS[kind]()
    skeleton, flat = split(config.build(32, nnx.Rngs(3)))
    if isinstance(module, tuple):
        name, *how = module
        module = published()[name](*how)
        table, prefix = BoundTable(rules(config, RESNET), RESNET.config), PREFIX
    else:
        table, prefix = BoundTable(depth_table.LINEAR_DEPTH, RESNET.config), depth_table.STEM
    state = {
        t.key.removeprefix(prefix): torch.tensor(t.make())
        for t in table.write({f"head.{p}": np.asarray(a) for p, a in flat.items()})
    }
    module.load_state_dict(state)
    whole = {name: jnp.asarray(value)[None] for name, value in (shared() | batch).items()}  # one slice of a batch
    given = {name: value[0] for name, value in objective.targets({}, {}, whole)[0].items()}

    class Net:
        def __init__(self, head):
            self.head = head

        def __call__(self, image, key=None):
            found = self.head(outs(), key)
            return Output(None, None, None, None, (), found)

    rate = RATES.get(kind, 2e-3)
    tx = optax.adamw(rate, weight_decay=0.01)

    @jax.jit
    def step(flat, moments):
        loss, slopes = jax.value_and_grad(lambda one: objective.loss(Net(bind(skeleton, one)), given, None)[0])(flat)
        updates, moments = tx.update(slopes, moments, flat)
        return optax.apply_updates(flat, updates), moments, loss

    moments, ours, theirs = tx.init(flat), [], []
    for one in module.parameters():
        one.grad = torch.zeros_like(one)  # without a gradient AdamW would not decay it
    adam = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01)
    maps = [torch.tensor(one).permute(0, 3, 1, 2) for one in features()[0]]
    for _ in range(STEPS):
        flat, moments, loss = step(flat, moments)
        ours.append(float(loss))
        adam.zero_grad(set_to_none=False)
        loss = torch_loss(module, maps)
        loss.backward()
        adam.step()
        theirs.append(loss.item())
    assert theirs[-1] < 0.97 * theirs[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
