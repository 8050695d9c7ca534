"""The rooms of the house import downwards only, and what is slow or heavy is not imported by accident."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = packages_distributions()
"""{module: the packages that hold it}."""
BELOW = {  # room -> the rooms it may import
    "jaxdino.core": set(),
    "jaxdino.data": {"jaxdino.core"},
    "jaxdino.models": {"jaxdino.core"},
    "jaxdino.stage_parts": {"jaxdino.core"},
    "jaxdino.stage": {"jaxdino.core", "jaxdino.stage_parts"},
    "jaxdino.strategy": {"jaxdino.core", "jaxdino.stage"},
    "jaxdino.settings": {"jaxdino.core", "jaxdino.stage", "jaxdino.data", "jaxdino.models", "jaxdino.objectives"},
    "jaxdino.adam": set(),
    "jaxdino.optim": {"jaxdino.adam", "jaxdino.core", "jaxdino.stage", "jaxdino.strategy"},
    "jaxdino.objectives": {"jaxdino.core", "jaxdino.models", "jaxdino.data", "jaxdino.stage"},
    "jaxdino.inspect_data": {"jaxdino.core", "jaxdino.data", "jaxdino.evals"},
    "jaxdino.evals": {"jaxdino.core", "jaxdino.models", "jaxdino.data", "convert"},
    "jaxdino.features": {"jaxdino.core", "jaxdino.models", "jaxdino.data", "convert"},
    "jaxdino.probing": {
        "jaxdino.core",
        "jaxdino.models",
        "jaxdino.data",
        "jaxdino.features",
        "jaxdino.evals",
        "convert",
    },
    "jaxdino.anomalies": {
        "jaxdino.core",
        "jaxdino.models",
        "jaxdino.data",
        "jaxdino.evals",
        "jaxdino.evaluation",
        "convert",
    },
    "jaxdino.comparison": {
        "jaxdino.core",
        "jaxdino.api",
        "jaxdino.data",
        "jaxdino.evals",
        "jaxdino.evaluation",
        "jaxdino.probing",
        "jaxdino.settings",
        "jaxdino.train",
    },
    "jaxdino.retrieval": {
        "jaxdino.core",
        "jaxdino.models",
        "jaxdino.data",
        "jaxdino.evals",
        "jaxdino.inspect_data",
        "convert",
    },
    "jaxdino.serving": {
        "jaxdino.core",
        "jaxdino.models",
        "jaxdino.data",
        "jaxdino.evals",
        "jaxdino.evaluation",
        "jaxdino.retrieval",
        "jaxdino.api",
        "convert",
    },
    "convert": {"jaxdino.core", "jaxdino.models", "jaxdino.data"},
    "configs": {
        "jaxdino.core",
        "jaxdino.settings",
        "jaxdino.stage",
        "jaxdino.data",
        "jaxdino.models",
        "jaxdino.objectives",
        "configs",
    },
}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] in ("convert", "configs") else ".".join(parts[:2])


def imports(file: Path) -> set[str]:
    """The modules of ours that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            found.add(node.module)
    return {name for name in found if name.split(".")[0] in ("jaxdino", "convert", "configs")}


@pytest.mark.parametrize("name", BELOW)
def test_imports_point_down(name):
    place = ROOT / name.replace(".", "/")
    files = sorted(place.rglob("*.py")) or [place.with_suffix(".py")]
    for file in files:
        upward = {room(i) for i in imports(file)} - BELOW[name] - {name, "jaxdino"}
        assert not upward, f"{file} imports {sorted(upward)}"


def test_torch_is_imported_by_the_reference_alone():
    for file in [*(ROOT / "jaxdino").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]:
        nodes = ast.walk(ast.parse(file.read_text()))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        if "torch" in names:
            assert file.parent.name == "references" or file.name == "verify.py", file


def test_loading_needs_neither_torch_nor_tensorflow():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['tensorflow'] = None\n"
        "import jaxdino, numpy as np\n"
        "model = jaxdino.load('dinov3_digits')\n"
        "print(model(np.zeros((1, 32, 32, 3), np.uint8)).cls.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "(1, 96)", done.stderr


def test_help_imports_no_jax():
    code = (
        "import sys, jaxdino.main; sys.exit(any(name in sys.modules for name in ('jax', 'flax', 'orbax', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_run_waits_for_libraries_that_it_needs_later():
    """Up to the first step; tensorboardX would import torch, and the digits come with scikit-learn."""
    code = """
import sys, tempfile
from pathlib import Path
import jaxdino.api, jaxdino.train.loop
from jaxdino.data.config import DataConfig
from jaxdino.data.sources import load_source
from jaxdino.evals import augmentation_pictures
from jaxdino.train.writers.tensorboard import TensorBoard
from jaxdino.train.writers.writer import Target

load_source(DataConfig())
augmentation_pictures._font(10)
with tempfile.TemporaryDirectory() as folder:
    TensorBoard(Target(Path(folder), {}, {}, {}, print)).close(True)
print(*sorted({"sklearn", "torch", "scipy.ndimage", "matplotlib", "pandas", "tensorflow"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_every_imported_library_is_declared():
    """What jaxdino imports is a dependency or an extra of its own, not one that another library happens to bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    named = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in lines}
    missing = {}
    for file in [
        *(ROOT / "jaxdino").rglob("*.py"),
        *(ROOT / "convert").rglob("*.py"),
        *(ROOT / "configs").rglob("*.py"),
    ]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in (
                {one.split(".")[0] for one in names} - sys.stdlib_module_names - {"jaxdino", "convert", "configs"}
            ):
                packages = {one.lower().replace("_", "-") for one in PACKAGES.get(name, [name])}
                if not packages & named:
                    missing.setdefault(name, file)
    assert missing == {}


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names, since the folders of tests are no packages."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert {name for name in names if names.count(name) > 1} == set()
