"""`jaxdino check-data` on images that are stored as bytes: the same findings as on their files, by name."""

import io
import json

import planted
import pytest

from jaxdino import prepare
from jaxdino.check_data import main
from tests.data import tfds_folder


def check(root, name, tmp_path, *flags):
    out, html = tmp_path / "found.json", tmp_path / "page.html"
    given = [f"--root={root}", f"--name={name}", f"--json={out}", f"--html={html}", "--min_samples_per_class=1", *flags]
    assert main([*given, "--threads=1"]) == 0
    assert "data:image/jpeg" in html.read_text() or not flags
    return json.loads(out.read_text())


@pytest.fixture
def root(tmp_path):
    """A folder with a copy in val, a similar image, and one that is damaged."""
    root = planted.folder(tmp_path / "data", train=3, val=2)
    (root / "val/dog/copy.jpg").write_bytes((root / "train/cat/0.jpg").read_bytes())
    planted.picture(1).resize((230, 230)).save(root / "train/cat/similar.png")
    whole = (root / "val/cat/0.jpg").read_bytes()
    (root / "val/cat/cut.jpg").write_bytes(whole[: len(whole) // 2])
    return root


def test_shards_have_the_findings_of_their_folder(root, tmp_path):
    assert prepare.main(["--root", str(root), "--out", str(tmp_path / "shards")]) == 0
    found = check(tmp_path / "shards", "shards", tmp_path, "--first=5")
    copies = ["shards:train/cat/0.jpg", "shards:val/dog/copy.jpg"]
    assert found["duplicates"] == found["exact_leaks"] == found["label_conflicts"] == [copies]
    assert ["shards:train/cat/1.jpg", "shards:train/cat/similar.png"] in found["near_duplicates"]
    assert found["truncated"] == [["shards:val/cat/cut.jpg"]]
    files = check(root, "folder", tmp_path)
    for key in ("images", "classes", "formats", "sizes"):
        assert found[key] == files[key]


def test_tfds(tmp_path):
    top = tfds_folder.write(tmp_path / "d", {"train": [0, 1, 0, 1], "test": [0, 1]}, ("cat", "dog"))
    found = check(top, "tfds", tmp_path)
    assert found["images"]["test"] == 2 and found["formats"] == {"PNG RGB": 6}
    assert [f"tfds:test/{row}" for row in range(2)] == [one for (one,) in found["small"] if "test" in one]
    assert found["sizes"]["bytes"]["min"] > 0


def test_hugging_face(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def table(seeds):
        images = []
        for seed in seeds:
            buffer = io.BytesIO()
            planted.picture(seed).save(buffer, "PNG")
            images.append({"bytes": buffer.getvalue(), "path": None})
        kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
        return datasets.Dataset.from_dict({"image": images, "label": [n % 2 for n in range(len(seeds))]}, kinds)

    top = tmp_path / "d"
    datasets.DatasetDict({"train": table([0, 1, 2, 0]), "test": table([1, 5])}).save_to_disk(top)
    found = check(top, "hf", tmp_path, "--data.val_split=test", "--first=5")
    assert found["exact_leaks"] == [["hf:train/1", "hf:test/0"]]
    assert found["duplicates"] == [["hf:train/0", "hf:train/3"], ["hf:train/1", "hf:test/0"]]
    assert found["classes"]["cat"] == {"train": 2, "val": 1}
