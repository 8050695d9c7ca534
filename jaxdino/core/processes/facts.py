"""What must be equal in all processes of a run before it starts: the code and the packages that compute."""

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "numpy", "flax", "optax", "orbax-checkpoint", "grain", "pillow")
ROOT = Path(__file__).parents[3]


def of_code(folders: Sequence[str] = ("jaxdino", "convert", "configs")) -> dict[str, str]:
    """Return {name: version}, and a digest of the Python files of these packages of ours."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    digest = hashlib.sha256()
    for file in sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return found | {"the code of jaxdino (SHA-256)": digest.hexdigest()[:12]}
