"""The command `jaxdino`: lists its commands at once, passes everything on, and names the nearest command."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdino
from jaxdino import cli
from jaxdino.core.command import COMMANDS

ROOT = Path(__file__).parents[1]


def run(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from jaxdino.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *args], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed(args, capsys):
    assert cli.main(args) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == [*COMMANDS, "configs"]


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from jaxdino import cli; cli.main([]); cli.main(['configs'])\n"
        "sys.exit(any(name in sys.modules for name in ('jax', 'flax', 'numpy', 'absl', 'ml_collections')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True).returncode == 0


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxdino {jaxdino.__version__}\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], "error: 'trian' is not a command; nearest: train"),
        (["import", "x"], "error: 'import' is not a command; use jaxdino convert import; "),
        (["--config=linear"], "error: --config=linear comes after a command, as in jaxdino train --config=linear; "),
        (["configs", "x"], "error: jaxdino configs takes no arguments"),
    ],
)
def test_a_wrong_command_names_the_right_one(args, words, capsys):
    assert cli.main(args) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(words) and shown.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_speaks_of_the_command_that_was_typed(name):
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"jaxdino {name}" in done.stdout
    assert f"python -m {COMMANDS[name]} " not in done.stdout


def test_a_module_started_by_itself_keeps_its_name():
    done = subprocess.run(
        [sys.executable, "-m", "jaxdino.predict", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("usage: python -m jaxdino.predict [-h]")
    assert "`python -m jaxdino.predict --workdir DIR IMAGE...`" in done.stdout


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["convert", "lits"], 2, "jaxdino convert: error: argument command: invalid choice: 'lits'"),
        (["predict", "--workdir", "nowhere", "x.png"], 2, "error: there is no folder nowhere"),
        (["train", "--workdirr=x"], 2, "error: --workdirr is not a flag; nearest: --workdir\n"),
        (["probe", "--features", "x", "--out=y", "--stps", "9"], 2, "error: --stps is not a flag; nearest: --steps,"),
        (["extract", "--weigths", "x", "--out", "y"], 2, "error: --weigths is not a flag; nearest: --weights,"),
        (["anomaly", "fit", "--weigths", "x"], 2, "error: --weigths is not a flag; nearest: --weights,"),
        (["convert", "import", "x", "--outt", "y"], 2, "error: --outt is not a flag; nearest: --out,"),
        (["probe", "--out", "y"], 2, "required: --features (jaxdino probe --help)\n"),
        (["evaluate", "--workdr", "x"], 2, "--workdir DIR, a finished run"),
        (["train", "--config=linear", "--config.seed=a"], 2, "a whole number"),
    ],
)
def test_arguments_and_statuses_pass_through(args, status, words, tmp_path):
    done = run(*args, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert words in (done.stderr if status else done.stdout)
    assert "Traceback" not in done.stderr and "usage:" not in done.stderr


@pytest.mark.parametrize(
    "command", ["anomaly fit --out x", "embed --out x.npy", "evaluate", "extract --out x"], ids=lambda it: it.split()[0]
)
def test_unknown_weights_are_refused_before_the_data_is_listed(command, capsys):
    """The data, which may take minutes to list, is wrong too, and is not reached."""
    name, *args = command.split()
    module = importlib.import_module(f"jaxdino.{name}")
    assert module.main([*args, "--weights", "dinov2_vits41", "--root", "nowhere"]) == 2
    assert "'dinov2_vits41' is not a file, folder, hub name or model; nearest: dinov2_vits14" in capsys.readouterr().err
