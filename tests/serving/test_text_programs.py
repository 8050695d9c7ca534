"""Text encoders and text-prompted masks as programs beside that of the images: CLIP and CLIP-DINO-SAM."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.store import save_model
from jaxdino import load
from jaxdino.core.errors import UserError
from jaxdino.export import main
from jaxdino.serving import checking, onnx_file
from jaxdino.serving.program import program
from jaxdino.serving.text_programs import programs
from tests import tiny_segmenter
from tests.serving import tiny_models

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
TRAINED = {"num_points": 2, "templates": ["a {}", "one {} here"]}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Saved weights of a CLIP with both towers, and of a segmenter with adapters, points and two templates."""
    root = tmp_path_factory.mktemp("texts")
    clip = tiny_models.model("clip")
    save_model(root / "clip", clip.card, clip.flat)
    tiny_segmenter.save(root / "segmenter", source=TRAINED)
    return {"clip": root / "clip", "segmenter": root / "segmenter" / "best"}


@pytest.fixture(scope="module")
def exported(sources):
    """Their exports to ONNX by the command, which compares each file with the model."""
    for source in sources.values():
        assert main(["--weights", str(source), "--to", "onnx", "--out", f"{source}-onnx"]) == 0
    return {name: Path(f"{source}-onnx") for name, source in sources.items()}


@pytest.mark.parametrize(("name", "files"), [("clip", {"model", "text"}), ("segmenter", {"model", "text", "masks"})])
def test_each_file_gives_our_numbers(name, files, exported):
    assert {file.stem for file in exported[name].glob("*.onnx")} == files
    for file in files:
        about = json.loads((exported[name] / f"{file}.json").read_text())
        assert max(about["verified"]["differences"].values()) < 1e-5, about


def test_stablehlo_gives_our_numbers(sources, tmp_path):
    flags = ["--to", "stablehlo", "--platforms", "cpu", "--out", str(tmp_path / "out")]
    assert main(["--weights", str(sources["segmenter"]), *flags]) == 0
    about = json.loads((tmp_path / "out" / "masks.json").read_text())
    assert about["outputs"]["masks"] == ["batch", "32", "32"] and max(about["verified"]["differences"].values()) < 1e-5
    assert main(["--weights", str(sources["segmenter"]), *flags, "--overwrite"]) == 0


def test_a_changed_weight_of_the_text_is_noticed(tmp_path):
    given = tiny_models.model("clip")
    other = tiny_models.with_one_changed(given, "backbone.text.blocks.1.mlp.fc1.kernel")
    made, changed = (programs(one, program(one))[0] for one in (given, other))
    found = checking.difference(
        made, checking.onnxruntime(onnx_file.write(changed, tmp_path), 1), checking.batches(made)
    )
    with pytest.raises(UserError, match=r"embedding in onnxruntime differs by .* more than 1e-04"):
        checking.refuse(found, "onnxruntime")


def test_texts_are_for_the_outputs_that_they_belong_to():
    given = tiny_models.model("clip")
    assert [one.name for one in programs(given, program(given, outputs=["pooled"]))] == ["text"]
    assert programs(given, program(given, outputs=["cls"])) == []
    given = tiny_models.model("dinov3")
    assert programs(given, program(given, outputs=["pooled"])) == []


def test_zero_shot_classes_by_the_code_of_the_page(sources, exported):
    image = _image(exported["clip"], 32)
    theirs = np.asarray(_page("clip", exported["clip"], "logits.tolist()"))
    model = load(sources["clip"])
    text = model.encode_text(["a photo of a cat", "a photo of a dog"], normalize=True)
    wanted = model.logit_scale * model.encode_image(image, normalize=True) @ text.T
    np.testing.assert_allclose(theirs, wanted, rtol=1e-4)


def test_masks_by_the_code_of_the_page(sources, exported):
    """At the model's own size, with whole patches, `segment` resizes nothing."""
    image = _image(exported["segmenter"], 32)
    theirs = _page("segmenter", exported["segmenter"], "[masks.tolist(), scores.tolist()]")
    wanted = load(sources["segmenter"]).segment(image[0], ["red circle", "blue square"])
    largest = np.abs(wanted.logits).max()
    np.testing.assert_allclose(theirs[0], wanted.logits, atol=1e-4 * largest)
    np.testing.assert_allclose(theirs[1], wanted.scores, rtol=1e-4)


def test_how_texts_become_ids(sources, exported):
    said = json.loads((exported["segmenter"] / "text.json").read_text())
    assert said["templates"] == TRAINED["templates"] and said["classes"] == list(tiny_segmenter.PROMPTS)
    known, model = said["tokenizer"], load(sources["clip"])
    for text, ids in (("a red circle", known["ids"]["red circle"][0]), known["example"].values()):
        row = model.tokenize([text])[0].tolist()
        assert row == ids + [known["pad"]] * (known["context_length"] - len(ids))


@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0:DeprecationWarning")  # as in tests/test_clip_api.py
def test_a_tokenizer_of_its_own_goes_along(tmp_path):
    words = ["c", "a", "t</w>", "ca", "cat</w>"]
    ids = {word: i for i, word in enumerate(words)} | {"<|endoftext|>": 49407, "<|startoftext|>": 49406}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    clip, out = tiny_models.model("clip"), tmp_path / "out"
    files = [tmp_path / "vocab.json", tmp_path / "merges.txt"]
    save_model(tmp_path / "clip", clip.card, clip.flat, companions=files)
    flags = ["--weights", str(tmp_path / "clip"), "--to", "onnx", "--no-verify", "--out", str(out)]
    assert main(flags) == 0
    said = json.loads((out / "text.json").read_text())["tokenizer"]
    assert said["files"] == ["merges.txt", "vocab.json"] and said["pad"] == 49407 and 4 in said["example"]["ids"]
    assert (out / "merges.txt").read_bytes() == files[1].read_bytes()
    assert main([*flags, "--overwrite"]) == 0


def _image(folder: Path, side: int) -> np.ndarray:
    image = np.random.default_rng(3).integers(0, 256, (1, side, side, 3), np.uint8)
    np.save(folder.parent / "image.npy", image[0])
    return image


def _page(name: str, folder: Path, wanted: str):
    """Run the code of docs/export.md on texts, without jaxdino and jax; return the value of `wanted`."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    start = next(n for n, block in enumerate(blocks) if "def embed" in block)
    code = blocks[start] + blocks[start + {"clip": 1, "segmenter": 2}[name]]
    barred = "import sys\nfor name in ('jaxdino', 'jax', 'flax', 'convert'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{barred}{code.replace('exported/', f'{folder.name}/')}\nprint(json.dumps({wanted}))"],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
