"""Configs by name: from any folder, the file of the current folder first, and with the files beside them."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxdino.core.errors import UserError
from jaxdino.settings import config_search
from jaxdino.settings.command_line import command
from jaxdino.settings.config_search import INSTALLED, find

ROOT = Path(__file__).parents[2]
MINE = "from ml_collections import ConfigDict\nfrom configs import common\n\n\n"
MINE += "def get_config(model=None):\n    return ConfigDict({'whose': common.WHOSE, 'model': model or ''})\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path: str, text: str = MINE) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize("asked", ["gradual", "configs/gradual.py", "./configs/gradual.py"])
def test_the_installed_config_is_found_from_any_folder(asked):
    assert find(asked) == (INSTALLED / "gradual.py", True)
    given = command(f"{asked}:dinov3_vits16", ["--config.seed=3"])
    assert given.installed and given.config().seed == 3
    assert given.config().model.name == "dinov3_vits16" and len(given.config().stages) == 3


@pytest.mark.parametrize("asked", ["small/laptop", "configs/small/laptop.py"])
def test_configs_in_a_folder_have_its_name(asked):
    assert find(asked) == (INSTALLED / "small" / "laptop.py", True)
    write("configs/small/laptop.py", MINE.replace("common.WHOSE", "'mine'"))
    assert find(asked) == (Path("configs/small/laptop.py"), False)
    assert "small/laptop" in [line.split()[0] for line in config_search.lines()]


def test_a_config_in_a_folder_finds_the_files_of_the_folder_above():
    write("configs/common.py", "WHOSE = 'mine'\n")
    write("configs/small/own.py")
    assert command("small/own", []).config().whose == "mine"


@pytest.mark.parametrize("asked", ["gradual", "configs/gradual.py"])
def test_the_file_of_the_current_folder_wins(asked):
    write("configs/gradual.py", MINE.replace("common.WHOSE", "'mine'"))
    assert find(asked) == (Path("configs/gradual.py"), False)
    assert command(asked, []).config().whose == "mine"


def test_a_name_is_no_file_of_the_current_folder():
    """A script of the same name that happens to lie there is not run unasked, but named where nothing else fits."""
    write("linear.py", "raise SystemExit('not a config')")
    write("mine.py", "raise SystemExit('not a config')")
    assert find("linear").installed
    with pytest.raises(UserError, match=r"there is no config mine; nearest: mine\.py$"):
        find("mine")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("gradul", "there is no config gradul; nearest: gradual"),
        ("small/laptp", "there is no config small/laptp; nearest: small/laptop"),
        ("../gradual", r"there is no config \.\./gradual"),
        ("configs/gradul.py", "there is no config configs/gradul.py; nearest: configs/gradual.py"),
        ("configs/gradual", "there is no config configs/gradual; nearest: configs/gradual.py"),
        ("gradual.py", "there is no config gradual.py; nearest: configs/gradual.py"),
        ("other/gradual.py", "there is no config other/gradual.py; nearest: configs/gradual.py"),
    ],
)
def test_a_misspelt_name_ends_in_the_nearest(asked, words):
    with pytest.raises(UserError, match=words):
        find(asked)


def test_a_config_imports_the_file_beside_it():
    import configs

    before = dict(sys.modules)
    write("configs/common.py", "WHOSE = 'mine'\n")
    write("configs/one.py")
    assert command("one", []).config().whose == "mine"
    assert sys.modules["configs"] is configs  # as it was
    assert {name for name in sys.modules if name.startswith("configs")} == {
        n for n in before if n.startswith("configs")
    }


def test_another_projects_package_of_that_name_does_not_hide_the_installed_one():
    """`./configs` of another project, with an `__init__.py`: first on the path, as `python -m` puts it there."""
    write("configs/__init__.py", "raise SystemExit('another project')")
    write(
        "mine.py",
        "from configs import gradual\n\n\ndef get_config(model=None):\n    return gradual.get_config(model)\n",
    )
    code = f"import sys; sys.path[:0] = ['', {str(ROOT)!r}]\n"
    code += "from jaxdino.settings.command_line import command\n"
    code += "for asked in ('gradual', 'mine.py'): print(command(asked, []).config().model.name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "dinov3_digits\n" * 2, done.stderr


def test_which_config_was_taken_is_said_when_it_is_the_installed_one():
    args = [sys.executable, "-m", "jaxdino", "train", "--config=linear", "--help-config=seed"]
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(args, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0 and done.stderr == f"config: {INSTALLED / 'linear.py'} (installed)\n"
    done = subprocess.run(args, capture_output=True, text=True, check=False, env=env, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == ""


def test_the_list_of_configs():
    write("configs/mine.py", '"""My own.\n\nMore.\n"""\n')
    write("configs/broken.py", "def (")
    lines = dict(line.split(maxsplit=1) for line in config_search.lines())
    assert {"gradual", "linear", "ssl", "clipdinosam", "mine", "broken"} <= set(lines) and "common" not in lines
    assert lines["mine"] == "My own." and lines["broken"].startswith("(not read: invalid syntax")
    assert lines["gradual"].startswith("Gradual unfreezing: ")
