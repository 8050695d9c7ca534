"""The original PyTorch forward passes for comparison, one module per family. Only they (and the tests) use torch.

Each module has three functions that use the same places, in the same order and with the same axes:
`inputs(spec, pixels)`, `ours(model, inputs)` and `original(found, source, folder, inputs)`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from convert.readers import Source
from convert.recognise import Recognised
from jaxdino.core.errors import UserError


def state_dict(found: Recognised, source: Source) -> dict[str, torch.Tensor]:
    """Return the network's tensors in float32, with the keys of its layout."""
    return {key: torch.from_numpy(source.read(full).astype(np.float32)) for key, full in found.keys.items()}


def from_folder(folder: Path, auto: str = "AutoModel") -> Any:
    """Load transformers' own class from a Hugging Face folder, in float32 and evaluation mode.

    Raises:
      UserError: if config.json is missing, or transformers is not installed or cannot load the folder.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: transformers needs the Hugging Face folder, with config.json beside the weights")
    try:
        import transformers
    except ModuleNotFoundError:
        raise UserError(
            f"{folder}: its PyTorch class is transformers', which is not installed: pip install 'jaxdino[transformers]'"
        ) from None
    try:
        model = getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32)
    except ImportError as err:
        raise UserError(f"transformers cannot load its PyTorch class here: {err}") from err
    except (OSError, ValueError, RuntimeError) as err:
        raise UserError(f"transformers cannot load {folder}: {str(err).splitlines()[0]}") from err
    return model.eval()
