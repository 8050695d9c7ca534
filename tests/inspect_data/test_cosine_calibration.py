"""The cosine of near-duplicates is calibrated on near-copies of the images and on their nearest others."""

import argparse
import json
import os

import numpy as np
import pytest
from PIL import Image

from jaxdino.check_data import main
from jaxdino.data.channels import Reading
from jaxdino.data.ranges import Range
from jaxdino.inspect_data import calibration
from jaxdino.inspect_data.calibration import KINDS, NearCopies, calibrated, chosen, nearest_others
from jaxdino.inspect_data.limits import cosine
from jaxdino.inspect_data.neighbours import similar

COUNT = 40


def texture(seed, side=64):
    """Return three grey waves, different for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = [
        np.sin(2 * np.pi * (rng.uniform(-3, 3) * x + rng.uniform(-3, 3) * y) + rng.uniform(0, 6.3)) for _ in range(3)
    ]
    return Image.fromarray(np.uint8(np.clip(127 + 50 * sum(waves), 0, 255))).convert("RGB")


def reading(channels=3):
    return Reading(channels, Range())


def test_a_planted_copy_is_found_and_different_images_are_not(tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    for i in range(COUNT):
        texture(i).save(root / f"{i:02}.png")
    texture(5).resize((58, 58)).save(root / "copy.jpg", quality=80)
    out, html = tmp_path / "found.json", tmp_path / "page.html"
    flags = ["--name=images", "--weights=dinov3_digits", "--distance=-1", "--small=0"]
    assert main([f"--root={root}", *flags, f"--json={out}", f"--html={html}"]) == 0
    found, said = json.loads(out.read_text()), capsys.readouterr().out
    assert [[os.path.basename(path) for path in group] for group in found["near_duplicates"]] == [
        ["05.png", "copy.jpg"]
    ]
    got = found["calibration"]
    assert (
        got["rule"] == "copies" and got["copies"]["n"] == (COUNT + 1) * len(KINDS) and got["others"]["n"] == COUNT + 1
    )
    assert 0 <= got["copies"]["5 %"] - got["cosine"] < 1e-5 and found["limits"]["cosine"] == got["cosine"]
    assert got["others"]["95 %"] < got["cosine"]
    line = f"{got['cosine']:.5f}, the 5 % quantile of near-copies"
    assert f"cosine of near-duplicates: {line}" in said and line in html.read_text()
    assert "the two overlap" not in said


def test_where_copies_and_others_overlap_the_others_decide():
    rng = np.random.default_rng(0)
    copies, low, high = rng.uniform(0.9, 1, 800), rng.uniform(0.2, 0.6, 200), rng.uniform(0.5, 0.98, 200)
    told = chosen(copies, low)
    assert told.rule == "copies" and told.cosine == pytest.approx(np.quantile(copies, 0.05), abs=1e-5)
    not_told = chosen(copies, high)
    assert not_told.rule == "others" and not_told.cosine == pytest.approx(np.quantile(high, 0.99), abs=1e-5)
    assert [name for name, _ in told.rows()] == [name for name, _ in not_told.rows()][:-1]
    note = not_told.rows()[-1][1]
    assert "cannot be told" in note and f"--cosine {np.quantile(copies, 0.05):.5f} finds" in note
    assert told.copies["n"] == 800 and told.others["50 %"] == pytest.approx(np.median(low))


def test_the_same_image_is_not_another(tmp_path):
    rng = np.random.default_rng(0)
    files = [str(tmp_path / f"{i}.bin") for i in range(6)]
    for i, file in enumerate(files):
        with open(file, "wb") as out:
            out.write(bytes([i % 5]) * 10)  # the last has the bytes of the first
    base = np.eye(6, 8, dtype=np.float32)
    found = base + 0.01 * rng.normal(size=(6, 8)).astype(np.float32)
    found[5] = found[0] + 0.1 * base[5]  # the same bytes
    found[2] = 2 * found[1]  # a cosine of 1
    found[4] = found[3] + 0.1 * base[4]  # the same hash
    hashes = np.array([0, 0xFF, 0xFF00, 0xFF0000, 0xFF0001, 0xFF000000], np.uint64)
    sample = np.arange(6)
    assert nearest_others(files, found, hashes, sample).max() < 0.2
    spread = np.array([0xFF << (8 * i) for i in range(6)], np.uint64)
    assert (nearest_others(files, found, spread, sample) > 0.9).sum() == 2
    assert (nearest_others([np.zeros(1)] * 6, found, hashes, sample) > 0.9).sum() == 2


def test_too_few_images_that_differ():
    def embed(split):
        raise AssertionError("nothing is embedded")

    few = calibrated([None] * 9, np.eye(9, dtype=np.float32), np.zeros(9, np.uint64), embed, reading())
    same = calibrated([None] * 30, np.ones((30, 4), np.float32), np.zeros(30, np.uint64), embed, reading())
    assert few == same and few.cosine == 0.97 and few.rule == "fallback"
    assert few.rows() == [
        ("cosine of near-duplicates", "0.97, not calibrated: fewer than 10 images that differ; --cosine N sets another")
    ]


def test_a_large_data_set_is_sampled_and_cosines_are_those_of_each_image_and_its_copies():
    rng = np.random.default_rng(0)
    found = rng.normal(size=(300, 16)).astype(np.float32)
    records = [np.full((2, 2, 3), i % 250, np.uint8) for i in range(300)]
    hashes = rng.integers(0, 1 << 63, 300).astype(np.uint64)
    asked = []

    def embed(split):
        asked.append(len(split))
        held = [next(i for i, one in enumerate(records) if one is record) for record in split.records.records]
        rows = np.repeat(held, len(KINDS))
        kept = np.arange(len(rows)) != 7  # one that cannot be read
        return 3 * found[rows][kept], split.labels[kept]

    got = calibrated(records, found, hashes, embed, reading())
    assert asked == [calibration.SAMPLE * len(KINDS)] and got.copies["n"] == asked[0] - 1
    assert got.copies["5 %"] == pytest.approx(1, abs=1e-5) and got.others["95 %"] < 0.95
    pairs = similar(found, np.arange(300), got.cosine)
    assert len(pairs) == 0


def test_kinds_of_copies(tmp_path):
    file = str(tmp_path / "a.png")
    texture(0).save(file)
    original = np.asarray(texture(0), np.float32)
    copies = [copy for copy in NearCopies([file], reading()) if copy is not None]
    assert [copy.shape for copy in copies] == [(45, 45, 3), (60, 60, 3), (64, 64, 3), (64, 64, 3)]
    np.testing.assert_array_equal(copies[1], original[2:-2, 2:-2])
    np.testing.assert_allclose([copies[2].mean(), copies[3].mean()] / original.mean(), [1.1, 0.9], atol=0.03)
    back = np.asarray(Image.fromarray(copies[0]).resize((64, 64)), np.float32)
    assert 0.5 < np.abs(back - original).mean() < 15
    grey, five = NearCopies([file], reading(1)), NearCopies([np.zeros((10, 10, 5), np.uint8)], reading(5))
    assert [len(grey), grey[0].shape] == [4, (45, 45, 1)] and [copy.shape[2] for copy in five] == [5] * 4
    assert list(NearCopies([str(tmp_path / "missing.png")], reading())) == [None] * 4


def test_the_flag_is_auto_or_a_number():
    assert cosine("auto") is None and cosine("0.9") == 0.9
    with pytest.raises(argparse.ArgumentTypeError, match="'near' must be auto or a number"):
        cosine("near")
