"""The reference models, each built, drawn, saved and read back by us once in a session."""

import functools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from convert.load import Pretrained, load_pretrained
from tests.parity.cases import Case
from tests.parity.drawing import draw
from tests.parity.family_case import FamilyCase
from tests.parity.recording import Recorder

torch.set_num_threads(2)


@dataclass(frozen=True)
class Loaded:
    """A case with its model, where it was saved, and what we read from there.

    Attributes:
      case: as the ViTs' own tests look at it; None for other families. family: as all families' tests do.
    """

    case: Case | None
    family: FamilyCase
    model: torch.nn.Module
    path: Path
    ours: Pretrained


@pytest.fixture(scope="session")
def loaded(tmp_path_factory):
    """A function from a case's name to `Loaded`."""
    from tests.parity.all_cases import CASES, FAMILY_CASES

    @functools.cache
    def get(name: str) -> Loaded:
        case = FAMILY_CASES[name]
        model = draw(case.build())
        case.prepare(model)
        path = case.save(model, tmp_path_factory.mktemp("saved"))
        return Loaded(CASES.get(name), case, model, path, load_pretrained(path, **case.overrules))

    return get


@pytest.fixture(scope="session")
def record_parity(request):
    """A function that notes a measurement; with --record-parity they are written to `convert/parity.json`."""
    recorder = Recorder()
    yield recorder.note
    if request.config.getoption("--record-parity"):
        recorder.write()
