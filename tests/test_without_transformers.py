"""What `pip install jaxdino` does without its extra `transformers`: all but tokenizers of checkpoints and `verify`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKED = """
import sys

class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("transformers", "tokenizers", "torch", "timm", "peft"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
"""
IMPORT_ALL = """
import importlib, pkgutil, convert, jaxdino
for package in (jaxdino, convert):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.startswith("convert.references.") and not found.name.endswith("__main__"):
            if found.name != "convert.references":  # torch itself
                importlib.import_module(found.name)
"""
TRAIN = """
from jaxdino.cli import main
main(["train", "--config=linear", "--workdir=run", "--config.stages[0].epochs=1"])
"""
PREDICT = """
from jaxdino.cli import main
sys.exit(main(["predict", "--workdir", "run", "digit.png"]))
"""
TOKENIZE = """
from pathlib import Path
from jaxdino.core.errors import UserError
from jaxdino.data import tokenizer
print(tokenizer.published().encode("a red circle"))
try:
    tokenizer.from_folder(Path("."))
except UserError as err:
    print(err)
"""


def run(code: str, cwd: Path) -> subprocess.CompletedProcess:
    code = f"{BLOCKED}sys.path.insert(0, {str(ROOT)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_every_module_is_imported_without_it(tmp_path):
    done = run(IMPORT_ALL, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_tokenizer_names_the_extra(tmp_path):
    done = run(TOKENIZE, tmp_path)
    assert done.returncode == 0, done.stderr
    ids, error = done.stdout.splitlines()
    assert json.loads(ids) == [320, 736, 7117]
    assert error.endswith("read by transformers, which is not installed: pip install 'jaxdino[transformers]'")


@pytest.mark.slow
def test_the_example_runs_without_it(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "digit.png")
    done = run(TRAIN, tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(PREDICT, tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("digit.png\t"), done.stderr
