"""A disk that is full, read-only or gone: one line, and the same command goes on bit for bit."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import child
import pytest
import tiny
from measured import MEASURED

from convert.store import load_model
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import write_json
from jaxdino.train import session
from jaxdino.train.disk import writable
from jaxdino.train.loop import run
from jaxdino.train.metric_log import MetricLog

ROOT = Path(__file__).parents[2]


def config():
    return tiny.config(1, batch_size=128, checkpoint__every_steps=1)


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(config(), folder)
    return folder


def assert_goes_on(folder: Path, whole: Path) -> None:
    assert run(config(), folder)["finished"]
    assert lines(folder) == lines(whole)
    assert load_model(folder / "best")[0].digest == load_model(whole / "best")[0].digest
    assert not [
        path.name for path in folder.rglob("*") if path.name.endswith(".part") or path.name.startswith("run.lock")
    ]


def test_files_that_may_not_grow_end_a_run_in_one_line(whole, tmp_path):
    # The limit holds for JAX's cache too: nothing is written there, where other runs would read half a program.
    more = {"PYTHONWARNINGS": "ignore", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000"}
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("full_disk_case.py")), str(folder), "20000", "2"],
        env=child.environment() | more,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    wanted = f"error: {folder} cannot be written: {os.strerror(errno.EFBIG)}. The run is stopped, "
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(wanted) and f"the same command again, --workdir={folder}" in done.stderr
    assert_goes_on(folder, whole)


def failing(number: int):
    def fails(*_, **__):
        raise OSError(number, os.strerror(number))

    return fails


@pytest.mark.parametrize(
    ("place", "name", "step"),
    [
        (MetricLog, "write", 1),
        (session.Session, "save_best", 2),
        *(pytest.param(*one, 2, marks=pytest.mark.soak) for one in ((MetricLog, "mark"), (session, "write_json"))),
    ],
)
def test_a_full_disk_at_any_write(whole, tmp_path, monkeypatch, place, name, step):
    def on_step(now: int) -> None:
        if now == step:
            monkeypatch.setattr(place, name, failing(errno.ENOSPC))

    with pytest.raises(UserError, match=f"{tmp_path} cannot be written: No space left on device.*free some space"):
        run(config(), tmp_path, on_step)
    monkeypatch.undo()
    assert_goes_on(tmp_path, whole)


def test_only_faults_of_the_disk_are_taken_for_one(tmp_path):
    hooks = threading.excepthook, sys.unraisablehook
    for error in (ValueError("a bug"), KeyError("b"), PermissionError(errno.EACCES, "no", "/elsewhere/a.png")):
        with pytest.raises(type(error)) as caught, writable(tmp_path):
            raise error
        assert caught.value is error
    for error in (
        PermissionError(errno.EACCES, "no", str(tmp_path / "a")),
        OSError(errno.EROFS, "no"),
        ValueError("DATA_LOSS: Failed writing: Input/output error [os_error_code='5']"),
    ):
        with pytest.raises(UserError, match=r"cannot be written: .*make it writable"), writable(tmp_path):
            raise error
        threading.excepthook, sys.unraisablehook = hooks
    with writable(tmp_path):
        pass
    assert (threading.excepthook, sys.unraisablehook) == hooks


def test_a_json_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"a": 1})
    monkeypatch.setattr(os, "replace", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "a.json", {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
