"""How commands end: one line and the right status."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxdino.core.command import OF_DATA, expanded, finish
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


def test_settings_of_the_data_and_warnings_in_the_words_of_the_command(capsys, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "_showwarnmsg_impl", lambda found: sys.stderr.write(formatted(found)))
        assert finish(lambda: warnings.warn("12 bits assumed", stacklevel=1)) == 0
    assert finish(fails(UserError("--config.data.sixteen_bit=full says so")), words=OF_DATA) == 2
    assert capsys.readouterr().err == "12 bits assumed\nerror: --data.sixteen_bit=full says so\n"


def formatted(found):
    return warnings.formatwarning(found.message, found.category, found.filename, found.lineno)


def test_the_line_and_its_end_are_written_in_one_piece(monkeypatch):
    written = []
    monkeypatch.setattr("sys.stderr", SimpleNamespace(write=written.append, flush=lambda: None))
    finish(fails(UserError("no such thing")))
    assert written == ["error: no such thing\n"]


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
