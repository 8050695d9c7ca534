"""Compiled programs are kept in the user's cache folder, unless the user chose otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdino.core.program_cache import CHOSEN, keep_programs, place

SCRIPT = """
import sys
from jaxdino.core.program_cache import keep_programs
{first}
folder = keep_programs()
import jax
jax.jit(lambda x: x * 2 + 1)(3.0)
print(folder, jax.config.jax_compilation_cache_max_size)
"""


def run(home: Path, first: str = "") -> tuple[str, str]:
    """Compile in a new process; return its standard output and error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment = kept | {"XDG_CACHE_HOME": str(home), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-c", SCRIPT.format(first=first)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_a_second_process_finds_the_programs_of_the_first(tmp_path):
    folder = place({"XDG_CACHE_HOME": str(tmp_path)})
    assert folder.is_relative_to(tmp_path / "jaxdino")
    out, said = run(tmp_path)
    assert out.split() == [str(folder), str(4 << 30)]
    assert f"kept in {folder}" in said and "JAX_COMPILATION_CACHE_DIR" in said
    programs = {path.name for path in folder.glob("*-cache")}
    assert programs
    out, said = run(tmp_path, "import jax")  # also where jax is imported already
    assert out.split() == [str(folder), str(4 << 30)] and not said
    assert {path.name for path in folder.glob("*-cache")} == programs


@pytest.mark.parametrize("name", CHOSEN)
def test_what_the_user_chose_is_left_alone(name, monkeypatch, tmp_path):
    for other in CHOSEN:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(name, "")
    assert keep_programs() is None and not list(tmp_path.iterdir())


def test_without_a_folder_nothing_is_kept(monkeypatch, tmp_path):
    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert keep_programs() is None


def test_a_relative_cache_folder_is_ignored(monkeypatch, tmp_path):
    """Source: the XDG Base Directory Specification."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place({"XDG_CACHE_HOME": "here"}).is_relative_to(tmp_path / ".cache")
