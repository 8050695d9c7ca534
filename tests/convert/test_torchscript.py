"""A TorchScript archive's tensors are read bit for bit, its program is not, and what is hostile is refused."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from convert.export import export
from convert.load import load_pretrained
from convert.readers import open_source
from jaxdino.core.errors import UserError
from tests.parity.clip_cases import ids, prepare
from tests.parity.clip_modules import CLIP, SHAPE
from tests.parity.drawing import draw

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
CODE_BOMB = b"\0" * (64 << 20)


def released(seed: int = 0) -> CLIP:
    """Half precision where OpenAI's `convert_weights` has it: not in norms, embeddings and the temperature."""
    model = draw(CLIP(scalars=True), seed)
    prepare(model)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)):
            module.half()
    for module in (model, model.visual):
        for name in ("proj", "text_projection"):
            if hasattr(module, name):
                getattr(module, name).data = getattr(module, name).data.half()
    return model.eval()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A traced archive and the state dict that torch itself reads from it."""
    path = tmp_path_factory.mktemp("jit") / "ViT-tiny.pt"
    images = torch.zeros(1, 3, SHAPE["side"], SHAPE["side"], dtype=torch.half)
    torch.jit.trace(released(), (images, ids(12)), check_trace=False).save(str(path))
    return path, torch.jit.load(str(path)).state_dict()


def rewritten(path: Path, out: Path, change) -> Path:
    """The archive again; `change` takes a record's name below the root and its content, and gives the new content,
    None to leave it out, or a pair of content and compression."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = change(info.filename.partition("/")[2], old.read(info))
            if content is not None:
                content, how = content if isinstance(content, tuple) else (content, zipfile.ZIP_STORED)
                new.writestr(info.filename, content, how)
    return out


def with_pickle(path: Path, out: Path, content: bytes) -> Path:
    return rewritten(path, out, lambda name, old: content if name == "data.pkl" else old)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path).close()
    return str(caught.value)


def test_every_tensor_is_read_bit_for_bit(archive):
    path, state = archive
    with open_source(path) as source:
        assert sorted(source.keys()) == sorted(state)
        assert source.extras == {"torchscript": "__torch__.tests.parity.clip_modules.CLIP"}
        for key, tensor in state.items():
            array = source.read(key)
            assert str(array.dtype) == str(tensor.dtype).removeprefix("torch.") and array.shape == tuple(tensor.shape)
            assert array.tobytes() == tensor.numpy().tobytes(), key
        kinds = {str(source.dtype(key)) for key in state}
        assert kinds == {"float16", "float32", "int64"}


def test_the_released_form_is_openai_s_clip_and_goes_back_as_a_state_dict(archive, tmp_path):
    path, state = archive
    found = load_pretrained(path)
    config = found.card.spec.config
    assert (found.card.layout, config.quick_gelu, config.buffers) == ("openai", True, True)
    notes = export(path, tmp_path / "out")
    assert any("build_model" in note for note in notes)
    back = torch.load(tmp_path / "out" / "clip_custom.pth", weights_only=True)
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert back[key].dtype == tensor.dtype and torch.equal(back[key], tensor), key
    assert load_pretrained(tmp_path / "out").card.digest == found.card.digest


def test_a_scripted_model_is_read_too(tmp_path):
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 3), nn.BatchNorm1d(3)])
            self.sizes, self.rate, self.flags = [1, 2], [0.5], [True]
            self.names = {"a": 1}

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x * self.sizes[0] * self.rate[0] * float(self.flags[0]) * self.names["a"]

    torch.jit.script(Nested()).save(str(tmp_path / "m.pt"))
    with open_source(tmp_path / "m.pt") as source:
        wanted = torch.jit.load(str(tmp_path / "m.pt")).state_dict()
        assert sorted(source.keys()) == sorted(wanted)
        for key, tensor in wanted.items():
            np.testing.assert_array_equal(source.read(key), tensor.numpy())


def test_the_program_is_never_unpacked(archive, tmp_path):
    path, state = archive
    bomb = rewritten(
        path,
        tmp_path / "bomb.pt",
        lambda name, old: (
            (CODE_BOMB, zipfile.ZIP_DEFLATED) if name == "code/__torch__/torch/nn/modules/conv.py" else old
        ),
    )
    assert bomb.stat().st_size < path.stat().st_size + (1 << 20)
    with open_source(bomb) as source:
        assert sorted(source.keys()) == sorted(state)


def test_reading_needs_no_torch(archive):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from convert.load import load_pretrained\n"
        "print(load_pretrained(sys.argv[1]).card.layout)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(archive[0])], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "openai\n", run.stderr


class Evil:
    def __reduce__(self):
        return os.system, ("echo pwned",)


def test_hostile_archives_are_refused(archive, tmp_path):
    path, _ = archive
    out = tmp_path / "x.pt"
    assert "system" in refusal(with_pickle(path, out, pickle.dumps(Evil(), 2)))
    call = b"\x80\x02c__torch__.a\nB\n(K\x01tR."  # a class called with an argument
    assert "damaged" in refusal(with_pickle(path, out, call))
    assert "custom state" in refusal(with_pickle(path, out, b"\x80\x02c__torch__.a\nB\n)\x81(K\x01K\x02tb."))
    assert "not of a model" in refusal(with_pickle(path, out, b"\x80\x02}."))
    own = b"\x80\x02c__torch__.a\nB\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."  # an object that is its own attribute
    assert "contains itself" in refusal(with_pickle(path, out, own)) or "deep" in refusal(out)
    assert "no tensor" in refusal(with_pickle(path, out, b"\x80\x02c__torch__.a\nB\n)\x81}b."))
    assert "__torch.a.B" in refusal(with_pickle(path, out, b"\x80\x02c__torch.a\nB\n)\x81}b."))


def test_damaged_archives_are_refused(archive, tmp_path):
    path, _ = archive
    out = tmp_path / "x.pt"
    rewritten(path, out, lambda name, old: None if name == "data/0" else old)
    assert "lacks the storage" in refusal(out)
    rewritten(path, out, lambda name, old: (old, zipfile.ZIP_DEFLATED) if name == "data/0" else old)
    assert "compressed" in refusal(out)
    rewritten(path, out, lambda name, old: (old, zipfile.ZIP_DEFLATED) if name == "data.pkl" else old)
    assert "compressed" in refusal(out)
    rewritten(path, out, lambda name, old: old[:-20] if name == "data.pkl" else old)
    assert "truncated" in refusal(out)
    whole = path.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refusal(out)


def test_an_activation_that_contradicts_the_archive_is_refused(archive, tmp_path):
    path, _ = archive
    (tmp_path / "clip.pt").write_bytes(path.read_bytes())
    config = {"model_cfg": {"embed_dim": 48, "vision_cfg": {}, "text_cfg": {}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quick_gelu is false"):
        load_pretrained(tmp_path)
    with pytest.raises(UserError, match="OpenAI's own, not open_clip's"):
        load_pretrained(path, layout="open_clip")
    with pytest.raises(UserError, match="clip_vitb32_laion2b was trained with the exact one"):
        load_pretrained(path, model="clip_vitb32_laion2b")
