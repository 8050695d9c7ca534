"""Readers of weights: seed files of a tiny ViT in each format, and what reads them whole."""

import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import torch
from flax import nnx
from safetensors.numpy import save_file

from convert.card import Card
from convert.export import export
from convert.load import load_pretrained
from convert.peft import load_adapter, save_adapter
from convert.readers import open_source
from convert.store import save_model
from convert.training_checkpoint import TrainingCheckpoint, open_training, save_training
from jaxdino.core import params
from jaxdino.core.json_file import read_json
from jaxdino.models import lora
from jaxdino.models.lora import LoRA
from tests.soak.mutators import Rng
from tests.train.tiny import SPEC

NAMES = ("cat", "dog", "eel")


def leaves(rng: Rng) -> dict[str, np.ndarray]:
    """Return random parameters of the tiny ViT with a head."""
    skeleton = SPEC.skeleton(head=SPEC.linear(len(NAMES)))
    return {path: rng.normal(0, 0.1, entry.shape).astype(np.float32) for path, entry in skeleton.entries.items()}


def make_own(folder: Path, rng: Rng) -> None:
    """Write our own model folder, with a companion file."""
    (folder.parent / "words.txt").write_text("one two")
    card = Card(SPEC, SPEC.linear(len(NAMES)), NAMES)
    save_model(folder / "model", card, leaves(rng), companions=[folder.parent / "words.txt"])


def exported(folder: Path, rng: Rng, layout: str, **options) -> None:
    """Write `folder/model` in another layout."""
    make_own(folder, rng)
    export(folder / "model", folder / "out", layout=layout, **options)
    shutil.rmtree(folder / "model")
    (folder / "out").rename(folder / "model")


def read_model(folder: Path, changed: Path) -> None:
    load_pretrained(folder / "model")


def make_safetensors(folder: Path, rng: Rng) -> None:
    kinds = (np.float32, np.float16, np.int64, np.uint8, np.bool_)
    many = {f"blocks.{n}.w": rng.normal(size=(2, 3)).astype(kinds[n % len(kinds)]) for n in range(9)}
    save_file(many, folder / "many.safetensors", {"format": "pt"})
    save_file({"w": np.zeros((0, 4), np.float32)}, folder / "empty.safetensors")


def make_torch(folder: Path, rng: Rng) -> None:
    """Write state dicts in the zip format, at two protocols, and in the older format, with the usual extra values."""
    weights = {f"blocks.{n}.w": torch.tensor(rng.normal(size=(2, 3)), dtype=torch.float32) for n in range(4)}
    weights |= {"half": torch.ones(3).half(), "part": torch.arange(12).reshape(3, 4)[:, 1:3]}
    settings = {"lr": 0.1, "names": ["a", "b"], "size": torch.Size([2, 3]), "rng": np.arange(3), "best": np.float64(2)}
    whole = {"model": weights, "epoch": 3, "args": settings, "optimizer": {"state": {0: {"step": torch.ones(())}}}}
    torch.save(whole, folder / "zip.pth")
    torch.save(weights, folder / "zip4.pth", pickle_protocol=4)
    torch.save(whole, folder / "older.pth", _use_new_zipfile_serialization=False)
    torch.save(weights, folder / "older.bin", _use_new_zipfile_serialization=False)


def make_script(folder: Path, rng: Rng) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    torch.jit.script(layers).save(folder / "script.pth")


def read_source(folder: Path, changed: Path) -> None:
    """Read every tensor of a file."""
    with open_source(changed) as source:
        for key in source.keys():  # noqa: SIM118 (a method of ours)
            source.read(key)


def make_shards(folder: Path, rng: Rng) -> None:
    """Write two shards and their index."""
    (folder / "model").mkdir()
    for n in (1, 2):
        save_file({f"layer.{n}.w": rng.normal(size=(2, 3))}, folder / "model" / f"model-{n:05}-of-00002.safetensors")
    index = {f"layer.{n}.w": f"model-{n:05}-of-00002.safetensors" for n in (1, 2)}
    text = json.dumps({"metadata": {"total_size": 96}, "weight_map": index})
    (folder / "model" / "model.safetensors.index.json").write_text(text)


def read_folder(folder: Path, changed: Path) -> None:
    read_source(folder, folder / "model")


@functools.cache
def plain() -> tuple:
    """Return (skeleton, parameters) of the tiny ViT without adapters."""
    skeleton = SPEC.skeleton(head=SPEC.linear(len(NAMES)))
    return skeleton, {path: np.zeros(entry.shape, np.float32) for path, entry in skeleton.entries.items()}


def make_adapter(folder: Path, rng: Rng) -> None:
    """Write a LoRA adapter, and a DoRA adapter, as PEFT does."""
    skeleton, flat = plain()
    for name, dora in (("lora", False), ("dora", True)):
        spec = LoRA(rank=2, targets=("q", "fc1"), dora=dora)
        adapted = lora.adapt(skeleton, jax.tree.map(jax.numpy.asarray, flat), SPEC, spec, nnx.Rngs(0))
        save_adapter(folder / name, SPEC, *adapted)


def read_adapter(folder: Path, changed: Path) -> None:
    load_adapter(folder / changed.relative_to(folder).parts[0], SPEC, *plain())


def make_training(folder: Path, rng: Rng) -> None:
    """Write a training checkpoint of self-distillation in our format."""
    make_own(folder, rng)
    model = load_pretrained(folder / "model", drop_head=True)
    shutil.rmtree(folder / "model")
    centres = {"dino_head": rng.normal(size=(1, 4)).astype(np.float32)}
    save_training(folder / "run", TrainingCheckpoint({"teacher": {"backbone": model}}, centres, {"epoch": 3}))


def read_training(folder: Path, changed: Path) -> None:
    with open_training(folder / "run") as opened:
        for parts in opened.networks.values():
            for part in parts.values():
                params.Digest().add("all", np.concatenate([np.ravel(leaf) for leaf in part.flat.values()]))


def make_json(folder: Path, rng: Rng) -> None:
    tree = {"name": "a", "sizes": [1, 2.5, None], "inner": {"on": True, "text": "caf\u00e9", "list": [[], {}]}}
    (folder / "small.json").write_text(json.dumps(tree))
    (folder / "wide.json").write_text(json.dumps({str(n): rng.normal() for n in range(200)}, indent=1))


def read_any_json(folder: Path, changed: Path) -> None:
    for any_number in (False, True):
        read_json(changed, any_number=any_number)
