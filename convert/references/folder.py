"""Provide the folder to load transformers' class from: the given one, or a temporary one for a bare state dict."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convert.describe import card_of
from convert.readers import Source
from convert.recognise import Recognised
from convert.tables import layouts
from convert.tensors import Tensor
from convert.writers import write_safetensors

STANDARD = ("model.safetensors", "pytorch_model.bin")
"""Names of weights files that transformers opens in a folder."""


@contextmanager
def hf_folder(path: Path, found: Recognised, source: Source) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the folder, and a line for each fact that it shares with our model.

    For a state dict without `config.json`, one with the recognised configuration is written to a temporary folder with
    the file's own tensors. transformers then runs these tensors; both models take all other facts from us.
    """
    folder = path if path.is_dir() else path.parent
    standard = path.is_dir() or path.name in STANDARD
    if found.layout != "hf" or (standard and (folder / "config.json").is_file()):
        yield folder, ()
        return
    how, card = layouts(found.spec)[found.layout], card_of(found, source)[0]
    head = found.head if card.num_classes else ()
    prefix = how.prefix(card) if head else ""

    def tensor(key: str, full: str) -> Tensor:
        name = key if key in head else f"{prefix or ''}{key}"
        return Tensor(name, source.shape(full), source.dtype(full), lambda: source.read(full))

    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        write_safetensors(made, [tensor(key, full) for key, full in found.keys.items()])
        for file, content in how.files(card, "float32").items():
            (made / file).write_text(json.dumps(content))
        text = "config.json is missing beside the weights: its heads, epsilon, activation and positions"
        yield made, (f"{text} are the recognised ones, in both models",)
