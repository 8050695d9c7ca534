"""Shards give the batches of the folder that they came from; they are resumed, checked, and refused when damaged."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxdino import prepare
from jaxdino.core.errors import UserError
from jaxdino.data.config import DataConfig
from jaxdino.data.fields import LABEL, Number
from jaxdino.data.identity import identify
from jaxdino.data.pipeline import make_eval_iter, make_train_iter
from jaxdino.data.shard_writing import verify
from jaxdino.data.sources import load_source
from jaxdino.data.survey import look


@pytest.fixture
def folder(tmp_path):
    """31 images of two classes in several formats, and one that is damaged."""
    rng = np.random.default_rng(0)
    for n in range(30):
        place = tmp_path / "data" / "ab"[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 255, (40 + n, 60, 3), np.uint8))
        image.save(place / f"caf\u00e9 {n}.{('jpg', 'png', 'webp', 'tif')[n % 4]}")
    (tmp_path / "data" / "a" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    np.save(tmp_path / "data" / "b" / "array.npy", rng.integers(0, 255, (40, 50, 3), np.uint8))
    return tmp_path / "data"


def load(root, name="shards", field="label", **options):
    return load_source({"name": name, "root": str(root), **options}, field)


def write(folder, *more):
    out = folder.parent / "shards"
    assert prepare.main(["--root", str(folder), "--out", str(out), "--records", "7", *more]) == 0
    return out


def batches(source, workers=0, fields=(LABEL,)):
    cfg = DataConfig(num_workers=workers)
    how = dict(batch_size=5, image_size=24, fields=fields)
    train = make_train_iter(source.splits["train"], cfg, seed=3, preset="medium", **how)
    found = [next(train) for _ in range(2 * train.steps_per_epoch)]
    train.close()
    val = make_eval_iter(source.splits["val"], cfg, **how)
    return [*found, *val], {**train.bad.reasons, **{-1 - i: why for i, why in val.bad.reasons.items()}}


@pytest.mark.parametrize("workers", [0, 1])
def test_the_batches_are_those_of_the_folder(folder, workers, capsys):
    own = load(folder, "folder")
    again = load(write(folder))
    assert again.class_names == own.class_names and "train: 26 images in 4 shards" in capsys.readouterr().err
    (found, bad), (expected, known) = batches(again, workers), batches(own)
    assert bad == known and bad and len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert value.dtype == other[key].dtype and np.array_equal(value, other[key]), key
    names = [own.splits["train"].record_name(i) for i in range(26)]
    assert [again.splits["train"].record_name(i) for i in range(26)] == names


def test_a_run_sees_the_same_data(folder):
    """The identity of the data is that of the folder, with contents too; the survey sees the same files."""
    own, again = load(folder, "folder"), load(write(folder))
    for contents in (False, True):
        assert identify(own, contents).splits == identify(again, contents).splits
    ours, theirs = look(list(again.splits.values())), look(list(own.splits.values()))
    assert sorted(map(str, ours.kinds.values())) == sorted(map(str, theirs.kinds.values()))
    assert sorted(ours.failed.values()) == sorted(theirs.failed.values())
    chosen = again.splits["train"].chosen([3, 1])
    assert [chosen.record_name(i) for i in range(2)] == [own.splits["train"].record_name(i) for i in (3, 1)]


def test_several_labels(folder):
    paths = [path.relative_to(folder.parent) for path in sorted(folder.rglob("*.*"))]
    lines = [f"{path},{'x|y' if path.parts[-2] == 'a' else 'y'}" for path in paths]
    file = folder.parent / "list.csv"
    file.write_text("path,labels\n" + "\n".join(lines) + "\n")
    out = folder.parent / "shards"
    args = ["--root", str(file), "--name", "manifest", "--field", "labels"]
    args += ["--data.val_ratio=0.3", "--data.split_seed=2"]
    assert prepare.main([*args, "--out", str(out)]) == 0
    own, fields = load(file, "manifest", "labels", val_ratio=0.3, split_seed=2), (Number("labels", "float32", (2,)),)
    for one, other in zip(batches(load(out, field="labels"), 0, fields)[0], batches(own, 0, fields)[0], strict=True):
        assert all(np.array_equal(value, other[key]) for key, value in one.items())
    assert verify(out)[0].startswith("train: ")
    with pytest.raises(UserError, match="has the field 'labels', and the task reads 'label'"):
        load(out)


def test_an_interrupted_call_goes_on(folder, capsys, monkeypatch):
    from jaxdino.data import shard_writing

    written, real = [], shard_writing._write_shard

    def some(file, *how):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file.name)
        return real(file, *how)

    monkeypatch.setattr(shard_writing, "_write_shard", some)
    out = folder.parent / "shards"
    args = ["--root", str(folder), "--out", str(out), "--records", "7"]
    assert prepare.main(args) == 130
    with pytest.raises(UserError, match="its shards are not complete: repeat the command"):
        load(out)
    assert prepare.main([*args, "--data.split_seed=5"]) == 2 and "begun with other data" in capsys.readouterr().err
    first = out / written[0]
    first.write_bytes(first.read_bytes()[:-1] + b"x")  # it is written again, the second one is kept
    monkeypatch.setattr(shard_writing, "_write_shard", real)
    assert prepare.main(args) == 0 and "4 shards, 1 of them from an earlier call" in capsys.readouterr().err
    assert len(verify(out)) == 2 and not list(out.glob("*.part")) and not list(out.glob("*.array_record.json"))
    assert prepare.main(args) == 0 and "is complete already" in capsys.readouterr().err


def test_damaged_shards(folder):
    out = write(folder)
    store = load(out).splits["train"].records.store
    shard = out / "train-00001-of-00004.array_record"
    good = shard.read_bytes()
    place = 2000
    shard.write_bytes(good[:place] + bytes(one ^ 255 for one in good[place : place + 64]) + good[place + 64 :])
    with pytest.raises(UserError, match=r"00001-of-00004\.array_record is damaged: its SHA-256"):
        verify(out)
    failed = 0
    for row in range(7, 14):
        try:
            store.read(row)
        except OSError:
            failed += 1
    assert failed > 0
    _, bad = batches(load(out))
    assert any("damaged" in why for why in bad.values())
    shard.write_bytes(good[:100])
    with pytest.raises(UserError, match=r"has 100 bytes instead of \d+: copy it again"):
        load(out)
    shard.unlink()
    with pytest.raises(UserError, match=r"00001-of-00004\.array_record is missing"):
        load(out)
    write(folder)  # only this one is written again
    assert shard.read_bytes() == good and len(verify(out)) == 2
    assert not list(out.glob("*.array_record.json"))


def test_what_is_refused(folder, capsys):
    out = write(folder)
    text = (out / "dataset.json").read_text()
    for change in ({"format": 2}, {"splits": {}}, {"class_names": [1]}, {"field": "mask"}):
        (out / "dataset.json").write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(UserError, match="was not written by this version"):
            load(out)
    (out / "dataset.json").write_text(text)
    np.save(out / "index" / "train.label.npy", np.full(26, 2, np.int32))
    with pytest.raises(UserError, match=r"the index of train in .* does not fit its shards"):
        load(out)
    (out / "index" / "train.label.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"train\.label\.npy cannot be read"):
        load(out)
    with pytest.raises(UserError, match="names a folder; shards have the splits"):
        load(out, val_split="dev")
    with pytest.raises(UserError, match=r"has no dataset\.json: it holds no shards\. `jaxdino prepare"):
        load(folder)
    assert prepare.main(["--root", str(folder), "--out", str(folder)]) == 2
    assert "is not empty: give another --out" in capsys.readouterr().err


def test_a_store_is_sent_without_its_readers(folder):
    records = load(write(folder)).splits["train"].records
    records[0].open()
    again = pickle.loads(pickle.dumps(records))
    assert again[5].open().read() == records[5].open().read()
