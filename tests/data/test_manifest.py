"""Manifests: the three ways to give classes, splits, shares, and what is refused, each with file and line."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.data.fields import Number
from jaxdino.data.pipeline import make_eval_iter, make_train_iter
from jaxdino.data.sources import cells, listed_images, load_source

NAMES = [f"img/{n}.png" for n in range(12)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "img").mkdir()
    for n, name in enumerate(NAMES):
        Image.new("RGB", (4, 4), (n, 0, 0)).save(tmp_path / name)
    return tmp_path


def write(folder, text, name="m.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding)
    return folder / name


def load(file, field="labels", **options):
    return load_source({"name": "manifest", "root": str(file), **options}, field)


LIST = "path,labels,split\nimg/0.png,cat|dog,train\nimg/1.png,,Training\n\nimg/2.png,dog,valid\n"
COLUMNS = "path,cat,dog,split\nimg/0.png,1,TRUE,train\nimg/1.png,0,,Training\nimg/2.png,false,1.0,valid\n"
LINES = (
    {"path": "img/0.png", "labels": ["cat", "dog"], "split": "train"},
    {"path": "img/1.png", "labels": [], "split": "Training"},
    {"path": "img/2.png", "labels": "dog", "split": "valid"},
)
JSONL = "\n".join(map(json.dumps, LINES)) + "\n\n"
JSON_COLUMNS = (
    '{"path": "img/0.png", "cat": true, "dog": 1, "split": "train"}\n'
    '{"path": "img/1.png", "cat": 0, "dog": null, "split": "Training"}\n{"path": "img/2.png", "dog": 1, "split": "val"}'
)


@pytest.mark.parametrize(
    ("name", "text"), [("m.csv", LIST), ("m.csv", COLUMNS), ("m.jsonl", JSONL), ("m.JSONL", JSON_COLUMNS)]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_form_gives_the_same_fields(folder, name, text, encoding):
    source = load(write(folder, text, name, encoding))
    assert source.class_names == ("cat", "dog") and list(source.splits) == ["train", "val"]
    train, val = source.splits["train"], source.splits["val"]
    assert train.fields["labels"].dtype == np.float32
    assert train.fields["labels"].tolist() == [[1, 1], [0, 0]] and val.fields["labels"].tolist() == [[0, 1]]
    assert [train.record_name(i) for i in range(2)] == NAMES[:2]
    columns = "column labels" if '"labels"' in text or "labels" in text.split("\n")[0] else "columns cat, dog"
    assert source.notes[0] == f"the classes are in the {columns}"
    assert (
        source.notes[1:] == ("1 images have no class", "val has no image of 1 of 2 classes: cat") and not source.ignored
    )


def test_batches_have_the_labels(folder):
    source = load(write(folder, LIST))
    fields = (Number("labels", "float32", (2,)),)
    batch = next(make_train_iter(source.splits["train"], seed=0, batch_size=2, image_size=4, fields=fields))
    assert batch["labels"].tolist() == source.splits["train"].fields["labels"][batch["index"]].tolist()
    (batch,) = make_eval_iter(source.splits["val"], batch_size=2, image_size=4, fields=fields)
    assert batch["labels"].tolist() == [[0, 1], [0, 0]] and batch["labels"].dtype == np.float32


def test_quoted_commas_and_lines(folder):
    (folder / "img" / "a,b.png").write_bytes((folder / NAMES[0]).read_bytes())
    file = write(folder, 'path,"cat, wild","dog"\n"img/a,b.png",1,"0\n"\nimg/1.png,x,0\n')
    with pytest.raises(UserError, match=r"m\.csv:4: the class 'cat, wild' is 'x'"):
        load(file)
    source = load(write(folder, 'path,"cat, wild","dog"\n"img/a,b.png",1,0\nimg/1.png,1,1\nimg/2.png,1,1\n'))
    assert source.class_names == ("cat, wild", "dog")


def one_class(folder, count=12, **options):
    text = "path,label\n" + "".join(f"{name},{'ab'[n % 2]}\n" for n, name in enumerate(NAMES[:count]))
    return load(write(folder, text), **options)


def test_a_space_before_a_quoted_cell(folder):
    source = load(write(folder, 'path, labels, split\nimg/0.png, "cat|dog", train\nimg/1.png, "cat", val\n'))
    assert source.class_names == ("cat", "dog")


def test_one_class_serves_both_tasks(folder):
    single, several = one_class(folder, field="label", test_ratio=0.2), one_class(folder, test_ratio=0.2)
    assert {name: split.counts() for name, split in single.splits.items()} == {
        "train": {"a": 4, "b": 4},
        "val": {"a": 1, "b": 1},
        "test": {"a": 1, "b": 1},
    }
    for name, split in single.splits.items():
        assert split.labels.dtype == np.int32 and split.records == several.splits[name].records
        assert split.labels.tolist() == several.splits[name].fields["labels"].argmax(1).tolist()
    assert single.origins["val"] == "20 % of train, stratified, seed 0"
    with pytest.raises(UserError, match=r"m\.csv: too few images .* A column 'split' names the split of each image"):
        one_class(folder, count=3)
    with pytest.raises(UserError, match=r"several classes for an image: --config\.objective\.name=multilabel"):
        load(write(folder, LIST), "label")


def test_shares_keep_every_class_in_train(folder):
    """Each of the first images is the only one of its class: it stays in train, whatever the seed."""
    text = "path,labels\n" + "".join(f"{name},all{f'|rare{n}' if n < 6 else ''}\n" for n, name in enumerate(NAMES))
    seen = set()
    for seed in range(5):
        source = load(write(folder, text), val_ratio=0.25, test_ratio=0.1, split_seed=seed)
        assert {name: len(split) for name, split in source.splits.items()} == {"train": 8, "val": 3, "test": 1}
        assert source.splits["train"].fields["labels"].any(0).all()
        assert len({path for split in source.splits.values() for path in split.records}) == 12
        seen.add(tuple(source.splits["val"].records))
    assert len(seen) > 1 and source.origins["val"] == "25 % of train, seed 4"


def test_named_splits_and_those_left_out(folder):
    text = LIST.replace("valid", "fold3") + "img/3.png,cat,test\nimg/4.png,cat,test\n"
    source = load(write(folder, text), val_split="fold3", test_split="none")
    assert [len(split) for split in source.splits.values()] == [2, 1]
    assert source.ignored == {"in a split that is left out": 2}
    with pytest.raises(
        UserError, match=r"val_split is 'fold4', which is not in the column 'split' of .*; found: .*fold3"
    ):
        load(write(folder, text), val_split="fold4")
    only = LIST.replace(",valid", ",train") + "img/3.png,dog,test\nimg/4.png,dog,train\n"
    assert {name: len(split) for name, split in load(write(folder, only)).splits.items()} == dict(
        train=3, val=1, test=1
    )


def test_missing_files_are_counted_and_named(folder):
    text = LIST + "".join(f"img/gone{n}.png,dog,train\n" for n in range(4))
    text += "img/gone4.png,dog,train\nimg/gone5.png,dog,test\n"
    source = load(file := write(folder, text), max_missing=0.7)
    assert source.ignored == {"missing file": 6} and len(source.splits["train"]) == 2
    first = ", ".join(f"{folder / 'm.csv'}:{6 + n} img/gone{n}.png" for n in range(5))
    assert source.notes[1] == f"6 of 9 files are missing: {first}, ..."
    with pytest.raises(UserError, match=r"6 of 9 files are missing: .*gone4\.png, \.\.\.\. That is more than .*=0\.1"):
        load(file)
    with pytest.raises(UserError, match=r"m\.csv:6: there is no file .*gone0\.png \(on_bad is 'stop'\)"):
        load(file, on_bad="stop")
    with pytest.raises(UserError, match=r"m\.csv:2: there is no file .*gone\.png, nor any other of the 1 images"):
        load(write(folder, "path,labels\ngone.png,a\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Path,labels\na.png,x\n", r"m\.csv:1: there is no column 'path'; nearest: Path"),
        ("path;labels\na.png;x\n", r"m\.csv:1: the columns are separated by ';'"),
        ("path,labels,labels\n", r"m\.csv:1: the column 'labels' is there twice"),
        ("path,,dog\n", r"m\.csv:1: a column has no name"),
        ("path\na.png\n", r"m\.csv:1: there are no classes: add a column 'label' or 'labels'"),
        ("path,split\na.png,train\n", r"m\.csv:1: there are no classes"),
        (
            "path,label,labels\na.png,x,x\n",
            r"m\.csv:1: several columns could .*: label, labels\. Choose with .*columns=label or .*columns=labels$",
        ),
        (
            "path,labels,cat\na.png,x,1\n",
            r"m\.csv:1: several columns could .*: labels, cat\. Choose with .*columns=labels or .*columns=cat$",
        ),
        ("path,label,cat,dog\na.png,x,1,0\n", r"m\.csv:1: .*: label, cat, dog\. .*columns=label or .*columns=cat,dog$"),
        ("path,Label\na.png,1\n", r"m\.csv:1: the column 'Label' is not called 'label': rename it, or say which"),
        (
            "# photos of 2024\n\n# and 2025\nPath,labels\na.png,x\n",
            r"m\.csv:4: there is no column 'path'; nearest: Path",
        ),
        ("\n\npath,label,labels\na.png,x,x\n", r"m\.csv:3: several columns could hold the classes"),
        ('# "\npath,cat\nimg/0.png,1\nimg/1.png,2\n', r"m\.csv:4: the class 'cat' is '2'"),
        ("\r\n# a\r\npath,labels\r\n\r\nimg/0.png,a,b\r\n", r"m\.csv:5: 3 values for the 2 columns"),
        ("path,labels\n# a comment below the columns\n", r"m\.csv:2: 1 values for the 2 columns"),
        ("path,labels\n", r"m\.csv lists no image"),
        ("", r"m\.csv lists no image"),
        ("path,cat\nimg/0.png,1\nimg/1.png,2\n", r"m\.csv:3: the class 'cat' is '2': give 0, 1, true, false"),
        ("path,lables\nimg/0.png,cat|dog\n", r"m\.csv:2: .*columns have fixed names, nearest: labels"),
        ("path,labels\nimg/0.png,cat\n\nimg/1.png,a,b\n", r"m\.csv:4: 3 values for the 2 columns path, labels"),
        ("path,labels\nimg/0.png,cat||dog\n", r"m\.csv:2: labels is 'cat\|\|dog': give names of classes"),
        ("path,label\nimg/0.png,cat\nimg/1.png,\n", r"m\.csv:3: label is ''"),
        ("path,labels\n,cat\n", r"m\.csv:2: there is no path"),
        ("path,labels\n../x.png,cat\n", r"m\.csv:2: '\.\./x\.png' leads out of the manifest's folder"),
        ("path,labels\n/etc/x.png,cat\n", r"m\.csv:2: '/etc/x\.png' is an absolute path, .* outside of the manifest's"),
        (
            "path,labels\nimg/0.png,a\nimg/1.png,a\nimg/./0.png,b\n",
            r"m\.csv:4: 'img/\./0\.png' is on line 2 too, there with 'a' and here with 'b'",
        ),
        ("path,labels\nimg/0.png,a\nimg/0.png,a\n", r"m\.csv:3: 'img/0\.png' is on line 2 too: keep one line"),
        ("path,labels,split\nimg/0.png,a,tain\n", r"m\.csv:2: the split 'tain' is not known; nearest: train"),
        ("path,labels,split\nimg/0.png,a,\n", r"m\.csv:2: the split '' is not known"),
        (
            "path,labels,split\nimg/0.png,cat,train\nimg/1.png,cart,val\n",
            r"m\.csv:3: no image of train has the class 'cart' of this image of val; nearest: cat",
        ),
        ("path,cat,dog,split\nimg/0.png,1,0,train\nimg/1.png,1,1,test\n", r"m\.csv:3: no image of train .* 'dog'"),
        ("path,labels\nimg/0.png,\nimg/1.png,\n", r"m\.csv:2: neither this image nor any other has a class"),
        ('path,labels\nimg/0.png,"a"b\n', r"m\.csv:2: "),
    ],
)
def test_what_is_refused(folder, text, message):
    with pytest.raises(UserError, match=message):
        load(write(folder, text))


def test_an_absolute_path_below_the_folder_is_shown_as_it_should_be(folder):
    given = folder / "img" / "0.png"
    with pytest.raises(UserError, match=rf"'{given}' is an absolute path, .*write it from there, as 'img/0\.png'"):
        load(write(folder, f"path,labels\n{given},cat\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"path": "img/0.png", "labels": ["a"]}\n{"path": "img/1.png", "lables": []}',
            r":2: 'lables' is not in .*labels",
        ),
        ('{"path": "img/0.png", "labels": ["a"]}\n[1]', r":2: \[1\] is not an object"),
        ('\n{"path": "img/0.png", ', r":2: not valid JSON: "),
        ('{"path": "img/0.png", "labels": ["a", 3]}', r":1: labels is \['a', 3\]"),
        ('{"path": "img/0.png", "labels": 3}', r":1: labels is 3"),
        ('{"path": 3, "labels": ["a"]}', r":1: there is no path, but 3"),
        ('{"path": "img/0.png", "cat": 0.5}', r":1: the class 'cat' is 0\.5"),
        (
            '\n\n{"path": "img/0.png", "label": "a", "cat": 1}',
            r":3: several columns could hold the classes: label, cat",
        ),
    ],
)
def test_what_is_refused_in_jsonl(folder, text, message):
    with pytest.raises(UserError, match=r"m\.jsonl" + message):
        load(write(folder, text, "m.jsonl"))


def test_the_file_itself(folder):
    for root in (None, folder, folder / "n.csv", write(folder, "", "m.tsv")):
        write(folder, LIST)
        with pytest.raises(UserError, match=r"is not a manifest: give a file, --config\.data\.root=FILE\.csv"):
            load_source({"name": "manifest", "root": root and str(root)}, "labels")
    with pytest.raises(UserError, match=r"found in .*: m\.csv"):
        load(folder / "n.csv")
    with pytest.raises(UserError, match=r"unknown source of several labels 'folder'; nearest: "):
        load_source({"name": "folder", "root": str(folder)}, "labels")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"path,labels\nimg/0.png,a\nimg/caf\xe9.png,a\n", r"m\.csv:3: byte 0xe9 at column 8 is not UTF-8: save"),
        (b"\xef\xbb\xbf\xe9path", r"m\.csv:1: byte 0xe9 at column 1 is not UTF-8"),
        ("a,\u00e9\u00e9".encode() + b"\r\n\r\n\xff", r"m\.csv:3: byte 0xff at column 1 is not"),
        ("a\u00e9\u20ac".encode() + b"\xff", r"m\.csv:1: byte 0xff at column 4 is not"),
        ("path,labels\n".encode("utf-16"), r"m\.csv:1: byte 0xff at column 1 is not UTF-8 \(but UTF-16\)"),
    ],
)
def test_what_is_not_utf8_is_named_by_line_and_column(folder, data, message):
    (folder / "m.csv").write_bytes(data)
    with pytest.raises(UserError, match=message):
        load(folder / "m.csv")


MIXED = "path,id,label,cat,dog,split\nimg/0.png,7,x,1,0,train\nimg/1.png,8,y,0,1,train\nimg/2.png,9,x,1,1,val\n"


def test_a_setting_chooses_the_columns_of_the_classes(folder):
    file = write(folder, MIXED)
    single = load(file, "label", columns="label")
    assert single.class_names == ("x", "y") and single.splits["train"].labels.tolist() == [0, 1]
    assert single.notes[:2] == ("the classes are in the column label", "not read: the columns id, cat, dog")
    source = load(file, columns="dog, cat")
    assert source.class_names == ("dog", "cat") and source.notes[1] == "not read: the columns id, label"
    assert source.splits["train"].fields["labels"].tolist() == [[0, 1], [1, 0]]
    write(folder, 'path,"cat, wild",age\nimg/0.png,1,3\nimg/1.png,1,4\nimg/2.png,1,4\n')
    assert load(file, columns='"cat, wild"').notes[1] == "not read: the column age"
    write(folder, "path,Label,age\nimg/0.png,1,3\nimg/1.png,1,4\nimg/2.png,1,4\n")
    assert load(file, columns="Label").class_names == ("Label",)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("cats,dog", r"m\.csv:1: data\.columns=cats,dog: 'cats' is not one of them; nearest: cat"),
        ("cat,cat", "'cat' is not one of them"),
        ("path", "'path' is not one of them"),
        ("label,dog", "'label' holds the names of classes: give it alone"),
        ("id,dog", r"m\.csv:2: the class 'id' is '7'"),
    ],
)
def test_columns_that_do_not_fit(folder, columns, message):
    with pytest.raises(UserError, match=message):
        load(write(folder, MIXED), columns=columns)


def test_only_manifests_have_columns(folder):
    with pytest.raises(UserError, match=r"data\.columns=cat is for data\.name=manifest; 'folder' does not read it"):
        load_source({"name": "folder", "root": str(folder), "columns": "cat"})


def test_quoted_and_plain_files_are_the_same(folder, monkeypatch):
    """Files without quotes are read by pyarrow, others row by row, in chunks."""
    rows = [(name, f" {'ab'[n % 2]}|c{n % 3} ", ("train", "val")[n % 5 == 4], "") for n, name in enumerate(NAMES)]
    head = "# a comment\r\n\r\npath,labels,split,other\r\n"
    plain = head + "".join(",".join(row) + "\r\n" for row in rows) + ",,,\r\n\r\n"
    quoted = plain.replace("img/3.png", '"img/3.png"')
    monkeypatch.setattr(cells, "CHUNK", 5)
    first, second = (load(write(folder, text, encoding="utf-8-sig"), columns="labels") for text in (plain, quoted))
    assert first.class_names == second.class_names == ("a", "b", "c0", "c1", "c2") and first.notes == second.notes
    for name, split in first.splits.items():
        assert split.records == second.splits[name].records and len(split)
        assert np.array_equal(split.fields["labels"], second.splits[name].fields["labels"])


def test_of_many_files_a_share_is_looked_up(folder, monkeypatch):
    monkeypatch.setattr(listed_images, "LOOKED_UP", 11)
    monkeypatch.setattr(listed_images, "SAMPLE", 3)
    (folder / NAMES[4]).unlink()
    source = one_class(folder)
    assert source.notes[1].startswith("3 of 12 files were looked up") and sum(map(len, source.splits.values())) == 12
    (folder / NAMES[11]).unlink()
    with pytest.raises(UserError, match=r"1 of 3 files are missing: .*m\.csv:13 img/11\.png. That is more than"):
        one_class(folder)
