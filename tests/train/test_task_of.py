"""Every objective has a task, and only the one that is asked for is imported."""

import subprocess
import sys

import pytest

from jaxdino.objectives.settings import OBJECTIVES
from jaxdino.settings.run import Objective
from jaxdino.train.tasks import task_of


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_a_task_and_a_word_in_the_help(name):
    assert callable(task_of(name))
    assert name in (Objective.__doc__ or "").replace(",", " ").replace(".", " ").split()


def test_a_run_imports_its_own_task_alone():
    code = (
        "import sys; from jaxdino.train import setup; from jaxdino.train.tasks import task_of; task_of('classify');"
        "print(*(one.rsplit('.')[-1] for one in sys.modules if one.startswith('jaxdino.train.tasks.')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) & set(OBJECTIVES) == {"classify"}
