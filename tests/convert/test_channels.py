"""Weights for RGB read for images of other channels: timm's rule, through every door."""

import dataclasses

import numpy as np
import pytest
import torch

import jaxdino
from convert.__main__ import main
from convert.channels import adapt_kernel, adapt_preprocess, with_channels
from convert.load import load_pretrained
from jaxdino.core.errors import UserError
from jaxdino.models.registry import get
from jaxdino.models.spec import Preprocess
from tests.torchvision_stub import import_torchvision

KERNEL = "backbone.patch_embed.proj.kernel"


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_the_rule_is_timms(channels):
    import_torchvision()
    from timm.models import adapt_input_conv

    kernel = np.random.default_rng(0).normal(size=(4, 4, 3, 8)).astype(np.float32)
    theirs = adapt_input_conv(channels, torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
    np.testing.assert_allclose(adapt_kernel(kernel, channels), theirs.numpy().transpose(2, 3, 1, 0), rtol=1e-6)
    assert adapt_kernel(kernel.astype(np.float16), channels).dtype == np.float16


def test_preprocessing_follows():
    how = Preprocess(mean=(0.1, 0.2, 0.6), std=(0.2, 0.3, 0.4))
    one, four = adapt_preprocess(how, 1), adapt_preprocess(how, 4)
    assert np.allclose(one.mean + one.std, (0.3, 0.3))
    assert (four.mean, four.std) == ((0.1, 0.2, 0.6, 0.1), (0.2, 0.3, 0.4, 0.2))


def test_a_grey_image_gives_what_it_gave_as_rgb():
    grey = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 1)).astype(np.uint8)
    one, three = jaxdino.load("dinov3_digits", in_channels=1), jaxdino.load("dinov3_digits")
    np.testing.assert_allclose(one(grey).cls, three(grey.repeat(3, axis=-1)).cls, atol=1e-4)
    assert jaxdino.load("dinov3_digits", in_channels=5)(np.zeros((1, 32, 32, 5), np.uint8)).cls.shape == (1, 96)


def test_it_is_kept_on_disk_and_in_other_layouts(tmp_path):
    assert main(["import", "dinov3_digits", "--in_channels", "4", "--out", str(tmp_path / "ours")]) == 0
    ours = load_pretrained(tmp_path / "ours")
    assert ours.flat[KERNEL].shape[2] == ours.card.spec.config.in_channels == len(ours.card.spec.preprocess.mean) == 4
    for layout in ("hf", "meta", "timm"):
        out = tmp_path / layout
        assert main(["export", str(tmp_path / "ours"), "--format", layout, "--out", str(out)]) == 0
        again = load_pretrained(out)
        assert np.array_equal(again.flat[KERNEL], ours.flat[KERNEL])
        assert again.card.spec.preprocess == ours.card.spec.preprocess


@pytest.mark.parametrize("channels", [0, -1, 10**12])
def test_no_such_number(channels):
    with pytest.raises(UserError, match=rf"in_channels={channels} must be in \[1, 4096\]"):
        load_pretrained("dinov3_digits", in_channels=channels)


def test_a_network_on_features_has_no_channels():
    for channels in (0, 3):
        with pytest.raises(UserError, match=f"in_channels={channels}: a dino_head takes features, not images"):
            with_channels(get("dino_head"), channels)


def test_weights_for_other_channels_stay_as_they_are(tmp_path):
    assert main(["import", "dinov3_digits", "--in_channels", "4", "--out", str(tmp_path / "ours")]) == 0
    assert load_pretrained(tmp_path / "ours", in_channels=4).notes == ()
    with pytest.raises(UserError, match="in_channels=3: weights for 4 channels cannot"):
        load_pretrained(tmp_path / "ours", in_channels=3)


def test_rgb_preprocessing_of_other_channels_follows_the_rule(tmp_path):
    """A checkpoint trained on four channels, with no word on their mean and deviation."""
    assert main(["import", "dinov3_digits", "--in_channels", "4", "--out", str(tmp_path / "ours")]) == 0
    assert main(["export", str(tmp_path / "ours"), "--format", "meta", "--out", str(tmp_path / "meta")]) == 0
    (tmp_path / "meta" / "jaxdino.json").unlink()
    (file,) = (tmp_path / "meta").iterdir()
    found = load_pretrained(file, num_heads=3).card.spec.preprocess
    assert len(found.mean) == len(found.std) == 4 and found.mean[3] == found.mean[0]


def test_every_familys_kernel_takes_the_images_in():
    from jaxdino.models.registry import MODELS

    for name in ("dinov3_vits16", "dinov3_convnext_tiny", "resnet18", "clip_vitb32", "sam_vitb"):
        config = MODELS[name].config
        wide = config.with_channels(5)
        assert wide.in_channels == 5 and dataclasses.is_dataclass(wide)
        entry = dataclasses.replace(MODELS[name], config=wide).skeleton().entries[config.input_kernel]
        assert entry.shape[2] == 5
