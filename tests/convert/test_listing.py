"""What `convert list` says, and that the page's table is what the tests measured."""

from pathlib import Path

import pytest

from convert import listing
from convert.__main__ import main
from convert.tables import layouts
from jaxdino.core.errors import UserError
from jaxdino.models.registry import MODELS

DOC = Path(__file__).parents[2] / "docs" / "conversion.md"


def test_every_model_with_its_layouts(monkeypatch, capsys):
    some = {name: MODELS[name] for name in ("dinov3_vits16", "resnet18", "clip_vitb32", "sam_vitb")}
    monkeypatch.setattr(listing, "MODELS", some)
    assert main(["list"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["model", "parameters"]
    for (name, spec), row in zip(some.items(), rows, strict=True):
        assert row.startswith(name) and f"{spec.skeleton().num_params:,}" in row
        assert all(f" {layout} " in row for layout in layouts(spec))


def test_the_page_holds_what_was_measured(tmp_path):
    assert f"{listing.START}\n{listing.table()}\n{listing.END}" in DOC.read_text()
    page = tmp_path / "page.md"
    page.write_text(f"before\n{listing.START}\nold\n{listing.END}\nafter")
    assert main(["list", "--doc", str(page)]) == 0
    assert page.read_text() == f"before\n{listing.START}\n{listing.table()}\n{listing.END}\nafter"


def test_a_page_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("mine")
    with pytest.raises(UserError, match="the table goes between two lines"):
        listing.write_table(page)
    assert page.read_text() == "mine"
