"""The wheel, installed by itself: the command, the configs and the weights of the example come with it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77", reason="builds the wheel without downloading its build backend")
ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the package installed from its wheel, which was built from a copy of the tracked sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("jaxdino", "convert", "configs", "launch", "pyproject.toml", "README.md", "LICENSE"):
        copy = ["cp", "-r", str(ROOT / name), str(source)]
        subprocess.run(copy, check=True)
    build = [*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("jaxdino-*.whl")
    install = [*PIP, "install", "-q", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    assert "jaxdino/py.typed" in zipfile.ZipFile(wheel).namelist()
    return folder / "site"


def run(site: Path, cwd: Path, *args: str) -> subprocess.CompletedProcess:
    command, env = [str(site / "bin" / "jaxdino"), *args], os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["gradual", "configs/gradual.py"])
def test_installed_configs_are_found_from_an_empty_folder(site, tmp_path, config):
    done = run(site, tmp_path, "train", f"--config={config}", "--help-config=seed")
    assert done.returncode == 0 and "--config.seed=0" in done.stdout
    assert done.stderr == f"config: {site / 'configs' / 'gradual.py'} (installed)\n"


@pytest.mark.slow
def test_what_stands_in_the_wheel(site, tmp_path):
    assert run(site, tmp_path, "--version").stdout.startswith("jaxdino ")
    done = run(site, tmp_path, "convert", "inspect", "dinov3_digits")
    assert done.returncode == 0 and str(site / "jaxdino" / "assets") in done.stdout, done.stderr
    listed = run(site, tmp_path, "configs").stdout
    assert all(file.stem in listed for file in (ROOT / "configs").rglob("[!_]*.py") if file.stem != "common")
