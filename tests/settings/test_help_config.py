"""The list of settings: every one of a config, once, with its defaults; a word narrows it."""

import re

import pytest

from configs import clipdinosam, gradual, ssl_continue
from jaxdino.settings.listing import listing
from jaxdino.settings.tree import settings


@pytest.mark.parametrize("config", [gradual, ssl_continue, clipdinosam])
def test_all_settings_are_listed_once(config):
    made = config.get_config("dinov3_vits16")
    flags = re.findall(r"^  --config\.([^=]+)=", listing(made), re.MULTILINE)
    assert sorted(flags) == sorted({one.general.replace("[]", "[i]") for one in settings(made).values()})


def test_defaults_of_all_stages_stand_in_a_row_and_lines_are_wrapped():
    lines = listing(gradual.get_config("dinov3_vits16"), width=80).splitlines()
    assert lines[0] == "stages: 0 head, 1 last, 2 all; a value for each, '-' if it is open"
    at = lines.index("  --config.stages[i].groups.backbone.lr=0.0001 / 1e-05  (float)")
    assert lines[at + 1].strip().startswith("peak learning rate")
    assert max(map(len, lines)) < 120 and "stages[i].groups: how the parameters of a group are trained" in lines


def test_a_word_narrows_the_list():
    made = gradual.get_config()
    part = listing(made, "early_stopping")
    assert part.count("--config.") == 3 and "patience=3" in part
    assert "--config.data.augment" in listing(made, "preset of augmentation")
    assert listing(made, "qqq").startswith("no setting has 'qqq'")
