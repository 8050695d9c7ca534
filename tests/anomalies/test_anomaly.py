"""`jaxdino anomaly`: a spot of another texture is told and found; the parts equal their definitions."""

import json
import shutil

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from jaxdino import anomaly
from jaxdino.anomalies import coreset, detector, form, measures, testing
from jaxdino.anomalies.form import FORMS, neighbourhood_mean
from jaxdino.anomalies.maps import coloured
from jaxdino.core.errors import UserError
from jaxdino.models.registry import CONFIGS

RNG = np.random.default_rng(0)
SIDE = 32


def texture(rng):
    """Vertical stripes with noise."""
    stripes = 120 + 60 * np.sin(np.arange(SIDE) * np.pi / 4)
    return (stripes[None, :, None] + rng.normal(0, 12, (SIDE, SIDE, 3))).clip(0, 255)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """30 good images to fit, and a test set of 12 good ones and 10 with a spot of horizontal stripes, with masks."""
    top, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(1)
    for name, count in (("train", 30), ("test/good", 12), ("test/spot", 10)):
        (top / name).mkdir(parents=True)
        for i in range(count):
            pixels, mask = texture(rng), np.zeros((SIDE, SIDE), np.uint8)
            if name.endswith("spot"):
                y, x = rng.integers(4, 18, 2)
                mask[y : y + 10, x : x + 10] = 255
                pixels[mask > 0] = texture(rng).transpose(1, 0, 2)[mask > 0]
                (top / "masks" / "spot").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(top / "masks" / "spot" / f"{i}_mask.png")
            Image.fromarray(pixels.astype(np.uint8)).save(top / name / f"{i}.png")
    (top / "train" / "broken.png").write_text("no image")
    return top


@pytest.fixture(scope="module", params=["anomalydino", "patchcore"])
def fitted(request, folders):
    out = folders / request.param
    how = ["--root", str(folders / "train"), "--out", str(out), "--bank", "400", "--method", request.param]
    assert anomaly.main(["fit", "--weights", "dinov3_digits", *how]) == 1  # an image could not be read
    return out


def test_spots_are_told_and_found(folders, fitted, capsys):
    file = fitted / "figures.out.json"
    test = ["--root", str(folders / "test"), "--masks", str(folders / "masks"), "--json", str(file)]
    assert anomaly.main(["evaluate", "--detector", str(fitted), *test]) == 0
    found = json.loads(file.read_text())
    file.unlink()
    assert found["n"] == {"good": 12, "anomalous": 10} and found["image_auroc"] > 0.95
    assert found["pixel_auroc"] > 0.8 and found["pro"] > 0.45  # without skill: 0.5 and 0.15
    for name in ("image_auroc", "pixel_auroc", "pro"):
        assert found[f"{name}_interval"][0] <= found[name] <= found[f"{name}_interval"][1], name
    assert "image AUROC" in capsys.readouterr().out
    about = json.loads((fitted / "anomaly.json").read_text())
    assert about["rows"] == 400 < about["counts"]["patches"] and about["counts"]["unread"] == 1
    assert about["counts"]["images"] + about["counts"]["held_out"] == 30


def test_prediction_writes_scores_and_maps(folders, fitted, tmp_path, capsys):
    names = [str(folders / "test" / "spot" / "3.png"), str(folders / "test" / "good" / "4.png")]
    where = ["--maps", str(tmp_path / "maps"), "--out", str(tmp_path / "s.json")]
    assert anomaly.main(["predict", "--detector", str(fitted), *names, *where]) == 0
    spot, good = json.loads((tmp_path / "s.json").read_text())
    assert spot["score"] > good["score"] and spot["anomalous"]
    with Image.open(tmp_path / "maps" / "3.png") as picture:
        assert picture.size == (SIDE, SIDE)
    lines = ["predict", "--detector", str(fitted), *names, str(folders / "train" / "broken.png"), "--batch_size", "2"]
    assert anomaly.main(lines) == 1
    out = capsys.readouterr().out.splitlines()
    assert [float(line.split("\t")[1]) for line in out] == [round(spot["score"], 4), round(good["score"], 4)]


def test_a_scene_above_the_limit_has_the_scores_of_the_whole_image(fitted, tmp_path, capsys):
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(2)
    scene = np.concatenate([texture(rng) for _ in range(6)]).astype(np.uint8)  # six times as high as wide
    tifffile.imwrite(tmp_path / "scene.tif", scene, rowsperstrip=8, photometric="rgb")
    Image.fromarray(scene).save(tmp_path / "scene.png")
    lines = ["predict", "--detector", str(fitted), str(tmp_path / "scene.tif"), "--maps"]
    assert anomaly.main([*lines, str(tmp_path / "whole")]) == 0
    assert anomaly.main([*lines, str(tmp_path / "strips"), "--max_pixels", "1000"]) == 0
    whole, strips = capsys.readouterr().out.splitlines()
    assert whole == strips and strips.endswith(("good", "anomalous"))
    drawn = [(tmp_path / name / "scene.png").read_bytes() for name in ("whole", "strips")]
    assert drawn[0] == drawn[1]
    assert (
        anomaly.main(["predict", "--detector", str(fitted), str(tmp_path / "scene.png"), "--max_pixels", "1000"]) == 1
    )
    assert "max_pixels" in capsys.readouterr().err


def test_the_usual_method_of_each_family():
    found = {name: form.usual(config) for name, config in CONFIGS.items()}
    stages = {name for name, method in found.items() if method == "patchcore"}
    assert stages == {"convnext", "dino_resnet", "resnet"} and found["clip"] == "anomalydino", found


def test_colours_are_clear_at_zero_and_in_the_middle_at_the_threshold():
    image = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    heat = np.zeros((4, 6))
    heat[1], heat[2] = 0.3, 5.0
    drawn = coloured(image, heat, threshold=0.3)
    np.testing.assert_array_equal(drawn[[0, 3]], image[[0, 3]])
    middle, end = (np.array(colormaps["inferno"](share)[:3]) * 255 for share in (0.5, 1.0))
    np.testing.assert_allclose(drawn[1], 0.7 * image[1] + 0.3 * middle, atol=0.51)
    np.testing.assert_allclose(drawn[2], 0.4 * image[2] + 0.6 * end, atol=0.51)


def test_distances_are_those_of_the_nearest_neighbour():
    bank, rows = RNG.normal(size=(50, 6)).astype(np.float32), RNG.normal(size=(3, 2, 4, 6)).astype(np.float32)
    expected = NearestNeighbors(n_neighbors=1).fit(bank).kneighbors(rows.reshape(-1, 6))[0].reshape(3, 2, 4)
    np.testing.assert_allclose(detector.distances(bank, rows, cosine=False), expected, rtol=1e-4)
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (bank, rows)]
    expected = (1 - unit[1].reshape(-1, 6) @ unit[0].T).min(axis=1).reshape(3, 2, 4)
    np.testing.assert_allclose(detector.distances(unit[0], unit[1], cosine=True), expected, atol=1e-6)


def test_the_greedy_choice_is_the_farthest_row_each_time():
    rows = RNG.normal(size=(40, 5)).astype(np.float32)
    chosen = coreset.greedy(rows, 12, seed=3)
    assert len(set(chosen.tolist())) == 12
    for n in range(1, 12):
        far = np.linalg.norm(rows[:, None] - rows[chosen[:n]][None], axis=2).min(axis=1)
        assert far[chosen[n]] == pytest.approx(far.max(), rel=1e-4)


def test_the_bank_stays_bounded_and_covers_all_groups():
    kept = coreset.Coreset(30)
    for group in range(10):
        kept.add(RNG.normal(size=(100, 8)).astype(np.float32) * 0.01 + 10 * np.eye(8)[group % 8] * (1 + group // 8))
        assert kept._rows <= coreset.HELD * 30
    bank = kept.bank()
    assert bank.shape == (30, 8) and kept.seen == 1000
    centres = np.array([10 * np.eye(8)[group % 8] * (1 + group // 8) for group in range(10)])
    assert np.linalg.norm(bank[None] - centres[:, None], axis=2).min(axis=1).max() < 0.2


def test_scores_and_neighbourhoods():
    far = RNG.random((2, 10, 20)).astype(np.float32)
    top = np.sort(far.reshape(2, -1), axis=1)
    np.testing.assert_allclose(detector.image_scores(far, FORMS["anomalydino"].share), top[:, -2:].mean(axis=1))
    np.testing.assert_allclose(detector.image_scores(far, FORMS["patchcore"].share), top[:, -1])
    x = RNG.random((1, 4, 5, 2)).astype(np.float32)
    found = np.asarray(neighbourhood_mean(x, 3))
    np.testing.assert_allclose(found[0, 0, 0], x[0, :2, :2].mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found[0, 2, 3], x[0, 1:4, 2:5].mean(axis=(0, 1)), rtol=1e-5)


def test_pixel_measures_are_their_definitions():
    masks = [np.zeros((12, 12), bool) for _ in range(3)]
    masks[0][2:5, 2:5] = masks[0][8:10, 8:11] = masks[1][1:3, 4:9] = True
    maps = [np.round(RNG.random((12, 12)) + 0.5 * mask, 1) for mask in masks]
    flat = [np.concatenate([one.ravel() for one in some]) for some in (masks, maps)]
    assert measures.pixel_auroc(masks, maps) == pytest.approx(roc_auc_score(*flat))
    regions = [(0, np.s_[2:5, 2:5]), (0, np.s_[8:10, 8:11]), (1, np.s_[1:3, 4:9])]
    thresholds = sorted({value for one in maps for value in one.ravel()}, reverse=True)
    normal = np.concatenate([heat[~mask] for heat, mask in zip(maps, masks, strict=True)])
    x = [0.0] + [float((normal >= t).mean()) for t in thresholds]
    y = [0.0] + [float(np.mean([(maps[i][part] >= t).mean() for i, part in regions])) for t in thresholds]
    fine = np.linspace(0, 0.3, 200_001)
    assert measures.pro(masks, maps) == pytest.approx(np.trapezoid(np.interp(fine, x, y), fine) / 0.3, abs=1e-5)
    drawn = np.array([[1, 1, 1], [2, 0, 1], [0, 0, 3]])
    found = measures.pixel_statistic(masks, maps)(drawn.astype(float))
    for row, counts in enumerate(drawn[:2]):
        some = [[one[i] for i in np.repeat(np.arange(3), counts)] for one in (masks, maps)]
        assert found["pixel_auroc"][row] == pytest.approx(measures.pixel_auroc(*some))
        assert found["pro"][row] == pytest.approx(measures.pro(*some))
    assert np.isnan(found["pixel_auroc"][2]) and np.isnan(found["pro"][2])  # no anomalous pixel was drawn
    assert measures.pro(masks, [1.0 * mask for mask in masks]) > 0.999 and np.isnan(measures.pro(masks[2:], maps[2:]))


@pytest.mark.parametrize(
    "args, says",
    [
        (["fit", "--root", "train", "--out", "o", "--bank", "0"], "--bank=0"),
        (["fit", "--root", "train", "--out", "o", "--hold_out", "1"], "--hold_out=1"),
        (["fit", "--root", "train", "--out", "o", "--method", "patchcor"], "patchcore"),
        (["fit", "--root", "train", "--out", "o", "--layers", "40"], "40"),
        (["fit", "--root", "train", "--out", "."], "which we did not write"),
        (["fit", "--root", "train", "--out", "masks/spot/1_mask.png/o"], "is not a writable folder"),
        (["predict", "--detector", "x", "test", "--maps", "masks/spot/1_mask.png/m"], "is not a writable folder"),
        (["predict", "--detector", "nothing", "train"], "no anomaly detector"),
        (["evaluate", "--detector", "nothing", "--root", "masks"], "'good'"),
        (["evaluate", "--detector", "x", "--root", "test", "--masks", "train"], "has no mask"),
        (["evaluate", "--detector", "x", "--root", "test", "--json", "no/f.json"], "a folder that exists"),
        (["evaluate", "--detector", "x", "--root", "test", "--maps", "test"], "would replace the image"),
        (["predict", "--detector", "x", "test/good/1.png", "--maps", "test/good", "--overwrite"], "would replace"),
        (["predict", "--detector", "x", "test/good/1.png", "--maps", "masks/spot/1_mask.png"], "is a file"),
        (["predict", "--detector", "x", "test/good/1.png", "test/spot/1.png", "--maps", "m"], "would both be m/1.png"),
        (["predict", "--detector", "x", "test/good/1.png", "--maps", "test/spot"], "exists already"),
        (["predict", "--detector", "x", "test/good/1.png", "--threshold", "nan"], "is no number"),
        (["predict", "--detector", "x", "test/good/1.png", "--max_pixels", "0"], "--max_pixels=0"),
    ],
)
def test_wrong_calls(folders, args, says, capsys, monkeypatch):
    monkeypatch.chdir(folders)
    weights = ["--weights", "dinov3_digits"] if args[0] == "fit" else []
    assert anomaly.main([*args, *weights, *(["--overwrite"] if args[-1] == "." else [])]) == 2
    assert says in capsys.readouterr().err


def test_a_kind_without_images_is_refused(folders, tmp_path):
    shutil.copytree(folders / "test", tmp_path / "test")
    (tmp_path / "test" / "glass").mkdir()
    with pytest.raises(UserError, match="folder 'glass' holds no image"):
        testing.listed(tmp_path / "test", "good", None)


def test_a_damaged_detector_and_other_weights_are_named(fitted, tmp_path):
    about = json.loads((fitted / "anomaly.json").read_text())
    bank = (fitted / "bank.npy").read_bytes()
    for name, text, content, says in (
        ("cut", json.dumps(about), bank[: len(bank) // 2], "damaged"),
        ("fields", json.dumps(about | {"form": {"layers": 1}}), bank, "damaged"),
        ("text", "{", bank, "anomaly.json"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "anomaly.json").write_text(text)
        (tmp_path / name / "bank.npy").write_bytes(content)
        with pytest.raises(UserError, match=says):
            detector.read(tmp_path / name)
