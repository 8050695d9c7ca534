"""What is special to CLIP: which activation is meant, and configurations that contradict the tensors."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.export import export
from convert.load import load_pretrained
from convert.verify import verify
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models import registry
from jaxdino.models.published import clip as published
from tests.parity.clip_cases import CLIP_CASES, open_clip_json
from tests.parity.clip_modules import CLIP
from tests.parity.drawing import draw

COUNTS = {"clip_vitb32": 151_277_313, "clip_vitb16": 149_620_737, "clip_vitl14": 427_616_513}
"""Of OpenAI's released models, as the README of open_clip and transformers' classes count them."""


@pytest.fixture
def state():
    """A plain state dict with OpenAI's keys, and nothing that tells who trained it."""
    return draw(CLIP(quick=False)).state_dict()


def saved(state, path):
    torch.save(state, path)
    return path


def open_clip_folder(state, folder, change=lambda config: None):
    config = open_clip_json(quick=False)
    change(config)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def hf_folder(folder, change):
    case = CLIP_CASES["clip hf"]
    case.save(draw(case.build()), folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_published_models_have_the_published_number_of_parameters():
    for name, count in COUNTS.items():
        assert registry.get(name).skeleton().num_params == count


def test_a_bare_state_dict_needs_to_be_told_its_activation(state, tmp_path):
    path = saved(state, tmp_path / "clip.pt")
    with pytest.raises(UserError, match=r"no tensor tells.*open_clip_config.json.*--layout openai"):
        load_pretrained(path)
    with pytest.raises(UserError, match="no tensor tells"):
        load_pretrained(path, layout="open_clip")
    assert load_pretrained(path, layout="openai").card.spec.config.quick_gelu
    with pytest.raises(UserError, match="layouts 'openai' and 'open_clip', not 'hf'"):
        load_pretrained(path, layout="hf")
    with pytest.raises(UserError, match=r"text_tower: the checkpoint has width 64.*clip_vitb32 has width 512"):
        load_pretrained(path, model="clip_vitb32")


def test_a_name_and_a_layout_that_mean_different_activations_are_refused(state, tmp_path):
    path = saved(state, tmp_path / "clip.pt")
    with pytest.raises(UserError, match="quick GELU, but clip_vitb32_laion2b was trained with the exact one"):
        load_pretrained(path, layout="openai", model="clip_vitb32_laion2b")


def test_open_clip_s_configuration_tells_the_activation(state, tmp_path):
    (tmp_path / "quick").mkdir()
    found = load_pretrained(open_clip_folder(state, tmp_path))
    assert not found.card.spec.config.quick_gelu and found.card.spec.preprocess.std == (0.25,) * 3
    quick = open_clip_folder(state, tmp_path / "quick", lambda c: c["model_cfg"].update(quick_gelu=True))
    assert load_pretrained(quick).card.spec.config.quick_gelu
    with pytest.raises(UserError, match=r"quick GELU, but open_clip_config.json says quick_gelu is false"):
        load_pretrained(tmp_path, layout="openai")
    assert load_pretrained(quick, layout="openai").card.layout == "openai"


@pytest.mark.parametrize(
    ("tower", "option", "value", "words"),
    [
        ("vision_cfg", "layers", 4, r"vision_cfg.layers=4, the tensors 3"),
        ("vision_cfg", "image_size", 20, r"image_size=20, the tensors positions of 16 patches of 4 pixels"),
        ("text_cfg", "vocab_size", 98, r"text_cfg.vocab_size=98, the tensors 99"),
        ("text_cfg", "mlp_ratio", 2.0, r"text_cfg.mlp_ratio=2.0, the tensors 4.0"),
        ("text_cfg", "heads", 5, "5 attention heads, which do not divide a width of 64"),
        ("vision_cfg", "timm_model_name", "resnet50", "timm_model_name='resnet50', which is not supported"),
        ("vision_cfg", "pool_type", "avg", "pool_type='avg', which is not supported"),
        ("text_cfg", "no_causal_mask", True, "no_causal_mask=True, which is not supported"),
    ],
)
def test_open_clip_s_configuration_must_agree(state, tmp_path, tower, option, value, words):
    open_clip_folder(state, tmp_path, lambda config: config["model_cfg"][tower].update({option: value}))
    with pytest.raises(UserError, match=words):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("tower", "option", "value", "words"),
    [
        ("text_config", "hidden_act", "gelu", "'gelu' and 'quick_gelu'"),
        ("vision_config", "hidden_act", "gelu_new", "known: quick_gelu, gelu"),
        ("vision_config", "num_hidden_layers", 12, "num_hidden_layers=12, the tensors 3"),
        ("vision_config", "image_size", 32, "image_size=32, the tensors positions of 16 patches"),
        ("text_config", "max_position_embeddings", 77, "max_position_embeddings=77, the tensors 12"),
        ("vision_config", "num_attention_heads", 3, "does not divide a width of 128"),
        (None, "projection_dim", 512, "projection_dim=512, the tensors 48"),
        (None, "model_type", "siglip", "model_type='siglip'"),
        (None, "architectures", ["CLIPForImageClassification"], "CLIPForImageClassification pools"),
    ],
)
def test_transformers_configuration_must_agree(tmp_path, tower, option, value, words):
    hf_folder(tmp_path, lambda config: (config[tower] if tower else config).update({option: value}))
    with pytest.raises(UserError, match=words):
        load_pretrained(tmp_path)


def test_a_name_that_means_another_activation_than_config_json_is_refused(tmp_path):
    hf_folder(tmp_path, lambda config: None)
    with pytest.raises(UserError, match="quick_gelu: the checkpoint has True, clip_vitb32_laion2b has False"):
        load_pretrained(tmp_path, model="clip_vitb32_laion2b")


def test_the_older_form_of_config_json_wins_as_in_transformers(tmp_path):
    """`text_config_dict`, written before transformers 4.27, overrides `text_config` with all its defaults."""

    def change(config):
        own = {**config["text_config"], "hidden_act": "gelu"}
        own.pop("eos_token_id")
        config |= {"text_config_dict": own, "vision_config_dict": {**config["vision_config"], "hidden_act": "gelu"}}

    config = load_pretrained(hf_folder(tmp_path, change)).card.spec.config
    assert not config.quick_gelu and config.text.eot == 49407


def test_weights_of_transformers_without_config_json_are_not_guessed(tmp_path):
    hf_folder(tmp_path, lambda config: None)
    with pytest.raises(UserError, match=r"keep config.json beside the weights"):
        load_pretrained(tmp_path / "model.safetensors")


def test_resnet_and_timm_towers_are_refused_by_name(state, tmp_path):
    resnet = {key: value for key, value in state.items() if not key.startswith("visual.")}
    path = saved(resnet | {"visual.layer1.0.conv1.weight": torch.ones(2)}, tmp_path / "clip.pt")
    with pytest.raises(UserError, match="ResNet"):
        load_pretrained(path, layout="openai")
    path = saved(resnet | {"visual.trunk.norm.weight": torch.ones(2)}, tmp_path / "timm.pt")
    with pytest.raises(UserError, match="none of OpenAI's ViTs"):
        load_pretrained(path, layout="open_clip")


def test_a_missing_and_a_strange_tensor_are_named(state, tmp_path):
    state["visual.strange"] = state.pop("visual.ln_post.bias")
    with pytest.raises(UserError, match=r"missing visual.ln_post.bias(.|\n)*unexpected visual.strange"):
        load_pretrained(saved(state, tmp_path / "clip.pt"), layout="openai")


def test_scalars_that_contradict_the_tensors_are_refused(tmp_path):
    state = draw(CLIP(scalars=True)).state_dict()
    state["context_length"] = torch.tensor(77)
    with pytest.raises(UserError, match="context_length does not hold"):
        load_pretrained(saved(state, tmp_path / "clip.pt"))


def test_stored_causal_masks_are_left_aside(state, tmp_path):
    state["transformer.resblocks.0.attn_mask"] = torch.zeros(12, 12)
    found = load_pretrained(saved(state, tmp_path / "clip.pt"), layout="openai")
    assert any("attn_mask" in note and "causal" in note for note in found.notes)


@pytest.mark.parametrize("name", ["clip hf gelu old eos", "clip hf text projected", "clip openai", "clip open_clip"])
def test_verify_runs_the_original(loaded, name):
    it = loaded(name)
    spec, original, differences, _ = verify(it.path, **it.family.overrules)
    assert spec.family == "clip" and ("transformers" in original) == (it.family.layout == "hf")
    assert all(d.relative <= 1e-5 for d in differences)
    towers = {d.place.split()[0] for d in differences}
    assert towers == ({"text"} if "text" in name else {"image", "text", "logits"})


def test_the_text_tower_can_be_left_away(loaded):
    it = loaded("clip openai")
    spec = it.ours.card.spec
    alone = dataclasses.replace(spec, config=spec.config.image_only())
    assert registry.from_json(json.loads(json.dumps(dataclasses.asdict(alone)))) == alone
    skeleton = alone.skeleton()
    flat = {path: it.ours.flat[path] for path in skeleton.entries}
    images = np.ones((1, 16, 16, 3), np.float32)
    whole = bind(spec.skeleton(), it.ours.flat)
    np.testing.assert_array_equal(bind(skeleton, flat)(images).pooled, whole(images).pooled)
    assert [layer.name for layer in alone.layers][:2] == ["embed", "blocks.0"]
    assert spec.layers[0].name == "text" and spec.layers[0].kind == "stem"


def test_no_mask_token(loaded):
    it = loaded("clip openai")
    model = bind(it.ours.card.spec.skeleton(), it.ours.flat)
    with pytest.raises(UserError, match="no mask token"):
        model(np.zeros((1, 16, 16, 3), np.float32), mask=np.zeros((1, 4, 4), bool))


def test_a_later_text_does_not_touch_an_earlier_token(loaded):
    """The mask is causal: what comes after the end mark changes nothing."""
    it = loaded("clip openai")
    backbone = bind(it.ours.card.spec.skeleton(), it.ours.flat).backbone
    short, padded = np.array([[97, 5, 98]]), np.array([[97, 5, 98, 7, 11, 0]])
    np.testing.assert_allclose(backbone.encode_text(short), backbone.encode_text(padded), atol=1e-5)


def test_exports_are_what_the_originals_load(loaded, tmp_path):
    """OpenAI's keys from a Hugging Face folder and back: transformers reads its own form again, to the bit."""
    it = loaded("clip hf")
    export(it.path, tmp_path / "openai", layout="openai")
    export(tmp_path / "openai", tmp_path / "hf", layout="hf")
    before, after = (load_file(folder / "model.safetensors") for folder in (it.path, tmp_path / "hf"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    again = type(it.model).from_pretrained(tmp_path / "hf").eval()
    given = it.family.inputs["native"]
    with torch.no_grad():
        theirs, ours = it.family.theirs(it.model, given), it.family.theirs(again, given)
    assert torch.equal(theirs["logits per image"], ours["logits per image"])


def test_preprocessing_of_the_published_models():
    sizes = {spec.name: spec.preprocess.size[0] for spec in published.SPECS}
    assert sizes["clip_vitl14_336"] == 336 and sizes["clip_vitb32"] == 224
    assert published.SPECS[0].preprocess.crop_pct == 1.0
