"""Run the examples as notebooks and keep what they show: `python docs/build_notebooks.py [NAME ...]`.

An example is written once, as the script `examples/NAME.py`; `examples/NAME.ipynb` is made from it, with its output.
"""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
TIMEOUT = 900
"""Seconds that a cell may take, on a busy machine."""
LINES = 40
"""Lines that are kept of an output: the last ones."""


def unrun(script: Path) -> Any:
    """Return the notebook of a script, without output."""
    found = jupytext.read(script)
    found.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for place, cell in enumerate(found.cells):
        cell["id"] = f"cell-{place}"
        cell["metadata"] = {}
        text = cell["source"]
        cell["source"] = re.sub(r"\]\((\w+)\.py\)", r"](\1.ipynb)", text) if cell["cell_type"] == "markdown" else text
    return found


def run(script: Path, folder: str | Path) -> Any:
    """Return the notebook of a script, run in a folder. Raise nbclient's CellExecutionError if a cell fails."""
    found = unrun(script)
    NotebookClient(found, timeout=TIMEOUT, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in found.cells:
        cell["metadata"] = {}  # times of execution
        if cell["cell_type"] == "code":
            cell["outputs"] = [one for one in map(shortened, joined(cell["outputs"])) if one]
    return found


def joined(outputs: list[Any]) -> list[Any]:
    """Join the pieces of printed text; jaxdino's progress on standard error is shown with the rest."""
    found: list[Any] = []
    for one in outputs:
        if one["output_type"] == "stream" and found and found[-1]["output_type"] == "stream":
            found[-1]["text"] += one["text"]
        else:
            found.append(one)
    return found


def shortened(output: Any) -> Any:
    """Return an output without progress bars, colours and the paths of this machine; None if nothing is left."""
    if output["output_type"] != "stream":
        if output["output_type"] == "execute_result" and "image/png" not in output["data"]:
            return output
        output["data"].pop("text/plain", None) if "image/png" in output.get("data", {}) else None
        return output
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output["text"]).replace(f"{ROOT}/", "")
    text = re.sub(
        rf"{re.escape(tempfile.gettempdir())}/jaxdino_\w+(/?)", lambda at: "" if at[1] else "a temporary folder", text
    )
    lines = [line.rsplit("\r", 1)[-1] for line in text.splitlines()]
    lines = [line for line in lines if not re.search(r"\d+%.*steps \[|^\S*INFO|^I\d{4} ", line)]
    if len(lines) > LINES:
        lines = ["...", *lines[-LINES:]]
    output["name"], output["text"] = "stdout", "\n".join(lines) + "\n"
    return output if any(lines) else None


def main(names: list[str]) -> int:
    """Write the notebooks of the examples with these names, by default all."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # pictures are kept in the notebook
    for script in SCRIPTS:
        if not names or script.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                nbformat.write(run(script, folder), script.with_suffix(".ipynb"))
            print(script.with_suffix(".ipynb").relative_to(ROOT), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
