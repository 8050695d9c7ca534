"""How commands end: one line and the right status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdino.core.command import expanded, finish
from jaxdino.core.errors import UserError

ROOT = Path(__file__).parent.parent.parent


def fails(error: BaseException):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "status", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (fails(UserError("no such thing")), 2, "error: no such thing\n"),
        (fails(KeyboardInterrupt()), 130, "interrupted\n"),
        (fails(BrokenPipeError()), 141, ""),
    ],
)
def test_status_and_line(work, status, line, capsys):
    assert finish(work) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("command", ["convert list", "jaxdino.main --help-config"])
def test_a_closed_pipe_ends_quietly(command):
    """Nobody reads, not even once, so that the size of the pipe's buffer does not matter."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_tilde_is_the_home_folder_after_an_equals_sign_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = [
        "--workdir=~/runs",
        "~/a.jpg",
        "~",
        "--config.data.root=~",
        "--config.stages[0].name=~/x",
        "a~b",
        "--p=x~/y",
    ]
    assert expanded(given) == [
        "--workdir=/home/me/runs", "/home/me/a.jpg", "/home/me", "--config.data.root=/home/me",
        "--config.stages[0].name=/home/me/x", "a~b", "--p=x~/y",
    ]  # fmt: skip
    assert expanded([]) == []
