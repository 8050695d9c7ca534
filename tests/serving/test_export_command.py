"""`jaxdino export` on a finished run: each target, int8 with its figures, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convert.store import save_model
from jaxdino import load
from jaxdino.export import main
from jaxdino.serving import checking, int8, onnx_file, program
from jaxdino.train.loop import run
from tests.serving import tiny_models
from tests.train import tiny


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run on some of the digits."""
    place = tmp_path_factory.mktemp("exported") / "run"
    run(tiny.config(1), place)
    return str(place)


@pytest.fixture(scope="module")
def onnx_out(workdir):
    """Its export to ONNX, int8 after the float32 form was compared."""
    out = f"{workdir}-int8"
    assert main(["--workdir", workdir, "--to", "onnx", "--int8", "static", "--out", out]) == 0
    return out


def test_int8_says_what_it_costs(onnx_out):
    about = json.loads(Path(f"{onnx_out}/model.json").read_text())
    facts = about["int8"]
    assert facts["accuracy"]["images"] == 90 and facts["accuracy"]["after"] > facts["accuracy"]["before"] - 0.1
    assert sum(facts["integer"].values()) == facts["products"] > 0
    assert facts["weights"] == 1.0 and facts["output_error_on"] == "32 images"
    assert facts["calibrated_on"] == 128 and 0 < facts["output_error"]["logits"] < 0.2
    assert about["verified"]["differences"]["logits"] < 1e-5


def test_the_metadata_and_the_batch(onnx_out):
    import onnxruntime

    session = onnxruntime.InferenceSession(f"{onnx_out}/model.onnx")
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == [str(n) for n in range(10)]
    assert json.loads(said["jaxdino"])["preprocess"]["inside"] == ["normalise"]
    image = np.zeros((5, 8, 8, 3), np.uint8)
    assert session.run(["probabilities"], {"images": image})[0].shape == (5, 10)


def test_stablehlo_and_pytorch_of_a_run(workdir, tmp_path, capsys):
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)).save(image)
    flags = ["--workdir", workdir, "--out", str(tmp_path / "program"), "--to", "stablehlo"]
    assert main([*flags, "--platforms", "cpu", "--images", str(image)]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert main(["--workdir", workdir, "--out", str(tmp_path / "torch"), "--to", "pytorch"]) == 0
    assert load(tmp_path / "torch").card.num_classes == 10


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--to", "onx"], "--to='onx' is not known; nearest: onnx"),
        (["--to", "onnx", "--resize"], "--resize is for --to stablehlo, not onnx"),
        (["--to", "onnx", "--int8", "statik"], "--int8='statik' is not known; nearest: static"),
        (["--to", "onnx", "--calibration", "x"], "--calibration is for --int8"),
        (["--to", "stablehlo", "--platforms", "gpu"], "--platforms='gpu' is not known"),
        (["--to", "onnx", "--outputs", "logit"], "output 'logit' is not one of this model"),
    ],
)
def test_wrong_flags(flags, words, workdir, tmp_path, capsys):
    assert main(["--workdir", workdir, "--out", str(tmp_path / "out"), *flags]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_user_stays(workdir, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    flags = ["--workdir", workdir, "--to", "onnx", "--out", str(tmp_path)]
    assert main(flags) == 2 and "is not empty" in capsys.readouterr().err
    assert main([*flags, "--overwrite"]) == 2 and "thesis.txt" in capsys.readouterr().err


def test_a_difference_leaves_nothing(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checking, "LIMIT", 0.0)
    monkeypatch.setattr(checking.refuse, "__defaults__", (0.0,))
    assert main(["--workdir", workdir, "--to", "onnx", "--out", str(tmp_path / "out")]) == 2
    assert "differs by" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert main(["--workdir", workdir, "--to", "onnx", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'jaxdino[export]'" in capsys.readouterr().err


def test_what_is_not_in_int8_is_not_called_so(tmp_path, monkeypatch, capsys):
    """Dynamic quantisation leaves convolutions as they are: of a ResNet at its real size, 2 % would be int8."""
    monkeypatch.setattr(int8, "SHARE", 0.9)
    given = tiny_models.model("resnet")
    save_model(tmp_path / "model", given.card, given.flat)
    flags = ["--weights", str(tmp_path / "model"), "--to", "onnx", "--int8", "dynamic", "--out", str(tmp_path / "out")]
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert (
        "5 of the 10 products of this model, with 72 % of their weights" in said
        and "is not called quantised and nothing was written" in said
    )
    assert not (tmp_path / "out").exists()


def test_integer_nodes_are_counted(tmp_path):
    """A float32 file has none."""
    file = onnx_file.write(program.program(tiny_models.model("dinov3")), tmp_path)
    assert int8.integer_nodes(file) == {}
