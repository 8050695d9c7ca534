"""The command line: figures of the embedded model, and what it refuses before long work."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from convert.load import load_pretrained
from convert.store import Card, save_model
from jaxdino.core.params import split
from jaxdino.evals import features
from jaxdino.evaluate import main
from jaxdino.models.clip import CLIPConfig, TextConfig
from jaxdino.models.spec import ModelSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight images of each of two classes, red and blue, one file of them broken."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for channel, name in ((0, "red"), (2, "blue")):
        (root / name).mkdir()
        for i in range(8):
            pixels = rng.integers(0, 60, (20, 24, 3), np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    (root / "red" / "broken.png").write_text("no image")
    return str(root)


def test_the_digits_are_told_apart_and_neighbours_are_sklearns(tmp_path, monkeypatch, capsys):
    extract, kept = features.extract, []
    monkeypatch.setattr(features, "extract", lambda *given: kept.append(extract(*given)) or kept[-1])
    assert (
        main(["--weights", "dinov3_digits", "--split", "test", "--k", "1", "10", "--json", f"{tmp_path}/f.json"]) == 0
    )
    found = json.loads((tmp_path / "f.json").read_text())
    ours, pixels = found["rows"]
    assert found["images"] == {"train": 1079, "test": 359} and pixels["width"] == 3072 and ours["linear"] is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["features", "width", "k-NN", "1", "k-NN", "10"] and lines[2].startswith("dinov3_digits")

    (bank, y), (x, labels) = kept[:2]  # of the model: train and test
    assert bank.shape == (1079, 96) and x.shape == (359, 96)
    plain = KNeighborsClassifier(10, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07)).fit(bank, y)
    assert (
        ours["knn_accuracy"]["10"] == pytest.approx(plain.score(x, labels), abs=1e-9) and plain.score(x, labels) > 0.9
    )


def test_a_folder_with_everything(folder, tmp_path, capsys):
    flags = ["--root", folder, "--put_aside", "0.25", "--k", "3", "--probe", "--random", "--pool", "cls4_mean"]
    flags += ["--shots", "1", "4"]
    flags += ["--json", f"{tmp_path}/f.json", "--pictures", f"{tmp_path}/pictures", "--picture_size", "48"]
    assert main(["--weights", "dinov3_digits", *flags]) == 0
    told = capsys.readouterr()
    assert "broken.png" in told.err and told.err.count("skipped") == 1
    found = json.loads((tmp_path / "f.json").read_text())
    assert sum(found["images"].values()) == 16 and sum(found["skipped"].values()) == 1
    names = [row["features"] for row in found["rows"]]
    assert names == ["dinov3_digits", "random weights", "raw pixels 32 x 32"] and found["rows"][0]["width"] == 5 * 96
    assert found["rows"][0]["linear"]["accuracy"] == 1.0 and found["rows"][0]["linear"]["interval"][1] == 1.0
    assert found["rows"][0]["knn_accuracy"] == {"3": 1.0}
    assert found["rows"][0]["few_shot"] == {n: {"mean": 1.0, "std": 0.0} for n in ("1", "4")}
    assert "1 a class" in told.out and "100.00% ± 0.00%" in told.out
    assert (tmp_path / "pictures" / "attention.png").is_file() and "linear" in told.out


def test_folders_are_said_and_refused_with_flags_of_this_command(folder, tmp_path, capsys):
    for name in ("fold1", "fold2"):
        shutil.copytree(folder, tmp_path / "folds" / name)
    flags = ["--weights", "dinov3_digits", "--k", "3", "--root", str(tmp_path / "folds")]
    assert main(flags) == 2
    assert "give --train_split=. (the root itself)" in capsys.readouterr().err
    assert main([*flags, "--train_split=fold1", "--val_split=fold2"]) == 0
    assert "images: train 17 (fold1), val 17 (fold2)\n" in capsys.readouterr().err
    (tmp_path / "folds" / "fold2").rename(tmp_path / "folds" / "test")
    (tmp_path / "folds" / "fold1").rename(tmp_path / "folds" / "train")
    assert main([*flags, "--put_aside=0"]) == 2
    assert "share of train with --put_aside=0.2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--weights", "dinov3_digit"], "dinov3_digits"),
        (["--k", "20000"], "among the 1079 images"),
        (["--k", "0"], "k=0"),
        (["--shots", "5", "900"], "shots=900: the smallest class of train has 104 images"),
        (["--root", "nowhere"], "does not exist"),
        (["--root", "EMPTY"], "EMPTY"),
        (["--split", "train"], "compared with"),
        (["--split", "tset"], "no split 'tset'"),
        (["--pool", "average"], "pool 'average'"),
        (["--batch_size", "0"], "batch_size 0"),
        (["--dtype", "int8"], "dtype='int8'"),
        (["--json", "nowhere/f.json"], "no folder"),
        (["--temperature", "0"], "above 0"),
        (["--sixteen_bit", "twelve"], "error: --sixteen_bit=twelve is not known"),
    ],
)
def test_bad_input_is_one_clear_error(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    assert main(["--weights", "dinov3_digits", *flags]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and words in told


def test_weights_that_do_not_say_all_take_the_flags_of_convert(folder, tmp_path, capsys):
    torch, vit = pytest.importorskip("torch"), pytest.importorskip("timm.models.vision_transformer")
    how = dict(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_classes=3)
    torch.save(vit.VisionTransformer(**how).state_dict(), tmp_path / "w.pth")
    flags = ["--weights", str(tmp_path / "w.pth"), "--root", folder, "--k", "3"]
    assert main(flags) == 0
    told = capsys.readouterr().err
    assert "assumed: 1 attention head (width 64 / 64); --num_heads overrules\n" in told
    assert "head on the class token" not in told  # features do not pass it
    assert "AssumedWarning" not in told
    assert main([*flags, "--num_heads", "2", "--layout", "timm", "--image_size", "40", "--pos_grid", "4x4"]) == 0
    told = capsys.readouterr().err
    assert "assumed" not in told
    assert main([*flags, "--num_heads", "5"]) == 2
    assert "--num_heads" in capsys.readouterr().err
    save_model(tmp_path / "ours", load_pretrained("dinov3_digits").card, load_pretrained("dinov3_digits").flat)
    assert main(["--weights", str(tmp_path / "ours"), "--layout", "hf"]) == 2
    assert "a model in our own format: --layout cannot be given for it" in capsys.readouterr().err


def test_a_head_of_which_nothing_tells_the_pool_is_left_aside(folder, tmp_path, capsys):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    how = dict(depth=1, embed_dim=64, num_heads=1, img_size=32, num_classes=3)
    torch.save(timm.create_model("vit_small_patch16_dinov3", **how).state_dict(), tmp_path / "w.pth")
    assert main(["--weights", str(tmp_path / "w.pth"), "--root", folder, "--k", "3"]) == 0
    assert "the classification head was left aside: features do not need it" in capsys.readouterr().err


def test_a_text_tower_sees_no_images(tmp_path, capsys):
    config = CLIPConfig(None, TextConfig(width=16, depth=1, num_heads=2, mlp_dim=16, vocab_size=64), 8)
    spec = ModelSpec("clip_custom", "clip", config)
    _, flat = split(spec.build())
    save_model(tmp_path / "text", Card(spec), {path: np.asarray(array) for path, array in flat.items()})
    assert main(["--weights", str(tmp_path / "text")]) == 2
    assert "takes no images" in capsys.readouterr().err
