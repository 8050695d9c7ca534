"""Names of files that other files say: JSON beside weights, annotations, manifests."""

import os

LONGEST_NAME, LONGEST_PATH = 255, 4000
"""Bytes that file systems allow in a name, and in a path (4096 with the folder before it)."""


def is_file_name(name: object) -> bool:
    """Return whether a value can be the name of a file in a folder: a text without folders in it."""
    return is_path_below(name) and os.path.basename(str(name)) == name


def is_path_below(name: object) -> bool:
    """Return whether a value can be a path that stays below the folder that it is relative to."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        return False
    path = os.path.normpath(name)
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        return False
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in name.split(os.sep)]
    return max(sizes) <= LONGEST_NAME and sum(sizes) + len(sizes) <= LONGEST_PATH
