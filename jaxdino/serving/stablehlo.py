"""Write programs as StableHLO: files without weights for all platforms, the weights in safetensors, and JSON files.

jax, numpy and safetensors are enough to run it; docs/export.md has the code.
"""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from convert.writers import write_safetensors
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import write_json
from jaxdino.core.options import check_choice
from jaxdino.serving.program import Program

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
WEIGHTS = "weights.safetensors"
"""The parameters, for all programs of a folder."""


def write(program: Program, folder: Path, platforms: tuple[str, ...] = PLATFORMS) -> dict[str, Any]:
    """Write a program into a folder, and the weights unless they are there; return what its JSON file says.

    Raises:
      UserError: for an unknown platform, and without the package flatbuffers.
    """
    for platform in platforms:
        check_choice("--platforms", platform, PLATFORMS)
    check_installed()
    shapes = {path: jax.ShapeDtypeStruct(value.shape, value.dtype) for path, value in program.flat.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about platforms that this machine lacks
        exported = jax.export.export(jax.jit(program.run), platforms=platforms)(shapes, *program.shapes())
        (folder / f"{program.name}.stablehlo").write_bytes(exported.serialize())
    if not (folder / WEIGHTS).exists():
        arrays = {path: np.asarray(value) for path, value in program.flat.items()}
        write_safetensors(folder / WEIGHTS, [(path, a.shape, a.dtype, lambda a=a: a) for path, a in arrays.items()])
    found = zip(program.about["outputs"], (exported.out_avals[i] for i in _order(program)), strict=True)
    about = program.about | {
        "format": "stablehlo",
        "jax": jax.__version__,
        "platforms": list(platforms),
        "calling_convention": exported.calling_convention_version,
        "outputs": {name: [str(n) for n in aval.shape] for name, aval in found},
    }
    write_json(folder / f"{program.name}.json", about)
    return about


def check_installed() -> None:
    """Raise UserError without the package that serialises programs."""
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise UserError("StableHLO is written with flatbuffers: pip install 'jaxdino[export]'") from None


def load(folder: str | Path, name: str = "model") -> Any:
    """Return a written program as a function of its inputs -> {name: array}, as a user runs it."""
    from safetensors.numpy import load_file

    place = Path(folder)
    exported = jax.export.deserialize(bytearray((place / f"{name}.stablehlo").read_bytes()))
    weights = jax.device_put(load_file(place / WEIGHTS))
    return lambda *arrays: exported.call(weights, *arrays)


def _order(program: Program) -> list[int]:
    """Return where the outputs are among those of the program, which are sorted by name."""
    names = sorted(program.about["outputs"])
    return [names.index(name) for name in program.about["outputs"]]
