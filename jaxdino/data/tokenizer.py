"""Convert texts to CLIP's token ids: with the checkpoint's tokenizer, or offline with CLIP's published vocabulary."""

import dataclasses
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import read_json

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Tokenizer files that transformers saves beside a model's weights."""

CLASSES = (None, "CLIPTokenizer", "CLIPTokenizerFast")
"""Supported values of tokenizer_class in tokenizer_config.json."""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Byte-pair encoding with start and end tokens.

    Attributes:
      encode: maps a text to its ids, without start and end tokens.
      start, end, pad: ids of the start, end and padding tokens.
      source: where the tokenizer comes from.
    """

    encode: Callable[[str], list[int]]
    start: int
    end: int
    pad: int
    source: str

    def __call__(self, texts: Sequence[str], length: int, *, truncate: bool = False) -> np.ndarray:
        """Convert texts to ids (B, length) int32, with start and end tokens, padded.

        Args:
          length: context length of the model, 77 in all published CLIPs.
          truncate: cut texts that are too long and keep the end token, as OpenAI's `clip.tokenize` does.

        Raises:
          UserError: if `texts` is not a list of texts, or one is too long.
        """
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence) or not len(texts):
            raise UserError('texts are a list with at least one string in it: ["a photo of a cat"]')
        ids = np.full((len(texts), length), self.pad, np.int32)
        for row, text in zip(ids, texts, strict=True):
            if not isinstance(text, str):
                raise UserError(f"texts are strings, {text!r} is of type {type(text).__name__}")
            tokens = [self.start, *self.encode(text), self.end]
            if len(tokens) > length and not truncate:
                raise UserError(
                    f"{text!r} is {len(tokens)} tokens long with its two marks; the model takes {length}: shorten it, "
                    "or cut it with truncate=True"
                )
            tokens = [*tokens[: length - 1], self.end] if len(tokens) > length else tokens
            row[: len(tokens)] = tokens
        return ids

    def prompts(self, names: Sequence[str], templates: Sequence[str], length: int) -> np.ndarray:
        """Put n prompts into each {} of t templates and return ids (n, t, length) int32.

        Raises:
          UserError: if a prompt is too long in one of the templates; the message names both.
        """
        texts = [template.replace("{}", name) for name in names for template in templates]
        for n, text in enumerate(texts):
            if (count := len(self.encode(text)) + 2) > length:
                name, template = names[n // len(templates)], templates[n % len(templates)]
                inside = "" if template == "{}" else f" in the template {template[:60]!r}"
                raise UserError(
                    f"the prompt {name[:60]!r}{inside} is {count} tokens long with its two marks; the text encoder "
                    f"takes {length}: shorten it"
                )
        return self(texts, length).reshape(len(names), len(templates), length)


def serving(files: Sequence[Path], text: Any) -> Tokenizer:
    """Return the tokenizer of a text encoder: from files beside its weights, otherwise CLIP's published vocabulary.

    Args:
      text: config of the text encoder, with `vocab_size` and `eot` (`models.clip_towers.TextConfig`).

    Raises:
      UserError: if the tokenizer does not belong to this text encoder, or there is none.
    """
    folders = {file.parent for file in files if is_tokenizer(file.parent)}
    known = from_folder(folders.pop()) if folders else published()
    if known.end >= text.vocab_size or text.eot not in (None, known.end):
        raise UserError(
            f"the tokenizer ({known.source}) ends a text with the id {known.end}, but this model has "
            f"{text.vocab_size} tokens and ends texts with {text.eot or 'its largest id'}: put its own tokenizer's "
            "files beside the weights, or give ids"
        )
    return known


def published() -> Tokenizer:
    """Return CLIP's published vocabulary from the package instant-clip-tokenizer, which needs no download.

    Texts are cleaned as OpenAI does (HTML entities, white space), but without its repair of wrongly decoded text
    (ftfy). Source: openai/CLIP clip/simple_tokenizer.py.

    Raises:
      UserError: if the package is not installed; it has no wheels for Python 3.13 and later, nor for ARM Linux.
    """
    try:
        from instant_clip_tokenizer import Tokenizer as Instant
    except ImportError:
        raise UserError(
            "CLIP's published vocabulary is in the package instant-clip-tokenizer, which is not installed: put the "
            f"tokenizer's files beside the weights ({FILES[0]}, or {FILES[2]} and {FILES[3]}), install the package (it "
            "is built with Rust where there is no wheel), or give token ids"
        ) from None

    tokenizer = Instant()
    return Tokenizer(
        encode=lambda text: tokenizer.encode(_cleaned(text)),
        start=tokenizer.start_of_text(),
        end=tokenizer.end_of_text(),
        pad=0,
        source="instant-clip-tokenizer",
    )


def _cleaned(text: str) -> str:
    return " ".join(html.unescape(html.unescape(text)).split()).lower()


def is_tokenizer(folder: Path) -> bool:
    """Return whether the folder holds tokenizer files of transformers."""
    return (folder / "tokenizer.json").is_file() or all((folder / n).is_file() for n in ("vocab.json", "merges.txt"))


def from_folder(folder: Path) -> Tokenizer:
    """Load the tokenizer of a Hugging Face folder with transformers.

    Raises:
      UserError: if it is not a CLIP tokenizer or cannot be read, or transformers is not installed.
    """
    try:
        from transformers import CLIPTokenizer
    except ModuleNotFoundError:
        raise UserError(
            f"{folder}: its tokenizer is read by transformers, which is not installed: pip install "
            "'jaxdino[transformers]'"
        ) from None
    try:
        config = folder / "tokenizer_config.json"
        kind = read_json(config, dict, any_number=True).get("tokenizer_class") if config.is_file() else None
        if kind not in CLASSES:
            raise UserError(f"{folder}: its tokenizer is a {kind}; only CLIP's own is known. Give ids, not texts")
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError) as err:
        raise UserError(f"{folder}: its tokenizer cannot be read: {str(err).splitlines()[0]}") from err
    return Tokenizer(
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
        start=tokenizer.bos_token_id,
        end=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        source=str(folder),
    )
