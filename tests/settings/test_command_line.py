"""The command line: settings by flags, and one line with the right spelling for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdino.core.errors import UserError
from jaxdino.settings.command_line import as_setting, command, split
from jaxdino.settings.tree import settings

ROOT = Path(__file__).parents[2]
GRADUAL = str(ROOT / "configs" / "gradual.py")


def config(*args, file=GRADUAL):
    return command(str(file), args).config()


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("epochs=3", r"epochs belongs to a stage: --config.stages\[0\].epochs=3; stages: \[0\] head, \[1\] last"),
        ("stages.0.epochs=2", r"write --config.stages\[0\].epochs=2$"),
        ("stage[0].epochs=2", r": --config.stages\[0\].epochs=2;"),
        ("stages[0].epoch=2", r": --config.stages\[0\].epochs=2;"),
        ("stages[3].epochs=2", r"stages has \[0\] head, \[1\] last, \[2\] all$"),
        ("lr=1e-3", r"lr belongs to the groups of a stage: --config.stages\[0\].groups.head.lr=1e-3, "),
        ("learning_rate=1", r"groups.head.lr=1, --config.stages\[1\].groups.backbone.lr=1"),
        ("data.rooot=x", "nearest: --config.data.root=x;"),
        ("data.batch-size=8", "write --config.data.batch_size=8$"),
        ("batch_size=8", r"nearest: --config.data.batch_size=8, --config.stages\[0\].batch_size=8"),
        ("data=x", r"a part of the config, not a setting: --config.data.accept_change, "),
        ("zzz=1", "there is no such setting; --help-config lists all"),
    ],
)
def test_a_misspelt_setting_ends_in_the_right_spelling(arg, words):
    with pytest.raises(UserError, match=words) as err:
        config(f"--config.{arg}")
    assert str(err.value).startswith(f"--config.{arg}: ") and "\n" not in str(err.value)


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("seed=abc", r"a whole number is wanted \(the config has 0\)"),
        ("seed=1.5", "a whole number is wanted"),
        ("seed=" + "9" * 300, r"=9{200}\.\.\.: a whole number of at most 64 bits is wanted"),
        ("stages[0].epochs=many", r"a whole number is wanted \(the config has 10\)"),
        ("stages[1].groups.backbone.lr=x", "a number is wanted"),
        ("data.draft=maybe", "True or False is wanted"),
        ("optimizer.betas=(a,b)", r"several numbers in brackets and quotes, as '\(0.9, 0.999\)', is wanted"),
        ("seed=None", "a whole number is wanted"),
    ],
)
def test_a_value_of_another_type_is_refused(arg, words):
    with pytest.raises(UserError, match=words):
        config(f"--config.{arg}")


def test_values_arrive():
    given = ("seed=3", "data.root=a=b", "skip_optional", "stages[0].augment=None", "model.pool=None")
    made = config(*(f"--config.{one}" for one in given), "--noconfig.data.draft", "--config.optimizer.betas=(0.5, 0.9)")
    assert (made.seed, made.data.root, made.skip_optional, made.data.draft) == (3, "a=b", True, False)
    assert made.stages[0].augment is None and made.model.pool is None and made.optimizer.betas == (0.5, 0.9)
    made = config("--config.evaluation.k=5", "--config.evaluation.k=7", file=ROOT / "configs" / "ssl.py")
    assert made.evaluation.k == (5, 7)


def test_a_list_of_folders_in_a_config(tmp_path):
    file, text = tmp_path / "mine.py", "from configs import linear\nfrom pathlib import Path\n"
    text += "def get_config():\n    config = linear.get_config()\n    config.data.root = {}\n    return config"
    for root, found in (("['a', Path('b')]", "a,b"), ("('a',)", "a"), ("Path('a')", "a"), ("None", None)):
        file.write_text(text.format(root))
        assert config(file=file).data.root == found
        assert config("--config.data.root=7", file=file).data.root == "7"
    file.write_text(text.format("['a,b', 'c']"))
    with pytest.raises(UserError, match=r"mine.py, line 5: data.root=.*has a comma in its name"):
        config(file=file)


def test_settings_are_told_from_other_flags():
    argv = ["--workdir", "w", "--config", "f.py", "--config.seed", "3", "-config.skip_optional", "--config.stage", "-1"]
    given, rest = split(argv)
    assert given == ["--config.seed=3", "-config.skip_optional", "--config.stage=-1"]
    assert rest == ["--workdir", "w", "--config", "f.py"]


def test_a_flag_without_its_config_is_completed():
    known = settings(config())
    assert as_setting("data.root", "x", known).endswith("--config.data.root=x")
    assert "--config.stages[0].groups.head.lr=1e-3" in as_setting("lr", "1e-3", known)
    assert "--config.stages[0].epochs" in as_setting("num-epochs", None, known)
    assert as_setting("verbose", None, known) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no config .*mine.py; nearest: .*gradual.py"),
        ("def get_config(:", "mine.py, line 1: invalid syntax"),
        ("import nothing_of_that_name", "mine.py, line 1: ModuleNotFoundError"),
        ("x = 1", "has no function get_config"),
        ("def get_config(model=None):\n    return 3", "get_config returned int, not a ConfigDict"),
        ("def get_config(model=None):\n\n    return {}['a']", "mine.py, line 3: KeyError: 'a'"),
        ("def get_config():\n    return 3", "takes no model: omit ':resnet18'"),
    ],
)
def test_a_config_that_does_not_load_is_named_with_its_line(tmp_path, text, words):
    file = tmp_path / "mine.py"
    (tmp_path / "gradual.py").touch()
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=words):
        config(file=f"{file}:resnet18" if "get_config():" in (text or "") else file)


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["--workdirr=x"], 2, "error: --workdirr is not a flag; nearest: --workdir\n"),
        (
            ["--data.root=x"],
            2,
            "error: --data.root=x is not a flag: settings begin with --config: --config.data.root=x\n",
        ),
        (["--lr", "1e-3"], 2, "--config.stages[0].groups.head.lr=1e-3"),
        (["configs/linear.py"], 2, "the config is given as --config=configs/linear.py\n"),
        (["--config.seed=a"], 2, "a whole number"),
        (["--workdir"], 2, "error: Missing value for flag --workdir\n"),
        (["--help-config", "betas"], 0, "  --config.optimizer.betas=(0.9, 0.999)  (tuple)\n"),
        (["--help_config=label_smoothing"], 0, "        label smoothing of the cross entropy\n"),
    ],
)
def test_the_command_ends_in_one_line(args, status, words):
    command = [sys.executable, "-m", "jaxdino.main", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == status, done.stderr
    assert words in (done.stderr if status else done.stdout)
    assert not status or len(done.stderr.splitlines()) == 1
