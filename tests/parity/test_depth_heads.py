"""DINOv2's depth heads: bins on one or four blocks, and the DPT decoder, apart from their backbones."""

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convert.export import export
from convert.load import load_pretrained
from convert.store import save_model
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models.heads.depth import DepthDPTHeadConfig, DepthLinearHeadConfig
from tests.parity.cases import HEADS, PATCH
from tests.parity.drawing import channels_last, draw, images
from tests.parity.meta_modules import MetaViT
from tests.parity.ours import assert_same

WIDTH, DEPTH, CHANNELS, BINS = 64, 4, 16, 24
SIZE = (3 * PATCH, 5 * PATCH)  # odd, so that the coarsest map does not double to the next


class Wrapped(nn.Module):
    """A convolution called `conv`, as in mmcv's ConvModule."""

    def __init__(self, n_in, n_out, side=3, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, side, padding=side // 2, bias=bias)

    def forward(self, x):
        return self.conv(x)


class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = Wrapped(CHANNELS, CHANNELS, bias=False), Wrapped(CHANNELS, CHANNELS, bias=False)

    def forward(self, x):
        return self.conv2(F.relu(self.conv1(F.relu(x)))) + x


class Fusion(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.project = Wrapped(CHANNELS, CHANNELS, 1)
        self.res_conv_unit1, self.res_conv_unit2 = None if first else Unit(), Unit()

    def forward(self, x, finer=None):
        if finer is not None:
            x = x + self.res_conv_unit1(F.interpolate(finer, x.shape[2:], mode="bilinear", align_corners=False))
        return self.project(F.interpolate(self.res_conv_unit2(x), scale_factor=2, mode="bilinear", align_corners=True))


class Reassemble(nn.Module):
    def __init__(self):
        super().__init__()
        out = [WIDTH // 8, WIDTH // 4, WIDTH // 2, WIDTH]
        self.projects = nn.ModuleList([Wrapped(WIDTH, one, 1) for one in out])
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(out[0], out[0], 4, 4),
                nn.ConvTranspose2d(out[1], out[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(out[3], out[3], 3, 2, 1),
            ]
        )
        self.readout_projects = nn.ModuleList([nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.GELU()) for _ in out])

    def forward(self, features):
        found = []
        for n, (x, token) in enumerate(features):
            flat = x.flatten(2).transpose(1, 2)
            both = torch.cat([flat, token[:, None].expand_as(flat)], -1)
            x = self.readout_projects[n](both).transpose(1, 2).reshape(x.shape)
            found.append(self.resize_layers[n](self.projects[n](x)))
        return found


class DPT(nn.Module):
    """The computation of DPTHead, written from its description and its names."""

    def __init__(self):
        super().__init__()
        self.reassemble_blocks = Reassemble()
        out = [WIDTH // 8, WIDTH // 4, WIDTH // 2, WIDTH]
        self.convs = nn.ModuleList([Wrapped(one, CHANNELS, bias=False) for one in out])
        self.fusion_blocks = nn.ModuleList([Fusion(n == 0) for n in range(4)])
        self.project = Wrapped(CHANNELS, CHANNELS)
        self.conv_depth = nn.Module()
        half = CHANNELS // 2
        self.conv_depth.head = nn.Sequential(
            nn.Conv2d(CHANNELS, half, 3, 1, 1),
            nn.Identity(),
            nn.Conv2d(half, 32, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
        )

    def forward(self, features):
        maps = [layer(x) for layer, x in zip(self.convs, self.reassemble_blocks(features), strict=True)]
        x = self.fusion_blocks[0](maps[-1])
        for n in range(1, 4):
            x = self.fusion_blocks[n](x, maps[-1 - n])
        head = self.conv_depth.head
        x = F.interpolate(head[0](F.relu(self.project(x))), scale_factor=2, mode="bilinear", align_corners=True)
        return (F.relu(head[4](head[3](head[2](x)))) + 0.001)[:, 0]


class Bins(nn.Module):
    """The computation of BNHead with bins "UD" and the norm "linear"."""

    def __init__(self, blocks, largest):
        super().__init__()
        self.conv_depth = nn.Conv2d(2 * WIDTH * blocks, BINS, 1)
        self.largest = largest

    def forward(self, features):
        parts = [torch.cat([x, token[:, :, None, None].expand_as(x)], 1) for x, token in features]
        x = torch.cat([F.interpolate(one, scale_factor=4, mode="bilinear", align_corners=False) for one in parts], 1)
        shares = F.relu(self.conv_depth(x)) + 0.1
        bins = torch.linspace(0.001, self.largest, BINS)
        return torch.einsum("bkhw,k->bhw", shares / shares.sum(1, keepdim=True), bins)


class Depther(nn.Module):
    def __init__(self, head, places):
        super().__init__()
        self.backbone, self.decode_head, self.places = MetaViT(depth=DEPTH), head, places

    def forward(self, pixels):
        states = []
        hooks = [block.register_forward_hook(lambda _, args, out: states.append(out)) for block in self.backbone.blocks]
        self.backbone(pixels)
        for hook in hooks:
            hook.remove()
        grid = [side // PATCH for side in pixels.shape[2:]]
        outs = [states[n] for n in self.places]  # before the final norm
        return self.decode_head([(x[:, 1:].transpose(1, 2).unflatten(2, grid), x[:, 0]) for x in outs])


CASES = {
    "x_nyu_linear_head.pth": (lambda: Bins(1, 10.0), (3,), DepthLinearHeadConfig(1, 1, bins=BINS, norm=False)),
    "x_kitti_linear4_head.pth": (
        lambda: Bins(4, 80.0),
        (0, 1, 2, 3),
        DepthLinearHeadConfig(1, (0, 1, 2, 3), max_depth=80.0, bins=BINS, norm=False),
    ),
    "x_nyu_dpt_head.pth": (
        DPT,
        (0, 1, 2, 3),
        DepthDPTHeadConfig(1, (0, 1, 2, 3), norm=False, width=CHANNELS, output="relu"),
    ),
}


def save(name, folder):
    make, places, _ = CASES[name]
    model = draw(Depther(make(), places))
    torch.save(model.backbone.state_dict(), folder / "backbone.pth")
    state = {f"decode_head.{key}": value for key, value in model.decode_head.state_dict().items()}
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, folder / name)
    return model, folder / "backbone.pth", folder / name


def depths(found, pixels, flat=None):
    skeleton = found.card.spec.skeleton(head=found.card.head)
    run = jax.jit(lambda flat, images: bind(skeleton, flat)(images).predictions["depth"])
    return np.asarray(run(found.flat if flat is None else flat, channels_last(pixels)))


@pytest.mark.parametrize("name", CASES)
def test_same_depths_and_the_same_files_again(tmp_path, name):
    model, backbone, head = save(name, tmp_path)
    found, pixels = load_pretrained(backbone, head=head, num_heads=HEADS), images(*SIZE)
    assert found.card.head == CASES[name][2]
    with torch.no_grad():
        want = {"depth": model(pixels)}
    assert_same({"depth": depths(found, pixels)}, want)
    spoiled = next(path for path in found.flat if path.startswith("head.") and path.endswith("kernel"))
    with pytest.raises(AssertionError):
        other = found.flat | {spoiled: np.roll(found.flat[spoiled], 1, axis=-1)}
        assert_same({"depth": depths(found, pixels, other)}, want)
    save_model(tmp_path / "ours", found.card, found.flat)
    export(tmp_path / "ours", tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*_head.pth")
    ours, theirs = torch.load(file), torch.load(head)["state_dict"]
    assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in theirs)
    assert load_pretrained(tmp_path / "out").card.head == found.card.head


def test_refusals(tmp_path):
    _, backbone, head = save("x_nyu_linear_head.pth", tmp_path)
    with pytest.raises(UserError, match="its range of depths is not in the file"):
        load_pretrained(backbone, head=head.rename(tmp_path / "other_linear_head.pth"), num_heads=HEADS)
    named = {
        "reassemble_blocks.batchnorm_layers.0.weight": "DINOv3's depther",
        "sem_seg_head.pixel_decoder.a": "Mask2Fo",
    }
    for key, words in named.items():
        torch.save({key: torch.ones(2)}, tmp_path / "head.pth")
        with pytest.raises(UserError, match=words):
            load_pretrained(backbone, head=tmp_path / "head.pth", num_heads=HEADS)
    state = {f"backbone.{key}": value for key, value in torch.load(backbone).items()}
    torch.save(state | {"segmentation_model.1.pixel_decoder.a": torch.ones(2)}, tmp_path / "both.pth")
    assert any(
        "among them is a Mask2Former" in note for note in load_pretrained(tmp_path / "both.pth", num_heads=4).notes
    )
    names = ("query.weight", "class_predictor.weight", "upscale_block.block.0.conv1.weight", "embeddings.cls_token")
    torch.save({name: torch.ones(2, 2) for name in names}, tmp_path / "eomt.pth")
    with pytest.raises(UserError, match="EoMT on DINOv3"):
        load_pretrained(tmp_path / "eomt.pth")
