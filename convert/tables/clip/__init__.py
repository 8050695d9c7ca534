"""Layouts of CLIP: OpenAI's, open_clip's and transformers'."""

from convert.family import Family, Layout
from convert.tables.clip import hf, open_clip, rules
from convert.tables.clip.detect import ANCHORS, SHAPE, detect
from convert.tables.clip.fit import fit
from jaxdino.data.tokenizer import FILES


def _no_class(card) -> None:
    return None


def _openai_notes(card) -> list[str]:
    if not (card.spec.config.vision and card.spec.config.text):
        return ["the file holds one tower; OpenAI's own code only builds both"]
    return ["the file is a state dict: clip.model.build_model(torch.load(file)) takes it, clip.load(file) does so too"]


HEAD = tuple(rules.HEAD)

FAMILY = Family(
    names=("clip",),
    anchors=ANCHORS,
    detect=detect,
    layouts={
        ("clip", "openai"): Layout(tuple(rules.OPENAI), HEAD, prefix=_no_class, notes=_openai_notes),
        ("clip", "open_clip"): Layout(
            tuple(rules.OPEN_CLIP), HEAD, "open_clip_model.safetensors", prefix=_no_class, files=open_clip.files
        ),
        ("clip", "hf"): Layout(
            tuple(rules.HF), HEAD, "model.safetensors", sharded=True, prefix=_no_class, files=hf.files, companions=FILES
        ),
    },
    shape=SHAPE,
    reference="convert.references.clip",
    fit=fit,
)
