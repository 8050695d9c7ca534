"""Adapters to and from PEFT: the same outputs as its models, and files at odds refused."""

import copy
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from convert.load import load_pretrained
from convert.peft import CONFIG, WEIGHTS, load_adapter, save_adapter
from convert.peft_names import torch_names
from convert.readers import open_source
from convert.writers import write_safetensors
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models import lora
from jaxdino.models.lora import LoRA
from tests.parity.all_cases import FAMILY_CASES
from tests.parity.drawing import channels_last, draw

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
TOLERANCE = 1e-5


@functools.cache
def loaded(name, folder):
    """A reference model, drawn, and ours with its weights: (model, spec, skeleton, flat)."""
    case = FAMILY_CASES[name]
    model = draw(case.build())
    case.prepare(model)
    pretrained = load_pretrained(case.save(model, folder), **case.overrules)
    card = pretrained.card
    skeleton = card.spec.skeleton(card.num_classes, pool=card.pool)
    return model, card.spec, skeleton, jax.tree.map(jnp.asarray, pretrained.flat)


@pytest.fixture
def start(tmp_path_factory):
    """`loaded` with a copy of the model, which PEFT changes in place."""
    folder = tmp_path_factory.getbasetemp() / "models"

    def of(name):
        place = folder / name.replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        model, *rest = loaded(name, place)
        return copy.deepcopy(model), *rest

    return of


def apart(name, skeleton, flat, model):
    """Largest difference of ours from theirs at the places of the family's tests, as a share of the largest value."""
    case = FAMILY_CASES[name]
    given = next(iter(case.inputs.values()))
    with torch.no_grad():
        theirs = case.theirs(model, given)
    arrays = {key: channels_last(value) if key == "images" else value.numpy() for key, value in given.items()}
    ours = jax.jit(lambda flat, arrays: case.ours(bind(skeleton, flat), arrays))(flat, arrays)
    assert set(ours) == set(theirs)
    return max(float(np.abs(ours[n] - v.numpy()).max() / v.abs().max()) for n, v in theirs.items() if v.numel())


@torch.no_grad()
def moved(model):
    """The adapters of a PEFT model away from their start."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def drawn(flat):
    rng = np.random.default_rng(3)
    leaves = {path: flat[path] for path in lora.leaves(flat)}
    return flat | {path: leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32) for path, leaf in leaves.items()}


READ = {
    "hf dino": {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1},
    "hf vit head": {"target_modules": ["q_proj", "o_proj", "fc1", "fc2", "classifier"], "use_rslora": True},
    "hf dinov2": {"target_modules": "all-linear", "use_dora": True},
    "hf dinov2 swiglu": {"target_modules": ["gate_proj", "down_proj", "k_proj"]},
    "hf dinov3": {"target_modules": r".*layer\.1\.attention\.(q|k|v)_proj", "rank_pattern": {r"layer\.1.*k_proj": 4}},
    "timm dinov3": {"target_modules": ["qkv", "mlp.fc1"], "alpha_pattern": {"fc1": 9}, "use_dora": True},
    "clip hf": {"target_modules": ["q_proj", "visual_projection"]},
    "sam hf": {"target_modules": ["qkv", "q_proj", "v_proj", "lin2"]},
}


QUICK = ("hf dino", "timm dinov3", "timm vit", "clip hf")


def cases(names):
    """The quick ones as they are, the others as slow."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", cases(READ))
def test_theirs_to_ours(name, start, tmp_path):
    model, spec, skeleton, flat = start(name)
    config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6} | READ[name]))
    wrapped = moved(peft.get_peft_model(model, config))
    wrapped.save_pretrained(tmp_path)
    read = load_adapter(tmp_path, spec, skeleton, flat)
    assert apart(name, skeleton, flat, model) > 1e-2
    assert apart(name, read.skeleton, read.flat, model) < TOLERANCE
    again = skeleton
    for one in read.loras:
        again = lora.adapted(again, spec, one)
    assert again.entries == read.skeleton.entries
    save_adapter(tmp_path / "back", spec, read.skeleton, read.flat, layout=FAMILY_CASES[name].layout)
    with open_source(tmp_path / WEIGHTS) as theirs, open_source(tmp_path / "back" / WEIGHTS) as ours:
        assert set(theirs.spans) == set(ours.spans)
        assert all(np.array_equal(theirs.read(key), ours.read(key)) for key in theirs.spans)


WRITE = {
    "hf dino": LoRA(rank=3, alpha=5.0, targets=("attn.qkv", "attn.proj", "fc1"), last_blocks=1),
    "hf dinov2 head": LoRA(rank=3, alpha=5.0, targets=("q", "v", "head"), rslora=True, dora=True),
    "hf dinov2 reg swiglu": LoRA(rank=2, targets=("w12", "w3")),
    "hf dinov3 gated": LoRA(rank=2, targets=("w1", "qkv.k"), dora=True),
    "timm vit": LoRA(rank=2, alpha=3.0, targets=("q", "v", "@mlp"), rslora=True),
    "timm dinov2": LoRA(rank=2, alpha=3.0, targets=("k", "@mlp"), dora=True),
    "clip hf": LoRA(rank=2, targets=("@attn", "@mlp")),
    "sam hf": LoRA(rank=2, targets=("qkv", "k", "lin1", "output_hypernetworks_mlps.*")),
}


@pytest.mark.parametrize("name", cases(WRITE))
def test_ours_to_theirs(name, start, tmp_path):
    model, spec, skeleton, flat = start(name)
    plain = skeleton, flat
    skeleton, flat = lora.adapt(skeleton, flat, spec, WRITE[name], nnx.Rngs(0))
    flat = drawn(flat)
    save_adapter(tmp_path / "a", spec, skeleton, flat, layout=FAMILY_CASES[name].layout)
    peft.PeftModel.from_pretrained(model, tmp_path / "a").eval()
    assert apart(name, *plain, model) > 1e-2
    assert apart(name, skeleton, flat, model) < TOLERANCE
    read = load_adapter(tmp_path / "a", spec, *plain)
    assert apart(name, read.skeleton, read.flat, model) < TOLERANCE


def test_published_names(start, tmp_path):
    _, spec, skeleton, flat = start("hf dino")
    names = torch_names(spec, "published", False)
    query = "encoder.layer.2.attention.attention.query"
    assert names["backbone.blocks.2.attn.qkv"][0] == query
    one = LoRA(rank=3, targets=("q", "mlp.fc2"), last_blocks=1)
    skeleton, adapted = lora.adapt(skeleton, flat, spec, one, nnx.Rngs(0))
    adapted = drawn(adapted)
    save_adapter(tmp_path / "a", spec, skeleton, adapted, layout="published", prefix="vit.")
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert config["target_modules"] == [f"vit.{query}", "vit.encoder.layer.2.output.dense"]
    read = load_adapter(tmp_path / "a", spec, *start("hf dino")[2:])
    assert all(np.array_equal(read.flat[path], adapted[path]) for path in adapted)
    assert read.loras == (LoRA(rank=3, alpha=8, targets=("attn.qkv.q", "mlp.fc2"), last_blocks=1),)


@pytest.fixture
def saved(start, tmp_path):
    """(folder with an adapter, spec, skeleton, flat)"""
    _, spec, skeleton, flat = start("hf dino")
    adapted = lora.adapt(skeleton, flat, spec, LoRA(rank=3, targets=("q", "v")), nnx.Rngs(0))
    save_adapter(tmp_path / "good", spec, *adapted)
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    return tmp_path / "bad", spec, skeleton, flat


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 4}, "rank"),
        ({"r": 0}, "rank=0"),
        ({"r": "many"}, "rank='many'"),
        ({"lora_alpha": None}, "alpha"),
        ({"peft_type": "LOHA"}, "'LOHA'"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["classifier"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"target_modules": ["layers.0.attention.q_proj"]}, "none of target_modules"),
        ({"target_modules": ["q_proj", "v_proj", "fc1"]}, "'fc1'"),
        ({"target_modules": "("}, "target_modules .* is not a regular expression"),
        ({"rank_pattern": {"q_proj": 2}}, "rank"),
        ({"alpha_pattern": {"q_proj": 2}}, "different ranks or alphas"),
    ],
)
def test_configs_at_odds_are_refused(changes, words, saved):
    folder, spec, skeleton, flat = saved
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=words):
        load_adapter(folder, spec, skeleton, flat)


def test_files_at_odds_are_refused(saved, start):
    folder, spec, skeleton, flat = saved
    with pytest.raises(UserError, match="are not linear layers"):
        load_adapter(folder, *start("hf dinov2")[1:])
    with pytest.raises(UserError, match="already exists"):
        save_adapter(folder, spec, *lora.adapt(skeleton, flat, spec, LoRA(), nnx.Rngs(0)))
    with pytest.raises(UserError, match="nothing to write"):
        save_adapter(folder.parent / "new", spec, skeleton, flat)
    stray = [("base_model.model.layers.0.x.lora_C", (2,), np.dtype(np.float32), lambda: np.zeros(2, np.float32))]
    write_safetensors(folder / WEIGHTS, stray, overwrite=True)
    with pytest.raises(UserError, match="lora_C is not a tensor"):
        load_adapter(folder, spec, skeleton, flat)
    (folder / WEIGHTS).write_bytes(b"0123")
    with pytest.raises(UserError):
        load_adapter(folder, spec, skeleton, flat)
    (folder / CONFIG).unlink()
    with pytest.raises(UserError, match="save_pretrained"):
        load_adapter(folder, spec, skeleton, flat)
