"""Thirty steps of self-distillation are thirty steps of a plain PyTorch loop: loss, centres, teacher."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.parity.cases import WIDTH
from tests.parity.distill_runs import (
    BATCH,
    DINOV2,
    DINOV3,
    EPOCH,
    RECIPES,
    STEPS,
    Run,
    batches,
    ours,
    plain_loop,
    theirs,
)
from tests.parity.torch_distill import Distiller

TOLERANCE = 1e-4
"""Of losses, centres and the teacher's weights."""
CANCELLED = [f"dino_head.mlp.{place}" for place in ("0.bias", "1.mean", "3.bias", "4.mean")]
"""Batch norm takes away the bias before it, which then wanders as the keys' bias does, and its running mean along."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny tensors are slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def apart(a: Run, b: Run) -> float:
    """The largest difference of two runs in loss."""
    assert len(a.losses) == len(b.losses) == STEPS
    return max(abs(x - y) for x, y in zip(a.losses, b.losses, strict=True))


def furthest(found: Run, reference: Run) -> dict[str, float]:
    """The largest difference in each place."""
    assert set(found.teacher) == set(reference.teacher)
    over = {"loss": apart(found, reference)}
    for name, centre in reference.centres.items():
        over[f"centre of {name}"] = np.abs(found.centres[name] - centre).max()
    for path, value in reference.teacher.items():
        difference = np.abs(found.teacher[path] - value)
        if path.endswith("qkv.bias"):  # softmax cancels the keys' bias: its gradient is rounding, which Adam magnifies
            difference[WIDTH : 2 * WIDTH] = 0
        if path in CANCELLED and "dino_head.mlp.1.mean" in reference.teacher:
            continue
        over[path] = difference.max()
    return over


def assert_same(found: Run, reference: Run) -> None:
    """Fails where losses, centres or the teacher differ."""
    assert not {name: value for name, value in furthest(found, reference).items() if not value <= TOLERANCE}


SLOW = dict(resnet=pytest.mark.slow)


@pytest.mark.parametrize("case", [pytest.param(case, marks=SLOW.get(case, ())) for case in RECIPES])
def test_a_method_is_the_plain_loop(case):
    assert_same(ours(case), theirs(case, RECIPES[case]))


UNREAD = (1, 1, 0, 1, 1, 1, 0, 1)
ALONE = dict(accumulate=2), dict(devices=4), dict(weight=UNREAD)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(dict(devices=4, accumulate=2, weight=UNREAD), marks=pytest.mark.slow),
        *(pytest.param(one, marks=pytest.mark.soak) for one in ALONE),
    ],
    ids=["all", "slices", "devices", "unread"],
)
def test_slices_devices_and_unread_images_change_nothing(how):
    """With all losses: Sinkhorn and KoLeo look at the whole batch, and the teacher moves once a step."""
    assert_same(ours("dinov3", **how), theirs("dinov3", DINOV3, weight=how.get("weight", (1,) * BATCH)))


@pytest.mark.slow
def test_slices_of_a_centred_method():
    assert_same(ours("dinov2", accumulate=2, devices=2, weight=UNREAD), theirs("dinov2", DINOV2, weight=UNREAD))


class EarlyTeacher(Distiller):
    """The teacher follows before the student has moved."""

    def apply(self):
        self.follow()
        self.optimizer.step()


class OwnView(Distiller):
    """A view is compared with itself, too."""

    def is_pair(self, teacher, student):
        return True


class PatchMean(Distiller):
    """All masked patches count alike, whichever view they are of."""

    def patch_weights(self, mask):
        return torch.full((int(mask.sum()),), 1 / max(int(mask.sum()), 1))


class MaskedViewMean(Distiller):
    """The mean is over the masked views alone."""

    def patch_weights(self, mask):
        return super().patch_weights(mask) * len(mask) / mask.any(1).sum()


class Seen(Distiller):
    """The student sees what is masked."""

    def student_mask(self, crops):
        return None


class OneCentre(Distiller):
    """Patches share the class tokens' centre."""

    def targets(self, head, scores):
        return super().targets("dino_head", scores)


class CentreFirst(Distiller):
    """The centre moves before it is used."""

    def targets(self, head, scores):
        super().targets(head, scores)
        return torch.softmax((scores - self.centres[head]) / self.temperature(), dim=-1)


class ViewsApart(Distiller):
    """Sinkhorn-Knopp for each half of the rows by itself, as on two devices that do not talk."""

    def sinkhorn(self, scores, temperature):
        return torch.cat([super(ViewsApart, self).sinkhorn(half, temperature) for half in scores.chunk(2)])


class ViewsTogether(Distiller):
    """KoLeo seeks neighbours among all views."""

    def koleo(self, views):
        return len(views) * super().koleo([torch.cat(list(views))])


class HalfBatches(Distiller):
    """KoLeo seeks neighbours within half a batch."""

    def koleo(self, views):
        return sum(super(HalfBatches, self).koleo(view.chunk(2)) for view in views) / 2


class AnchoredToTeacher(Distiller):
    """Gram matrices are held to the teacher's."""

    def gram(self, patches, images):
        self.reference = self.teacher.backbone
        return super().gram(patches, images)


class DecayOfAll(Distiller):
    """Weight decay on everything."""

    def group(self, name, parameter):
        return super().group(name, parameter) | {"bare": False}


def wrong(case: str, kind: type[Distiller] = Distiller, **values):
    """A method, a loop, what is wrong in its recipe."""
    return case, kind, values


MISTAKES = {
    "no centring": wrong("dino", centring="none"),
    "another centre momentum": wrong("dino", centre_momentum=0.95),
    "a centre for sinkhorn": wrong("dinov3", centring="centre"),
    "temperatures swapped": wrong("dino", student_temperature=0.06, teacher_temperature=(0.1, 0.1)),
    "a temperature that starts high": wrong("dino", heating=0),
    "a constant momentum": wrong("dino", momentum=(0.9, 0.9)),
    "a constant weight decay": wrong("dino", decay=(0.1, 0.1)),
    "a last layer that is not frozen": wrong("dino", frozen=0),
    "a last layer frozen for too long": wrong("dino", frozen=3 * EPOCH),
    "no clipping": wrong("dino", clip=float("inf")),
    "clipping together": wrong("dino", clip_by="global"),
    "clipping one by one": wrong("dinov3", clip_by="parameter"),
    "no warm-up": wrong("dino", warmup=0),
    "a rate that falls to nothing": wrong("dino", final=0.0),
    "no patches": wrong("dinov2", ibot=0.0),
    "no koleo": wrong("dinov2", koleo=0.0),
    "no gram": wrong("dinov3", gram=0.0),
    "weight decay of everything": wrong("dino", DecayOfAll),
} | {
    f"{case}: {kind.__doc__}": wrong(case, kind)
    for case, kind in (
        ("dino", EarlyTeacher),
        ("dino", OwnView),
        ("dino", CentreFirst),
        ("dinov2", PatchMean),
        ("dinov2", MaskedViewMean),
        ("dinov2", Seen),
        ("dinov2", OneCentre),
        ("dinov3", ViewsApart),
        ("dinov2", ViewsTogether),
        ("dinov2", HalfBatches),
        ("dinov3", AnchoredToTeacher),
    )
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_would_show(name):
    case, kind, values = MISTAKES[name]
    loop = plain_loop(case, replace(RECIPES[case], **values), kind)
    losses = (loop.train(crops).item() for crops in batches(case).theirs)
    assert any(abs(a - b) > TOLERANCE for a, b in zip(ours(case).losses, losses, strict=True))  # the first tells
