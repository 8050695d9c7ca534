"""The documentation builds without a warning, and no page loads anything from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("zensical")

ROOT = Path(__file__).parents[2]
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(https?:)?//|<link\b[^>]*\bhref=[\"']?(https?:)?//"
)


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_loads_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "docs" / "build_site.py"), "--out", str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    pages = {page.parent.name: page.read_text() for page in (tmp_path / "site").rglob("index.html")}
    assert {"site", "probe", "serving", "python", "settings", "inferred"} <= pages.keys()
    assert "Map images (B, H, W, 3)" in pages["python"]  # a docstring
    for name, text in pages.items():
        assert not LOADED.search(text), f"{name}: {LOADED.search(text)}"


def test_a_folder_of_other_files_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    command = [sys.executable, str(ROOT / "docs" / "build_site.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "holds other files" in done.stderr and (tmp_path / "mine.txt").exists()
