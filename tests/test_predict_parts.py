"""`predict --shard I/N`: the joined table is that of one process, also after a kill in the middle of a part."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convert.store import Card, save_model
from jaxdino import parts, predict
from jaxdino.core.params import split
from jaxdino.models.registry import get
from tests.conftest import QUICK

KILLED = """
import os, signal, sys
from jaxdino import predict, results
predict.BLOCK, add = 4, results.Table.add
def dying(table, row):
    add(table, row)
    if table.path.name == "000002.jsonl":  # its second block
        os.kill(os.getpid(), signal.SIGKILL)
results.Table.add = dying
predict.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, 18 images of which one is broken, and the flags of a call."""
    top, spec = tmp_path_factory.mktemp("parts"), get("dinov3_digits")
    flat = {path: np.asarray(leaf) for path, leaf in split(spec.build(3))[1].items()}
    save_model(top / "run", Card(spec, spec.linear(3), class_names=("cat", "dog", "emu")), flat)
    (top / "photos").mkdir()
    for number in range(17):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(top / "photos" / f"{number:02d}.png")
    (top / "photos" / "bröken.jpg").write_text("no image")
    return top, ["--workdir", str(top / "run"), "--batch_size", "4", str(top / "photos")]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(predict, "BLOCK", 4)


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_joined_table_is_that_of_one_process(made, kind, capsys):
    top, flags = made
    one, out = top / f"one.{kind}", top / f"out.{kind}"
    assert predict.main([*flags, "--top", "2", "--out", str(one)]) == 1
    shared = [*flags, "--top", "2", "--out", str(out)]
    assert predict.main([*shared, "--shard", "2/2"]) == 0
    assert (
        "part 2/2: 2 blocks of up to 4 images written; 3 blocks of other parts are missing" in capsys.readouterr().out
    )
    assert not out.exists() and predict.main([*shared, "--top", "1", "--shard", "1/2"]) == 2
    assert "has parts that were made otherwise: top was 2, now 1. Delete it" in capsys.readouterr().err
    assert predict.main([*shared, "--shard", "1/2"]) == 1
    assert f"3 blocks of up to 4 images written; 18 images in {out}, 1 of them unread" in capsys.readouterr().out
    assert out.read_bytes() == one.read_bytes() and not Path(f"{out}.parts").exists()
    assert predict.main([*shared, "--shard", "1/2"]) == 2 and "exists already" in capsys.readouterr().err


def test_a_slash_at_the_end_of_a_folder_does_not_matter():
    assert parts.folder_of("masks/") == parts.folder_of("masks") == Path("masks.parts")


def test_a_killed_part_goes_on_with_its_missing_block(made, capsys):
    top, flags = made
    one, out = top / "alone.jsonl", top / "killed.jsonl"
    predict.main([*flags, "--out", str(one)])
    call = [*flags, "--out", str(out), "--shard"]
    env = os.environ | {"XLA_FLAGS": QUICK}
    died = subprocess.run([sys.executable, "-c", KILLED, *call, "1/2"], env=env, capture_output=True, timeout=300)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert [file.name for file in Path(f"{out}.parts").glob("*.jsonl")] == ["000000.jsonl"]
    capsys.readouterr()
    assert predict.main([*call, "2/2"]) == 0 and predict.main([*call, "1/2"]) == 1
    assert "part 1/2: 2 blocks" in capsys.readouterr().out
    assert out.read_bytes() == one.read_bytes() and not Path(f"{out}.parts").exists()


def test_parts_that_begin_together_with_overwrite_keep_what_they_write(tmp_path, monkeypatch):
    out, read = str(tmp_path / "out.csv"), parts.read_json
    parts.begin(out, {"top": 1}, False)
    monkeypatch.setattr(parts, "read_json", lambda *given: [read(*given), time.sleep(0.2)][0])

    def part(number):
        parts.begin(out, {"top": 2}, True)
        share = parts.Share(out, (number, 2), 2, 1)
        parts.write(share, lambda file, places: parts.write_rows(file, [{"path": str(places[0])}]))

    both = [threading.Thread(target=part, args=(number,)) for number in range(2)]
    for one in both:
        one.start()
        time.sleep(0.1)
    for one in both:
        one.join()
    assert len(list(parts.folder_of(out).glob("*.jsonl"))) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--shard", "3/2", "--out", "a.csv"], "--shard 3/2 must be I/N with I from 1 to N"),
        (["--shard", "1/2"], "--shard 1/2 needs --out FILE, the table that all parts are joined to"),
    ],
)
def test_wrong_flags(made, flags, words, capsys):
    assert predict.main([*made[1], *flags]) == 2
    assert words in capsys.readouterr().err
