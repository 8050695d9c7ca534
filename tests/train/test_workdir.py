"""Run folders that an earlier version wrote."""

import json

import pytest

from configs import clipdinosam, gradual, ssl
from jaxdino.train.workdir import ADDED, ADDED_TO_VIEWS, Workdir, plain


@pytest.mark.parametrize("config", [gradual, ssl, clipdinosam])
def test_a_folder_without_the_newer_settings_is_of_the_same_run(config, tmp_path):
    config = config.get_config()
    old, removed = plain(config), 0
    for part, names in ADDED.items():
        removed += sum(old.get(part, {}).pop(name, None) is not None for name in names)
    for name in ("images", "masks"):  # None by default, as what is missing is
        old["data"].pop(name, None)
    for view in old["data"].get("views", ()):
        removed += sum(view.pop(name, None) is not None for name in ADDED_TO_VIEWS)
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert removed and Workdir(tmp_path, config).lengthened == []
