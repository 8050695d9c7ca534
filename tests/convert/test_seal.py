"""The seal of a saved model: whatever is changed in model.json or beside the weights is named."""

import dataclasses
import json
import shutil
import time

import numpy as np
import pytest

from convert.load import load_pretrained
from convert.seal import SEAL
from convert.store import load_card, load_model, save_model, write_card
from jaxdino.core.errors import UserError

NAMES = ("cat", "dog", "eel")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with a head of three classes, and a companion file."""
    folder = tmp_path_factory.mktemp("seal")
    found = load_pretrained("dinov3_digits", drop_head=True)
    card = dataclasses.replace(found.card, head=found.card.spec.linear(3), class_names=NAMES)
    width = found.card.spec.config.width
    head = {"head.kernel": np.ones((width, 3), np.float32), "head.bias": np.zeros(3, np.float32)}
    (folder / "words.txt").write_text("one two")
    save_model(folder / "best", card, {**found.flat, **head}, companions=[folder / "words.txt"])
    return folder / "best"


@pytest.fixture
def best(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "best")


def edit(best, **changes) -> None:
    """Change values in model.json; None removes one."""
    card = json.loads((best / "model.json").read_text())
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = card
        for parent in parents:
            place = place[parent]
        place[name] = value
        if value is None:
            del place[name]
    (best / "model.json").write_text(json.dumps(card))


CHANGES = [
    ({"class_names": ["dog", "cat", "eel"]}, "class_names of model.json has changed"),
    ({"class_names": None}, "class_names of model.json is missing"),
    ({"class_names": []}, "class_names of model.json has changed"),
    ({"spec__preprocess__mean": [0.4, 0.5, 0.5]}, "spec.preprocess.mean of model.json has changed"),
    ({"spec__preprocess__interpolation": "bilinear"}, "spec.preprocess.interpolation of model.json has changed"),
    ({"spec__config__norm_eps": 1e-3}, "spec.config.norm_eps of model.json has changed"),
    ({"spec__config__depth": 16_000_000}, "spec.config.depth of model.json has changed"),
    ({"head__thresholds": [0.1, 0.2, 0.3]}, "head.thresholds of model.json has changed"),
    ({"head__more": 1, "layout": "timm"}, "layout of model.json has changed, head.more of model.json was added"),
    ({"digest": "0" * 64}, "digest of model.json has changed"),
]


@pytest.mark.parametrize(("changes", "words"), CHANGES)
def test_what_changed_is_named(best, changes, words):
    edit(best, **changes)
    began = time.monotonic()
    for read in (load_card, load_model, load_pretrained):
        with pytest.raises(UserError) as error:
            read(best)
        assert f"was changed after it was saved: {words}. Restore" in str(error.value)
        assert f"delete {best / SEAL}: the model" in str(error.value)
    assert time.monotonic() - began < 5


def test_files_beside_the_weights_are_sealed(best):
    file = best / "companions" / "words.txt"
    for change, words in (
        (lambda: file.write_text("two one"), "companions/words.txt has changed"),
        (lambda: (best / "companions" / "b.txt").write_text(""), "has changed, the file companions/b.txt was added"),
        (file.unlink, "companions/words.txt is missing"),
    ):
        change()
        with pytest.raises(UserError, match=words):
            load_card(best)


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 99_999, '{"model.json": 1, "files": {}}', "\0"])
def test_a_damaged_seal_is_named(best, content):
    (best / SEAL).write_text(content)
    with pytest.raises(UserError, match=rf"{SEAL} is damaged .*restore it"):
        load_card(best)


def test_layout_of_the_text_does_not_count(best):
    card = json.loads((best / "model.json").read_text())
    (best / "model.json").write_bytes(json.dumps(card, sort_keys=True).replace(" ", "\r\n").encode())
    assert load_pretrained(best).notes == ()


def test_models_of_earlier_versions_are_loaded_with_a_word(best):
    (best / SEAL).unlink()
    notes = load_pretrained(best).notes
    assert len(notes) == 1 and f"{best} has no seal.json" in notes[0]
    edit(best, class_names=["cat", "dog"])
    with pytest.raises(UserError, match="class_names has 2 names, and the head 3 classes"):
        load_pretrained(best)
    edit(best, class_names=NAMES, spec__config__depth=16_000_000)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"depth is 16000000, but only \d+ parameters are stored"):
        load_pretrained(best)
    assert time.monotonic() - began < 5


def test_a_card_that_is_replaced_is_sealed_again(best):
    card = load_card(best)
    write_card(best, dataclasses.replace(card, class_names=("a", "b", "c")))
    assert load_pretrained(best).card.class_names == ("a", "b", "c") and load_pretrained(best).notes == ()
    assert not list(best.glob("*.part"))
