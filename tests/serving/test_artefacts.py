"""Every family and every head as ONNX and StableHLO: the same numbers as ours, for any batch."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.models.heads import HEADS
from jaxdino.serving import checking, onnx_file, stablehlo
from jaxdino.serving.program import odds, program
from tests.serving import tiny_models

DOCS = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.mark.parametrize("name", tiny_models.MODELS)
def test_onnx_gives_our_numbers(name, tmp_path):
    made = program(tiny_models.model(name))
    file = onnx_file.write(made, tmp_path)
    found = checking.difference(made, checking.onnxruntime(file, 1), checking.batches(made))
    assert checking.refuse(found, "onnxruntime") < 1e-5, found


@pytest.mark.parametrize("name", ["dinov3", "boxes", "masks", "boxes by queries", "resnet", "sam"])
def test_stablehlo_gives_our_numbers(name, tmp_path):
    made = program(tiny_models.model(name))
    about = stablehlo.write(made, tmp_path)
    found = checking.difference(made, stablehlo.load(tmp_path), checking.batches(made))
    assert checking.refuse(found, "StableHLO") < 1e-5
    assert about["platforms"] == ["cpu", "cuda", "rocm", "tpu"] and about["input"]["shape"][0] == "batch"
    assert about["outputs"][made.about["outputs"][0]][0] == "batch"


def test_onnx_names_the_operation_that_it_lacks(tmp_path):
    made = program(tiny_models.model("dinov3"), outputs=["cls"])
    sorting = dataclasses.replace(made, run=lambda flat, images: {"cls": jnp.sort(made.run(flat, images)["cls"])})
    with pytest.raises(UserError, match="'sort' has no ONNX form here: export with --to stablehlo"):
        onnx_file.write(sorting, tmp_path)


def test_every_head_is_compared():
    """Those of features alone are no part of an exported model."""
    compared = {head.name for _, head in tiny_models.MODELS.values()}
    assert compared == {name for name, head in HEADS.items() if head.of}


def test_a_changed_weight_is_noticed(tmp_path):
    given = tiny_models.model("dinov3")
    file = onnx_file.write(program(tiny_models.with_one_changed(given, "backbone.blocks.1.mlp.fc1.kernel")), tmp_path)
    made = program(given)
    found = checking.difference(made, checking.onnxruntime(file, 1), checking.batches(made))
    with pytest.raises(UserError, match=r"differs by .* more than 1e-04"):
        checking.refuse(found, "onnxruntime")


@pytest.mark.parametrize("name", ["dinov3", "several", "resnet"])
def test_probabilities_are_calibrated(name):
    given = tiny_models.model(name)
    logits = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    several = given.card.head.choice.several
    wanted = given.card.calibration.odds(logits, several)
    np.testing.assert_allclose(odds(logits, given.card.calibration, several), wanted, atol=1e-6)


def test_the_page_of_code_runs_without_jaxdino(tmp_path):
    """The code of docs/export.md, with jaxdino and flax barred from being imported; also the resize inside."""
    given = tiny_models.model("dinov3")
    made = program(given, resize=True, outputs=["logits", "probabilities"])
    (tmp_path / "program").mkdir()
    stablehlo.write(made, tmp_path / "program", ("cpu",))
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    np.save(tmp_path / "image.npy", image)
    code = DOCS.read_text().split("```python\n")[1].split("```")[0]
    barred = "import sys\nfor name in ('jaxdino', 'flax', 'convert', 'PIL'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", barred + code + "\nprint(json.dumps(named))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])[0]
    ours = {name: odds for name, odds in given.predict([image], topk=3)[0]}
    assert theirs.keys() == ours.keys()
    assert all(abs(theirs[name] - ours[name]) < 0.02 for name in ours), (theirs, ours)


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_boxes_are_in_pixels_of_the_image_that_is_resized_inside(mode, tmp_path):
    given = tiny_models.model("boxes by queries")  # whose boxes are those of `detect`, without suppression
    how = dataclasses.replace(given.card.spec.preprocess, crop_mode=mode)
    given.card = dataclasses.replace(given.card, spec=dataclasses.replace(given.card.spec, preprocess=how))
    stablehlo.write(program(given, resize=True), tmp_path, ("cpu",))
    image = np.random.default_rng(1).integers(0, 256, (60, 40, 3), np.uint8)
    found = stablehlo.load(tmp_path)(image[None])
    wanted = given.detect([image], threshold=0.0)[0]
    boxes, scores = np.asarray(found["boxes"][0]), np.asarray(found["scores"][0])
    assert boxes[:, 3].max() > 16  # the height that the model takes
    best = scores.max(axis=1).argmax()
    assert abs(scores.max() - wanted.scores[0]) < 0.02
    np.testing.assert_allclose(boxes[best], wanted.boxes[0], atol=1)


def test_what_cannot_be_exported_is_said(tmp_path):
    given = tiny_models.model("dinov3")
    with pytest.raises(UserError, match=r"'logit' is not one of this model; nearest: logits"):
        program(given, outputs=["logit"])
    with pytest.raises(UserError, match="--resize is for --to stablehlo"):
        onnx_file.write(program(given, resize=True), tmp_path)
    with pytest.raises(UserError, match="normalised already"):
        program(given, resize=True, pixels="float32")
    assert list(tmp_path.iterdir()) == []
