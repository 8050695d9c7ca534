"""`jaxdino embed`, `search` and `match`: the embeddings are the model's; copies, kinds and patches are found."""

import csv
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import jaxdino
from jaxdino import embed, match, search
from jaxdino.core.errors import UserError
from jaxdino.retrieval import clusters, embeddings, pairs
from tests.conftest import QUICK


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight images of each of two kinds, one of them twice with another compression, and a broken file."""
    top, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for kind in ("dots", "bars"):
        (top / kind).mkdir()
        for i in range(8):
            pixels = rng.integers(0, 60, (24, 24, 3), np.uint8)
            if kind == "bars":
                pixels[:, 2 + i : 8 + i] += 170
            else:
                pixels[4 + i : 10 + i, 4 + i : 10 + i] += 170
            Image.fromarray(pixels).resize((96, 96)).save(top / kind / f"{i}.png")
    Image.open(top / "dots" / "3.png").save(top / "again.jpg", quality=92)
    (top / "broken.png").write_text("no image")
    return top


@pytest.fixture(scope="module")
def files(root, tmp_path_factory):
    """The same embeddings as .parquet and as .npy."""
    folder = tmp_path_factory.mktemp("embeddings")
    for name in ("e.parquet", "e.npy"):
        how = ["--weights", "dinov3_digits", "--root", str(root), "--out", str(folder / name), "--batch_size", "5"]
        assert embed.main(how) == 1  # an image could not be read
    return folder


def run(capsys, *args):
    """Run the search; return the fields of its lines."""
    assert search.main(list(map(str, args))) == 0
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_the_embeddings_are_those_of_the_model(root, files):
    table, model = pd.read_parquet(files / "e.parquet"), jaxdino.load("dinov3_digits")
    found = np.stack(table["embedding"])
    expected = model(model.preprocess([str(root / path) for path in table["path"]])).cls
    assert len(table) == 17 and found.shape == (17, 96)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(np.load(files / "e.npy"), found)
    beside = json.loads((files / "e.json").read_text())
    assert beside["paths"] == table["path"].tolist() and beside["unread"] == 1
    assert beside["weights"]["digest"] == model.digest


@pytest.mark.parametrize("name", ["e.parquet", "e.npy"])
def test_an_image_finds_itself_and_its_copy(root, files, name, tmp_path, capsys):
    asked = root / "dots" / "3.png"
    lines = run(capsys, asked, "--embeddings", files / name, "--top", 3, "--out", tmp_path / "o.csv")
    assert [line[2] for line in lines[:2]] == ["dots/3.png", "again.jpg"] and lines[0][1] == "1.0000"
    rows = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == [line[2] for line in lines[:3]]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]


def test_near_duplicates_and_their_page(files, tmp_path, capsys):
    page = tmp_path / "page.html"
    lines = run(capsys, "--embeddings", files / "e.npy", "--near_duplicates", 0.995, "--html", page)
    assert {line[2] for line in lines[:-1]} == {"again.jpg", "dots/3.png"}
    text = page.read_text()
    assert text.count("data:image/jpeg") == 2 and "again.jpg" in text and "<script" not in text


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder in which nobody can write")
def test_a_page_that_cannot_be_written_is_named(files, capsys):
    assert search.main(["--embeddings", str(files / "e.npy"), "--clusters", "2", "--html", "/proc/x.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_faiss_finds_the_same_pairs_when_it_looks_everywhere():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(400, 16)).astype(np.float32)
    values[200:] = values[:200] + 0.05 * rng.normal(size=(200, 16)).astype(np.float32)
    exact = pairs.near_duplicates(values, 0.97, "exact")
    assert len(exact) > 150 and exact == pairs.near_duplicates(values, 0.97, "faiss")
    said = []
    assert pairs.engine_for(1_000_000, "auto", said.append) == "exact" and not said
    assert pairs.engine_for(1_000_001, "auto", said.append) == "faiss" and "--engine exact" in said[0]


def test_clusters_are_the_two_kinds(files, tmp_path, capsys):
    out = tmp_path / "o.json"
    run(capsys, "--embeddings", files / "e.parquet", "--clusters", 2, "--out", out)
    groups = {}
    for row in json.loads(out.read_text()):
        groups.setdefault(row["group"], set()).add(row["path"].replace("again.jpg", "dots/3.png").split("/")[0])
    assert sorted(map(sorted, groups.values())) == [["bars"], ["dots"]]


def test_many_images_are_clustered_as_few(monkeypatch):
    rng = np.random.default_rng(2)
    kinds = rng.integers(0, 3, 300)
    values = (5 * np.eye(8)[kinds] + rng.normal(size=(300, 8))).astype(np.float32)
    few = clusters.clusters(values, 3, seed=1)
    assert [len(set(kinds[group])) for group in few] == [1, 1, 1] and sum(map(len, few)) == 300
    monkeypatch.setattr(clusters, "SMALL", 40)
    assert clusters.clusters(values, 3, seed=1) == few


def test_other_weights_are_refused(root, files, tmp_path, capsys):
    made = json.loads((files / "e.json").read_text())
    made["weights"]["digest"] = "0" * 64
    shutil.copy(files / "e.npy", tmp_path / "e.npy")
    (tmp_path / "e.json").write_text(json.dumps(made))
    assert search.main([str(root / "again.jpg"), "--embeddings", str(tmp_path / "e.npy")]) == 2
    assert "made by other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, says",
    [
        ([], "nothing to search for"),
        (["--clusters", "3", "--near_duplicates", "0.9"], "at once"),
        (["--near_duplicates", "1.5"], "must be in (0, 1]"),
        (["--clusters", "18"], "from 1 to 17"),
        (["--text", "a dog"], "space of a CLIP"),
        (["--text", " "], "an empty text"),
        (["--text", "a dog", "e.npy"], "give images before --text"),
        (["--near_duplicates", "0.9", "--engine", "fais"], "is not known"),
        (["--clusters", "2", "--out", "o.txt"], ".csv"),
        (["nothing.png"], "nothing.png"),
        (["--clusters", "2", "--seed", "4294967296"], "--seed"),
        (["--clusters", "2", "--out", "e.json", "--overwrite"], "belongs to the embeddings"),
    ],
)
def test_wrong_calls(files, flags, says, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert search.main([*flags, "--embeddings", str(files / "e.npy")]) == 2
    assert says in capsys.readouterr().err


def test_copies_have_cosine_one_and_values_that_are_not_finite_are_refused():
    values = np.random.default_rng(2).normal(size=(40, 96)).astype(np.float32).repeat(2, axis=0)
    assert len(pairs.near_duplicates(values, 1.0, "exact")) == 40
    values[3, 2] = np.nan
    for engine in ("exact", "faiss"):
        with pytest.raises(UserError, match="not finite"):
            pairs.near_duplicates(values, 0.9, engine)


def test_a_tab_in_a_path_does_not_split_a_line(files, tmp_path, capsys):
    made = json.loads((files / "e.json").read_text())
    made["paths"] = [f"a\t{path}" for path in made["paths"]]
    shutil.copy(files / "e.npy", tmp_path / "e.npy")
    (tmp_path / "e.json").write_text(json.dumps(made))
    assert {len(line) for line in run(capsys, "--embeddings", tmp_path / "e.npy", "--clusters", 2)} == {3}
    (tmp_path / "e.json").write_text(json.dumps(made | {"preprocess": [1]}))
    with pytest.raises(UserError, match="preprocess"):
        embeddings.read(tmp_path / "e.npy")


def test_damaged_files_are_named(files, tmp_path):
    whole = (files / "e.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    pd.DataFrame({"path": ["a"], "embedding": [[1.0]]}).to_parquet(tmp_path / "foreign.parquet")
    np.save(tmp_path / "lone.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "text.npy").write_text("text")
    (tmp_path / "text.json").write_text("{}")
    for name in ("cut.parquet", "foreign.parquet", "lone.npy", "text.npy", "missing.npy", "file.txt"):
        with pytest.raises(UserError, match=name.split(".")[0]):
            embeddings.read(tmp_path / name)


def test_nothing_is_left_when_no_image_can_be_read(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("no image")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "in" / "b.png")
    os.truncate(tmp_path / "in" / "b.png", 60)  # its head is read, its pixels are not
    out = tmp_path / "out" / "e.parquet"
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    assert embed.main(["--weights", "dinov3_digits", "--root", str(tmp_path / "in"), "--out", str(out)]) == 2
    gc.collect()
    assert not out.parent.exists() and not lost


def test_a_picture_of_matches_never_replaces_an_image(root, capsys):
    image = root / "again.jpg"
    before, pair = image.read_bytes(), [str(image), str(root / "dots" / "3.png")]
    assert match.main(["--weights", "dinov3_digits", *pair, "--out", str(image), "--overwrite"]) == 2
    assert image.read_bytes() == before and "one of the two images" in capsys.readouterr().err


def test_attention_similarity_and_matches_of_two_images(root, tmp_path):
    model = jaxdino.load("dinov3_digits")
    images = model.preprocess([str(root / "dots" / "3.png"), str(root / "again.jpg")])
    attention = np.asarray(model.attention(images))
    assert attention.shape == (2, 3, 8, 8) and (attention.sum((2, 3)) < 1).all() and attention.min() > 0
    a, b = np.asarray(model(images[:1]).patches)[0], np.asarray(model(images[1:]).patches)[0]
    cosines = np.asarray(model.similarity(images[:1], images[1:]))
    assert cosines.shape == (1, 8, 8, 8, 8)
    expected = a[2, 5] @ b[6, 1] / np.linalg.norm(a[2, 5]) / np.linalg.norm(b[6, 1])
    np.testing.assert_allclose(cosines[0, 2, 5, 6, 1], expected, atol=1e-5)
    found = model.matches(images[:1], images[1:])[0]
    assert len(found) > 50 and sum(one.a == one.b for one in found) > 0.9 * len(found)
    assert [one.cosine for one in found] == sorted((one.cosine for one in found), reverse=True)
    moved = model.matches(images[:1], np.roll(images[:1], 8, axis=2))[0]  # two patches to the right
    inside = [one for one in moved if 8 < one.a[0] < 20]
    assert len(inside) > 10 and np.mean([one.b[0] - one.a[0] == 8 for one in inside]) > 0.8
    with pytest.raises(UserError, match="1 images and 2"):
        model.similarity(images[:1], images)
    for more in ([], ["--point", "0.4,0.6"]):
        out = tmp_path / f"m{len(more)}.png"
        pair = [str(root / "again.jpg"), str(root / "dots" / "3.png")]
        assert match.main(["--weights", "dinov3_digits", *pair, "--out", str(out), *more]) == 0
        with Image.open(out) as picture:
            assert picture.size[0] > 800


KILLED = """
import os, signal, sys
from jaxdino import embed
from jaxdino.retrieval import embeddings
embed.BLOCK, add = 5, embeddings.Writer.add
def dying(writer, *given):
    add(writer, *given)
    if writer.path.name == "000002.parquet":  # its second block
        os.kill(os.getpid(), signal.SIGKILL)
embeddings.Writer.add = dying
embed.main(sys.argv[1:])
"""


def test_parts_are_joined_to_the_file_of_one_process_after_a_kill(root, files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(embed, "BLOCK", 5)
    how = ["--weights", "dinov3_digits", "--root", str(root), "--batch_size", "5"]
    call = [*how, "--out", str(tmp_path / "e.parquet"), "--shard"]
    env = os.environ | {"XLA_FLAGS": QUICK}
    died = subprocess.run([sys.executable, "-c", KILLED, *call, "1/2"], env=env, capture_output=True, timeout=300)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert [file.name for file in (tmp_path / "e.parquet.parts").glob("0*")] == ["000000.parquet"]
    assert embed.main([*call, "2/2"]) + embed.main([*call, "1/2"]) >= 1
    assert "part 1/2: 1 blocks of up to 5 images written" in capsys.readouterr().out
    assert (tmp_path / "e.parquet").read_bytes() == (files / "e.parquet").read_bytes()
    call[call.index("--out") + 1] = str(tmp_path / "e.npy")
    assert embed.main([*call, "2/2"]) + embed.main([*call, "1/2"]) >= 1
    for name in ("e.npy", "e.json"):
        assert (tmp_path / name).read_bytes() == (files / name).read_bytes()
    assert [file.name for file in tmp_path.iterdir() if "parts" in file.name] == []
