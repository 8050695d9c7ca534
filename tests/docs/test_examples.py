"""Every example runs as a notebook, and the notebook that is kept beside it is of the same code."""

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
import nbformat

from tests.conftest import QUICK

ROOT = Path(__file__).parents[2]
FOUND = importlib.util.spec_from_file_location("build_notebooks", ROOT / "docs" / "build_notebooks.py")
notebooks = importlib.util.module_from_spec(FOUND)
FOUND.loader.exec_module(notebooks)
SCRIPTS = notebooks.SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_is_of_the_script(script):
    kept = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    made = notebooks.unrun(script)
    both = [[(cell.cell_type, cell.source) for cell in one.cells] for one in (kept, made)]
    assert both[0] == both[1], f"python docs/build_notebooks.py {script.stem} makes the notebook again"
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in code)
    drawn = ["image/png" in one.get("data", {}) for cell in code if "savefig" in cell.source for one in cell.outputs]
    assert sum(drawn) == sum("savefig" in cell.source for cell in code)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of jupyter's packages are not ours
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_example_runs(script, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", QUICK)  # one device
    monkeypatch.delenv("JAX_NUMPY_RANK_PROMOTION")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    text = re.sub(r"\bepochs=\d+", "epochs=1", script.read_text())  # what they show is in the notebook that is kept
    (tmp_path / "short.py").write_text(text)
    (tmp_path / "empty").mkdir()
    ran = notebooks.run(tmp_path / "short.py", tmp_path / "empty")
    outputs = [one for cell in ran.cells if cell.cell_type == "code" for one in cell.outputs]
    assert any("image/png" in one.get("data", {}) or "text" in one for one in outputs)
    assert list((tmp_path / "empty").iterdir()) == []  # what it writes is in a temporary folder
