"""Objects that a trained model finds, as files that our own sources read again, and from Python."""

import json
import shutil

import numpy as np
import pytest
import tiny_instances
from PIL import Image

import jaxdino
from jaxdino import mask_parts, segment
from jaxdino.core.errors import UserError
from jaxdino.data.instances import read
from jaxdino.data.sources import load_source
from jaxdino.train import loop

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a step, whose regions need almost no probability."""
    folder = tmp_path_factory.mktemp("objects") / "run"
    made = tiny_instances.config("full", steps=1, objective__threshold=0.03)
    loop.run(made, folder)
    return folder


def test_what_segment_writes_is_read_again(run, tmp_path, capsys, monkeypatch):
    image = load_source(dict(name="shapes"), "instances").split("test").records[0]
    (tmp_path / "images").mkdir()
    Image.fromarray(image).resize((96, 48)).save(tmp_path / "images/a.png")
    (tmp_path / "images/b.png").write_text("no image")
    assert segment.main([str(tmp_path / "images"), "--workdir", str(run), "--out", str(tmp_path / "masks")]) == 1
    shown = capsys.readouterr()
    assert "b.png" in shown.err and "1 maps in" in shown.out
    (regions,) = jaxdino.load(run).masks([str(tmp_path / "images/a.png")])
    assert regions.ids.shape == (48, 96) and len(regions.labels) > 0
    assert shown.out.count("a.png\t") == len(regions.labels) == len(regions.masks) == len(regions.names)
    with Image.open(tmp_path / "masks/a.overlay.png") as overlay:
        assert overlay.size == (96, 48)
    monkeypatch.setattr(mask_parts, "BLOCK", 1)
    parts = [str(tmp_path / "images"), "--workdir", str(run), "--out", str(tmp_path / "shared"), "--shard"]
    assert segment.main([*parts, "1/2"]) == 0 and segment.main([*parts, "2/2"]) == 1
    for file in ("a.png", "a.overlay.png", "masks.json", "classes.json"):
        assert (tmp_path / "shared" / file).read_bytes() == (tmp_path / "masks" / file).read_bytes()
    (tmp_path / "images/b.png").unlink()
    capsys.readouterr()
    for least, count in (
        (0.0, len(jaxdino.load(run).masks([str(tmp_path / "images/a.png")], threshold=0.0)[0].labels)),
        (1.0, 0),
    ):
        words = [str(tmp_path / "images"), "--workdir", str(run), "--threshold", str(least)]
        assert segment.main([*words, "--out", str(tmp_path / f"above{least}")]) == 0
        assert capsys.readouterr().out.count("a.png\t") == count
    (tmp_path / "masks/a.overlay.png").unlink()
    shutil.copy(tmp_path / "masks/classes.json", tmp_path)
    maps = load_source(dict(name="masks", root=str(tmp_path), val_ratio=0.0), "instances")
    (tmp_path / "annotations").mkdir()
    shutil.copy(tmp_path / "masks/masks.json", tmp_path / "annotations/instances_train.json")
    coco = load_source(dict(name="coco", root=str(tmp_path), val_ratio=0.0), "instances")
    for source in (maps, coco):
        found = read(source.split("train").fields["instances"][0], 2**20)
        assert sorted(source.class_names[n] for n in found.labels) == sorted(regions.names)
        np.testing.assert_array_equal(found.ids > 0, regions.ids > 0)
    content = json.loads((tmp_path / "masks/masks.json").read_text())
    assert {one["isthing"] for one in content["categories"]} == {1}
    assert {one["file_name"] for one in content["images"]} == {"a.png"}


def test_what_does_not_fit(run, tmp_path, capsys):
    words = [str(tmp_path), "--workdir", str(run), "--prompt", "cat"]
    assert segment.main(words) == 2 and "takes no prompts: leave out --prompt" in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    words[3:] = ["--threshold", "2"]
    assert segment.main(words) == 2 and "threshold=2.0 must be in [0, 1]" in capsys.readouterr().err
    with pytest.raises(UserError, match="threshold=2 must be in"):
        jaxdino.load(run).masks([np.zeros((8, 8, 3), np.uint8)], threshold=2)
