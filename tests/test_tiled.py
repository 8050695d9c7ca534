"""Features of large images in windows: exact where no patch sees another, on the grid of the whole image otherwise."""

import json

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

import jaxdino
from jaxdino import anomaly, embed, search
from jaxdino.api.tiled import Tiled
from jaxdino.core.errors import UserError
from jaxdino.models.output import Output


@pytest.fixture(scope="module")
def model():
    return jaxdino.load("dinov3_digits")  # 32 pixels, patches of 4


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), np.uint8)


def local(images):
    """Means of patches: no patch sees another; one vector for each window."""
    b, h, w, c = images.shape
    cells = images.reshape(b, h // 4, 4, w // 4, 4, c).astype(float).mean(axis=(2, 4))
    return Output(cls=cells[:, 0, 0], patches=cells, registers=cells[:, :0, 0], pooled=cells[:, -1, -1])


@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.8])
def test_patches_that_do_not_see_each_other_are_those_of_the_whole_image(model, images, overlap, monkeypatch):
    wide = Tiled(model, (64, 48), overlap)
    monkeypatch.setattr(wide, "inner", jax.jit(local))
    found = wide(images)
    np.testing.assert_allclose(found.patches, local(images).patches, rtol=1e-5)
    assert found.cls.shape == (3, 3) and found.registers.shape == (3, 0, 3)
    np.testing.assert_allclose(wide(np.full_like(images, 7)).patches, 7, rtol=1e-6)


def test_windows_that_do_not_overlap_are_the_models_own(model, images):
    square = np.concatenate([images, images], axis=2)[:, :, :64]
    outs = Tiled(model, (64, 64), 0.0).intermediate_layers(square, 2)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32)]
    parts = [model.intermediate_layers(square[:, y : y + 32, x : x + 32], 2) for y, x in corners]
    for block, out in enumerate(outs):
        for (y, x), part in zip(corners, parts, strict=True):
            y, x = y // 4, x // 4
            np.testing.assert_allclose(out.patches[:, y : y + 8, x : x + 8], part[block].patches, atol=1e-5)
        np.testing.assert_allclose(out.cls, sum(part[block].cls for part in parts) / 4, atol=1e-5)


def test_one_window_is_the_model(model, images):
    small = images[:, :32, :32]
    np.testing.assert_allclose(Tiled(model, (32, 32))(small).patches, model(small).patches, atol=1e-6)


@pytest.mark.parametrize("size", [(30, 64), (64, 66)])
def test_sizes_that_do_not_fit_the_patches_are_refused(model, size):
    with pytest.raises(UserError, match=r"32 x 32 pixels in cells of 4 x 4: give multiples of these, at least 32x32"):
        Tiled(model, size)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve pictures of noise, 96 x 64 pixels, half of them with a bright spot."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(1)
    for i in range(12):
        pixels = rng.integers(0, 120, (96, 64, 3), np.uint8)
        pixels[40:56, 10:26] += np.uint8(130 * (i % 2))
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def test_embeddings_remember_their_windows(photos, model, tmp_path, capsys):
    out = tmp_path / "e.npy"
    how = ["--weights", "dinov3_digits", "--root", str(photos), "--out", str(out), "--pool", "mean"]
    assert embed.main([*how, "--tiled", "96x64", "--overlap", "0.5"]) == 0
    wide = Tiled(model, (96, 64), 0.5)
    want = wide(wide.preprocess([str(photos / "03.png")])).patches.mean(axis=(1, 2))
    np.testing.assert_allclose(np.load(out)[3], want[0], atol=1e-5)
    capsys.readouterr()
    assert search.main(["--embeddings", str(out), str(photos / "03.png"), "--top", "1"]) == 0
    assert "03.png\t1.0000" in capsys.readouterr().out.replace("03.png\t1\n", "03.png\t1.0000")


def test_anomaly_maps_of_large_images_are_in_windows(photos, tmp_path):
    detector, good = tmp_path / "detector", tmp_path / "good"
    good.mkdir()
    for i in range(0, 12, 2):
        (good / f"{i}.png").write_bytes((photos / f"{i:02d}.png").read_bytes())
    fit = ["fit", "--weights", "dinov3_digits", "--root", str(good), "--out", str(detector), "--tiled", "64"]
    assert anomaly.main(fit) == 0
    about = json.loads((detector / "anomaly.json").read_text())
    assert about["weights"]["windows"] == {"tiled": [64, 64], "overlap": 1 / 3}
    assert about["counts"]["patches"] == 5 * 16 * 16
    maps = ["--maps", str(tmp_path / "maps"), "--out", str(tmp_path / "s.json")]
    assert anomaly.main(["predict", "--detector", str(detector), *map(str, sorted(photos.glob("*.png"))), *maps]) == 0
    scores = [row["score"] for row in json.loads((tmp_path / "s.json").read_text())]
    assert min(scores[1::2]) > max(scores[::2])
    with Image.open(tmp_path / "maps" / "01.png") as picture:
        assert picture.size == (64, 64)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--overlap", "0.5"], "needs --tiled"),
        (["--tiled", "64", "--overlap", "1"], "overlap=1"),
        (["--tiled", "33"], "33x33"),
    ],
)
def test_wrong_windows_are_refused(photos, flags, words, tmp_path, capsys):
    how = ["--weights", "dinov3_digits", "--root", str(photos), "--out", str(tmp_path / "e.npy")]
    assert embed.main([*how, *flags]) == 2
    assert words in capsys.readouterr().err


def test_scenes_above_the_limit_are_embedded_as_if_they_were_held(tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (150, 130, 3), np.uint8)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", image, photometric="rgb", tile=(64, 64))
    found = []
    for limit in ([], ["--data.max_pixels=9000"]):
        given = ["--weights", "dinov3_digits", "--root", str(tmp_path / "in"), "--tiled", "64", "--overwrite"]
        assert embed.main([*given, "--out", str(tmp_path / "x.npy"), *limit]) == 0
        found.append(np.load(tmp_path / "x.npy"))
    np.testing.assert_array_equal(*found)
    Image.fromarray(image).save(tmp_path / "in/b.png")
    assert embed.main([*given, "--out", str(tmp_path / "x.npy"), *limit]) == 1
    said = "too large: 130 x 150 has more than max_pixels = 9000 pixels, and only .npy, and TIFF with"
    assert said in capsys.readouterr().err
