"""Names of files in other files: what stays in its folder, and what the file system can have."""

import pytest

from jaxdino.core.file_names import is_file_name, is_path_below


@pytest.mark.parametrize(
    ("name", "below", "alone"),
    [
        ("a.png", True, True),
        ("a/b.png", True, False),
        ("a/../b.png", True, False),
        ("../a.png", False, False),
        ("/a.png", False, False),
        ("a\0.png", False, False),
        (" ", False, False),
        (3, False, False),
        ("é" * 127, True, True),
        ("é" * 128, False, False),
        ("a/" * 2100 + "b", False, False),
    ],
)
def test_names(name, below, alone):
    assert (is_path_below(name), is_file_name(name)) == (below, alone)
