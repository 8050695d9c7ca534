import dataclasses
from pathlib import Path

import pytest

from jaxdino.core.errors import UserError
from jaxdino.data.presets import PRESETS, get_preset
from jaxdino.data.recipe import GEOMETRIC, OF_CROPS, View, without_geometry

PAGE = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text()


def test_the_page_has_every_preset_with_its_values():
    lines = [line.split("|") for line in PAGE.split("## Your own")[0].splitlines() if line.startswith("| `")]
    rows = {name.split("`")[1]: changes.strip(" `") for _, name, _, changes, _ in lines}
    assert set(rows) | {"medium"} == set(PRESETS) and PRESETS["medium"] == PRESETS["standard"]
    for name, changes in rows.items():
        assert get_preset(f"none,{changes}" if changes else "none") == PRESETS[name], name


def test_the_page_has_every_field():
    missing = [field.name for field in dataclasses.fields(View) if f"`{field.name}`" not in PAGE]
    assert missing == list(OF_CROPS)


def test_the_device_treats_views_alike_that_differ_in_their_geometry():
    for name, value in dict(shear=5.0, shift=0.1, zoom=(0.9, 1.1), perspective=0.1, grid=0.1, quarter=1.0).items():
        changed = dataclasses.replace(PRESETS["light"], **{name: value})
        assert name in GEOMETRIC and changed != PRESETS["light"]
        assert without_geometry(changed) == without_geometry(PRESETS["light"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("shear=61", "shear=61.0 must lie in 0 to 60"),
        ("shift=1.5", "shift=1.5 must lie in 0 to 1"),
        ("zoom=(1.2,0.8)", "the smaller first"),
        ("zoom=1.2", "it must be 2 values"),
        ("perspective=0.6", "perspective=0.6 must lie in 0 to 0.5"),
        ("grid=0.5", "grid=0.5 must lie in 0 to 0.4"),
        ("quarter=2", "quarter=2.0 must lie in 0 to 1"),
        ("rotate=5", "no field 'rotate'"),
    ],
)
def test_values_outside_their_range(changes, message):
    with pytest.raises(UserError, match=message):
        get_preset(f"light,{changes}")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="unknown preset 'microscope'; nearest: microscopy"):
        get_preset("microscope")
